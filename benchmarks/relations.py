"""What a light network on dense maps adds to CLIP's cosine: binding, place, negation and number in the drawn world.

    python benchmarks/relations.py --out DIR                       # every arm, seeds 0 to 4; stop and go on at will
    python benchmarks/relations.py --out DIR --negatives batch --groups 4     # all texts of a step, at twice the cost
    python benchmarks/relations.py --out DIR --one-each            # a scorer for each task in place of one for all
    python benchmarks/relations.py --out DIR --arms dcsm --quadruples 200 --epochs 1 --seeds 0
    python benchmarks/relations.py --out DIR --frontier            # bytes an image against accuracy, of `dcsm`

A seed draws pictures of its own and fits every scorer from weights of its own, so arms are paired by seed. Each
finished arm is one JSON file in DIR, with accuracy and group accuracy by task: of kinds of things that were fitted
on, and of kinds that never were. An arm that was stopped goes on with its epoch. Beside the accuracies, the table has
the paired differences from `dcsm`, each with a 95 % interval over seeds. Arms:

    cosine, late       nothing is fitted
    labclip            a matrix between the pooled vectors
    dcsm               the two-dimensional network on the map
    published          the authors' layout of it
    no-rows            dcsm without functional rows
    wrong-column       dcsm with functional rows where the published code writes them
    shuffled           dcsm, the patches of each image in an order of its own
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.relation_codecs import measure_frontier
from benchmarks.relation_sets import COLUMNS, RelationSet, SetSizes, accuracy_by_task, open_reader, read_sets
from benchmarks.small_runs import mean_and_half
from cache.atomic import write_json
from pipeline.data.synthetic.relations import TASKS
from pipeline.relations.fitting import fit_scorer
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import Scorer, build_scorer

ARMS: dict[str, dict[str, Any]] = {
    "cosine": {"kind": "cosine"},
    "late": {"kind": "late"},
    "labclip": {"kind": "labclip"},
    "dcsm": {"kind": "dcsm"},
    "published": {"kind": "dcsm-published"},
    "no-rows": {"kind": "dcsm", "functional_column": "none"},
    "wrong-column": {"kind": "dcsm", "functional_column": "published"},
    "shuffled": {"kind": "dcsm", "shuffle_patches": True},
}
VARIABLES = ("quadruples", "epochs", "groups", "negatives", "one_each", "held_out")


def main() -> None:
    """Run what is missing and print what is there."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        paths = {arm: options.out / f"{arm}-{seed}.json" for arm in options.arms}
        frontier = options.out / f"frontier-{seed}.json"
        if all(path.exists() for path in paths.values()) and (frontier.exists() or not options.frontier):
            continue
        reader = open_reader(options.teacher, options.grid)
        sets = read_sets(reader, SetSizes(options.quadruples, options.held_out), seed)
        for arm, path in paths.items():
            drawn = arm == "dcsm" and options.frontier
            if not path.exists() or (drawn and not frontier.exists()):
                _run(arm, seed, sets, options, drawn)
    _print(options)


def _run(arm: str, seed: int, sets: dict[str, RelationSet], options: argparse.Namespace, frontier: bool) -> None:
    given = {name: getattr(options, name) for name in ("epochs", "groups", "negatives")}
    params = ScorerParams(**(given | {"columns": COLUMNS, "seed": seed} | ARMS[arm]))
    start = time.process_time()
    scorers: dict[str, Scorer] = {}
    for tasks in [(task,) for task in TASKS] if options.one_each else [TASKS]:
        state = options.out / f"{arm}-{seed}-{'-'.join(tasks)}.state.safetensors"
        scorer = _fit(sets["relations-train"].of_tasks(tasks), params, state)
        scorers |= dict.fromkeys(tasks, scorer)
    seconds = time.process_time() - start
    accuracy = {name: accuracy_by_task(scorers, part, params) for name, part in sets.items() if "train" not in name}
    size = sum(parameter.numel() for parameter in scorers[TASKS[0]].parameters())
    write_json(
        options.out / f"{arm}-{seed}.json",
        {"arm": arm, "seed": seed, "seconds": seconds, "parameters": size, **vars_of(options), "accuracy": accuracy},
    )
    for path in options.out.glob(f"{arm}-{seed}-*.state.safetensors"):
        path.unlink()
    print(f"{arm} {seed}: {seconds:.0f} s {json.dumps(accuracy)}", flush=True)
    if frontier:
        write_json(
            options.out / f"frontier-{seed}.json",
            {"seed": seed, **vars_of(options), "codecs": measure_frontier(scorers, sets, params)},
        )


def _fit(train: RelationSet, params: ScorerParams, state: Path) -> Scorer:
    scorer = build_scorer(params, train.tokens.text_pooled.shape[1], train.tokens.patches.shape[1])
    if list(scorer.parameters()):
        fit_scorer(scorer, train.choices, train.with_params(params), params, state=state)
    return scorer


def vars_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what decides a result."""
    return {name: getattr(options, name) for name in VARIABLES}


def _print(options: argparse.Namespace) -> None:
    print(f"{'arm':17} {'seeds':>5} " + " ".join(f"{task:>24}" for task in TASKS))
    for part in ("relations-val", "relations-unseen"):
        runs = {arm: _read_runs(options, arm, part) for arm in options.arms}
        for arm, of_seed in runs.items():
            if of_seed:
                _print_row(arm, part, np.array(list(of_seed.values())))
        for arm, of_seed in runs.items():
            if arm != "dcsm" and (seeds := sorted(of_seed.keys() & runs.get("dcsm", {}).keys())):
                _print_row(f"- {arm}", part, np.array([np.subtract(runs["dcsm"][s], of_seed[s]) for s in seeds]))
    _print_frontier(options)


def _print_frontier(options: argparse.Namespace) -> None:
    paths = [path for seed in options.seeds if (path := options.out / f"frontier-{seed}.json").exists()]
    runs = [json.loads(path.read_text())["codecs"] for path in paths]
    for name in runs[0] if runs else ():
        error = 100 * float(np.mean([run[name]["map_error"] for run in runs]))
        _print_row(name, f"{runs[0][name]['bytes']:,} bytes, map error {error:.1f} %", _by_task(runs, name))
        _print_row(f"- {name}", "from float16", _by_task(runs, "float16") - _by_task(runs, name))


def _by_task(runs: Sequence[Mapping[str, Any]], codec: str) -> np.ndarray:
    """Return (seeds, tasks, 2): text and group accuracy."""
    return np.array([[run[codec]["accuracy"][task] for task in TASKS] for run in runs])


def _read_runs(options: argparse.Namespace, arm: str, part: str) -> dict[int, list[list[float]]]:
    """Return text and group accuracy of each task, by seed."""
    paths = {seed: options.out / f"{arm}-{seed}.json" for seed in options.seeds}
    found = {seed: json.loads(path.read_text())["accuracy"][part] for seed, path in paths.items() if path.exists()}
    return {seed: [accuracy[task] for task in TASKS] for seed, accuracy in found.items()}


def _print_row(name: str, part: str, values: np.ndarray) -> None:
    cells = [_cell(values[:, i]) for i in range(len(TASKS))]
    print(f"{name:17} {len(values):>5} " + " ".join(f"{cell:>24}" for cell in cells) + f"  {part}")


def _cell(values: np.ndarray) -> str:
    """Return mean ± half of a 95 % interval over seeds (t), and the mean group accuracy."""
    text, group = 100 * values[:, 0], 100 * values[:, 1]
    return f"{mean_and_half(text, digits=1)} ({group.mean():.1f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", default="local-dir:presets/sample-teacher")
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--quadruples", type=int, default=1000, help="of each task, to fit on")
    parser.add_argument("--held-out", type=int, default=250, help="of each task, in each held-out part")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--groups", type=int, default=8, help="in a step")
    parser.add_argument("--negatives", choices=("batch", "group"), default="group")
    parser.add_argument("--one-each", action="store_true", help="fit a scorer for each task, not one for all")
    parser.add_argument("--frontier", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
