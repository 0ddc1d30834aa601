"""Measure accuracy and cost of a student in the formats of other runtimes, next to its ONNX graph.

    python benchmarks/bench_edge.py --student mobilenetv3 --target scale [--root DIR]

Needs a finished student; formats that are not installed are left out. Each export is held against the student first.
Printed are its largest difference on 256 validation images, its size, and for one image, in turn with onnxruntime, one
thread each (ExecuTorch's XNNPACK takes the machine's): the fastest of 200 calls, and the processor time of a call,
which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.export import ExportOptions, export
from pipeline.deployment.edge_formats import EDGE_FORMATS
from pipeline.deployment.onnx_session import image_size, open_session
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime

ROUNDS, WARM_UP, CALLS = 5, 5, 40


def milliseconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the fastest of some calls, and the processor time of one of them on average."""
    for _ in range(WARM_UP):
        call()
    walls, before = [], time.process_time()
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        walls.append(1000 * (time.perf_counter() - started))
    return min(walls), 1000 * (time.process_time() - before) / CALLS


def main() -> None:
    """Export every installed format, and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="mobilenetv3")
    parser.add_argument("--target", default="scale")
    parser.add_argument("--root", type=Path, default=Path())
    options = parser.parse_args()
    layout, runtime = Layout(options.root), Runtime()
    folder = layout.model(options.student, options.target)
    names = [name for name in EDGE_FORMATS if importlib.util.find_spec(name)]
    with tempfile.TemporaryDirectory() as temporary:
        made = {
            name: export(folder, Path(temporary) / name, ExportOptions(cast(Any, name)), layout, runtime)
            for name in ["onnx", *names]
        }
        session = open_session(made["onnx"].folder / "model.onnx", threads=1)
        pixels = np.zeros((1, image_size(session), image_size(session), 3), np.uint8)
        calls = {"onnx": lambda: session.run(None, {"image": pixels})}
        for name in names:
            run = EDGE_FORMATS[name].open(made[name].folder / EDGE_FORMATS[name].file, 1)
            calls[name] = lambda run=run: run(pixels)  # type: ignore[misc]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                found[name].append(milliseconds(call))
        for name in calls:
            size = sum(bytes_ for file, bytes_ in made[name].files.items() if file.startswith("model")) / 1e6
            ratio = [mine[1] / plain[1] for mine, plain in zip(found[name], found["onnx"], strict=True)]
            print(
                f"{name}: difference {made[name].parity.max_difference:.2g}, {size:.2f} MB, "  # type: ignore[union-attr]
                f"fastest {min(wall for wall, _ in found[name]):.2f} ms, processor {statistics.median(ratio):.2f} "
                f"[{min(ratio):.2f}, {max(ratio):.2f}] of onnxruntime"
            )


if __name__ == "__main__":
    main()
