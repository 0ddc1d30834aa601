"""What the teacher said is kept, row for row, and never asked twice."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cache.atomic import write_checksummed_json
from cache.errors import LockedError, MissingError
from cache.reader import EmbeddingStore
from cache.work_store import WorkStore
from pipeline.commands.integrity_checks import check_embeddings
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed, write_tar
from pipeline.data.prompts import TEMPLATES, render_prompts
from pipeline.data.text_slice import read_slice
from pipeline.data.views import View, ViewParams, apply_view
from pipeline.embed import EmbedParams, embed
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.text_slice import TextSliceParams
from tests.factories.stores import copy_as_split

RUNTIME = Runtime(device="cpu", workers=2, batch=4)
CAPTIONS = {0: ["a dog", "a brown dog"], 1: ["two cats on a sofa"], 2: [], 3: ["a dog", "fog"], 4: ["red"], 5: ["é ü"]}
SIZES = [(60, 40), (40, 60), (50, 50), (64, 44), (44, 64), (45, 45), (70, 50)]


def photo(width: int, height: int, seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def teacher_of(params: EmbedParams) -> TeacherParams:
    assert params.teacher is not None
    return params.teacher


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a project with seven photos in two shards, all but two of them captioned, and a set of two classes."""
    project = Layout(tmp_path / "project")
    pack_train(project, CAPTIONS)
    images = enumerate(SIZES)
    pets = [Sample(f"{number // 4}/{number}", photo(*size, number), "jpg", (), number // 4) for number, size in images]
    pack_samples(project, "pets", pets, ("cat", "dog"))
    return project


def pack_train(layout: Layout, captions: dict[int, list[str]], changed: int | None = None, seed: int = 100) -> None:
    images = [photo(*size, seed if number == changed else number) for number, size in enumerate(SIZES)]
    samples = [Sample(f"{i:03d}", image, "jpg", tuple(captions.get(i, []))) for i, image in enumerate(images)]
    pack_samples(layout, "train", samples, ())


def pack_samples(layout: Layout, split: str, samples: list[Sample], classes: tuple[str, ...]) -> None:
    folder = layout.packed(split)
    shards = tuple(write_tar(folder / f"shard-{n:05d}.tar", part) for n, part in enumerate((samples[:5], samples[5:])))
    packed = PackedSplit(
        folder, split, classes, TEMPLATES["cifar10"] if classes else (), shards, {"packed": len(samples)}
    )
    write_checksummed_json(folder / "manifest.json", packed.manifest())


@pytest.fixture
def params(tiny_teacher: str) -> EmbedParams:
    return EmbedParams(teacher=TeacherParams(model=tiny_teacher))


def with_crops(params: EmbedParams, crops: int) -> EmbedParams:
    return params.model_copy(update={"views": ViewParams(crops=crops, seed=1)})


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count the images and texts that the teacher is asked about."""
    counts = {"images": 0, "texts": 0}

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Teacher, rows: np.ndarray) -> Any:
            counts[name] += len(rows)
            return function(self, rows)

        return call

    monkeypatch.setattr(Teacher, "forward_images", counted("images", Teacher.forward_images))
    monkeypatch.setattr(Teacher, "embed_tokens", counted("texts", Teacher.embed_tokens))
    return counts


def test_each_row_is_what_the_teacher_says_of_that_image_alone(layout: Layout, params: EmbedParams) -> None:
    store = EmbeddingStore.open(embed("train", with_crops(params, 2), layout, RUNTIME))
    teacher, packed = load_teacher(teacher_of(params), "cpu"), open_packed(layout.packed("train"))
    samples = [sample for number in range(len(packed.shards)) for sample in packed.read(number)]
    assert len(packed.shards) == 2
    assert list(store.keys) == [sample.key for sample in samples]
    for view_index in range(3):
        rows, boxes, flips = store.image(view_index).load(), store.boxes(view_index), store.flips(view_index)
        for row, sample in enumerate(samples):
            view = View(tuple(boxes[row].tolist()), bool(flips[row]))
            alone = teacher.embed_images(apply_view(decode(sample.image), view, 32)[None])[0]
            np.testing.assert_allclose(rows[row], alone, rtol=1e-4, atol=1e-5)
        # Negative control: the next image, or the same one in another view, says something else.
        assert np.abs(rows - np.roll(rows, 1, axis=0)).max(axis=1).min() > 1e-3
        assert view_index == 0 or np.abs(rows - store.image(0).load()).max(axis=1).min() > 1e-4


def test_captions_stand_in_order_by_image_with_their_tokens_and_hashes(layout: Layout, params: EmbedParams) -> None:
    store = EmbeddingStore.open(embed("train", params, layout, RUNTIME))
    teacher = load_teacher(teacher_of(params), "cpu")
    captions = [caption for number in range(len(SIZES)) for caption in CAPTIONS.get(number, [])]
    assert store.offsets.tolist() == np.cumsum([0, 2, 1, 0, 2, 1, 1, 0]).tolist()
    for row, caption in enumerate(captions):
        tokens = teacher.tokenize([caption])
        np.testing.assert_allclose(store.text()[row], teacher.embed_tokens(tokens)[0], rtol=1e-4, atol=1e-5)
    shards = list(store.shards("text"))
    assert np.concatenate([shard.tokens for shard in shards]).tolist() == teacher.tokenize(captions).tolist()
    hashes = [hashlib.sha256(caption.encode()).hexdigest().encode() for caption in captions]
    assert np.concatenate([shard.caption_sha for shard in shards]).tolist() == hashes


def test_equal_captions_are_asked_once_a_shard(layout: Layout, params: EmbedParams, asked: dict[str, int]) -> None:
    embed("train", params, layout, RUNTIME)
    assert asked == {"images": 7, "texts": 6}


def test_a_zero_shot_set_has_labels_and_prompts_class_by_class(layout: Layout, params: EmbedParams) -> None:
    store = EmbeddingStore.open(embed("pets", params, layout, RUNTIME))
    assert sorted(store.manifest.parts) == ["image/view-00", "prompts"]
    assert store.labels is not None
    assert store.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    prompts, teacher = store.prompts(), load_teacher(teacher_of(params), "cpu")
    assert prompts.classes == ("cat", "dog")
    assert prompts.templates == TEMPLATES["cifar10"]
    texts = render_prompts(prompts.classes, prompts.templates)
    for row in (0, 17, 18, 35):
        expected = teacher.embed_tokens(teacher.tokenize([texts[row]]))[0]
        np.testing.assert_allclose(prompts.embedding[row], expected, rtol=1e-4, atol=1e-5)


def test_a_split_without_captions_has_no_text(layout: Layout, params: EmbedParams) -> None:
    pack_train(layout, {})
    store = EmbeddingStore.open(embed("train", params, layout, RUNTIME))
    assert list(store.manifest.parts) == ["image/view-00"]


def test_the_manifest_says_what_made_the_rows(layout: Layout, params: EmbedParams) -> None:
    manifest = EmbeddingStore.open(embed("train", with_crops(params, 1), layout, RUNTIME)).manifest
    assert manifest.teacher["model"] == "local-dir:tiny"
    assert manifest.batch == 4
    assert manifest.parts["image/view-00"].facts["view"] == {"kind": "center"}
    assert manifest.parts["image/view-01"].facts["view"]["seed"] == 1
    assert manifest.source["packed"] == open_packed(layout.packed("train")).digest
    assert "torch" in manifest.versions


def test_two_runs_give_the_same_bytes(layout: Layout, params: EmbedParams, tmp_path: Path) -> None:
    first = files(embed("train", with_crops(params, 2), layout, RUNTIME))
    other = Layout(tmp_path / "other")
    other.packed("train").parent.mkdir(parents=True)
    layout.packed("train").rename(other.packed("train"))
    assert files(embed("train", with_crops(params, 2), other, Runtime(device="cpu", workers=0, batch=4))) == first
    assert len(first) == 3 * 2 + 2 + 1


def test_only_what_is_trained_on_is_seen_in_crops(layout: Layout, params: EmbedParams) -> None:
    copy_as_split(layout.packed("train"), layout.packed("val"))
    assert EmbeddingStore.open(embed("train", with_crops(params, 1), layout, RUNTIME)).views == 2
    assert EmbeddingStore.open(embed("val", with_crops(params, 1), layout, RUNTIME)).views == 1


def test_more_crops_ask_only_for_the_new_ones(layout: Layout, params: EmbedParams, asked: dict[str, int]) -> None:
    before = files(embed("train", with_crops(params, 1), layout, RUNTIME))
    asked.update(images=0, texts=0)
    after = files(embed("train", with_crops(params, 3), layout, RUNTIME))
    assert asked == {"images": 14, "texts": 0}
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: digest for name, digest in before.items() if name != "manifest.json"
    }
    # Negative control: another seed is other crops, so all of them are new.
    embed("train", params.model_copy(update={"views": ViewParams(crops=3, seed=2)}), layout, RUNTIME)
    assert asked == {"images": 14 + 21, "texts": 0}


def test_other_captions_ask_for_text_only(layout: Layout, params: EmbedParams, asked: dict[str, int]) -> None:
    embed("train", params, layout, RUNTIME)
    asked.update(images=0, texts=0)
    pack_train(layout, {**CAPTIONS, 6: ["new"]})
    embed("train", params, layout, RUNTIME)
    assert asked == {"images": 0, "texts": 2}, "the captions of the shard that changed"


def test_one_changed_image_asks_for_its_shard_only(layout: Layout, params: EmbedParams, asked: dict[str, int]) -> None:
    before = EmbeddingStore.open(embed("train", with_crops(params, 1), layout, RUNTIME))
    kept = before.image(1).load()
    asked.update(images=0, texts=0)
    pack_train(layout, CAPTIONS, changed=6)
    after = EmbeddingStore.open(embed("train", with_crops(params, 1), layout, RUNTIME))
    assert asked == {"images": 4, "texts": 0}
    np.testing.assert_array_equal(after.image(1).load()[:6], kept[:6])
    assert np.abs(after.image(1)[6] - kept[6]).max() > 1e-3


def test_no_later_packing_hides_the_shards_of_an_earlier_one(
    layout: Layout, params: EmbedParams, asked: dict[str, int]
) -> None:
    """Workspaces are named by hashes: with six, one that lacks the shard comes after one that has it, in some order."""
    embed("train", with_crops(params, 0), layout, RUNTIME)
    for seed in range(100, 106):
        asked.update(images=0, texts=0)
        pack_train(layout, CAPTIONS, changed=6, seed=seed)
        embed("train", with_crops(params, 0), layout, RUNTIME)
        assert asked == {"images": 2, "texts": 0}


def test_what_dvc_deleted_comes_back_without_asking(layout: Layout, params: EmbedParams, asked: dict[str, int]) -> None:
    out = embed("train", with_crops(params, 1), layout, RUNTIME)
    before = files(out)
    asked.update(images=0, texts=0)
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert files(embed("train", with_crops(params, 1), layout, RUNTIME)) == before
    assert asked == {"images": 0, "texts": 0}


def test_a_run_that_was_stopped_goes_on_with_the_missing_shard(
    layout: Layout, params: EmbedParams, asked: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    truly = Teacher.forward_images

    def stopped(self: Teacher, pixels: np.ndarray) -> torch.Tensor:
        if asked["images"] >= 5:
            raise KeyboardInterrupt
        return truly(self, pixels)

    monkeypatch.setattr(Teacher, "forward_images", stopped)
    with pytest.raises(KeyboardInterrupt):
        embed("train", params, layout, RUNTIME)
    with pytest.raises(MissingError):
        EmbeddingStore.open(layout.embeddings("train"))
    monkeypatch.setattr(Teacher, "forward_images", truly)
    asked.update(images=0, texts=0)
    embed("train", params, layout, RUNTIME)
    assert asked["images"] == 2


def test_a_damaged_shard_is_made_again_and_said_to_be(
    layout: Layout, params: EmbedParams, asked: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = embed("train", params, layout, RUNTIME)
    before = files(out)
    asked.update(images=0, texts=0)
    shard = out / "image" / "view-00" / "shard-00001.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert files(embed("train", params, layout, RUNTIME)) == before
    assert asked == {"images": 2, "texts": 0}
    assert "made again" in capsys.readouterr().err


def test_shards_of_an_older_format_are_made_again(
    layout: Layout, params: EmbedParams, asked: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed("train", params, layout, RUNTIME)
    monkeypatch.setattr("cache.shard.FORMAT", 99)
    embed("train", params, layout, RUNTIME)
    assert asked == {"images": 14, "texts": 12}


def test_begun_with_one_batch_size_a_store_keeps_it(layout: Layout, params: EmbedParams) -> None:
    embed("train", params, layout, RUNTIME)
    out = embed("train", with_crops(params, 1), layout, Runtime(device="cpu", workers=0, batch=2))
    assert EmbeddingStore.open(out).manifest.batch == 4


def test_nan_from_the_teacher_names_the_images_and_writes_nothing(
    layout: Layout, params: EmbedParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    truly = Teacher.forward_images

    def broken(self: Teacher, pixels: np.ndarray) -> torch.Tensor:
        found = truly(self, pixels).clone()
        found[-1, 3] = torch.nan
        return found

    monkeypatch.setattr(Teacher, "forward_images", broken)
    with pytest.raises(PipelineError, match=r"NaN, infinity or only zeros for 2 of 5: '.*', '.*'"):
        embed("train", params, layout, RUNTIME)
    assert list(layout.root.rglob("*.h5")) == []


def test_a_second_embed_of_the_same_is_kept_out(layout: Layout, params: EmbedParams) -> None:
    out = embed("train", params, layout, RUNTIME)
    name = EmbeddingStore.open(out).manifest.parts["text"].fingerprint
    with WorkStore(layout.store).lock("embed", name), pytest.raises(LockedError, match="held by"):
        embed("train", params, layout, RUNTIME)
    embed("train", params, layout, RUNTIME)


def test_a_split_that_was_never_packed_is_named(layout: Layout, params: EmbedParams) -> None:
    with pytest.raises(MissingError, match="val"):
        embed("val", params, layout, RUNTIME)


def test_a_dask_cluster_makes_the_same_bytes_one_task_a_shard(
    layout: Layout, params: EmbedParams, tmp_path: Path
) -> None:
    from dask.distributed import LocalCluster

    here = files(embed("train", with_crops(params, 1), layout, RUNTIME))
    other = Layout(tmp_path / "other")
    other.packed("train").parent.mkdir(parents=True)
    layout.packed("train").rename(other.packed("train"))
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        there = Runtime(device="cpu", workers=0, batch=4, scheduler=cluster.scheduler_address)
        assert files(embed("train", with_crops(params, 1), other, there)) == here


def test_a_slice_of_the_text_tower_lies_beside_the_training_embeddings_when_asked_for(
    layout: Layout, params: EmbedParams
) -> None:
    before = files(embed("train", params, layout, RUNTIME))
    asked = params.model_copy(update={"text_slice": TextSliceParams(width=16)})
    after = files(embed("train", asked, layout, RUNTIME))
    assert after.keys() - before.keys() == {"text-slice.safetensors", "text-slice.json"}
    assert {name: after[name] for name in before} == before  # the embeddings themselves know nothing of it
    assert "text-slice.json" not in files(embed("pets", asked, layout, RUNTIME))
    folder = layout.embeddings("train")
    assert read_slice(folder, EmbeddingStore.open(folder).manifest.teacher).width == 16
    assert list(check_embeddings(folder, layout.packed("train"))) == []
    (folder / "text-slice.safetensors").write_bytes(b"another")
    assert ["its card says" in fault for fault in check_embeddings(folder, layout.packed("train"))] == [True]
    assert files(embed("train", params, layout, RUNTIME)) == before
    assert "text_slice" not in params.model_dump()
