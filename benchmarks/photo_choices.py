"""Tabulate scorers of a choice set, over seeds: accuracy by task beside the same scorer without the photo.

    python benchmarks/photo_choices.py --root photo-choices

The project has scorers named KIND-SEED, fitted by `relate` with benchmarks/photo-choices.yaml. A cell is text accuracy
in % with a 95 % interval over seeds (t), in brackets the same scorer blind: with 32 unrelated photos in place of the
true one. The last columns are what seeing adds: the paired difference of the two.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json

from benchmarks.small_runs import mean_and_half

Results = Mapping[str, Any]
"""By task: questions, `cosine`, `scorer` and `blind`."""


def main() -> None:
    """Print a table for each choice set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    found = read_results(parser.parse_args().root)
    for name in sorted({name for seeds in found.values() for sets in seeds for name in sets}):
        print("\n".join(tabulate(name, {kind: [sets[name] for sets in seeds] for kind, seeds in found.items()})))


def read_results(root: Path) -> dict[str, list[dict[str, Results]]]:
    """Return for each kind of scorer what each of its seeds has on each choice set."""
    found: dict[str, list[dict[str, Results]]] = defaultdict(list)
    for path in sorted(root.glob("models/relate-*/metrics.json")):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        found[str(metrics["scorer"]).rpartition("-")[0] or metrics["scorer"]].append(metrics["sets"])
    return found


def tabulate(name: str, found: Mapping[str, Sequence[Results]]) -> list[str]:
    """Return the lines of a choice set's table."""
    seeds = [f"{kind} ({len(results)})" for kind, results in found.items()]
    seeing = [f"{kind} − blind" for kind in found]
    header = ["rule", "questions", "plain cosine", *seeds, *seeing]
    lines = [
        f"{name}: each kind with its number of seeds, its cells with their blind score",
        f"| {' | '.join(header)} |",
    ]
    lines.append("|---|" + "---:|" * (len(header) - 1))
    some = next(iter(found.values()))[0]
    for task, first in some.items():
        seen, blind = ({kind: _percent(rows, task, key) for kind, rows in found.items()} for key in ("scorer", "blind"))
        cells = [task, f"{first['cosine']['questions']:,}", f"{100 * first['cosine']['text']:.1f}"]
        cells += [f"{mean_and_half(seen[kind], digits=1)} ({blind[kind].mean():.1f})" for kind in found]
        cells += [mean_and_half(seen[kind] - blind[kind], "+", 1) for kind in found]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _percent(rows: Sequence[Results], task: str, key: str) -> np.ndarray:
    return np.array([100 * (row[task][key] if key == "blind" else row[task][key]["text"]) for row in rows])


if __name__ == "__main__":
    main()
