"""Measure the cost of a model: parameters, multiply-accumulates, file size, and latency of one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WARM_UP, RUNS = 5, 40


@dataclass(frozen=True)
class Latency:
    """Latency of one call at batch size 1, in milliseconds."""

    median: float
    p95: float
    threads: int


@dataclass(frozen=True)
class Cost:
    """Cost of one model."""

    name: str
    form: str
    """One of `torch fp32`, `onnx fp32`, `onnx int8`."""
    image_size: int
    parameters: int | None
    macs: int | None
    size_bytes: int | None
    latency: tuple[Latency, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the cost as written to profile.json."""
        return asdict(self)


def latency(call: Callable[[], object], threads: int, runs: int = RUNS) -> Latency:
    """Time a call after a warm-up; the caller sets the number of threads."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return Latency(statistics.median(times), sorted(times)[int(0.95 * (len(times) - 1))], threads)


def torch_latency(model: nn.Module, size: int, threads: int) -> Latency:
    """Time a torch module on one image with a given number of threads, and restore the previous number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    pixels = torch.zeros(1, 3, size, size)
    try:
        with torch.inference_mode():
            return latency(lambda: model(pixels), threads)
    finally:
        torch.set_num_threads(before)


def macs(model: nn.Module, size: int) -> int:
    """Count the multiply-accumulates of one image: half of the floating-point operations that torch counts."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


def parameter_count(model: nn.Module) -> int:
    """Count parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters())
