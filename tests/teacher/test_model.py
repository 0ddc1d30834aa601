"""A teacher is named by its weights, refuses to be another one, and says what open_clip says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.views import apply_view, center_view
from pipeline.project.errors import UsageError
from pipeline.teacher.model import Teacher, hash_weights, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.text_tower import causal_tower

CAPTIONS = ["a dog", "two cats on a red sofa, seen from above, while it rains", "wow!! a ! b", ""]


@pytest.fixture(scope="module")
def teacher(tiny_teacher: str) -> Teacher:
    return load_teacher(TeacherParams(model=tiny_teacher), "cpu")


def copy_of(tiny_teacher: str, folder: Path) -> Path:
    shutil.copytree(tiny_teacher.removeprefix("local-dir:"), folder)
    return folder


def edit(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"].update(change)
    path.write_text(json.dumps(config), encoding="utf-8")


def test_images_are_embedded_as_open_clip_itself_does_it(teacher: Teacher, tiny_teacher: str) -> None:
    import open_clip
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(tiny_teacher)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with torch.inference_mode():
        expected = model.eval().encode_image(preprocess(image)[None]).numpy()
    found = teacher.embed_images(apply_view(image, center_view(64, 64), 32)[None])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.dtype == np.float32
    assert abs(np.linalg.norm(found) - 1) > 1e-3, "embeddings are stored as the teacher gave them, not normalised"


def test_captions_cut_to_their_length_embed_as_at_full_length(teacher: Teacher) -> None:
    tokens = teacher.tokenize(CAPTIONS)
    assert tokens.shape == (4, 16)
    assert tokens.dtype == np.int32
    with torch.inference_mode():
        expected = teacher.model.encode_text(torch.from_numpy(tokens).long()).numpy()  # type: ignore[operator]
    for rows in ([0], [0, 3], [0, 1, 2, 3]):
        np.testing.assert_allclose(teacher.embed_tokens(tokens[rows]), expected[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-SigLIP2-256", "coca_ViT-B-32", "ViT-L-14-CLIPA"])
def test_only_causal_text_towers_that_pool_at_the_end_are_cut(name: str) -> None:
    """SigLIP and CLIPA look at every position or pool the last one; CoCa appends a token of its own."""
    import open_clip

    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained_text=False, device="meta")
    assert (causal_tower(model) is not None) == (name == "ViT-B-32")


def test_weights_are_named_by_their_bytes_to_the_bit(teacher: Teacher, tiny_teacher: str) -> None:
    again = load_teacher(TeacherParams(model=tiny_teacher), "cpu")
    assert again.identity == teacher.identity
    with torch.no_grad():
        again.model.get_parameter("visual.proj").view(torch.int32)[0, 0] ^= 1
    assert hash_weights(again.model) != teacher.identity.weights_sha256


def test_a_teacher_that_was_moved_is_the_same_one(teacher: Teacher, tiny_teacher: str, tmp_path: Path) -> None:
    moved = copy_of(tiny_teacher, tmp_path / "tiny")
    assert load_teacher(TeacherParams(model=f"local-dir:{moved}"), "cpu").identity == teacher.identity
    edit(moved, {"heads": 1})
    other = load_teacher(TeacherParams(model=f"local-dir:{moved}"), "cpu").identity
    assert other.weights_sha256 == teacher.identity.weights_sha256
    assert other.architecture_sha256 != teacher.identity.architecture_sha256


def test_its_identity_says_what_is_needed_to_use_its_embeddings(teacher: Teacher) -> None:
    facts = teacher.identity.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["model"] == "local-dir:tiny"
    assert facts["dim"] == 16
    assert facts["image_size"] == 32
    assert facts["context_length"] == 16
    assert facts["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)
    assert facts["preprocess"]["mean"] == [0.5, 0.45, 0.4]


def test_random_weights_are_had_only_by_asking_and_are_the_same_each_time() -> None:
    params = TeacherParams(model="ViT-S-32-alt", pretrained="random")
    assert load_teacher(params, "cpu").identity == load_teacher(params, "cpu").identity


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B16", None, "did you mean 'ViT-B-16'"),
        ("ViT-B-16", "laion2b_s34b_b88", "did you mean 'laion2b_s34b_b88k'"),
        ("ViT-B-16", None, "which weights"),
        ("ViT-B-32", "openai", "choose 'ViT-B-32-quickgelu'"),
        ("local-dir:nowhere", None, "no folder nowhere"),
        ("local-dir:x", "openai", "brings its own weights"),
    ],
)
def test_a_mistyped_teacher_is_refused_before_anything_is_downloaded(
    model: str, pretrained: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_teacher(TeacherParams(model=model, pretrained=pretrained), "cpu")


def test_a_folder_without_weights_is_never_filled_with_random_ones(tiny_teacher: str, tmp_path: Path) -> None:
    folder = copy_of(tiny_teacher, tmp_path / "t")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UsageError, match="could not be loaded"):
        load_teacher(TeacherParams(model=f"local-dir:{folder}"), "cpu")


def test_weights_that_are_cut_short_or_do_not_fit_are_refused(tiny_teacher: str, tmp_path: Path) -> None:
    folder = copy_of(tiny_teacher, tmp_path / "t")
    weights = folder / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="could not be loaded"):
        load_teacher(TeacherParams(model=f"local-dir:{folder}"), "cpu")
    weights.write_bytes(whole)
    edit(folder, {"layers": 3})
    with pytest.raises(UsageError, match="could not be loaded"):
        load_teacher(TeacherParams(model=f"local-dir:{folder}"), "cpu")


def test_a_checkpoint_that_would_run_code_is_refused(tiny_teacher: str, tmp_path: Path) -> None:
    folder = copy_of(tiny_teacher, tmp_path / "t")
    (folder / "open_clip_model.safetensors").unlink()
    # A pickle that would call print(): what `torch.load` without weights_only runs.
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"cbuiltins\nprint\n(S'run'\ntR.")
    with pytest.raises(UsageError, match="could not be loaded"):
        load_teacher(TeacherParams(model=f"local-dir:{folder}"), "cpu")


@pytest.mark.parametrize("text", ["{", "[]", '{"model_cfg": 1}'])
def test_a_folder_with_another_configuration_is_refused(tiny_teacher: str, tmp_path: Path, text: str) -> None:
    folder = copy_of(tiny_teacher, tmp_path / "t")
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="not the configuration of an open_clip model"):
        load_teacher(TeacherParams(model=f"local-dir:{folder}"), "cpu")


def test_a_local_teacher_whose_tokenizer_lies_on_the_hub_is_refused(tiny_teacher: str, tmp_path: Path) -> None:
    folder = copy_of(tiny_teacher, tmp_path / "t")
    edit(folder, {"hf_tokenizer_name": "org/tokenizer"})
    with pytest.raises(UsageError, match="needs org/tokenizer from the hub"):
        load_teacher(TeacherParams(model=f"local-dir:{folder}"), "cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(tiny_teacher: str, device: str) -> None:
    with pytest.raises(UsageError, match=r"runtime\.device"):
        load_teacher(TeacherParams(model=tiny_teacher), device)


def test_half_precision_is_close_and_says_so(teacher: Teacher, tiny_teacher: str) -> None:
    half = load_teacher(TeacherParams(model=tiny_teacher, precision="bf16"), "cpu")
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    found, expected = half.embed_images(pixels), teacher.embed_images(pixels)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert half.identity.precision == "bf16"
