"""The table of scorers over seeds: means, intervals and what seeing adds, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.photo_choices import read_results, tabulate


def write(root: Path, scorer: str, text: float, blind: float) -> None:
    task: dict[str, Any] = {"cosine": {"questions": 1200, "text": 0.5}, "scorer": {"text": text}, "blind": blind}
    folder = root / f"models/relate-{scorer}"
    folder.mkdir(parents=True)
    metrics = {"scorer": scorer, "sets": {"swaps-val": {"negation": task}}}
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def test_seeds_of_a_kind_are_one_column_and_what_seeing_adds_is_paired(tmp_path: Path) -> None:
    write(tmp_path, "late", 0.7, 0.8)
    write(tmp_path, "dcsm-0", 0.8, 0.6)
    write(tmp_path, "dcsm-1", 0.9, 0.7)
    found = read_results(tmp_path)
    assert {kind: len(seeds) for kind, seeds in found.items()} == {"dcsm": 2, "late": 1}
    lines = tabulate("swaps-val", {kind: [sets["swaps-val"] for sets in seeds] for kind, seeds in found.items()})
    assert lines[1] == "| rule | questions | plain cosine | dcsm (2) | late (1) | dcsm − blind | late − blind |"
    # t(0.975, 1 degree of freedom) = 12.706 times 5 points: the standard error of 80 and 90.
    assert lines[3] == "| negation | 1,200 | 50.0 | 85.0 ± 63.5 (65.0) | 70.0 (80.0) | +20.0 ± 0.0 | −10.0 |"
