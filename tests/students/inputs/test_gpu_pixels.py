"""Pixels on a device are what the store gives, cut and resampled there as Pillow does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.project.layout import Layout
from pipeline.students.inputs import gpu_pixels as module
from pipeline.students.inputs.gpu_pixels import GpuPixelStore, keys_cubic, load_on_gpu, resample
from pipeline.students.inputs.loader import BatchLoader
from pipeline.students.inputs.pixels import PixelStore, open_pixel_store
from tests.factories.students import made_feed
from tests.students.inputs.test_pixels import CENTER, CROPS, RUNTIME, boxes_and_flips, pack

CPU = torch.device("cpu")
SIZES = [(60, 40), (40, 60), (50, 50), (200, 90), (31, 47)]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[PixelStore, np.ndarray, np.ndarray]:
    """Return five photos of five sizes, kept for crops, with the boxes and flips of one crop of each."""
    packed = pack(tmp_path / "photos", SIZES)
    store = open_pixel_store(packed, 24, [CROPS.facts(1)], Layout(tmp_path), RUNTIME)
    return store, *boxes_and_flips(packed, 1)


def test_crops_are_the_stores_within_one_level(kept: tuple[PixelStore, np.ndarray, np.ndarray]) -> None:
    store, boxes, flips = kept
    rows = np.array([3, 0, 4, 4, 1])
    assert flips[rows].any()
    assert not flips[rows].all()
    here = GpuPixelStore.from_store(store, CPU).batch(rows, boxes[rows], flips[rows], 24).numpy().astype(int)
    there = store.batch(rows, boxes[rows], flips[rows], 24).astype(int)
    assert np.abs(here - there).max() <= 1
    assert (here != there).mean() < 0.2  # where Pillow takes the vertical pass first, its rounding in between differs
    # Negative control: the same boxes not mirrored, and boxes a pixel away, are other pixels.
    assert np.abs(store.batch(rows, boxes[rows], ~flips[rows], 24) - there).max() > 10
    moved = GpuPixelStore.from_store(store, CPU).batch(rows, boxes[rows] * np.float32(0.98), flips[rows], 24).numpy()
    assert np.abs(moved.astype(int) - there).max() > 3


@pytest.mark.parametrize("size", [16, 24, 100])
def test_resampling_is_pillows_smaller_or_larger(size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    box = (0.11, 0.05, 0.93, 0.8)
    expected = Image.fromarray(noise).resize(
        (size, size), Image.Resampling.BICUBIC, box=(0.11 * 53, 0.05 * 37, 0.93 * 53, 0.8 * 37)
    )
    images, boxes = torch.from_numpy(noise)[None], torch.tensor([box], dtype=torch.float64)
    found = resample(images, torch.tensor([[37, 53]]), boxes, size)[0].numpy().astype(int)
    assert np.abs(found - np.asarray(expected, int)).max() <= 1
    assert (found != np.asarray(expected)).mean() < 0.001


def test_the_cubic_interpolates_and_sums_to_one() -> None:
    assert keys_cubic(torch.tensor([0.0, 1.0, 2.0, 3.0])).tolist() == [1, 0, 0, 0]
    shifts = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None] + torch.arange(-3, 4)
    torch.testing.assert_close(keys_cubic(shifts.abs()).sum(1), torch.ones(11, dtype=torch.float64))


def test_center_views_are_the_kept_bytes_themselves(tmp_path: Path) -> None:
    store = open_pixel_store(pack(tmp_path / "photos", SIZES), 24, CENTER, Layout(tmp_path), RUNTIME)
    rows, flips = np.array([4, 2, 2]), np.array([False, True, False])
    found = GpuPixelStore.from_store(store, CPU).batch(rows, store.kept_box[rows], flips, 24).numpy()
    assert np.array_equal(found, store.batch(rows, store.kept_box[rows], flips, 24))
    assert not np.array_equal(found[1], found[2])


def test_a_box_outside_of_what_was_kept_is_refused_here_too(tmp_path: Path) -> None:
    store = open_pixel_store(pack(tmp_path / "photos", SIZES), 24, CENTER, Layout(tmp_path), RUNTIME)
    whole = np.array([[0, 0, 1, 1]], np.float32)
    with pytest.raises(ValueError, match="only the center view was kept"):
        GpuPixelStore.from_store(store, CPU).batch(np.array([0]), whole, np.array([False]), 24)


@pytest.mark.parametrize(("free", "there"), [(10**9, True), (20_000, False)])
def test_a_split_lives_on_a_gpu_where_it_takes_half_of_the_free_memory_at_most(
    kept: tuple[PixelStore, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch, free: int, there: bool
) -> None:
    store = kept[0]
    assert 10_000 < store.nbytes < 10**8
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (free, 10**12))
    monkeypatch.setattr(GpuPixelStore, "from_store", lambda pixels, _device: pixels)
    assert (load_on_gpu(store, torch.device("cuda")) is not None) == there
    assert load_on_gpu(store, CPU) is None


def test_the_feed_takes_what_lives_on_the_device(
    kept: tuple[PixelStore, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, boxes, flips = kept
    made = made_feed()
    targets = type(made.targets)(
        image=made.targets.image[:, : len(store)], boxes=boxes[None], flips=flips[None], text=None, offsets=None
    )
    feed = BatchLoader(store, targets, 3, 24, 0, CPU)
    there = feed.batch_at(0).pixels
    monkeypatch.setattr("pipeline.students.inputs.loader.load_on_gpu", GpuPixelStore.from_store)
    here = BatchLoader(store, targets, 3, 24, 0, CPU).batch_at(0).pixels
    assert (here.int() - there.int()).abs().max() <= 1
    assert module.MAX_MEMORY_FRACTION <= 0.5
