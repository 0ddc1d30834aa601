"""What the benchmarks share that hold one loop against another: their options, and how ratios are told."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def options_of(doc: str | None, **sizes: int) -> argparse.ArgumentParser:
    """Return a parser with whole numbers by name and default, five rounds, two threads and two workers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**sizes, "rounds": 5, "threads": 2, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def seconds(arm: Callable[[], object]) -> float:
    """Return the wall seconds of one arm."""
    began = time.perf_counter()
    arm()
    return time.perf_counter() - began


def spread(ratios: Sequence[float]) -> str:
    """Return a median with the smallest and the largest."""
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
