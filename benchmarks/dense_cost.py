"""What a student's tokens cost: bytes an image of the cache, size of the export, and time on the device."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.relation_sets import COLUMNS
from benchmarks.rounds import spread
from cache.reader import EmbeddingStore
from pipeline.deployment.cost import latency
from pipeline.deployment.onnx_graph import Graph, write_onnx
from pipeline.deployment.onnx_session import open_session
from pipeline.deployment.relation_graphs import SCORER, write_scorer_graph
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import build_scorer
from pipeline.students.dense_tokens import StudentPlaces
from pipeline.students.model import Student

SIZE, ROUNDS = 64, 7
KINDS = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_, "tensor(int64)": np.int64}
"""The types of a graph's inputs."""


def bytes_per_image(store: EmbeddingStore) -> dict[str, float]:
    """Return the size of each part of a cache on disk, divided by the number of images."""
    parts = store.manifest.parts
    return {part: sum(path.stat().st_size for path in store.shard_paths(part)) / store.rows for part in parts}


def print_costs(student: Student, store: EmbeddingStore, grid: int) -> None:
    """Print bytes an image by part of the cache, and size and time of a student's graphs without and with tokens."""
    for part, count in bytes_per_image(store).items():
        print(f"cache, {part}: {count:,.0f} bytes an image")
    with TemporaryDirectory() as folder:
        paths = write_graphs(Path(folder), student, grid)
        for name, path in paths.items():
            print(f"{name}: {path.stat().st_size / 1e6:.2f} MB")
        rounds = [graph_times(paths) for _ in range(ROUNDS)]
    for name in ("with tokens", "scorer"):
        ratios = [times[name] / times["embedding"] for times in rounds]
        median = statistics.median(times[name] for times in rounds)
        print(f"{name}: {median:.2f} ms, {spread(ratios)} of the embedding alone, one image, one thread")


def write_graphs(folder: Path, student: Student, grid: int) -> dict[str, Path]:
    """Write a student without and with tokens, and a scorer of any weights, as ONNX."""
    scorer = build_scorer(ScorerParams(kind="dcsm", columns=COLUMNS), student.dim, grid * grid)
    paths = {name: folder / f"{name}.onnx" for name in ("embedding", "with tokens")} | {"scorer": folder / SCORER}
    write_onnx(paths["embedding"], Graph(student), SIZE)
    write_onnx(paths["with tokens"], Graph(student, places=StudentPlaces(student, grid, SIZE)), SIZE)
    write_scorer_graph(paths["scorer"], scorer, student.dim, grid * grid, COLUMNS)
    return paths


def graph_times(paths: dict[str, Path]) -> dict[str, float]:
    """Return the median milliseconds of one call of each graph, at batch size 1 and one thread."""
    times = {}
    for name, path in paths.items():
        session = open_session(path, 1)
        blank: dict[str, np.ndarray] = {
            one.name: np.zeros([1, *one.shape[1:]], KINDS[one.type]) for one in session.get_inputs()
        }
        times[name] = latency(partial(session.run, None, blank), 1).median
    return times
