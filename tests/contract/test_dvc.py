"""DVC is asked what a change would run again: only what hangs on it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import World

STUDENTS, TARGETS, SPLITS = ["mobilenetv3", "test_resnet"], ["raw", "zca"], ["train", "val", "badges"]


@pytest.fixture
def world(finished_world: World, tmp_path: Path) -> World:
    return finished_world.copy(tmp_path / "world")


def edges(world: World) -> dict[str, set[str]]:
    """Return the stages right behind each stage, as `dvc dag` draws them."""
    drawn = world.run("dvc", "dag", "--md").stdout
    names = dict(re.findall(r'(node\d+)\["([^"]+)"\]', drawn))
    behind: dict[str, set[str]] = {name: set() for name in names.values()}
    for first, second in re.findall(r"(node\d+)-->(node\d+)", drawn):
        behind[names[first]].add(names[second])
    return behind


def changed(world: World) -> set[str]:
    """Return the stages that DVC finds changed, but for `index`, which looks at the disk each time."""
    status = json.loads(world.run("dvc", "status", "--json").stdout)
    return {name for name, why in status.items() if why != ["always changed"]}


def reruns(world: World) -> set[str]:
    """Return the changed stages and all that hang on them."""
    behind = edges(world)
    found, waiting = set(), list(changed(world))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += behind.get(name, set())
    return found


def arms(stage: str, students: list[str] = STUDENTS, targets: list[str] = TARGETS) -> set[str]:
    return {f"{stage}@{student}-{target}" for student in students for target in targets}


def after_distill(students: list[str] = STUDENTS, targets: list[str] = TARGETS) -> set[str]:
    return arms("distill", students, targets) | arms("evaluate", students, targets) | {"report"}


def test_nothing_is_stale_after_a_run(world: World) -> None:
    assert changed(world) == set()


def test_the_floor_of_one_target_space_reruns_that_space_and_what_hangs_on_it(world: World) -> None:
    world.set("whiten.zca.floor", 0.3)
    assert reruns(world) == {"whiten@zca"} | after_distill(targets=["zca"])


def test_a_learning_rate_of_one_student_reruns_only_its_arms(world: World) -> None:
    world.set("distill.mobilenetv3.learning_rate", 0.5)
    assert reruns(world) == after_distill(students=["mobilenetv3"])


def test_epochs_rerun_distill_and_what_comes_after(world: World) -> None:
    world.set("distill.training.epochs", 2)
    assert reruns(world) == after_distill()


def test_another_teacher_reruns_everything_from_embed_on(world: World) -> None:
    world.set("embed.teacher.model", "local-dir:elsewhere")
    embeds = {f"embed@{split}" for split in SPLITS}
    assert reruns(world) == embeds | {"moments"} | {f"whiten@{t}" for t in TARGETS} | after_distill()


def test_a_new_zero_shot_set_runs_that_set_and_the_evaluations(world: World) -> None:
    world.set("index.splits", [*SPLITS, "icons"])
    world.set("index.icons", {"source": "sample", "part": "badges", "images": 10, "templates": "simple"})
    assert reruns(world) == {"index@icons", "pack@icons", "embed@icons"} | arms("evaluate") | {"report"}


def test_how_fast_it_runs_reruns_nothing(world: World) -> None:
    world.set("runtime.batch", 3)
    world.set("runtime.workers", 1)
    assert reruns(world) == set()


def shards(world: World) -> dict[str, int]:
    """Return when each embedding shard of the store was written, in nanoseconds."""
    return {
        path.relative_to(world.folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted((world.folder / "data" / ".store").glob("embed-*/*.h5"))
    }


def test_a_change_back_restores_without_embedding(world: World) -> None:
    before = shards(world)
    world.set("embed.views.crops", 1)
    world.run("dvc", "repro", "embed@train")
    assert set(shards(world)) > set(before)
    world.set("embed.views.crops", 0)
    assert "is cached" in world.run("dvc", "repro", "embed@train").stdout
    # The run-cache gone as well, the store still has every shard.
    shutil.rmtree(world.folder / ".dvc" / "cache")
    world.run("dvc", "repro", "embed@train", "--force", "--single-item")
    assert {path: shards(world)[path] for path in before} == before
    assert changed(world) & {"embed@train"} == set()


def test_embed_by_hand_followed_by_repro_embeds_nothing_again(world: World) -> None:
    world.set("embed.views.crops", 2)
    world.cli("embed", "--split", "train")
    by_hand = shards(world)
    world.run("dvc", "repro", "embed@train")
    assert shards(world) == by_hand
    # Negative control: another view seed is other shards.
    world.set("embed.views.seed", 7)
    world.run("dvc", "repro", "embed@train")
    assert shards(world) != by_hand


def test_distill_by_hand_followed_by_repro_trains_nothing_again(world: World) -> None:
    weights = world.folder / "models" / "mobilenetv3-raw" / "student.safetensors"
    store = sorted((world.folder / "data" / ".store").glob("distill-*"))
    before = weights.read_bytes()
    shutil.rmtree(world.folder / ".dvc" / "cache")
    shutil.rmtree(world.folder / "models")
    world.cli("distill", "--student", "mobilenetv3", "--target", "raw")
    assert weights.read_bytes() == before
    assert sorted((world.folder / "data" / ".store").glob("distill-*")) == store


def test_an_edit_of_the_params_while_a_stage_runs_is_refused(world: World) -> None:
    """DVC would write down the new value as what made the old bytes."""
    from pipeline.project.errors import PipelineError
    from pipeline.project.project import Project

    project = Project.open(world.params, (), world.folder)
    project.check_unchanged("whiten.zca")
    world.set("whiten.zca.floor", 0.9)
    with pytest.raises(PipelineError, match=r"'whiten.zca' changed while the stage ran"):
        project.check_unchanged("whiten.zca")
    project.check_unchanged("whiten.raw")


@pytest.mark.slow
def test_an_experiment_is_run_shown_and_compared_by_dvc_itself(world: World) -> None:
    """As docs/commands.md shows it; one student, so that it takes minutes and not many."""
    world.run("git", "config", "user.email", "nobody@example.org")
    world.run("git", "config", "user.name", "nobody")
    world.set("distill.students", ["test_resnet"])
    world.run("dvc", "repro", "-q")
    world.run("git", "add", "-A")
    world.run("git", "commit", "-q", "-m", "one epoch")
    world.run("dvc", "exp", "run", "-q", "--name", "two-epochs", "-S", "distill.training.epochs=2")
    shown = json.loads(world.run("dvc", "exp", "show", "--json").stdout)
    assert [e["name"] for row in shown for e in row["experiments"] or []] == ["two-epochs"]
    numbers = json.loads(world.run("dvc", "metrics", "diff", "--json").stdout)["models/test_resnet-zca/metrics.json"]
    agreement = numbers["agreement.val.cosine"]  # another student: it says something else
    assert agreement["diff"] == pytest.approx(agreement["new"] - agreement["old"], abs=1e-9)
    assert agreement["diff"] != 0
    plotted = world.run("dvc", "plots", "diff", "HEAD", "workspace").stdout
    page = (world.folder / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "index.html" in plotted
    assert "history.csv" in page


def edit(world: World, module: str, before: str, after: str) -> None:
    """Change the one place in a module of the world's own source, and let DVC see what `index` sees."""
    path = world.folder / module
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, f"{module}: {before!r} {source.count(before)} times"
    path.write_text(source.replace(before, after), encoding="utf-8")
    world.cli("index", "--split", "train")


STATEMENT = ("from __future__ import annotations\n", "from __future__ import annotations\n\nEDITED = 1\n")
"""A statement more: other code, whatever it does."""
LOSS = (
    "pipeline/students/losses/rowwise.py",
    "functional.mse_loss(y, t) / unit.variance",
    "0.5 * functional.mse_loss(y, t)",
)
ORDER = (
    "pipeline/students/inputs/loader.py",
    'RNG_STREAMS = {"order": 0, "view": 1',
    'RNG_STREAMS = {"order": 7, "view": 1',
)
WHITEN = {f"whiten@{target}" for target in TARGETS}


def test_a_loss_or_the_batch_order_reruns_the_students_and_what_hangs_on_them(world: World) -> None:
    edit(world, *LOSS)
    assert reruns(world) == after_distill()
    edit(world, *reversed_edit(LOSS))
    assert changed(world) == set()
    edit(world, *ORDER)
    assert reruns(world) == after_distill()


def test_a_transform_reruns_the_target_spaces_and_what_hangs_on_them(world: World) -> None:
    edit(world, "pipeline/whitening/methods.py", *STATEMENT)
    assert changed(world) >= WHITEN
    assert reruns(world) == WHITEN | after_distill()


def test_a_metric_reruns_the_evaluations_and_the_report_alone(world: World) -> None:
    edit(world, "pipeline/evaluation/metrics/probes.py", *STATEMENT)
    assert reruns(world) == arms("evaluate") | {"report"}


def test_comments_docstrings_and_error_texts_rerun_nothing_and_a_local_name_does(world: World) -> None:
    loss = LOSS[0]
    edit(world, loss, '    """Feature distillation: ', '    # A comment.\n    """FD: ')
    edit(world, "pipeline/students/inputs/targets.py", "loaded without captions", "loaded with no captions")
    assert changed(world) == set()
    edit(world, loss, "    cosines = directions @ ", "    similarity = cosines = directions @ ")
    assert reruns(world) == after_distill()


def test_nothing_is_embedded_again_for_an_edit_without_another_number(world: World) -> None:
    edit(world, "pipeline/teacher/model.py", *STATEMENT)
    assert changed(world) == set()
    versions = world.folder / "pipeline" / "versions.json"
    document = json.loads(versions.read_text(encoding="utf-8"))
    document["numbered"]["embed"]["version"] += 1
    versions.write_text(json.dumps(document), encoding="utf-8")
    assert changed(world) == {f"embed@{split}" for split in SPLITS}


def test_what_is_there_after_an_upgrade_is_accepted_by_one_command(world: World) -> None:
    before = (world.folder / "models" / "test_resnet-raw" / "student.safetensors").read_bytes()
    edit(world, *LOSS)
    assert changed(world) != set()
    assert "distill: code" in world.cli("accept").stdout
    assert changed(world) == set()
    assert "Running stage 'distill" not in world.run("dvc", "repro").stdout
    world.cli("distill", "--student", "test_resnet", "--target", "raw")
    assert (world.folder / "models" / "test_resnet-raw" / "student.safetensors").read_bytes() == before


def reversed_edit(change: tuple[str, str, str]) -> tuple[str, str, str]:
    module, before, after = change
    return module, after, before


def test_an_edited_loss_retrains_to_what_a_run_from_scratch_gives(world: World, tmp_path: Path) -> None:
    files = ("student.safetensors", "student.json", "history.csv")

    def trained(where: World) -> dict[str, bytes]:
        where.run("dvc", "repro", "distill@test_resnet-raw")
        return {name: (where.folder / "models" / "test_resnet-raw" / name).read_bytes() for name in files}

    before = trained(world)
    edit(world, *LOSS)
    scratch = world.copy(tmp_path / "scratch")
    for folder in ("data/.store", ".dvc/cache", "models"):
        shutil.rmtree(scratch.folder / folder)
    after = trained(world)
    assert after["student.safetensors"] != before["student.safetensors"]
    assert after == trained(scratch)
