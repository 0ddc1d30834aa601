"""Pixels are decoded once, and cut as the teacher's were."""

from __future__ import annotations

import errno
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import DamagedError, WriteError
from pipeline.data import integrity as structure
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit, Sample, write_tar
from pipeline.data.views import View, ViewParams, apply_view, center_view, view_of
from pipeline.project.code_versions import MADE_BY
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.pixel_files import pixel_faults
from pipeline.students.inputs.pixels import PixelStore, open_pixel_store

CENTER = [ViewParams().facts(0)]
CROPS = ViewParams(crops=2, scale=(0.4, 1.0), ratio=(0.8, 1.25), flip=0.5)
RUNTIME = Runtime(workers=2)


def picture(width: int, height: int, seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def pack(folder: Path, sizes: list[tuple[int, int]]) -> PackedSplit:
    samples = [Sample(f"k{i:03d}", picture(*size, i), "png") for i, size in enumerate(sizes)]
    half = len(samples) // 2 + 1
    shards = tuple(
        write_tar(folder / f"shard-{number:05d}.tar", part)
        for number, part in enumerate((samples[:half], samples[half:]))
    )
    return PackedSplit(folder, "train", (), (), shards, {})


@pytest.fixture
def photos(tmp_path: Path) -> PackedSplit:
    return pack(tmp_path / "photos", [(60, 40), (40, 60), (50, 50), (200, 90), (20, 30)])


@pytest.fixture
def squares(tmp_path: Path) -> PackedSplit:
    return pack(tmp_path / "squares", [(32, 32)] * 5)


def images(packed: PackedSplit) -> list[Image.Image]:
    return [decode(sample.image) for number in range(len(packed.shards)) for sample in packed.read(number)]


def boxes_and_flips(packed: PackedSplit, index: int) -> tuple[np.ndarray, np.ndarray]:
    views = [view_of(CROPS, f"k{i:03d}", index, *image.size) for i, image in enumerate(images(packed))]
    return np.array([view.box for view in views], np.float32), np.array([view.flip for view in views])


def test_center_views_are_kept_as_the_very_pixels_that_the_packed_image_gives(
    photos: PackedSplit, tmp_path: Path
) -> None:
    pixels = open_pixel_store(photos, 24, CENTER, Layout(tmp_path), RUNTIME)
    boxes, _ = boxes_and_flips(photos, 0)
    rows = np.array([4, 0, 3, 3])
    found = pixels.batch(rows, boxes[rows], np.array([False, True, False, True]), 24)
    for at, (row, flip) in enumerate(zip(rows, (False, True, False, True), strict=True)):
        image = images(photos)[row]
        np.testing.assert_array_equal(found[at], apply_view(image, View(center_view(*image.size).box, flip), 24))


def test_images_of_the_students_own_size_pass_through_untouched(squares: PackedSplit, tmp_path: Path) -> None:
    pixels = open_pixel_store(squares, 32, CENTER, Layout(tmp_path), RUNTIME)
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (5, 1))
    found = pixels.batch(np.arange(5), whole, np.zeros(5, bool), 32)
    np.testing.assert_array_equal(found, np.stack([np.asarray(image) for image in images(squares)]))


def test_a_batch_of_kept_views_is_one_gather(
    squares: PackedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = open_pixel_store(squares, 32, CENTER, Layout(tmp_path), RUNTIME)
    monkeypatch.setattr("pipeline.students.inputs.pixels.apply_view", None)
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1))
    assert pixels.batch(np.array([1, 4]), whole, np.array([True, False]), 32).shape == (2, 32, 32, 3)
    # Negative control: anything else is resampled.
    with pytest.raises(TypeError):
        pixels.batch(np.array([1, 4]), whole, np.array([True, False]), 16)


@pytest.mark.parametrize("workers", [0, 3])
def test_crops_from_the_store_are_the_crops_of_the_packed_images(
    photos: PackedSplit, tmp_path: Path, workers: int
) -> None:
    pixels = open_pixel_store(
        photos, 16, [CROPS.facts(k) for k in range(3)], Layout(tmp_path), Runtime(workers=workers)
    )
    for index in (0, 1, 2):
        boxes, flips = boxes_and_flips(photos, index)
        found = pixels.batch(np.arange(5), boxes, flips, 16).astype(int)
        for row, image in enumerate(images(photos)):
            view = View(tuple(boxes[row].tolist()), bool(flips[row]))
            near = apply_view(image, view, 16).astype(int)
            other = apply_view(image, View(view.box, not view.flip), 16).astype(int)
            # Two resamplings are softer than one: a few levels; another view is tens of levels away.
            assert np.abs(found[row] - near).mean() < 4
            assert np.abs(found[row] - other).mean() > 12


def test_enough_is_kept_for_the_smallest_crop_and_nothing_is_enlarged(photos: PackedSplit, tmp_path: Path) -> None:
    pixels = open_pixel_store(photos, 16, [CROPS.facts(k) for k in range(3)], Layout(tmp_path), RUNTIME)
    # sqrt(0.4 * 0.8) = 0.566 of the shorter side, and a tenth more: 1.1 * 16 / 0.566 = 31.1.
    assert pixels.shape.min(axis=1).tolist() == [32, 32, 32, 32, 20]
    assert [tuple(pixels.image(row).shape[:2]) for row in (0, 4)] == [(32, 48), (30, 20)]


def test_a_view_that_was_not_kept_is_refused(photos: PackedSplit, tmp_path: Path) -> None:
    pixels = open_pixel_store(photos, 16, CENTER, Layout(tmp_path), RUNTIME)
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (5, 1))
    with pytest.raises(ValueError, match="only the center view was kept"):
        pixels.batch(np.arange(5), whole, np.zeros(5, bool), 16)


def test_images_are_decoded_once_and_again_when_they_change(
    photos: PackedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    first = open_pixel_store(photos, 16, CENTER, layout, RUNTIME)
    assert open_pixel_store(pack(tmp_path / "more", [(60, 40)]), 16, CENTER, layout, RUNTIME).path != first.path
    monkeypatch.setattr("pipeline.students.inputs.pixel_files.decode", None)
    again = open_pixel_store(photos, 16, CENTER, layout, RUNTIME)
    assert again.path == first.path
    assert again.keys == ("k000", "k001", "k002", "k003", "k004")


@pytest.mark.parametrize("keep", [0, 100, None])
def test_pixels_cut_short_or_lost_are_decoded_again(squares: PackedSplit, tmp_path: Path, keep: int | None) -> None:
    first = open_pixel_store(squares, 32, CENTER, Layout(tmp_path), RUNTIME)
    whole = first.path.read_bytes()
    if keep is None:
        first.path.unlink()
    else:
        first.path.write_bytes(whole[:keep])
    assert open_pixel_store(squares, 32, CENTER, Layout(tmp_path), RUNTIME).path.read_bytes() == whole


def test_a_worker_process_gets_the_file_not_the_pixels(squares: PackedSplit, tmp_path: Path) -> None:
    pixels = open_pixel_store(squares, 32, CENTER, Layout(tmp_path), RUNTIME)
    assert pixels.as_array is not None
    sent = pickle.dumps(pixels)
    assert len(sent) < 5 * 32 * 32
    again: PixelStore = pickle.loads(sent)  # noqa: S301  just made
    np.testing.assert_array_equal(again.image(3), pixels.image(3))


def test_a_full_disk_leaves_nothing_behind(
    photos: PackedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.students.inputs.pixel_files.resize_shorter_side", full)
    with pytest.raises(WriteError, match="No space left"):
        open_pixel_store(photos, 16, [CROPS.facts(1)], Layout(tmp_path), RUNTIME)
    left = [path for path in (tmp_path / "data" / ".store").rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix not in (".lock", ".claim") and path.name != MADE_BY] == []


def test_an_image_that_only_decoding_finds_damaged_ends_the_run_by_its_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(64, 48, 0))).save(buffer, "JPEG")
    hollow = buffer.getvalue().replace(b"\xff\xdb", b"\xff\xef")  # its quantization tables are called something else
    assert structure.intact_format(hollow) == "jpg"  # Negative control: by its structure it is whole.
    folder = tmp_path / "hollow"
    shard = write_tar(folder / "shard-00000.tar", [Sample("k000", hollow, "jpg", source="a/b.jpg")])
    with pytest.raises(PipelineError, match=r"image 'k000' \(a/b\.jpg\) cannot be decoded: damaged") as caught:
        open_pixel_store(PackedSplit(folder, "train", (), (), (shard,), {}), 16, CENTER, Layout(tmp_path), RUNTIME)
    assert "\n" not in str(caught.value)


def test_pixels_replay_what_the_teacher_saw(photos: PackedSplit, tiny_teacher: str, tmp_path: Path) -> None:
    """The function that `distill` calls, at the teacher's own size, gives back the embedding of that view."""
    from pipeline.teacher.model import load_teacher
    from pipeline.teacher.params import TeacherParams

    teacher = load_teacher(TeacherParams(model=tiny_teacher), "cpu")
    facts = [CROPS.facts(index) for index in range(3)]

    def seen(index: int) -> np.ndarray:
        views = [view_of(CROPS, f"k{row:03d}", index, *image.size) for row, image in enumerate(images(photos))]
        pairs = zip(images(photos), views, strict=True)
        return teacher.embed_images(np.stack([apply_view(image, view, 32) for image, view in pairs]))

    said = [seen(index) for index in range(3)]

    def cosines(pixels: PixelStore, asked: int, wanted: int) -> np.ndarray:
        boxes, flips = boxes_and_flips(photos, asked)
        again = teacher.embed_images(pixels.batch(np.arange(5), boxes, flips, 32))
        norms = np.linalg.norm(again, axis=1) * np.linalg.norm(said[wanted], axis=1)
        found: np.ndarray = (again * said[wanted]).sum(axis=1) / norms
        return found

    whole = open_pixel_store(photos, 10_000, facts, Layout(tmp_path), RUNTIME)
    kept = open_pixel_store(photos, 32, facts, Layout(tmp_path), RUNTIME)
    for index in range(3):
        assert cosines(whole, index, index).min() > 0.9999
        assert cosines(kept, index, index).min() > 0.99
        # Negative control: pixels of one view against the embedding of another.
        assert cosines(whole, index, (index + 1) % 3).max() < 0.9999


def flip_bit(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 16]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_bit_is_found_before_its_pixel_is_served(squares: PackedSplit, tmp_path: Path, workers: int) -> None:
    layout, whole = Layout(tmp_path), np.tile(np.array([0, 0, 1, 1], np.float32), (5, 1))
    path = open_pixel_store(squares, 32, CENTER, layout, Runtime(workers=workers)).path
    flip_bit(path, 2 * 32 * 32 * 3 + 7)
    found = open_pixel_store(squares, 32, CENTER, layout, Runtime(workers=workers))
    with pytest.raises(DamagedError, match=r"pixels\.u8: damaged: bytes 0 to 15359 hash to .* the next run makes it"):
        found.batch(np.arange(5), whole, np.zeros(5, bool), 32)
    with pytest.raises(DamagedError):
        _ = found.flat_pixels
    assert len(list(pixel_faults(path.parent))) == 1
    sizes_alone = open_pixel_store(squares, 32, CENTER, layout, Runtime(workers=workers, verify="size"))
    sizes_alone.batch(np.arange(5), whole, np.zeros(5, bool), 32)  # as for shards: who asks for sizes alone gets that
    flip_bit(path, 2 * 32 * 32 * 3 + 7)
    open_pixel_store(squares, 32, CENTER, layout, RUNTIME).batch(np.arange(5), whole, np.zeros(5, bool), 32)
    assert list(pixel_faults(path.parent)) == []


def test_pixels_in_the_place_of_others_are_decoded_again(squares: PackedSplit, tmp_path: Path) -> None:
    layout, others = Layout(tmp_path), pack(tmp_path / "others", [(40, 40)] * 5)
    first, second = (open_pixel_store(packed, 32, CENTER, layout, RUNTIME) for packed in (squares, others))
    whole = [np.array(pixels.image(3)) for pixels in (first, second)]
    assert not np.array_equal(whole[0], whole[1])
    first.path.parent.rename(tmp_path / "kept")
    second.path.parent.rename(first.path.parent)
    (tmp_path / "kept").rename(second.path.parent)
    for folder in (first.path.parent, second.path.parent):
        assert ["not of this folder" in fault for fault in pixel_faults(folder)] == [True]
    again = [open_pixel_store(packed, 32, CENTER, layout, RUNTIME).image(3) for packed in (squares, others)]
    assert all(map(np.array_equal, again, whole))
