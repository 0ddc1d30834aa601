"""A plan counts what is there as the stages do, writes nothing, and what it suggests fits by its own figures."""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.commands import plan_measurements
from pipeline.data.packing.jobs import PackParams
from pipeline.data.packing.packed import open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.planning import contents as counting
from pipeline.planning.contents import count_split, pack_sample
from pipeline.planning.estimate import Estimate, estimate
from pipeline.planning.fitting import MIN_IMAGES, Limits, suggestions
from pipeline.planning.machine import view_facts
from pipeline.planning.present import NOTHING, WorkProgress, find_packed, find_pixels, find_student
from pipeline.planning.table import format_bytes
from pipeline.planning.workload import ArmWork, Machine, SplitWork, Workload
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.progress import format_seconds
from pipeline.project.project import Project
from pipeline.project.stopwatch import TeacherSpeed, fastest_per_row
from pipeline.students.run import read_recipe
from pipeline.students.speed import StudentSpeed
from tests.factories.dvc_project import DvcProject, lay_out_dvc_project

pytestmark = pytest.mark.process

ROOM = Limits(seconds=1e9, disk_bytes=1e15, memory_bytes=None)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of every file and folder below one."""
    found = {path: path.stat() for path in sorted(folder.rglob("*"))}
    return {path.relative_to(folder).as_posix(): (at.st_size, at.st_mtime_ns) for path, at in found.items()}


def by_name(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{stage['stage']} {stage['name']}".strip(): stage for stage in plan["stages"]}


@pytest.fixture
def quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a plan measure the first batches only."""
    monkeypatch.setattr(plan_measurements, "TEACHER_SECONDS", 0.0)
    monkeypatch.setattr(plan_measurements, "STUDENTS_SECONDS", 0.0)


def planned(project: DvcProject, *arguments: str) -> dict[str, Any]:
    said = project.cli_here("plan", "--json", *arguments)
    found: dict[str, Any] = json.loads(said[said.index("{") :])
    return found


@pytest.mark.usefixtures("quick_measurements")
def test_before_anything_has_run_a_plan_counts_what_the_stages_then_make_and_writes_nothing(
    finished_project: DvcProject, tmp_path: Path
) -> None:
    project = lay_out_dvc_project(tmp_path / "project")
    before = files(project.folder)
    plan = planned(project)
    changed = {name for name, _ in before.items() ^ files(project.folder).items()}
    assert {name for name in changed if "__pycache__" not in name} == set()
    stages = by_name(plan)
    assert not any(stage["there"] for stage in stages.values())
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert plan["total"]["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages.values()), abs=1)
    layout = Layout(finished_project.folder)
    for split, rows in {"train": 48, "val": 16, "badges": 20}.items():
        packed = open_packed(layout.packed(split))
        assert stages[f"pack {split}"]["total"] == rows == packed.rows
        assert stages[f"pack {split}"]["disk_bytes"] == pytest.approx(sum(s.size for s in packed.shards), rel=0.5)
        shards = sum(path.stat().st_size for path in layout.embeddings(split).rglob("*.h5"))
        assert stages[f"embed {split}"]["disk_bytes"] < shards  # what HDF5 adds to a few rows
    pixels = sum(path.stat().st_size for path in layout.store.glob("pixels-*/pixels.u8"))
    weights = (layout.model("mobilenetv3", "raw") / "student.safetensors").stat().st_size
    assert stages["distill mobilenetv3-raw"]["disk_bytes"] == pytest.approx(pixels + weights, rel=0.05)
    assert stages["distill mobilenetv3-raw"]["total"] == 3


@pytest.mark.usefixtures("quick_measurements")
def test_after_a_run_everything_is_there_and_a_changed_parameter_takes_away_what_hangs_on_it(
    finished_project: DvcProject, tmp_path: Path
) -> None:
    project = finished_project.copy(tmp_path / "project")
    before = files(project.folder / "data")
    plan = planned(project)
    assert [name for name, stage in by_name(plan).items() if not stage["there"]] == []
    assert plan["total"]["seconds"] == 0
    changed = by_name(planned(project, "--set", "distill.training.epochs=2", "--set", "pack.quality=91"))
    assert changed["distill mobilenetv3-zca"]["total"] == 6
    assert files(project.folder / "data") == before
    gone = {name.split()[0] for name, stage in changed.items() if not stage["there"]}
    assert gone == {"pack", "embed", "moments", "whiten", "distill", "evaluate", "report"}
    only = by_name(planned(project, "--set", "distill.training.epochs=2"))
    assert {name.split()[0] for name, stage in only.items() if not stage["there"]} == {"distill", "evaluate", "report"}


def test_unfinished_shards_are_counted_by_their_rows(finished_project: DvcProject, tmp_path: Path) -> None:
    project = finished_project.copy(tmp_path / "project")
    layout = Layout(project.folder)
    opened = Project.open(project.params, (), project.folder)
    contents = count_split("train", parse_source(opened.get("index.train"), "index.train"))
    params = opened.section("pack", PackParams)
    found, packed = find_packed(contents, params, layout)
    assert (found, packed and packed.rows) == (WorkProgress(48, 48), 48)
    shard = next(
        p
        for p in layout.store.glob("pack-*/" + 12 * "[0-9a-f]" + ".json")
        if '"rows":8' in p.read_text().replace(" ", "")
    )
    rows = 8  # of 48 in shards of 20, the last
    shard.unlink()
    found, packed = find_packed(contents, params, layout)
    assert (found, packed) == (WorkProgress(48 - rows, 48), None)


def test_decoded_pixels_and_stopped_runs_are_found_by_the_names_that_distill_gives_them(
    finished_project: DvcProject, tmp_path: Path
) -> None:
    project = finished_project.copy(tmp_path / "project")
    layout, opened = Layout(project.folder), Project.open(project.params, (), project.folder)
    facts = view_facts(opened.section("embed.views", _views()), None)
    for split in ("train", "val", "badges"):
        packed = open_packed(layout.packed(split))
        assert find_pixels(packed, 32, facts, layout).is_whole
        assert not find_pixels(packed, 33, facts, layout).is_whole
    recipe = read_recipe(opened, "mobilenetv3")
    found, name = find_student("mobilenetv3", "zca", recipe, layout, opened.runtime)
    assert (found, len(name)) == (WorkProgress(3, 3), 12)
    folder = layout.store / f"distill-{name}"
    header = json.dumps({"__metadata__": {"facts": json.dumps({"step": 2})}}).encode()
    for path in folder.iterdir():
        path.unlink()
    (folder / "state.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert find_student("mobilenetv3", "zca", recipe, layout, opened.runtime) == (WorkProgress(2, 3), name)
    (folder / "state.safetensors").write_bytes(b"\xff" * 40)
    assert find_student("mobilenetv3", "zca", recipe, layout, opened.runtime) == (WorkProgress(0, 3), name)


def _views() -> Any:
    from pipeline.data.views import ViewParams

    return ViewParams


def test_tars_that_take_too_long_to_read_are_counted_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tars").mkdir()
    for tar in range(4):
        with tarfile.open(tmp_path / "tars" / f"{tar:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as file:
            for number in range(25):
                for extension in ("jpg", "txt"):
                    path = tmp_path / f"{tar}{number:03d}.{extension}"
                    path.write_bytes(b"x" * 900)
                    file.add(path, path.name)
    source = parse_source({"source": "tars", "tars": str(tmp_path / "tars")}, "index.train")
    assert (count_split("train", source).listed, count_split("train", source).is_exact) == (100, True)
    monkeypatch.setattr(counting, "TAR_SECONDS", -1.0)
    found = count_split("train", source)
    assert (found.listed, len(found.entries), found.is_exact) == (100, 25, False)


def test_a_source_of_which_nothing_can_be_packed_is_one_line_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "page.jpg").write_text("<!DOCTYPE html>")
    contents = count_split(
        "train", parse_source({"source": "images", "images": str(tmp_path / "images")}, "index.train")
    )
    with pytest.raises(PipelineError, match=r"none of 1 samples can be packed, the first, 'page\.jpg': not an image"):
        pack_sample(contents, PackParams(), tmp_path)


def test_a_wrong_budget_or_a_wrong_section_of_a_later_stage_is_told_at_once(tmp_path: Path) -> None:
    project = lay_out_dvc_project(tmp_path / "project")
    for arguments, message in (
        (["--budget", "long"], "--budget long: expected a time such as 90s"),
        (["--set", "evaluate.rules=[clipp]"], "evaluate.rules"),
        (["--set", "distill.training.zero_shot_set=badgers"], "no split 'badgers', only train, val, badges"),
        (["--set", "distill.students=[mobilnetv3]"], "did you mean 'mobilenetv3'"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            project.cli_here("plan", *arguments)


def a_workload(rows: int = 50_000, epochs: int = 20, size: int = 224, image_seconds: float = 0.2) -> Workload:
    """Return the work of three students against two spaces, of which nothing is there."""

    def split(count: int, captions: float, prompts: int) -> SplitWork:
        parts = 2 if captions else 1
        found: dict[str, Any] = {
            "listed": NOTHING,
            "packed": WorkProgress(0, count),
            "embedded": WorkProgress(0, parts * count),
            "pixels": NOTHING,
        }
        per_row: dict[str, Any] = {"pack_seconds": 5e-3, "packed_bytes": 3e4, "prepare_seconds": 2e-3}
        decoded: dict[str, Any] = {"pixel_seconds": 2e-3, "pixel_bytes": 3.0 * size**2}
        return SplitWork(count, captions, prompts, 1, False, **found, list_seconds=0.1, **per_row, **decoded)

    students = {
        name: StudentSpeed(0.02, cost, cost / 3, 10**8, 2e7, 64, 10**6)
        for name, cost in {"small": 0.01, "middle": 0.03, "large": 0.09}.items()
    }
    machine = Machine(
        "cpu", 2, 2, 0.4, 0.8, 3.0, 10**8, 5 * 10**8,
        (TeacherSpeed("cpu", 512, 77, 4.0, image_seconds, 0.02, 10**8, 16),),
        256, 1e-4, {"raw": 0.1, "zca": 0.2}, students,
    )  # fmt: skip
    splits = {"train": split(rows, 5.0, 0), "val": split(1000, 5.0, 0), "cifar10": split(1000, 0.0, 180)}
    arms = [ArmWork(student, target) for student in students for target in ("raw", "zca")]
    targets = {"raw": NOTHING, "zca": NOTHING}
    return Workload(
        splits, 512, 1, NOTHING, targets, arms, dict.fromkeys(students, 256), epochs, size, 4, "cifar10",
        ("val", "cifar10"), False, (), NOTHING, machine,
    )  # fmt: skip


def stage(found: Estimate, label: str) -> float:
    return next(s.seconds or 0.0 for s in found.stages if f"{s.stage} {s.name}".strip() == label)


def test_an_estimate_is_the_counts_times_what_was_measured() -> None:
    """By hand, from the figures of `a_workload`."""
    found = estimate(a_workload())
    assert stage(found, "pack train") == pytest.approx(3 * 0.4 + 50_000 * 5e-3 / 2)
    images, texts = 50_000 * (0.2 + 2e-3), 50_000 * 5 * 0.02
    assert stage(found, "embed train") == pytest.approx(3.0 + 4.0 + images + texts)
    assert stage(found, "embed cifar10") == pytest.approx(3.0 + 4.0 + 180 * 0.02 + 1000 * (0.2 + 2e-3))
    steps, looks = 20 * (50_000 // 256), 4 * 2000 * 0.01 / 3
    training = steps * (0.02 + 256 * 0.01) + looks
    assert stage(found, "distill small-raw") == pytest.approx(3.0 + training + 52_000 * 2e-3)
    assert stage(found, "distill small-zca") == pytest.approx(3.0 + training)
    assert found.memory_bytes == pytest.approx(5e8 + 1e8 + 256 * 2e7 + 4 * 512 * 50_000 * 6)
    gpu = a_workload()
    assert gpu.machine.teachers
    teacher = replace(gpu.machine.teachers[0], device="cuda", image_seconds=1e-3)
    gpu = replace(gpu, machine=replace(gpu.machine, teachers=(teacher,)))
    assert stage(estimate(gpu), "embed train") == pytest.approx(3.0 + 4.0 + 50_000 * 2e-3 + texts)


def test_two_teachers_are_asked_one_after_the_other_and_one_without_texts_only_about_images() -> None:
    work = a_workload()
    assert work.machine.teachers
    looks_only = replace(work.machine.teachers[0], text_seconds=0.0, image_seconds=0.1, load_seconds=1.0, dim=100)
    both = replace(work, machine=replace(work.machine, teachers=(*work.machine.teachers, looks_only)))
    extra = stage(estimate(both), "embed train") - stage(estimate(work), "embed train")
    assert extra == pytest.approx(1.0 + 50_000 * 0.1)  # its share of decoding is measured with the first one's


def test_what_is_there_costs_nothing_and_what_is_half_there_costs_half() -> None:
    work = a_workload()
    train = work.splits["train"]
    half = replace(train, packed=WorkProgress(50_000, 50_000), embedded=WorkProgress(50_000, 100_000))
    found = estimate(replace(work, splits={**work.splits, "train": half}))
    assert stage(found, "pack train") == 0
    whole = stage(estimate(work), "embed train")
    assert stage(found, "embed train") == pytest.approx(7.0 + (whole - 7.0) / 2)


def apply(work: Workload, suggested: tuple[str, ...]) -> Workload:
    """Set the parameters of a suggestion, in any order, as a person would."""
    values = dict(setting.split("=", 1) for setting in suggested)
    if size := values.get("distill.training.image_size"):
        work = work.with_size(int(size))
    if epochs := values.get("distill.training.epochs"):
        work = work.with_epochs(int(epochs))
    if limit := values.get("pack.limit"):
        work = work.with_limit(int(limit))
    if "distill.training.pixels" in values:
        work = work.with_streamed_pixels()
    if batch := values.get("distill.training.batch"):
        work = work.with_batch(int(batch))
    if "distill.students" in values:
        work = work.with_arms(*(values[f"distill.{name}"][1:-1].split(",") for name in ("students", "targets")))
    return work


@settings(max_examples=40, deadline=None)
@given(
    hours=st.floats(0.05, 400),
    rows=st.integers(200, 200_000),
    epochs=st.integers(1, 40),
    size=st.sampled_from([32, 64, 128, 224]),
    teacher=st.floats(1e-3, 2.0),
)
def test_what_is_said_to_fit_fits_when_it_is_set_and_a_larger_value_would_not(
    hours: float, rows: int, epochs: int, size: int, teacher: float
) -> None:
    work = a_workload(rows, epochs, size, teacher)
    limits = replace(ROOM, seconds=3600 * hours)
    for one in suggestions(work, limits):
        found = estimate(apply(work, one.settings))
        assert found.seconds == pytest.approx(one.seconds)
        assert one.fits == limits.allow(found)
        if one.fits and one.settings[0].startswith("distill.training.epochs=") and not limits.allow(estimate(work)):
            more = int(one.settings[0].split("=")[1]) + 1
            assert more > epochs or not limits.allow(estimate(work.with_epochs(more)))
        if one.settings[0].startswith("pack.limit="):
            limit = int(one.settings[0].split("=")[1])
            assert MIN_IMAGES <= limit < rows
            if not limits.allow(estimate(work)):
                assert not limits.allow(estimate(work.with_limit(limit + limit // 9 + 1)))


def test_too_little_memory_makes_the_batch_smaller_and_too_little_disk_the_images_fewer() -> None:
    work = a_workload()
    memory = replace(ROOM, memory_bytes=4e9)
    assert not memory.allow(estimate(work))
    assert ("distill.training.batch=128",) in [one.settings for one in suggestions(work, memory) if one.fits]
    disk = replace(ROOM, disk_bytes=estimate(work).disk_bytes / 2)
    fitting = [one.settings[0] for one in suggestions(work, disk) if one.fits and len(one.settings) == 1]
    assert any(setting.startswith("pack.limit=") for setting in fitting)


def test_streamed_pixels_need_no_disk_and_are_decoded_each_epoch() -> None:
    work = a_workload()
    streamed = estimate(work.with_streamed_pixels())
    extra = stage(streamed, "distill small-zca") - stage(estimate(work), "distill small-zca")
    assert extra == pytest.approx(20 * (50_000 // 256) * 256 * 2e-3)
    assert estimate(work).disk_bytes - streamed.disk_bytes == pytest.approx(50_000 * 3 * 224**2)
    small = replace(ROOM, disk_bytes=streamed.disk_bytes + 1e8)
    assert ("distill.training.pixels=streamed",) in [one.settings for one in suggestions(work, small) if one.fits]


def test_a_teacher_that_cannot_be_had_leaves_the_time_open_and_says_so() -> None:
    work = a_workload()
    found = estimate(replace(work, machine=replace(work.machine, teachers=None)))
    assert [f"{one.stage} {one.name}" for one in found.unknown] == ["embed train", "embed val", "embed cifar10"]
    assert found.seconds < estimate(work).seconds


def test_batches_are_doubled_until_the_time_is_up_and_the_first_pass_is_not_counted() -> None:
    asked: list[int] = []
    assert fastest_per_row(asked.append, 50, 60.0).rows == 50
    assert asked == [4, 4, 8, 16, 32, 50, 50]
    assert fastest_per_row(lambda _: None, 50, -1.0).rows == 4


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "1.5 min"),
        (3599, "60 min"),
        (3601, "1.0 h"),
        (172_801, "2.0 days"),
        (1e7, "116 days"),
    ],
)
def test_times_are_said_in_the_unit_that_people_use(seconds: float, said: str) -> None:
    assert format_seconds(seconds) == said


def test_bytes_are_said_in_the_unit_that_people_use() -> None:
    assert [format_bytes(count) for count in (0, 4e5, 81e6, 4.6e9, 31e9)] == ["–", "0.4 MB", "81 MB", "4.6 GB", "31 GB"]


def test_the_line_of_a_step_goes_through_both_batches_and_below_none() -> None:
    from pipeline.students.speed import _line

    assert _line(8, 1.0, 64, 4.5) == pytest.approx((0.5, 0.0625))
    assert _line(8, 1.0, 8, 1.0) == (0.0, 0.125)
    fixed, each = _line(8, 5.0, 64, 4.0)
    assert (fixed, each) == (4.0, 0.0)
    assert np.isfinite([fixed, each]).all()
