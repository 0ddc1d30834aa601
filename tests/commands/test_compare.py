"""compare on a small project whose teacher is arithmetic: every file it writes, and what makes it fair."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from cache.atomic import write_checksummed_json
from cache.errors import DamagedError
from pipeline.commands.compare import compare, parse_duration
from pipeline.commands.verify import verify
from pipeline.comparison.arms import ComparisonArm, arm_params, open_arms, permuted_whitening
from pipeline.comparison.contrasts import RunResult
from pipeline.comparison.params import CompareParams, ComparisonSetup, apply_overrides
from pipeline.comparison.results import ComparisonResults
from pipeline.comparison.run_store import RunSchedule, RunStore
from pipeline.comparison.runner import Trial, TrialRunner
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.project import Project
from pipeline.reporting.comparison.summary import verdict
from pipeline.students.losses.objective import LossParams
from pipeline.students.run import TrainingRun
from pipeline.whitening.methods import METHODS
from pipeline.whitening.moments_file import load_moments
from tests import ROOT
from tests.factories.project import project
from tests.factories.simulation import CHANCE, END, simulated_run, simulated_world

ARMS = ["raw", "scale", "shuffled"]
COMPARE: dict[str, Any] = {
    "student": "test_byobnet",
    "targets": ARMS,
    "epochs": [1],
    "learning_rates": [1e-3, 1e-2, 1e-1],
    "seeds": 2,
    "subset": 20,
    "rules": ["clip", "whitened"],
    "training": {"batch": 16, "image_size": 16, "weight_decay": 0.0},
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("compare"), students=()).root


@pytest.fixture(scope="module")
def told(embedded: Path) -> Path:
    """Return the folder that a whole comparison was written to."""
    return compare(opened(embedded), out=embedded / "told").parent


def opened(root: Path, **changes: Any) -> Project:
    document = {
        "runtime": {"workers": 0, "batch": 64, "device": "cpu"},
        "index": {"splits": ["train", "val", "badges"]},
        "whiten": {"targets": ["raw", "zca"], "raw": {"method": "raw"}, "zca": {"method": "zca", "floor": 0.05}},
        "compare": {**COMPARE, **changes},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return Project.open(root / "params.yaml", [], root)


def bench(root: Path, **changes: Any) -> TrialRunner:
    found = opened(root, **changes)
    runner = ComparisonSetup(found.section("compare", CompareParams), found).open()
    assert isinstance(runner, TrialRunner)
    return runner


def arms(root: Path) -> dict[str, ComparisonArm]:
    found = opened(root)
    return open_arms(ARMS, {}, LossParams(fd=1.0), found, load_moments(found.layout.moments))


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (root / "runs").rglob("*.json") if "result" not in path.parts}


def table(told: Path, name: str) -> list[dict[str, str]]:
    with (told / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_arm_has_its_rates_its_seeds_and_its_place_in_the_verdict(told: Path) -> None:
    verdict = (told / "verdict.md").read_text(encoding="utf-8")
    assert all(f"**{arm}**" in verdict for arm in ARMS)
    assert "chance is 10.0 %" in verdict
    ends = table(told, "ends")
    assert {row["arm"] for row in ends} == set(ARMS)
    assert {row["seeds"] for row in ends} == {"2"}
    summary = json.loads((told / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["epochs-1"]["scale"]) >= {"clip", "whitened", "recall clip", "r2", "r2 whitened"}


def test_the_best_rate_has_a_worse_one_on_either_side_or_the_search_went_far(told: Path) -> None:
    rows = table(told, "rates")
    for arm in ARMS:
        tried = sorted(float(row["rate"]) for row in rows if row["arm"] == arm)
        (best,) = [float(row["rate"]) for row in rows if row["arm"] == arm and row["chosen"] == "1"]
        assert tried[0] < best < tried[-1] or len(tried) > 3


def test_the_sanity_arm_is_in_no_contrast(told: Path) -> None:
    rows = table(told, "contrasts")
    assert {row["arm"] for row in rows if row["reference"] == "raw"} == {"scale"}
    assert {row["arm"] for row in rows if row["reference"] == "scale"} == {"raw"}
    assert {row["metric"] for row in rows} == {"clip", "whitened", "r2", "r2 whitened"}


def test_figures_are_files_that_stand_alone(told: Path) -> None:
    names = {path.stem for path in told.glob("*.svg")}
    assert {"curves-1", "rates-1", "against-raw-1", "against-scale-1", "axes-1-1"} <= names
    for path in told.glob("*.svg"):
        drawn = path.read_text(encoding="utf-8")
        assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert "--raw:" in drawn
        assert "http://" not in drawn.replace("http://www.w3.org", "")


def test_a_second_time_nothing_is_run_and_the_same_is_said(embedded: Path, told: Path) -> None:
    before, said = files(embedded), {path.name: path.read_bytes() for path in told.iterdir()}
    compare(opened(embedded), out=told)
    assert files(embedded) == before
    assert {path.name: path.read_bytes() for path in told.iterdir()} == said


def test_a_run_that_is_missing_is_run_again_to_the_same_numbers(embedded: Path, told: Path) -> None:
    path = next(path for path in sorted(files(embedded)) if path.stem.endswith("seed-1"))
    before = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    compare(opened(embedded), out=told)
    after = json.loads(path.read_text(encoding="utf-8"))
    assert {**after, "seconds": 0, "seal": 0} == {**before, "seconds": 0, "seal": 0}


def test_more_seeds_only_add_runs(embedded: Path, told: Path, tmp_path: Path) -> None:
    before = files(embedded)
    compare(opened(embedded), targets=["raw", "scale"], seeds=3, out=tmp_path)
    after = files(embedded)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2
    assert {row["seeds"] for row in table(tmp_path, "ends")} == {"3"}
    compare(opened(embedded), out=told)
    assert {row["seeds"] for row in table(told, "ends")} == {"2"}


def test_a_run_that_was_edited_is_refused_by_its_name(embedded: Path, told: Path) -> None:
    path = sorted(files(embedded))[0]
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"seed": 0', b'"seed": 7'))
    with pytest.raises(DamagedError, match=path.name):
        compare(opened(embedded), out=told)
    path.write_bytes(before)


def test_a_run_of_an_earlier_version_is_one_line_of_verify(tmp_path: Path) -> None:
    """`compare` itself never opens one, for its folder carries the code's digest; `verify` reads all that is there."""
    run = RunResult("raw", 0, 0.1, 1, (1.0,), {"clip": (0.5,)}, {"clip": 0.5}, {"matched": 1.0}, 2.0).to_dict()
    path = tmp_path / "runs" / "compare" / "0123456789ab" / "raw-0123456789ab" / "epochs-1-rate-0.1-seed-0.json"
    write_checksummed_json(path, run)
    assert verify(Layout(tmp_path)).faults == []
    earlier = {("rate" if key == "learning_rate" else key): value for key, value in run.items()}
    write_checksummed_json(path, earlier)
    (fault,) = verify(Layout(tmp_path)).faults
    assert fault == (
        f"{path}: a run of another version: has `rate` and lacks `learning_rate`. Delete it: `compare` runs it again."
    )


def test_other_parameters_of_an_arm_are_other_runs(embedded: Path) -> None:
    one = arms(embedded)
    other = opened(embedded, arms={"scale": {"target": {"method": "scale", "post_norm": "l2"}}})
    named = other.section("compare", CompareParams).arms
    two = open_arms(ARMS, named, LossParams(fd=1.0), other, load_moments(other.layout.moments))
    assert one["scale"].fingerprint != two["scale"].fingerprint
    assert one["raw"].fingerprint == two["raw"].fingerprint


def test_arms_share_initial_weights_batches_and_matched_errors(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(embedded)
    seen: dict[str, tuple[dict[str, torch.Tensor], list[np.ndarray]]] = {}
    starts: dict[str, dict[str, float]] = {}
    for name in ARMS:

        def train(run: TrainingRun, *rest: Any, name: str = name) -> Any:
            weights = {key: value.clone() for key, value in run.student.backbone.state_dict().items()}
            seen[name] = weights, [run.feed.batch_at(step).rows for step in range(6)]
            return run.student.eval(), [
                {"epoch": 1.0, **made.first.evaluator.evaluate(run.student, made.arms[name].space)}
            ]

        monkeypatch.setattr(TrainingRun, "train", train)
        starts[name] = made.run(Trial(name, 5, 0.01, 1), Path("unused")).start
    for name in ARMS:
        for key, value in seen["raw"][0].items():
            assert torch.equal(seen[name][0][key], value)
        assert all(np.array_equal(a, b) for a, b in zip(seen[name][1], seen["raw"][1], strict=True))
        # The head is scaled to the targets' mean and variance on one batch: NMSE is 2, give or take that batch.
        assert starts[name]["fd"] == pytest.approx(2.0, abs=0.6)
    assert set(starts["raw"]) == {"fd", "gradient_fd"}


def test_another_seed_has_other_weights_and_batches(embedded: Path) -> None:
    made = bench(embedded)
    one, two = (made.run(Trial("scale", seed, 0.01, 1), embedded / "state") for seed in (5, 6))
    assert one.curves["r2"] != two.curves["r2"]
    assert one.curves == made.run(Trial("scale", 5, 0.01, 1), embedded / "state").curves


def test_a_run_that_diverges_scores_chance_and_is_nobodys_best(embedded: Path) -> None:
    found = bench(embedded).run(Trial("raw", 1, 1e30, 1), embedded / "state")
    assert found.final["clip"] == 0.1
    assert found.final["recall clip"] == 0.0
    assert set(found.curves["clip"]) == {0.1}
    assert len(found.steps) == 10


def test_the_placebo_has_whitenings_condition_and_variance_on_axes_of_other_strength(embedded: Path) -> None:
    measured = load_moments(embedded / "data" / "moments.h5").for_norm("l2").image
    params = arm_params("placebo", {}, opened(embedded)).target
    assert params.floor == 0.05  # that of whiten.zca
    placebo = permuted_whitening(params, measured)
    whitening = METHODS["zca"](measured.covariance, params).forward
    assert np.linalg.cond(whitening) == pytest.approx(np.linalg.cond(placebo.forward))
    left = placebo.forward.T @ measured.covariance @ placebo.forward
    assert np.trace(left) / len(left) == pytest.approx(1.0)
    rows = np.random.default_rng(0).normal(size=(50, len(placebo.mean))).astype(np.float32)
    assert placebo.invert(placebo.apply(rows)) == pytest.approx(rows, abs=1e-3)
    # Negative control: its axes are whitening's, but it leaves variances that are far from one.
    assert np.linalg.eigvalsh(left).max() > 2
    assert np.linalg.eigvalsh(whitening.T @ measured.covariance @ whitening).max() == pytest.approx(1.0)


def test_the_sanity_arm_learns_the_targets_of_other_images(embedded: Path) -> None:
    from pipeline.students.inputs.targets import load_targets

    made = bench(embedded)
    truth = load_targets(made.first.train.store, made.arms["shuffled"].space)
    taught = made.arms["shuffled"].apply_control(truth)
    assert not np.array_equal(taught.image, truth.image)
    assert np.array_equal(np.sort(taught.image, axis=1), np.sort(truth.image, axis=1))
    assert made.arms["raw"].apply_control(truth) is truth


@pytest.mark.parametrize(
    ("changes", "wishes", "said"),
    [
        ({}, {"targets": ["raw", "zac"]}, "no arm 'zac'.*'zca'"),
        ({}, {"targets": ["scale", "zca"]}, "reference 'raw' is not among the arms"),
        ({"headline_rule": "soft"}, {}, "'soft' is not in compare.rules"),
        ({"zero_shot_set": "cifar10"}, {}, "cifar10"),
        ({"selection_metric": "recall soft"}, {}, "'recall soft' is not among r2, r2 whitened, recall clip"),
        ({"learning_ratess": [1]}, {}, "unknown key 'compare.learning_ratess'.*'learning_rates'"),
        ({"training": {**COMPARE["training"], "optimizer": "adamm"}}, {}, "no optimizer 'adamm'.*'adam"),
        ({}, {"budget": "soon"}, "expected a time"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(
    embedded: Path, changes: dict[str, Any], wishes: dict[str, Any], said: str
) -> None:
    from cache.errors import CacheError

    with pytest.raises((UsageError, CacheError), match=said):
        compare(opened(embedded, **changes), **wishes)


def test_a_budget_is_a_time() -> None:
    assert (parse_duration("90s"), parse_duration("60m"), parse_duration("1.5h")) == (90.0, 3600.0, 5400.0)


def test_a_budget_plans_what_fits_and_says_what_power_that_leaves(
    embedded: Path, told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare(
        opened(embedded, seeds=5, learning_rates=[1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        targets=["raw"],
        budget="1s",
        out=tmp_path,
    )
    said = capsys.readouterr().err
    assert "1 arms, 1 budgets, 3 rates, 3 seeds: 6 runs" in said
    assert "where paired differences spread by 4.2 points, one of 13.7 is seen 4 times in 5" in said.lower()


def test_rates_come_first_then_seeds_one_after_another_over_all_arms() -> None:
    wish = RunSchedule(["a", "b"], [1, 8], [0.1, 0.3, 0.9], 2, "clip")
    runs: list[RunResult] = []
    order: list[Trial] = []
    while missing := wish.missing(runs):
        order.append(missing[0])
        score = 0.5 if missing[0].rate == 0.3 else 0.1
        t = missing[0]
        runs.append(RunResult(t.arm, t.seed, t.rate, t.epochs, (1.0,), {}, {"clip": score}, {}, 1.0))
    assert [t.seed for t in order] == [0] * 12 + [1] * 4 + [2] * 4
    assert {t.rate for t in order[12:]} == {0.3}
    assert len(set(order)) == len(order) == 20


@pytest.mark.parametrize("name", ["params", "photos", "confounds", "domains", "pacs", "pacs-small"])
def test_the_experiments_that_come_with_it_can_be_read(name: str) -> None:
    found = Project.open(ROOT / "benchmarks" / "compare" / f"{name}.yaml", [], ROOT).section("compare", CompareParams)
    assert apply_overrides(found, None, None, None) == found
    assert all(arm_params(arm, found.arms, Project(Path(), (), {}, Layout())) for arm in found.targets)


def test_the_pipeline_of_its_own_names_files_that_exist_and_passes_its_own_params() -> None:
    document = yaml.safe_load((ROOT / "benchmarks" / "compare" / "dvc.yaml").read_text(encoding="utf-8"))
    stage = document["stages"]["compare"]
    assert [dep for dep in stage["deps"] if not dep.startswith("data/") and not (ROOT / dep).exists()] == []
    params, code = stage["params"]
    assert code == {"data/code.json": ["compare"]}
    assert all(f"--params {path}" in stage["cmd"] and (ROOT / path).is_file() for path in params)
    assert stage["outs"] == [{stage["cmd"].split("--out ")[1]: {"cache": False}}]


@pytest.mark.slow
def test_two_jobs_make_the_runs_that_one_makes(embedded: Path, told: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    before = files(embedded)
    for path in before:
        if "-seed-0" not in path.stem:
            path.unlink()
    compare(opened(embedded), jobs=2, out=tmp_path)
    after = files(embedded)
    for path, data in before.items():
        one, two = (json.loads(each) for each in (data, after[path]))
        assert {**one, "seconds": 0, "seal": 0} == {**two, "seconds": 0, "seal": 0}


def test_a_runs_file_carries_its_arms_fingerprint(tmp_path: Path) -> None:
    runs = RunStore(tmp_path, {"zca": "0123456789ab"})
    path = runs.path(Trial("zca", 1, 0.003, 8))
    assert path.relative_to(tmp_path).as_posix() == "zca-0123456789ab/epochs-8-rate-0.003-seed-1.json"


def test_no_times_are_compared_where_the_reference_does_not_leave_chance() -> None:
    at_chance, away = (told_world(chance) for chance in (END, CHANCE))
    assert "times are not compared" in "".join(verdict(at_chance))
    assert "×" not in "".join(verdict(at_chance))
    assert "faster than raw" in "".join(verdict(away))


def told_world(chance: float) -> ComparisonResults:
    """Return a simulated comparison of which everything was run, with one rate each."""
    chosen = [simulated_run(arm, 0, 0, speed=speed) for arm, speed in (("raw", 1.0), ("zca", 3.0))]
    params = CompareParams(targets=("raw", "zca"), control=None, epochs=(4,), rules=("clip",))
    runs = [*chosen, *simulated_world(0, {"zca": {"speed": 3.0}})]
    runs = [replace(run, final={**run.final, "recall clip": 0.1}) for run in runs]
    return ComparisonResults(params, 5, {"clip": 0.9}, {"clip": chance}, runs, ("raw", "zca"))
