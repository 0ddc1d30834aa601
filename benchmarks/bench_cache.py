"""Measure reading and writing of the cache at COCO's size, against one `np.memmap` and plain `np.save`.

    python benchmarks/bench_cache.py [--rows 118287] [--dim 512] [--shards 24] [--rounds 7]

Ratios of rates, ours to theirs; the median over the rounds, in which the two take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from cache import rows as cache_rows
from cache.atomic import atomic_write
from cache.fingerprint import fingerprint
from cache.manifest import Manifest, ManifestPart, shard_name, write_manifest
from cache.reader import EmbeddingStore
from cache.shard import ImageShard, write_shard

TEACHER = {"model": "random"}
BATCH = 256
Work = Callable[[], object]


@dataclass(frozen=True)
class Compared:
    """One claim: seconds of both sides, round by round."""

    name: str
    ours: list[float]
    theirs: list[float]
    limit: float

    @property
    def ratio(self) -> float:
        """Return the median of their seconds over ours: above 1 the cache is faster."""
        return float(np.median(np.array(self.theirs) / np.array(self.ours)))


def main() -> None:
    """Measure and print."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="bench-cache-"))
    try:
        print(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, "
            f"{options.rows} x {options.dim} float32 in {options.shards} shards, {options.rounds} rounds"
        )
        plain, shards = _data(options.rows, options.dim, options.shards)
        for found in [*_reading(folder, plain, shards, options.rounds), *_writing(folder, shards, options.rounds)]:
            theirs, ours = np.median(found.theirs), np.median(found.ours)
            told = f"{found.ratio:.2f} (limit {found.limit})" if found.limit else ""
            print(f"{found.name:58s} {told:20s} ours {ours:7.3f} s, theirs {theirs:7.3f} s")
    finally:
        shutil.rmtree(folder)


def _reading(folder: Path, plain: np.ndarray, shards: list[ImageShard], rounds: int) -> list[Compared]:
    store = _store(folder / "train", shards)
    np.save(folder / "plain.npy", plain)
    header = (folder / "plain.npy").stat().st_size - plain.nbytes
    mapped = np.memmap(folder / "plain.npy", np.float32, "r", header, plain.shape)
    rows, loaded = store.image(), store.image().load()
    order = np.random.default_rng(1).permutation(len(plain))
    batches = [order[at : at + BATCH] for at in range(0, len(order) - BATCH + 1, BATCH)]
    np.testing.assert_array_equal(rows[batches[0]], plain[batches[0]])
    mapped.sum()
    return [
        _compare(
            "single rows, shuffled, of one memory map", _singles(rows, order), _singles(mapped, order), 0.9, rounds
        ),
        _compare(
            "batches of 256, shuffled, of one memory map",
            _gather(rows, batches),
            _gather(mapped, batches),
            0.25,
            rounds,
        ),
        _compare(
            "preloaded, batches of 256, of a plain array",
            _gather(loaded, batches),
            _gather(plain, batches),
            0.95,
            rounds,
        ),
        _compare(
            "opening: hashing every byte / checking sizes",
            _opening(folder / "train", "hash"),
            _opening(folder / "train", "size"),
            0,
            rounds,
        ),
    ]


def _writing(folder: Path, shards: list[ImageShard], rounds: int) -> list[Compared]:
    """Write all shards into an empty folder each time, as `embed` does."""
    out = folder / "written"

    def ours() -> None:
        for number, shard in enumerate(shards):
            write_shard(out / shard_name(number), shard, "0" * 12)

    def plain() -> None:
        for number, shard in enumerate(shards):
            np.save(out / f"{number}.npy", shard.embedding)

    def synced() -> None:
        for number, shard in enumerate(shards):
            with (out / f"{number}.npy").open("wb") as file:
                np.save(file, shard.embedding)
                file.flush()
                os.fsync(file.fileno())

    def whole() -> None:
        for number, shard in enumerate(shards):
            with atomic_write(out / f"{number}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, shard.embedding)

    def clean() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        os.sync()

    writers = {"np.save": plain, "np.save and fsync": synced, "np.save made absent or whole": whole}
    return [_compare(f"writing, hashed, of {name}", ours, write, 0.5, rounds, clean) for name, write in writers.items()]


def _compare(  # noqa: PLR0917  one line a claim
    name: str, ours: Work, theirs: Work, limit: float, rounds: int, clean: Work = lambda: None
) -> Compared:
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, taken in zip((ours, theirs), seconds, strict=True):
            clean()
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return Compared(name, *seconds, limit)


def _singles(rows: object, order: np.ndarray) -> Work:
    """Read single rows into a batch, like a torch Dataset."""
    numbers = order.tolist()

    def read() -> None:
        batch = np.empty((BATCH, rows.shape[1]), np.float32)  # type: ignore[attr-defined]
        for at, number in enumerate(numbers):
            batch[at % BATCH] = rows[number]  # type: ignore[index]

    return read


def _gather(rows: object, batches: list[np.ndarray]) -> Work:
    def read() -> None:
        for batch in batches:
            rows[batch]  # type: ignore[index]

    return read


def _opening(folder: Path, verify: cache_rows.Verify) -> Work:
    def read() -> None:
        cache_rows._hashed.clear()
        list(EmbeddingStore.open(folder, verify).image().blocks())

    return read


def _store(folder: Path, shards: list[ImageShard]) -> EmbeddingStore:
    facts = {"teacher": TEACHER}
    records = tuple(
        write_shard(folder / "image" / "view-00" / shard_name(number), shard, fingerprint(facts))
        for number, shard in enumerate(shards)
    )
    parts = {"image/view-00": ManifestPart(fingerprint(facts), facts, records)}
    write_manifest(folder, Manifest("train", TEACHER, {}, {}, BATCH, parts))
    return EmbeddingStore.open(folder)


def _data(count: int, dim: int, shards: int) -> tuple[np.ndarray, list[ImageShard]]:
    plain = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    bounds = np.linspace(0, count, shards + 1).astype(int)
    box = np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1))
    return plain, [
        ImageShard(tuple(f"{n:012d}" for n in range(a, b)), plain[a:b], box[a:b], np.zeros(b - a, bool))
        for a, b in pairwise(bounds)
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 118_287, "dim": 512, "shards": 24, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
