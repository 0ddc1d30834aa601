"""DVC is asked what a change would run again: only what hangs on it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.factories.dvc_project import DvcProject, lay_out_dvc_project

STUDENTS, TARGETS, SPLITS = ["mobilenetv3", "test_resnet"], ["raw", "zca"], ["train", "val", "badges"]


@pytest.fixture
def project(finished_project: DvcProject, tmp_path: Path) -> DvcProject:
    return finished_project.copy(tmp_path / "project")


DRAWN: dict[str, str] = {}
"""What `dvc dag` draws, by all that it reads: dvc.yaml and params.yaml."""


def edges(project: DvcProject) -> dict[str, set[str]]:
    """Return the stages right behind each stage, as `dvc dag` draws them."""
    read = "".join((project.folder / name).read_text(encoding="utf-8") for name in ("dvc.yaml", "params.yaml"))
    drawn = DRAWN.get(read) or DRAWN.setdefault(read, project.run("dvc", "dag", "--md").stdout)
    names = dict(re.findall(r'(node\d+)\["([^"]+)"\]', drawn))
    behind: dict[str, set[str]] = {name: set() for name in names.values()}
    for first, second in re.findall(r"(node\d+)-->(node\d+)", drawn):
        behind[names[first]].add(names[second])
    return behind


def changed(project: DvcProject) -> set[str]:
    """Return the stages that DVC finds changed, but for `index`, which looks at the disk each time."""
    status = json.loads(project.run("dvc", "status", "--json").stdout)
    return {name for name, why in status.items() if why != ["always changed"]}


def reruns(project: DvcProject) -> set[str]:
    """Return the changed stages and all that hang on them."""
    behind = edges(project)
    found, waiting = set(), list(changed(project))
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


def test_nothing_is_stale_after_a_run(project: DvcProject) -> None:
    assert changed(project) == set()


def test_the_floor_of_one_target_space_reruns_that_space_and_what_hangs_on_it(project: DvcProject) -> None:
    project.set("whiten.zca.floor", 0.3)
    assert reruns(project) == {"whiten@zca"} | after_distill(targets=["zca"])


def test_a_learning_rate_of_one_student_reruns_only_its_arms(project: DvcProject) -> None:
    project.set("distill.mobilenetv3.learning_rate", 0.5)
    assert reruns(project) == after_distill(students=["mobilenetv3"])


def test_epochs_rerun_distill_and_what_comes_after(project: DvcProject) -> None:
    project.set("distill.training.epochs", 2)
    assert reruns(project) == after_distill()


def test_another_teacher_reruns_everything_from_embed_on(project: DvcProject) -> None:
    project.set("embed.teacher.model", "local-dir:elsewhere")
    embeds = {f"embed@{split}" for split in SPLITS}
    assert reruns(project) == embeds | {"moments"} | {f"whiten@{t}" for t in TARGETS} | after_distill()


def test_a_new_zero_shot_set_runs_that_set_and_the_evaluations(project: DvcProject) -> None:
    project.set("index.splits", [*SPLITS, "icons"])
    project.set("index.icons", {"source": "sample", "part": "badges", "images": 10, "templates": "simple"})
    assert reruns(project) == {"index@icons", "pack@icons", "embed@icons"} | arms("evaluate") | {"report"}


def test_how_fast_it_runs_reruns_nothing(project: DvcProject) -> None:
    project.set("runtime.batch", 3)
    project.set("runtime.workers", 1)
    assert reruns(project) == set()


def shards(project: DvcProject) -> dict[str, int]:
    """Return when each embedding shard of the store was written, in nanoseconds."""
    return {
        path.relative_to(project.folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted((project.folder / "data" / ".store").glob("embed-*/*.h5"))
    }


def test_a_change_back_restores_without_embedding(project: DvcProject) -> None:
    before = shards(project)
    project.set("embed.views.crops", 1)
    project.run("dvc", "repro", "embed@train")
    assert set(shards(project)) > set(before)
    project.set("embed.views.crops", 0)
    assert "is cached" in project.run("dvc", "repro", "embed@train").stdout
    # The run-cache gone as well, the store still has every shard.
    shutil.rmtree(project.folder / ".dvc" / "cache")
    project.run("dvc", "repro", "embed@train", "--force", "--single-item")
    assert {path: shards(project)[path] for path in before} == before
    assert changed(project) & {"embed@train"} == set()


def test_embed_by_hand_followed_by_repro_embeds_nothing_again(project: DvcProject) -> None:
    project.set("embed.views.crops", 2)
    project.cli("embed", "--split", "train")
    by_hand = shards(project)
    project.run("dvc", "repro", "embed@train")
    assert shards(project) == by_hand
    # Negative control: another view seed is other shards.
    project.set("embed.views.seed", 7)
    project.run("dvc", "repro", "embed@train")
    assert shards(project) != by_hand


def test_distill_by_hand_followed_by_repro_trains_nothing_again(project: DvcProject) -> None:
    weights = project.folder / "models" / "mobilenetv3-raw" / "student.safetensors"
    store = sorted((project.folder / "data" / ".store").glob("distill-*"))
    before = weights.read_bytes()
    shutil.rmtree(project.folder / ".dvc" / "cache")
    shutil.rmtree(project.folder / "models")
    project.cli("distill", "--student", "mobilenetv3", "--target", "raw")
    assert weights.read_bytes() == before
    assert sorted((project.folder / "data" / ".store").glob("distill-*")) == store


def test_an_edit_of_the_params_while_a_stage_runs_is_refused(project: DvcProject) -> None:
    """DVC would write down the new value as what made the old bytes."""
    from pipeline.project.errors import PipelineError
    from pipeline.project.project import Project

    opened = Project.open(project.params, (), project.folder)
    opened.check_unchanged("whiten.zca")
    project.set("whiten.zca.floor", 0.9)
    with pytest.raises(PipelineError, match=r"'whiten.zca' changed while the stage ran"):
        opened.check_unchanged("whiten.zca")
    opened.check_unchanged("whiten.raw")


@pytest.mark.slow
def test_an_experiment_is_run_shown_and_compared_by_dvc_itself(project: DvcProject) -> None:
    """As docs/commands.md shows it; one student, so that it takes minutes and not many."""
    project.run("git", "config", "user.email", "nobody@example.org")
    project.run("git", "config", "user.name", "nobody")
    project.set("distill.students", ["test_resnet"])
    project.run("dvc", "repro", "-q")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-q", "-m", "one epoch")
    project.run("dvc", "exp", "run", "-q", "--name", "two-epochs", "-S", "distill.training.epochs=2")
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    assert [e["name"] for row in shown for e in row["experiments"] or []] == ["two-epochs"]
    numbers = json.loads(project.run("dvc", "metrics", "diff", "--json").stdout)["models/test_resnet-zca/metrics.json"]
    agreement = numbers["agreement.val.cosine"]  # another student: it says something else
    assert agreement["diff"] == pytest.approx(agreement["new"] - agreement["old"], abs=1e-9)
    assert agreement["diff"] != 0
    plotted = project.run("dvc", "plots", "diff", "HEAD", "workspace").stdout
    page = (project.folder / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "index.html" in plotted
    assert "history.csv" in page


def edit(project: DvcProject, module: str, before: str, after: str) -> None:
    """Change the one place in a module of the project's own source, and let DVC see what `index` sees."""
    path = project.folder / module
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, f"{module}: {before!r} {source.count(before)} times"
    path.write_text(source.replace(before, after), encoding="utf-8")
    project.cli("index", "--split", "train")


STATEMENT = ("from __future__ import annotations\n", "from __future__ import annotations\n\nEDITED = 1\n")
"""A statement more: other code, whatever it does."""
LOSS = (
    "pipeline/students/losses/rowwise.py",
    "functional.mse_loss(y, t) / unit.variance",
    "0.5 * functional.mse_loss(y, t)",
)
ORDER = (
    "pipeline/students/inputs/orders.py",
    'RNG_STREAMS = {"order": 0, "view": 1',
    'RNG_STREAMS = {"order": 7, "view": 1',
)
WHITEN = {f"whiten@{target}" for target in TARGETS}


def test_a_loss_or_the_batch_order_reruns_the_students_and_what_hangs_on_them(project: DvcProject) -> None:
    edit(project, *LOSS)
    assert reruns(project) == after_distill()
    edit(project, *reversed_edit(LOSS))
    assert changed(project) == set()
    edit(project, *ORDER)
    assert reruns(project) == after_distill()


def test_a_transform_reruns_the_target_spaces_and_what_hangs_on_them(project: DvcProject) -> None:
    edit(project, "pipeline/whitening/methods.py", *STATEMENT)
    assert changed(project) >= WHITEN
    assert reruns(project) == WHITEN | after_distill()


def test_a_metric_reruns_the_evaluations_and_the_report_alone(project: DvcProject) -> None:
    edit(project, "pipeline/evaluation/metrics/probes.py", *STATEMENT)
    assert reruns(project) == arms("evaluate") | {"report"}


def test_comments_docstrings_and_error_texts_rerun_nothing_and_a_local_name_does(project: DvcProject) -> None:
    loss = LOSS[0]
    edit(project, loss, '    """Feature distillation: ', '    # A comment.\n    """FD: ')
    edit(project, "pipeline/students/inputs/targets.py", "loaded without captions", "loaded with no captions")
    assert changed(project) == set()
    edit(project, loss, "    cosines = directions @ ", "    similarity = cosines = directions @ ")
    assert reruns(project) == after_distill()


def test_nothing_is_embedded_again_for_an_edit_without_another_number(project: DvcProject) -> None:
    edit(project, "pipeline/teacher/model.py", *STATEMENT)
    assert changed(project) == set()
    versions = project.folder / "pipeline" / "versions.json"
    document = json.loads(versions.read_text(encoding="utf-8"))
    document["numbered"]["embed"]["version"] += 1
    versions.write_text(json.dumps(document), encoding="utf-8")
    assert changed(project) == {f"embed@{split}" for split in SPLITS}


def test_what_is_there_after_an_upgrade_is_accepted_by_one_command(project: DvcProject) -> None:
    before = (project.folder / "models" / "test_resnet-raw" / "student.safetensors").read_bytes()
    edit(project, *LOSS)
    assert changed(project) != set()
    assert "distill: code" in project.cli("accept").stdout
    assert changed(project) == set()
    assert "Running stage 'distill" not in project.run("dvc", "repro").stdout
    project.cli("distill", "--student", "test_resnet", "--target", "raw")
    assert (project.folder / "models" / "test_resnet-raw" / "student.safetensors").read_bytes() == before


def reversed_edit(change: tuple[str, str, str]) -> tuple[str, str, str]:
    module, before, after = change
    return module, after, before


def test_an_edited_loss_retrains_to_what_a_run_from_scratch_gives(project: DvcProject, tmp_path: Path) -> None:
    files = ("student.safetensors", "student.json", "history.csv")
    arm = "test_resnet-raw"

    def trained(where: DvcProject) -> dict[str, bytes]:
        return {name: (where.folder / "models" / arm / name).read_bytes() for name in files}

    before = trained(project)
    edit(project, *LOSS)
    project.run("dvc", "repro", f"distill@{arm}")
    after = trained(project)
    assert after["student.safetensors"] != before["student.safetensors"]
    scratch = project.copy(tmp_path / "scratch")
    for folder in ("data", ".dvc/cache", "models"):
        shutil.rmtree(scratch.folder / folder)
    commands = ("index", "pack", "embed", "moments", "whiten", "distill --student test_resnet --target raw")
    scratch.cli_in_turn(*commands, python=sys.executable)
    assert after == trained(scratch)


def test_a_stage_outside_the_default_run_leaves_nothing_for_exp_apply_to_miss() -> None:
    """`dvc exp apply` checks out every cached output of the repository, also of stages that never ran."""
    found = yaml.safe_load((ROOT / "benchmarks" / "compare" / "dvc.yaml").read_text(encoding="utf-8"))
    outs = [out for stage in found["stages"].values() for out in stage["outs"]]
    assert outs
    assert all(isinstance(out, dict) and options == {"cache": False} for out in outs for options in out.values())


def test_evaluations_depend_on_scorers_where_there_are_any(tmp_path: Path) -> None:
    project = lay_out_dvc_project(tmp_path / "project")
    assert not any(name.startswith("relate") for name in edges(project))
    project.set("relate.scorers", ["late", "dcsm"])
    found = edges(project)
    assert found["relate@dcsm"] == found["relate@late"] == arms("evaluate") | {"report"}
    assert {f"embed@{split}" for split in SPLITS} <= {name for name, after in found.items() if "relate@late" in after}
