"""Measure `search` by an index against exact search: seconds a query, recall, memory and disk.

    python benchmarks/bench_search.py [--rows 1000000] [--dim 512] [--rounds 5]

Rows are drawn as CLIP's are (tests on real ones: docs/audit.md): a spectrum that falls as k^-1.15, a common mean, and
texts that correlate with their images axis by axis around a mean of their own. They have no clusters beyond that, which
is the hard case for an inverted file. Each search opens the store anew, as the command does, without hashing.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.rounds import processor, seconds
from cache.fingerprint import fingerprint
from cache.manifest import Manifest, ManifestPart, ShardRecord, shard_name, write_manifest
from cache.reader import EmbeddingStore
from cache.shard import ImageShard, Shard, TextShard, write_shard
from pipeline.commands.search import search
from pipeline.commands.search_index import FILE, sample_queries
from pipeline.project.layout import Layout

SHARD_ROWS = 4096
SPLIT = "train"
TEACHER = {"model": "drawn"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 1_000_000, "dim": 512, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="where to work")
    options = parser.parse_args()
    print(f"{processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-search-", dir=options.folder) as folder:
        layout = Layout(Path(folder))
        write_store(layout.embeddings(SPLIT), options.rows, options.dim)
        measure(layout, options.rounds)


def measure(layout: Layout, rounds: int) -> None:
    """Build the index, and let both ways take turns."""
    queries = sample_queries(EmbeddingStore.open(layout.embeddings(SPLIT), "size"), seed=1)

    def find(query: np.ndarray, exact: bool) -> None:
        search(query, SPLIT, layout, 10, exact=exact, verify="size")

    began = time.perf_counter()
    recall = search(queries["text"][0], SPLIT, layout, 10, exact=False, verify="size").recall
    built, size = time.perf_counter() - began, sum(path.stat().st_size for path in layout.store.rglob(FILE))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"built in {built:.0f} s, {size / 1e6:.0f} MB on disk, at most {peak:.0f} MB of memory; recall {recall}")
    for kind, rows in queries.items():
        pairs = [(seconds(lambda: find(row, True)), seconds(lambda: find(row, False))) for row in rows[:rounds]]  # noqa: B023
        exact, index = np.median(pairs, axis=0)
        faster = np.median([a / b for a, b in pairs])
        print(f"{kind}: exact {exact:.3f} s, by the index {index:.3f} s, {faster:.0f} x faster")


def write_store(folder: Path, rows: int, dim: int) -> None:
    """Write a published split; the images of the first shard have captions."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[ShardRecord]] = {"image/view-00": [], "text": []}
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        image, text = draw_rows(rng, min(SHARD_ROWS, rows - start), dim)
        count = len(image)
        keys = tuple(f"{i:09d}" for i in range(start, start + count))
        told = count if number == 0 else 0
        shards: dict[str, Shard] = {
            "image/view-00": ImageShard(keys, image, np.zeros((count, 4), np.float32), np.zeros(count, bool)),
            "text": TextShard(
                keys,
                text[:told],
                np.minimum(np.arange(count + 1), told),
                np.zeros((told, 1), np.int32),
                np.array([f"{row:064d}" for row in range(told)], "S64"),
            ),
        }
        for name, shard in shards.items():
            records = parts[name]
            records.append(write_shard(folder / name / shard_name(number), shard, fingerprint(_facts(name))))
    made = {name: ManifestPart(fingerprint(_facts(name)), _facts(name), tuple(all_)) for name, all_ in parts.items()}
    write_manifest(folder, Manifest(SPLIT, TEACHER, {"rows": rows}, {}, 256, made))


def draw_rows(rng: np.random.Generator, count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and their texts, (count, dim) float32 each."""
    rank, fixed = np.arange(1, dim + 1), np.random.default_rng(8).normal(size=(2, dim))
    rho = np.linspace(0.8, 0.2, dim)
    left = rng.standard_normal((count, dim))
    right = rho * left + np.sqrt(1 - rho**2) * rng.standard_normal((count, dim))
    image = left * rank**-0.575 + 0.1 * fixed[0]
    text = right * rank**-0.745 + 0.1 * fixed[1]
    return image.astype(np.float32), text.astype(np.float32)


def _facts(name: str) -> dict[str, object]:
    return {"teacher": TEACHER, "part": name}


if __name__ == "__main__":
    main()
