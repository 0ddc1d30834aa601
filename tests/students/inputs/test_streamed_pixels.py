"""Streamed pixels: the very pixels of the store, in an order that is a pure function of (seed, epoch)."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import CacheError, DamagedError, MissingError
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit, open_packed
from pipeline.data.packing.shard_images import open_images
from pipeline.data.views import ViewParams, view_of
from pipeline.distill import FILES, DistillParams, distill
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.checkpoint import read_card
from pipeline.students.inputs.loader import BatchLoader
from pipeline.students.inputs.orders import WindowShuffle
from pipeline.students.inputs.pixels import open_pixel_store
from pipeline.students.inputs.splits import open_split
from pipeline.students.inputs.streamed_pixels import StreamedPixels
from pipeline.students.inputs.targets import load_targets
from pipeline.students.inputs.whitened_rows import WhitenedRows, WhitenedViews, take_columns
from pipeline.students.training import loop
from pipeline.students.training.distributed import DistributedContext
from pipeline.students.training.optimizer import learning_rate_at
from pipeline.whitening.spaces import load_space
from tests.data.packing.test_references import packed, tars
from tests.factories.project import RUNTIME, project
from tests.factories.students import TINY

pytestmark = pytest.mark.process

ROWS = st.lists(st.integers(1, 9), min_size=1, max_size=12)
SIZE = 16
CPU = torch.device("cpu")


@given(rows=ROWS, buffer=st.integers(1, 40), epoch=st.integers(0, 3), seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_epoch_shows_every_row_once_and_reads_each_shard_in_one_window(
    rows: list[int], buffer: int, epoch: int, seed: int
) -> None:
    order, count = WindowShuffle(seed, tuple(rows), buffer), sum(rows)
    shown = order.rows_at(epoch, 0, count)
    assert sorted(shown) == list(range(count))
    windows = [sorted(window.tolist()) for window in order.windows(epoch)]
    assert sorted(shard for window in windows for shard in window) == list(range(len(rows)))
    at = 0
    for window in windows:  # the rows of a window follow each other, whatever their order
        size = sum(rows[shard] for shard in window)
        assert sorted(set(order.shards_of(shown[at : at + size]).tolist())) == window
        at += size


@given(rows=ROWS, cut=st.integers(0, 40), buffer=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_any_part_of_an_epoch_can_be_had_alone(rows: list[int], cut: int, buffer: int) -> None:
    count = sum(rows)
    whole = WindowShuffle(1, tuple(rows), buffer).rows_at(2, 0, count)
    part = WindowShuffle(1, tuple(rows), buffer).rows_at(2, min(cut, count - 1), count)
    assert np.array_equal(part, whole[min(cut, count - 1) :])


def test_epochs_and_seeds_differ_and_a_large_buffer_mixes_all() -> None:
    orders = [WindowShuffle(seed, (10,) * 6, 20) for seed in (0, 1)]
    shown = [order.rows_at(epoch, 0, 60) for order in orders for epoch in (0, 1)]
    assert len({tuple(rows.tolist()) for rows in shown}) == 4
    assert len(WindowShuffle(0, (10,) * 6, 10_000).windows(0)) == 1
    # Negative control: two shards a window at a time are not a shuffle of all.
    assert len(set(orders[0].shards_of(shown[0][:20]).tolist())) == 2


@given(rows=st.lists(st.integers(1, 9), min_size=4, max_size=12), buffer=st.integers(1, 40), groups=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_each_group_gives_an_equal_part_of_every_batch_and_reads_its_own_shards(
    rows: list[int], buffer: int, groups: int
) -> None:
    order, batch = WindowShuffle(1, tuple(rows), buffer, groups), groups
    smallest = min(sum(rows[group::groups]) for group in range(groups))
    assert order.epoch_rows == groups * smallest
    batches = np.stack([order.rows_at(3, at, at + batch) for at in range(0, order.epoch_rows, batch)])
    assert len(set(batches.flatten().tolist())) == batches.size  # none twice
    assert (order.shards_of(batches.flatten()).reshape(batches.shape) % groups == np.arange(groups)).all()


def test_groups_of_equal_shards_are_shuffled_apart_and_one_group_is_no_group() -> None:
    order = WindowShuffle(0, (10,) * 8, 40, 2)
    one, two = order.rows_at(0, 0, 80).reshape(2, -1)
    assert not np.array_equal(one, two - 10)  # shard 2 i beside shard 2 i + 1, row for row
    assert WindowShuffle(0, (10,) * 8, 40).rows_at(0, 0, 5).tolist() == [
        61,
        45,
        69,
        63,
        68,
    ]  # as before there were groups


def test_views_come_in_turn_and_draws_belong_to_their_rows() -> None:
    order, rows = WindowShuffle(3, (4, 5, 2), 5), np.arange(11)
    turns = np.stack([order.views(epoch, 3, rows) for epoch in range(3)])
    assert (np.sort(turns, axis=0) == np.arange(3)[:, None]).all()
    some = np.array([8, 2, 10])
    assert np.array_equal(order.draw(1, "caption", some), order.draw(1, "caption", rows)[some])
    assert not np.array_equal(order.draw(1, "caption", rows), order.draw(1, "flip", rows))
    assert not np.array_equal(order.draw(1, "caption", rows), order.draw(2, "caption", rows))


def wanted(split: PackedSplit, views: ViewParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows out of order, with the views 0 to `crops` of them in turn, as `embed` would have drawn them."""
    keys = [sample.key for number in range(len(split.shards)) for sample in split.read(number)]
    sizes: dict[Any, Any] = {}
    for number in range(len(split.shards)):
        sizes |= {sample.key: decode(sample.image).size for sample in split.read(number)}
    rows = np.random.default_rng(0).permutation(len(keys))
    chosen = [view_of(views, keys[row], at % (views.crops + 1), *sizes[keys[row]]) for at, row in enumerate(rows)]
    boxes = np.array([view.box for view in chosen], np.float32)
    return rows, boxes, np.array([view.flip for view in chosen])


@pytest.mark.parametrize("mode", ["copy", "reference"])
@pytest.mark.parametrize("crops", [0, 2])
def test_streamed_pixels_are_those_of_the_store(tmp_path: Path, mode: str, crops: int) -> None:
    split, views = packed(tmp_path, tars(tmp_path / "set", "train"), mode), ViewParams(crops=crops, seed=1)
    facts = [views.facts(number) for number in range(crops + 1)]
    rows, boxes, flips = wanted(split, views)
    if not crops:
        flips[::2] = True
    stored = open_pixel_store(split, 12, facts, Layout(tmp_path), Runtime(workers=0))
    streamed = StreamedPixels.open(split, 12, facts, Runtime(workers=0))
    expected = stored.batch(rows, boxes, flips, 12)
    assert np.array_equal(streamed.batch(rows, boxes, flips, 12), expected)
    # Negative control: the mirrored images are others.
    assert not np.array_equal(streamed.batch(rows, boxes, ~flips, 12), expected)


def test_only_the_view_that_was_asked_for_is_cut_from_whole_images(tmp_path: Path) -> None:
    split = packed(tmp_path, tars(tmp_path / "set", "train"), "copy")
    streamed = StreamedPixels.open(split, 12, [{"kind": "center"}], Runtime(workers=0))
    with pytest.raises(ValueError, match="only the center view can be streamed"):
        streamed.batch(np.array([0]), np.array([[0, 0, 0.5, 0.5]], np.float32), np.array([False]), 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return project(tmp_path_factory.mktemp("project"), students=(), targets=("zca",), views=2)


@pytest.fixture
def layout(made: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(made.root, tmp_path / "project")
    return Layout(tmp_path / "project")


def feed(layout: Layout, workers: int, **changes: Any) -> BatchLoader:
    split = open_split("train", layout, RUNTIME)
    targets = load_targets(split.store, load_space(layout.target("zca")), texts=True, resident=False)
    pixels = split.streamed_pixels(SIZE, 2, RUNTIME.model_copy(update={"workers": workers}))
    values: dict[str, Any] = {"batch": 16, "size": SIZE, "seed": 0, "device": CPU, "shuffle_buffer": 60, **changes}
    return BatchLoader(pixels, targets, **values)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_gives_each_steps_batch_in_order_and_leaves_no_process(layout: Layout, workers: int) -> None:
    loader, alone = feed(layout, workers), feed(layout, 0)
    for step, batch in zip(range(3, 9), loader.stream(3, 9), strict=True):
        expected = alone.batch_at(step)
        assert np.array_equal(batch.rows, expected.rows)
        assert torch.equal(batch.pixels, expected.pixels)
        assert torch.equal(batch.targets.image, expected.targets.image)
        assert batch.targets.text is not None
        assert expected.targets.text is not None
        assert torch.equal(batch.targets.text, expected.targets.text)
    assert multiprocessing.active_children() == []


def test_a_stream_that_is_left_early_leaves_no_process(layout: Layout) -> None:
    stream = feed(layout, 2).stream(0, 50)
    next(stream)
    del stream
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_needs_the_shards_of_its_groups_only(layout: Layout, tmp_path: Path, rank: int) -> None:
    steps, part = (0, 9), DistributedContext(rank, 2)
    whole = list(feed(layout, 0, shard_groups=2).stream(*steps))
    other = Layout(shutil.copytree(layout.root, tmp_path / "other"))
    packed = open_packed(other.packed("train"))
    for shard in packed.shards[1 - rank :: 2]:
        (packed.folder / shard.name).unlink()
    for batch, expected in zip(feed(other, 0, shard_groups=2, ranks=part).stream(*steps), whole, strict=True):
        assert torch.equal(batch.pixels, expected.pixels[part.local_slice(len(expected.rows))])
        assert torch.equal(batch.targets.image, expected.targets.image)
    with pytest.raises(MissingError, match=r"shard-0000\d\.tar"):  # control: without groups it needs all of them
        list(feed(other, 0, ranks=part).stream(*steps))


@pytest.mark.parametrize(("batch", "groups"), [(16, 3), (16, 16)])
def test_groups_that_cannot_give_equal_parts_are_refused(layout: Layout, batch: int, groups: int) -> None:
    with pytest.raises(UsageError, match=rf"shard_groups: {groups} groups of \d+ shards.* of a batch of {batch}\."):
        feed(layout, 0, batch=batch, shard_groups=groups).check_groups()
    feed(layout, 0, batch=batch, shard_groups=2).check_groups()


def test_rows_that_are_not_resident_are_the_targets_of_the_arrays(layout: Layout) -> None:
    store, space = open_split("train", layout, RUNTIME).store, load_space(layout.target("zca"))
    kept, lazy = (load_targets(store, space, texts=True, context=8, resident=resident) for resident in (True, False))
    rows, view = np.array([70, 3, 3, 41]), np.array([0, 1, 0, 1])
    assert lazy.image.shape == kept.image.shape
    assert np.allclose(lazy.image[view, rows], kept.image[view, rows], atol=1e-5)
    assert np.allclose(lazy.image[0, rows], kept.image[0, rows], atol=1e-5)
    assert lazy.text is not None
    assert kept.text is not None
    assert np.allclose(lazy.text[rows], kept.text[rows], atol=1e-5)
    assert np.array_equal(lazy.tokens[rows], kept.tokens[rows])  # type: ignore[index]
    one, other = lazy.image_stats, kept.image_stats
    assert (one.variance, one.rms_norm) == pytest.approx((other.variance, other.rms_norm), rel=1e-5)
    whole = WhitenedViews([WhitenedRows(store.image(0), space, "image")])
    assert whole.sample(10).shape == (1, 10, whole.shape[2])
    assert np.array_equal(take_columns(lazy.image, slice(2, 5))[view, rows], lazy.image[view, rows][:, 2:5])


def damage(packed_split: PackedSplit, number: int) -> None:
    path = packed_split.folder / packed_split.shards[number].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_named_in_one_line_before_an_image_of_it_is_decoded(layout: Layout, workers: int) -> None:
    split = open_packed(layout.packed("train"))
    damage(split, 1)
    with pytest.raises(DamagedError, match=r"^[^\n]*shard-00001\.tar: SHA-256 [^\n]*$"):
        for _ in feed(layout, workers).stream(0, 5):
            pass
    # Negative control: sizes alone do not see it.
    streamed = feed(layout, 0)
    streamed = replace(streamed, pixels=replace(streamed.pixels, verify="size"))  # type: ignore[type-var]
    assert len(list(streamed.stream(0, 1))) == 1


def test_a_shard_that_was_cut_is_refused(layout: Layout) -> None:
    split = open_packed(layout.packed("train"))
    path = split.folder / split.shards[0].name
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-2048])
    with pytest.raises(CacheError, match=r"shard-00000\.tar"):
        open_images(split, 0)


def params(**training: Any) -> DistillParams:
    values = {"epochs": 2, "batch": 16, "image_size": SIZE, "num_validations": 2, "pixels": "streamed", **training}
    loss = {"fd": 1.0, "icl": 0.1}
    return DistillParams.model_validate({"training": {"shuffle_buffer": 60, **values}, "loss": loss, "student": {}})


def arm(layout: Layout, chosen: DistillParams, workers: int = 0) -> dict[str, bytes]:
    runtime = RUNTIME.model_copy(update={"workers": workers})
    out = distill(TINY, "zca", chosen, layout, runtime, layout.model(TINY, "zca"), force=True)
    return {name: (out / name).read_bytes() for name in FILES}


class KilledError(BaseException):
    """Stands for the end of the process."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Save at each step, and end the run while step `step` is taken."""
    taken, real = 0, learning_rate_at

    def counted(*args: Any) -> float:
        nonlocal taken
        taken += 1
        if taken == step:
            raise KilledError
        return real(*args)

    monkeypatch.setattr(loop, "learning_rate_at", counted)
    monkeypatch.setattr("pipeline.distill.ResumeConfig", lambda path: SimpleNamespace(path=path, every_seconds=0.0))


def test_a_killed_streamed_run_ends_in_the_bytes_of_an_uninterrupted_one(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = arm(layout, params())
    shutil.rmtree(layout.store)
    with monkeypatch.context() as patched:
        killed_at(patched, 7)  # of ten, in the second epoch
        with pytest.raises(KilledError):
            arm(layout, params())
    assert list(layout.store.rglob("state.safetensors"))
    assert arm(layout, params(), workers=2) == expected


def test_what_a_stored_run_learns_in_is_another_order_and_another_fingerprint(layout: Layout) -> None:
    streamed, card = arm(layout, params()), read_card(layout.model(TINY, "zca"))
    assert card["training"]["pixels"] == "streamed"
    stored = arm(layout, params(pixels="stored", shuffle_buffer=10_000))
    assert "pixels" not in read_card(layout.model(TINY, "zca"))["training"]
    assert streamed["student.safetensors"] != stored["student.safetensors"]


def test_a_streamed_run_decodes_no_store_of_its_training_images(layout: Layout) -> None:
    split = open_split("train", layout, RUNTIME)
    mode, before = split.choose_pixels("auto", SIZE, 2, layout)
    arm(layout, params())
    _, after = split.choose_pixels("auto", SIZE, 2, layout)
    assert "they are decoded already" not in (before, after)  # both name the free disk, which changes meanwhile
    arm(layout, params(pixels="stored", shuffle_buffer=10_000))
    assert split.choose_pixels("auto", SIZE, 2, layout) == ("stored", "they are decoded already")
    assert mode == "stored"


@pytest.mark.parametrize(("free", "mode"), [(10**12, "stored"), (10_000, "streamed")])
def test_auto_stores_where_the_disk_allows_and_says_which_and_why(
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free: int,
    mode: str,
) -> None:
    usage: Callable[[object], object] = lambda _: SimpleNamespace(free=free)  # noqa: E731
    monkeypatch.setattr("pipeline.students.inputs.pixels.shutil.disk_usage", usage)
    arm(layout, params(pixels="auto"))
    said = capsys.readouterr().err
    assert f"distill.training.pixels: auto is '{mode}' here: 80 images take about 0.1 MB decoded, and" in said
    assert read_card(layout.model(TINY, "zca"))["training"].get("pixels", "stored") == mode
