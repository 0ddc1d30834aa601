"""`compare` over domains, from a labelled cache to a verdict: units, rates, tables, figures, and taking it up again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.compare import compare
from pipeline.comparison.contrasts import RunResult, end_contrasts
from pipeline.comparison.run_store import RunSchedule
from pipeline.comparison.statistics import holm, paired_t_interval
from tests.factories.domains import domain_images, domain_project, pack_domains

ARMS, DOMAINS = ["ce", "rise", "random"], ["print", "sketch"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("domains")
    domain_images(found)
    pack_domains(found)
    return found


@pytest.fixture(scope="module")
def told(root: Path) -> Path:
    return compare(domain_project(root), out=root / "told").parent


def table(told: Path, name: str) -> list[dict[str, str]]:
    with (told / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run_files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (root / "runs").rglob("epochs-*.json")}


def test_every_arm_ends_on_every_domain_it_never_saw_with_their_mean_and_the_worst(root: Path, told: Path) -> None:
    rows = [row for row in table(told, "ends") if row["metric"] == "target accuracy"]
    assert {(row["arm"], row["domain"]) for row in rows} == {(a, d) for a in ARMS for d in [*DOMAINS, "mean", "worst"]}
    assert {row["seeds"] for row in rows} == {"2"}
    runs = [json.loads(data) for data in run_files(root).values()]
    chosen = {(row["arm"], row["without"]): float(row["rate"]) for row in table(told, "rates") if row["chosen"] == "1"}
    ends = {
        (run["arm"], run["held_out"], run["seed"]): run["final"]["target accuracy"]
        for run in runs
        if run["seed"] and run["learning_rate"] == chosen[run["arm"], run["held_out"]]
    }
    for arm in ARMS:
        each = np.array([[ends[arm, domain, seed] for domain in DOMAINS] for seed in (1, 2)])
        shown = {row["domain"]: float(row["mean"]) for row in rows if row["arm"] == arm}
        assert shown["mean"] == pytest.approx(each.mean(), abs=1e-6)
        assert shown["worst"] == pytest.approx(each.min(axis=1).mean(), abs=1e-6)
    # Each image of the held-out domain was given a class, and that is the accuracy which stands there.
    assert {len(run["predicted"]) for run in runs} == {27}


def test_arms_are_paired_by_seed_and_domain(told: Path) -> None:
    rows = table(told, "contrasts")
    assert {row["pairs"] for row in rows if row["domain"] == "all"} == {"4"}
    assert {row["pairs"] for row in rows if row["domain"] == "print"} == {"2"}
    assert {(row["reference"], row["arm"]) for row in rows} == {(a, b) for a in ARMS for b in ARMS if a != b}


def test_contrasts_of_ends_equal_the_statistics_of_their_differences() -> None:
    rng = np.random.default_rng(0)
    ends = {name: rng.normal(size=(3, 2)) for name in ("ce", "a", "b")}
    runs = [
        RunResult(name, seed, 0.1, 1, (1.0,), {}, {"m": float(value)}, {}, 1.0, "xy"[place])
        for name, values in ends.items()
        for seed, row in enumerate(values)
        for place, value in enumerate(row)
    ]
    found = {c.arm: c for c in end_contrasts(runs[::-1], "ce", "m", 0.01)}
    plain = {name: paired_t_interval((ends[name] - ends["ce"]).ravel()) for name in ("a", "b")}
    assert {name: c.final.mean for name, c in found.items()} == pytest.approx({n: c.mean for n, c in plain.items()})
    assert [found[n].final.p for n in ("a", "b")] == pytest.approx(holm([plain[n].p for n in ("a", "b")]))
    assert found["a"].final.pairs == 6
    # Negative control: a run without its partner is in no pair.
    assert {c.final.pairs for c in end_contrasts(runs[:-1], "ce", "m", 0.01)} == {5, 6}


def test_rates_are_chosen_on_the_sources_for_each_domain_left_out_anew(told: Path) -> None:
    rows = table(told, "rates")
    for arm in ARMS:
        for domain in DOMAINS:
            mine = [row for row in rows if (row["arm"], row["without"]) == (arm, domain)]
            (chosen,) = [row for row in mine if row["chosen"] == "1"]
            assert float(chosen["sources accuracy"]) == max(float(row["sources accuracy"]) for row in mine)


def test_seeds_take_turns_over_the_domains() -> None:
    wish = RunSchedule(["a"], [1], [0.1, 0.3, 0.9], 2, "m", DOMAINS)
    runs: list[RunResult] = []
    order = []
    while missing := wish.missing(runs):
        t = missing[0]
        order.append((t.seed, t.held_out, t.rate))
        best = 0.3 if t.held_out == "print" else 0.1
        final = {"m": 1.0 if t.rate == best else 0.5 - t.rate}
        runs.append(RunResult(t.arm, t.seed, t.rate, t.epochs, (1.0,), {}, final, {}, 1.0, t.held_out))
    assert [seed for seed, *_ in order] == sorted(seed for seed, *_ in order)
    assert {(place, rate) for seed, place, rate in order if seed} == {("print", 0.3), ("sketch", 0.1)}
    assert [place for seed, place, _ in order if seed] == DOMAINS * 2


def test_a_single_rate_is_every_arms_and_is_not_searched(root: Path, tmp_path: Path) -> None:
    wish = RunSchedule(["a", "b"], [1], [0.3], 2, "m", DOMAINS)
    missing = wish.missing([])
    assert [(t.seed, t.rate) for t in missing] == [(1, 0.3)] * 4 + [(2, 0.3)] * 4
    assert {(t.arm, t.held_out) for t in missing} == {(arm, place) for arm in "ab" for place in DOMAINS}
    first = missing[0]
    run = RunResult(first.arm, 1, 0.3, 1, (1.0,), {}, {"m": 0.5}, {}, 1.0, first.held_out)
    assert wish.missing([run]) == missing[1:]
    # A seed at another rate, from an earlier search, does not count as done.
    assert wish.missing([replace(run, learning_rate=0.9)]) == missing

    before = run_files(root)
    changes = {"learning_rates": [2e-2], "targets": ["ce", "rise"], "control": None}
    results = compare(domain_project(root, **changes), out=tmp_path).parent
    assert {row["rate"] for row in table(results, "ends") if row["domain"] in DOMAINS} == {"0.02"}
    added = [json.loads(data) for path, data in run_files(root).items() if path not in before]
    assert sorted(run["seed"] for run in added) == [1] * 4 + [2] * 4
    assert "every arm at the fixed rate 0.02" in (results / "verdict.md").read_text(encoding="utf-8")


def test_the_verdict_names_the_teacher_the_gate_the_reference_and_the_placebo(told: Path) -> None:
    said = (told / "verdict.md").read_text(encoding="utf-8")
    assert "It passes the gate" in said or "It does not pass" in said
    assert "| arm | print | sketch | mean | worst |" in said
    assert "4 pairs of seed and domain" in said or "than ce" in said
    assert "random" in said
    summary = json.loads((told / "summary.json").read_text(encoding="utf-8"))
    assert {"target accuracy, print", "target balanced, worst", "sources accuracy, mean"} <= summary["epochs-1"][
        "rise"
    ].keys()


def test_pictures_show_what_each_arm_gets_wrong(told: Path) -> None:
    for name in ("mistakes-print-1", "mistakes-sketch-1", "domains-1"):
        drawn = (told / f"{name}.svg").read_text(encoding="utf-8")
        assert drawn.startswith("<svg xmlns=")
        assert all(arm in drawn for arm in ARMS)
    assert "data:image/png;base64" in (told / "mistakes-print-1.svg").read_text(encoding="utf-8")
    rows = [row for row in table(told, "mistakes") if row["arm"] == "ce"]
    ends = {
        row["domain"]: row for row in table(told, "ends") if (row["arm"], row["metric"]) == ("ce", "target balanced")
    }
    for domain in DOMAINS:
        wrong = sum(float(row["share"]) for row in rows if row["domain"] == domain) / 3
        assert wrong == pytest.approx(1 - float(ends[domain]["mean"]), abs=1e-5)


def test_a_second_time_nothing_is_run_and_another_domain_only_adds_runs(root: Path, told: Path, tmp_path: Path) -> None:
    before, said = run_files(root), {path.name: path.read_bytes() for path in told.iterdir()}
    compare(domain_project(root), out=told)
    assert run_files(root) == before
    assert {path.name: path.read_bytes() for path in told.iterdir()} == said
    compare(domain_project(root, leave_out=["print", "cartoon"], targets=["ce", "random"]), out=tmp_path)
    after = run_files(root)
    assert before.items() <= after.items()
    assert {json.loads(after[path])["held_out"] for path in after.keys() - before.keys()} == {"cartoon"}


def test_losses_and_their_gradients_stand_beside_each_other(told: Path) -> None:
    rows = table(told, "starts")
    mine = {row["name"]: float(row["value"]) for row in rows if row["arm"] == "rise" and row["seed"] == "1"}
    assert {f"gradient_{name}" for name in ("label", "kd", "rise_absolute", "rise_relative")} <= mine.keys()
    assert 0 < mine["gradient_rise_relative"] < mine["gradient_rise_absolute"]
