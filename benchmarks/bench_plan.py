"""Compare the estimates of `plan` with the actual times of the stages.

    python benchmarks/bench_plan.py
    python benchmarks/bench_plan.py --params mine.yaml --set pack.limit=2000

The plan is made again after the run, of an empty root, so that a machine that grew busier or quieter meanwhile shows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
STAGES = ("index", "pack", "embed", "moments", "whiten", "distill", "evaluate", "report")


def main() -> None:
    """Print a table of estimated and real seconds by stage, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default=str(ROOT / "params.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="settings")
    arguments = parser.parse_args()
    options = ["--params", arguments.params, *(word for value in arguments.settings for word in ("--set", value))]
    with tempfile.TemporaryDirectory() as folder:
        first, planning = planned(options, Path(folder) / "empty")
        real = dict.fromkeys(STAGES, 0.0)
        for stage, words in commands(first):
            start = time.perf_counter()
            run(stage, *words, *options, "--root", str(Path(folder) / "run"))
            real[stage] += time.perf_counter() - start
        again, _ = planned(options, Path(folder) / "empty")
    before, after = by_stage(first), by_stage(again)
    print("| stage | estimated, s | after the run, s | real, s | estimated / real | after / real |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, seconds in {**real, "all": sum(real.values())}.items():
        line = f"{before[name]:.1f} | {after[name]:.1f} | {seconds:.1f}"
        print(f"| {name} | {line} | {before[name] / seconds:.2f} | {after[name] / seconds:.2f} |")
    print(f"\nthe plan itself took {planning:.1f} s")


def planned(options: list[str], root: Path) -> tuple[dict[str, Any], float]:
    """Return a plan of an empty root, and the seconds that it took."""
    start = time.perf_counter()
    found: dict[str, Any] = json.loads(run("plan", "--json", *options, "--root", str(root)))
    return found, time.perf_counter() - start


def commands(plan: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield each stage with the options for its split, target space or arm, as in dvc.yaml."""
    students = list(plan["measured"]["students"])
    for found in plan["stages"]:
        stage, name = found["stage"], found["name"]
        if stage in ("distill", "evaluate"):
            student = next(one for one in students if name.startswith(f"{one}-"))
            yield stage, ["--student", student, "--target", name.removeprefix(f"{student}-")]
        else:
            option = {"index": "--split", "pack": "--split", "embed": "--split", "whiten": "--target"}.get(stage)
            yield stage, [option, name] if option else []


def by_stage(plan: dict[str, Any]) -> dict[str, float]:
    """Return the estimated seconds of each stage, over its splits and arms, and of all."""
    seconds = {stage: sum(one["seconds"] for one in plan["stages"] if one["stage"] == stage) for stage in STAGES}
    return {**seconds, "all": sum(seconds.values())}


def run(*words: str) -> str:
    """Run a command of the product; return its output."""
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout


if __name__ == "__main__":
    main()
