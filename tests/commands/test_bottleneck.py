"""`profile --bottleneck` names what a stage waits for, and what would change it."""

from __future__ import annotations

import pytest

from pipeline.commands.bottleneck import StageTiming, distill_pace, embed_pace
from pipeline.data.views import ViewParams
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import StudentParams
from pipeline.students.run import ArmParams
from pipeline.students.training.params import TrainingParams
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from tests.factories.project import RUNTIME

pytestmark = pytest.mark.project(students=())

RECIPE = ArmParams(TrainingParams(batch=8, image_size=32, zero_shot_set="badges"), LossParams(fd=1.0), StudentParams())


@pytest.mark.parametrize(
    ("data", "compute", "together", "said"),
    [
        (1.0, 5.0, 5.1, "computing is the bottleneck and hides the rest. To go faster: B."),
        (5.0, 1.0, 5.1, "data is the bottleneck and hides the rest. To go faster: A."),
        (
            4.0,
            5.0,
            7.5,
            "computing is the bottleneck and only partly hides the rest: 50 % more. To go faster: B.",
        ),
    ],
)
def test_the_longer_part_is_the_bottleneck(data: float, compute: float, together: float, said: str) -> None:
    assert StageTiming("x", data, compute, together, "A", "B").line.endswith(said)


def test_a_pixel_store_that_sleeps_is_found_and_one_that_does_not_is_not(
    project_copy: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    layout = project_copy
    quick = distill_pace("test_resnet", "raw", RECIPE, layout, RUNTIME)
    assert quick.compute > quick.data
    assert "image_size" in quick.line
    truly = PixelStore.batch

    def slow(self: PixelStore, *arguments: object) -> object:
        time.sleep(0.25)
        return truly(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PixelStore, "batch", slow)
    waits = distill_pace("test_resnet", "raw", RECIPE, layout, RUNTIME)
    assert waits.data > 250 / 8 > waits.compute
    assert "data is the bottleneck" in waits.line
    assert "disk" in waits.line


def test_a_teacher_that_sleeps_is_found(
    project_copy: Layout, tiny_teacher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    layout, truly = project_copy, Teacher.forward_images
    params, runtime = TeacherParams(model=tiny_teacher), Runtime(device="cpu", workers=2, batch=8)

    def slow(self: Teacher, pixels: object) -> object:
        time.sleep(0.4)
        return truly(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(Teacher, "forward_images", slow)
    found = embed_pace("val", params, ViewParams(), layout, runtime)
    assert found.compute > 50 > found.data
    assert "teacher_batch: auto" in found.line
