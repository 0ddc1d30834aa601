"""Measure this machine: process starts, decoding for students, moments and target spaces."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline.data.packing.packed import PackedSplit
from pipeline.data.views import ViewParams, required_side
from pipeline.project.code_digest import ROOT
from pipeline.project.errors import PipelineError
from pipeline.students.inputs.pixel_files import PIXELS, decode_pixels
from pipeline.students.inputs.pixels import PixelStore
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.spaces import TargetParams, fit_space

STARTS = {
    "light": ("pack", ("pipeline.pack",)),
    "middle": ("moments", ("pipeline.moments", "pipeline.whiten")),
    "heavy": ("distill", ("pipeline.embed", "pipeline.distill", "open_clip", "timm")),
}
"""Kinds of processes: the code each digests at its start, and its imports: no torch, Dask, or everything."""


@dataclass(frozen=True)
class ProcessStart:
    """Cost of starting a stage."""

    seconds: float
    resident_bytes: int


def measure_start(unit: str, modules: Sequence[str]) -> ProcessStart:
    """Start Python like a stage, with its modules and the digest of its code, and measure it.

    Raises:
        PipelineError: they cannot be imported.
    """
    code = (
        f"import {', '.join(modules)}\nfrom pipeline.project.code_versions import StageCode\n"
        "from pipeline.project.memory import resident_bytes\n"
        f"StageCode.snapshot({unit!r})\nprint(resident_bytes())"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  our own modules
    if process.returncode:
        raise PipelineError(f"plan: {', '.join(modules)} cannot be imported: {process.stderr.strip().splitlines()[-1]}")
    return ProcessStart(time.perf_counter() - start, int(process.stdout.split()[-1]))


def decode_sample(
    packed: PackedSplit, size: int, views: Sequence[Mapping[str, object]], folder: Path, workers: int
) -> tuple[PixelStore, float]:
    """Decode a few packed samples for students, as `distill` does; also return the seconds per sample."""
    center = all(view["kind"] == "center" for view in views)
    side = size if center else required_side(size, views)
    folder.mkdir()
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # without progress lines
        index = decode_pixels(packed, side, center, folder, workers)
    seconds = (time.perf_counter() - start) / packed.rows
    keys = tuple(key.decode() for key in index["keys"])
    store = PixelStore(folder / PIXELS, keys, index["offset"], index["shape"], index["frame"], workers)
    return store, seconds


def view_facts(views: ViewParams, count: int | None) -> list[Mapping[str, object]]:
    """Return the facts of the views that students use."""
    count_of_views = views.crops + 1 if count is None else min(count, views.crops + 1)
    return [views.facts(index) for index in range(count_of_views)]


@dataclass(frozen=True)
class FitSeconds:
    """Seconds of `moments` for one sample on one thread, and of `whiten` for each target space."""

    moments: float
    whiten: Mapping[str, float]


def measure_fits(targets: Mapping[str, TargetParams], dim: int, views: int, captions: float) -> FitSeconds:
    """Fit target spaces to the moments of random rows, three per dimension."""
    draw, rows = np.random.default_rng(0), 3 * dim
    texts = max(1, round(captions)) if captions else 0
    images = [draw.standard_normal((rows, dim), np.float32) for _ in range(views)]
    text = (
        (draw.standard_normal((rows * texts, dim), np.float32), np.arange(rows + 1) * texts) if texts else (None, None)
    )
    seconds: dict[str, float] = {}
    spent = 0.0
    for norm in dict.fromkeys(params.pre_norm for params in targets.values()):
        start = time.perf_counter()
        with threadpool_limits(1, "blas"):
            moments = estimate_comoments(norm, images, *text)
        spent = time.perf_counter() - start
        for name, params in targets.items():
            if params.pre_norm == norm:
                start = time.perf_counter()
                fit_space(name, params, moments)
                seconds[name] = time.perf_counter() - start
    return FitSeconds(spent / rows, seconds)
