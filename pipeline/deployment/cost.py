"""What a model costs: parameters, multiply-accumulates, bytes, and milliseconds for one image."""

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
    """Milliseconds of one call at batch 1."""

    median: float
    p95: float
    threads: int


@dataclass(frozen=True)
class Cost:
    """What one model costs."""

    name: str
    form: str
    """`torch fp32`, `onnx fp32`, `onnx int8`."""
    image_size: int
    parameters: int | None
    macs: int | None
    size_bytes: int | None
    latency: tuple[Latency, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as profile.json has it."""
        return asdict(self)


def latency(call: Callable[[], object], threads: int, runs: int = RUNS) -> Latency:
    """Time a call after a warm-up; the caller has set the threads."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return Latency(statistics.median(times), sorted(times)[int(0.95 * (len(times) - 1))], threads)


def torch_latency(model: nn.Module, size: int, threads: int) -> Latency:
    """Time a torch module on one image, with a number of threads that is put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    pixels = torch.zeros(1, 3, size, size)
    try:
        with torch.inference_mode():
            return latency(lambda: model(pixels), threads)
    finally:
        torch.set_num_threads(before)


def macs(model: nn.Module, size: int) -> int:
    """Count the multiply-accumulates of one image: half of torch's count of floating-point operations."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


def parameter_count(model: nn.Module) -> int:
    """Count parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())
