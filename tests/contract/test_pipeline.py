"""The whole pipeline on a tiny project: every file of the contract, twice the same bytes, and nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.factories.dvc_project import DvcProject, lay_out_dvc_project

CONTRACT = [
    "data/index/train.json",
    "data/packed/train/shard-00000.tar",
    "data/packed/train/manifest.json",
    "data/packed/train/skipped.json",
    "data/embeddings/train/manifest.json",
    "data/embeddings/train/image/view-00/shard-00000.h5",
    "data/embeddings/train/text/shard-00000.h5",
    "data/embeddings/badges/prompts/shard-00000.h5",
    "data/moments.h5",
    "data/targets/raw.h5",
    "data/targets/zca.h5",
    "models/mobilenetv3-zca/student.safetensors",
    "models/mobilenetv3-zca/student.json",
    "models/mobilenetv3-zca/history.csv",
    "models/mobilenetv3-zca/metrics.json",
    "report/index.html",
]


@pytest.mark.parametrize("path", CONTRACT)
def test_the_run_leaves_every_file_of_the_contract(finished_project: DvcProject, path: str) -> None:
    assert (finished_project.folder / path).stat().st_size > 0


def test_nothing_unfinished_is_left(finished_project: DvcProject) -> None:
    left = [p for p in finished_project.folder.rglob("*") if "unfinished" in p.name or p.suffix in {".tmp", ".part"}]
    assert left == []


def test_every_accuracy_stands_beside_its_ceiling_and_chance(finished_project: DvcProject) -> None:
    for path in finished_project.folder.glob("models/*/metrics.json"):
        for rules in json.loads(path.read_text(encoding="utf-8"))["zero_shot"].values():
            assert set(rules) >= {"clip", "whitened"}
            for found in rules.values():
                assert 0 <= found["student"] <= 1
                assert 0 <= found["ceiling"] <= 1
                assert found["chance"] == pytest.approx(1 / 10)


def test_the_ceiling_is_the_teachers_and_so_the_same_for_every_arm(finished_project: DvcProject) -> None:
    metrics = [json.loads(p.read_text(encoding="utf-8")) for p in finished_project.folder.glob("models/*/metrics.json")]
    assert len(metrics) == 4
    ceilings = {json.dumps({r: v["ceiling"] for r, v in m["zero_shot"]["badges"].items()}) for m in metrics}
    assert len(ceilings) == 1


def test_the_results_table_names_every_arm_and_where_the_report_lies(finished_project: DvcProject) -> None:
    shown = finished_project.cli_here("results")
    for word in ("mobilenetv3", "test_resnet", "raw", "zca", "report/index.html"):
        assert word in shown


def test_an_arm_without_a_result_is_a_sentence(finished_project: DvcProject) -> None:
    shown = finished_project.cli_here("results", "--set", "distill.students=[mobilevit]")
    assert "no result for mobilevit-zca yet: run `dvc repro`" in shown


def test_two_runs_give_the_same_bytes(finished_project: DvcProject, tmp_path: Path) -> None:
    """Everything up to the targets and one trained arm, again from nothing, in another folder and interpreter."""
    again = lay_out_dvc_project(tmp_path / "again")
    arm = "--student mobilenetv3 --target zca"
    commands = ("index", "pack", "embed", "moments", "whiten", f"distill {arm}", f"evaluate {arm}")
    again.cli_in_turn(*commands, python=sys.executable)
    made = [p.relative_to(again.folder) for root in ("data", "models") for p in (again.folder / root).rglob("*")]
    made = [p for p in made if (again.folder / p).is_file() and ".store" not in p.parts]
    assert len(made) > len(CONTRACT)
    different = [p for p in made if (again.folder / p).read_bytes() != (finished_project.folder / p).read_bytes()]
    assert different == []
    # Negative control: another seed is another student.
    again.cli("distill", *arm.split(), "--set", "distill.training.seed=1", "--force")
    weights = Path("models/mobilenetv3-zca/student.safetensors")
    assert (again.folder / weights).read_bytes() != (finished_project.folder / weights).read_bytes()


@pytest.mark.slow
def test_dvc_repro_makes_and_records_what_the_stages_by_hand_and_a_commit_do(
    finished_project: DvcProject, tmp_path: Path
) -> None:
    again = lay_out_dvc_project(tmp_path / "again")
    again.run("dvc", "repro")
    recorded = [(project.folder / "dvc.lock").read_text(encoding="utf-8") for project in (finished_project, again)]
    assert recorded[0] == recorded[1]
    assert recorded[0].count("md5: ") > len(CONTRACT)
