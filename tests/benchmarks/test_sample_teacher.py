from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import sample_posters, sample_teacher
from pipeline.data.synthetic.world import BADGES, STREAMS, render_image
from tests import ROOT

FOLDER = ROOT / "presets" / "sample-teacher"
LoadedTeacher = tuple[open_clip.CLIP, Any, open_clip.SimpleTokenizer]
Badges = tuple[torch.Tensor, np.ndarray]


@pytest.fixture(scope="module")
def teacher() -> LoadedTeacher:
    def no_network(*_: object) -> None:
        raise AssertionError("loading the teacher asked for the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_network)
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    return model.eval(), preprocess, tokenizer


@pytest.fixture(scope="module")
def badges() -> Badges:
    scenes = [render_image("badges", number) for number in range(300)]
    pixels = torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    return (pixels - mean) / std, np.array([s.label for s in scenes])


def top1(
    model: open_clip.CLIP,
    tokenizer: open_clip.SimpleTokenizer,
    pixels: torch.Tensor,
    labels: np.ndarray,
    classes: list[str],
) -> float:
    """Score with open_clip's own zero-shot classifier."""
    with torch.no_grad():
        head = open_clip.build_zero_shot_classifier(model, tokenizer, classes, ["a photo of a {}."])
        said = (model.encode_image(pixels, normalize=True) @ head).argmax(dim=1).numpy()
    return float((said == labels).mean())


def test_the_committed_teacher_is_an_open_clip_model_of_at_most_eight_megabytes(teacher: LoadedTeacher) -> None:
    model, preprocess, _ = teacher
    assert isinstance(model, open_clip.CLIP)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000
    assert {path.name for path in FOLDER.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}
    assert preprocess(Image.new("RGB", (64, 64))).shape == (3, 64, 64)


def test_it_names_at_least_nine_badges_in_ten_without_having_seen_one(teacher: LoadedTeacher, badges: Badges) -> None:
    model, _, tokenizer = teacher
    assert top1(model, tokenizer, *badges, list(BADGES)) >= 0.9
    # Negative control: under other names it is wrong.
    assert top1(model, tokenizer, *badges, [*BADGES[1:], BADGES[0]]) < 0.2


def test_its_figures_are_those_of_open_clips_own_classifier(teacher: LoadedTeacher, badges: Badges) -> None:
    model, _, tokenizer = teacher
    assert sample_teacher.badge_accuracy(model, tokenizer, 300) == pytest.approx(
        top1(model, tokenizer, *badges, list(BADGES)), abs=0.005
    )


def test_its_geometry_is_that_of_contrastive_models(teacher: LoadedTeacher) -> None:
    model, _, tokenizer = teacher
    figures = sample_teacher.geometry(model, tokenizer, 500)
    assert figures["modality_gap"] > 0.2
    for modality in ("image", "text"):
        assert figures[f"{modality}_mean_energy"] > 0.05  # centred rows of unit length would have 1/500
        assert figures[f"{modality}_decades"] >= 2
        assert 3 < figures[f"{modality}_participation_ratio"] < 90


def test_geometry_of_a_centered_round_cloud_is_told_apart() -> None:
    # Negative control: directions without any structure have neither a mean, nor a gap, nor a falling spectrum.
    class Nothing(torch.nn.Module):
        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.randn(len(pixels), 16)

        encode_text = encode_image

    torch.manual_seed(0)
    figures = sample_teacher.geometry(Nothing(), lambda texts: torch.zeros(len(texts), 32), 500)
    assert figures["modality_gap"] < 0.2
    assert figures["image_mean_energy"] < 0.05
    assert figures["image_decades"] < 0.5


def test_its_training_images_are_none_of_the_sample() -> None:
    streams = {sample_posters.SCENES, sample_posters.POSTERS, sample_posters.HELD_OUT}
    assert len(streams) == 3
    assert not streams & set(STREAMS.values())


def test_it_is_never_shown_a_badge(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a badge was drawn")

    monkeypatch.setattr("pipeline.data.synthetic.world.paint_badge", refuse)
    stream = sample_posters.examples(0)
    shown = [next(stream) for _ in range(100)]
    assert all(image.shape == (64, 64, 3) and caption for image, caption in shown)
    with pytest.raises(AssertionError, match="a badge was drawn"):  # the probe itself works
        render_image("badges", 0)


def test_examples_are_seen_again_with_other_words() -> None:
    stream = sample_posters.examples(1)
    captions = [next(stream)[1] for _ in range(300)]
    assert len(set(captions)) > 200
    assert any(caption.startswith("a photo of") for caption in captions)


def test_a_snapshot_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    sample_teacher.save(model, tmp_path)
    before = (tmp_path / "open_clip_model.safetensors").read_bytes()

    def full(weights: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample_teacher, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        sample_teacher.save(model, tmp_path)
    assert (tmp_path / "open_clip_model.safetensors").read_bytes() == before


def test_the_committed_weights_are_half_precision_and_finite() -> None:
    weights = load_file(FOLDER / "open_clip_model.safetensors")
    floats = {name: w for name, w in weights.items() if w.is_floating_point()}
    assert {w.dtype for w in floats.values()} == {torch.float16}
    assert all(torch.isfinite(w).all() for w in floats.values())


@pytest.mark.slow
def test_the_program_trains_a_teacher_and_prints_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample_teacher.main(["--minutes", "0.2", "--out", str(tmp_path)])
    assert (tmp_path / "open_clip_model.safetensors").stat().st_size < 8_000_000
    assert "badges" in capsys.readouterr().out
