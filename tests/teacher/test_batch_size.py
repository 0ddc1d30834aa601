"""A batch size is found by trying: what fits on a GPU, what pays on a processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.project.device import OutOfDeviceMemoryError
from pipeline.project.errors import PipelineError
from pipeline.teacher import batch_size as module
from pipeline.teacher.batch_size import find_batch_size
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams


@pytest.fixture(scope="module")
def teacher(tiny_teacher: str) -> Teacher:
    return load_teacher(TeacherParams(model=tiny_teacher), "cpu")


def on_gpu(teacher: Teacher, monkeypatch: pytest.MonkeyPatch, room: int) -> Teacher:
    """Return the teacher as it would be on a GPU with room for so many images."""

    def embed_images(_: Teacher, pixels: np.ndarray) -> np.ndarray:
        if len(pixels) > room:
            raise OutOfDeviceMemoryError("no room")
        return pixels

    monkeypatch.setattr(Teacher, "embed_images", embed_images)
    return Teacher(teacher.identity, teacher.model, teacher.tokenizer, torch.device("cuda"))


@pytest.mark.parametrize(
    ("room", "most", "expected"), [(5000, 5000, 1024), (300, 5000, 256), (300, 500, 250), (9, 7, 7)]
)
def test_a_gpu_takes_the_largest_that_fits_halved_until_it_does(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch, room: int, most: int, expected: int
) -> None:
    assert find_batch_size(on_gpu(teacher, monkeypatch, room), most) == expected


def test_a_gpu_without_room_for_one_image_is_named(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="no room for one image"):
        find_batch_size(on_gpu(teacher, monkeypatch, 0), 64)


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ({4: 9.0, 8: 6.0, 16: 5.0, 32: 5.2}, 16),  # beyond 16 an image costs more
        ({4: 9.0, 8: 8.9, 16: 1.0}, 4),  # a hundredth faster is noise
        ({4: 9.0, 8: 6.0, 16: 4.0, 32: 3.0}, 32),  # the shard ends
    ],
)
def test_a_processor_takes_twice_the_rows_while_an_image_costs_less(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch, each: dict[int, float], expected: int
) -> None:
    monkeypatch.setattr(module, "_seconds", lambda _, rows: each[rows] * rows)
    assert find_batch_size(teacher, 40) == expected


def test_what_is_found_by_really_looking_is_no_more_than_asked(teacher: Teacher) -> None:
    assert 1 <= find_batch_size(teacher, 6) <= 6


def test_a_full_device_is_one_line_with_what_to_do(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(teacher.model, "encode_image", full)
    with pytest.raises(PipelineError, match=r"cpu has no room for this batch.*teacher_batch: auto"):
        teacher.embed_images(np.zeros((2, 32, 32, 3), np.uint8))
