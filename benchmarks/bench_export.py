"""Measure size, latency and zero-shot accuracy of an export, float and int8, next to ViT-B-32.

    python benchmarks/bench_export.py --student mobilenetv3 --target scale --set cifar10 [--root DIR]

Needs a finished student and an embedded zero-shot set. Accuracy is the clip rule's over every image of the set, by the
exported files themselves. ViT-B-32 has random weights: its latency does not depend on them. Latency: one image, one
thread, median of 40 after 5, in turn for all models, and the median of five rounds of that.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import open_clip
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cache.reader import EmbeddingStore
from pipeline.commands.export import ExportOptions, export
from pipeline.data.packing.packed import open_packed
from pipeline.deployment.cost import latency, torch_latency
from pipeline.deployment.labels import labels_of_split
from pipeline.deployment.onnx_session import image_size, open_session, run_session
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.students.inputs.pixels import open_pixel_store

ROUNDS = 5
VIT = "ViT-B-32, torch fp32"


def accuracy(path: Path, split: str, layout: Layout) -> float:
    """Return the zero-shot accuracy of an exported file."""
    session, runtime = open_session(path), Runtime()
    size = image_size(session)
    pixels = open_pixel_store(open_packed(layout.packed(split)), size, [{"kind": "center"}], layout, runtime)
    rows = np.arange(len(pixels))
    images = pixels.batch(rows, pixels.kept_box[rows], np.zeros(len(rows), bool), size)
    found = run_session(session, images)[0] @ labels_of_split(split, layout).vectors.T
    return float((found.argmax(axis=1) == EmbeddingStore.open(layout.embeddings(split)).labels).mean())


def milliseconds(path: Path) -> float:
    """Return the median time of one image on one thread."""
    session = open_session(path, threads=1)
    pixels = np.zeros((1, image_size(session), image_size(session), 3), np.uint8)
    return latency(lambda: session.run(None, {"image": pixels}), threads=1).median


def main() -> None:
    """Export both forms, measure them in turn with ViT-B-32, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="mobilenetv3")
    parser.add_argument("--target", default="scale")
    parser.add_argument("--set", dest="split", default="cifar10")
    parser.add_argument("--root", type=Path, default=Path())
    chosen = parser.parse_args()
    layout = Layout(chosen.root)
    vit = open_clip.create_model("ViT-B-32", pretrained=None).visual.eval()
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, form in (("onnx fp32", ExportOptions()), ("onnx int8", ExportOptions(int8=True))):
            student = layout.model(chosen.student, chosen.target)
            made = export(student, Path(folder) / form.file, form, layout, Runtime())
            files[name] = made.folder / form.file
        rounds = [
            {VIT: torch_latency(vit, 224, 1).median, **{name: milliseconds(path) for name, path in files.items()}}
            for _ in range(ROUNDS)
        ]
        times = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
        table = Table("model", "MB", "ms", "ViT-B-32 / it", f"{chosen.split} %")
        for name, time in times.items():
            path = files.get(name)
            size = f"{path.stat().st_size / 1e6:.2f}" if path else "–"
            right = f"{100 * accuracy(path, chosen.split, layout):.2f}" if path else "–"
            table.add_row(name, size, f"{time:.2f}", f"{times[VIT] / time:.1f}", right)
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
