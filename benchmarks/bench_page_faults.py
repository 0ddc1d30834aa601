"""Measure what keeping freed memory saves on a CPU, in a forward pass and in a training step.

    python benchmarks/bench_page_faults.py --threads 1

Each round measures a model twice, in a fresh process each: with the C library's allocator as it is, and after
`keep_freed_memory` (pipeline/project/device.py), as `embed`, `distill` and `evaluate` call it. Ratios are taken within
a round; page faults are those of one step.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import options_of, processor, spread
from pipeline.project.device import keep_freed_memory
from pipeline.project.memory import measure_peak

CASES = (
    ("forward", "resnet18", 64, 128),
    ("forward", "tf_efficientnet_lite2", 160, 50),
    ("forward", "vit_base_patch32_224", 224, 32),
    ("training", "mobilenetv3_small_100", 64, 128),
    ("training", "mobilenetv3_small_100", 224, 32),
    ("training", "resnet18", 64, 128),
    ("training", "tf_efficientnet_lite0", 128, 64),
)
"""The step, the timm model, the side in pixels, and the batch size."""


def main() -> None:
    """Measure every case with and without, and print a table; with --case, measure one and print it as JSON."""
    options = _options()
    if options.case is not None:
        print(json.dumps(measure(options.case, options.steps, options.threads, keep=options.keep)))
        return
    versions = f"torch {torch.__version__}, timm {timm.__version__}, {' '.join(platform.libc_ver())}"
    print(f"{processor()}; {options.threads} threads; {versions}; default, then kept")
    print("| step | wall seconds | processor seconds | page faults | peak memory, MiB |\n|---|---|---|---|---|")
    for number, (step, model, side, batch) in enumerate(CASES):
        rounds = [(_in_process(options, number), _in_process(options, number, "--keep")) for _ in range(options.rounds)]
        ratios = [spread([default[clock] / kept[clock] for default, kept in rounds]) for clock in ("wall", "processor")]
        counts = [
            ", then ".join(f"{statistics.median(arm[what] for arm in arms):,.0f}" for arms in zip(*rounds, strict=True))
            for what in ("faults", "peak")
        ]
        print(f"| {step}: {model} at {side} px, {batch} images | {' | '.join((*ratios, *counts))} |", flush=True)


def measure(case: int, steps: int, threads: int, *, keep: bool) -> dict[str, float]:
    """Return wall and processor seconds and page faults of a step, and the peak resident memory in MiB."""
    if keep and not keep_freed_memory():
        raise SystemExit("the C library is not glibc, or MALLOC_* variables are set: there is nothing to measure")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = build_step(case)
    step(), step()
    before, wall, cpu = _faults(), time.perf_counter(), time.process_time()
    with measure_peak() as peak:
        for _ in range(steps):
            step()
    wall, cpu, faults = time.perf_counter() - wall, time.process_time() - cpu, _faults() - before
    return {"wall": wall / steps, "processor": cpu / steps, "faults": faults / steps, "peak": peak.highest / 2**20}


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def build_step(case: int) -> Callable[[], object]:
    """Return the step of a case on random images."""
    kind, name, side, batch = CASES[case]
    model = timm.create_model(name, num_classes=0).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    if kind == "forward":
        return torch.inference_mode()(lambda: model.eval()(images))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    return train


def _in_process(options: argparse.Namespace, case: int, *flags: str) -> dict[str, float]:
    sizes = [f"--case={case}", f"--steps={options.steps}", f"--threads={options.threads}"]
    done = subprocess.run([sys.executable, __file__, *sizes, *flags], check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _options() -> argparse.Namespace:
    parser = options_of(__doc__, steps=5)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
