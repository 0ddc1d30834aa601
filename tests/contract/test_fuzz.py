"""Damage of any kind to any file of the cache is found, by `verify` and by the first reader; no row is ever wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cache.errors import CacheError
from cache.reader import EmbeddingStore
from pipeline.commands.verify import verify
from pipeline.data.packing.packed import open_packed
from pipeline.project.layout import Layout
from pipeline.students.checkpoint import load_student
from pipeline.whitening.moments_file import load_moments
from pipeline.whitening.spaces import load_space


@dataclass(frozen=True)
class Kind:
    """Files of one kind, by a glob below the root, and what reads them first."""

    glob: str
    read: Callable[[Path], object]

    def splits(self, path: Path) -> list[str] | None:
        """Return the split to check; what belongs to none is checked by a `verify` of everything."""
        folders = dict(pairwise(path.parts))
        split = folders.get("packed") or folders.get("embeddings")
        return [split] if split else None


def read_embeddings(path: Path) -> None:
    folder = next(parent for parent in path.parents if parent.parent.name == "embeddings")
    store = EmbeddingStore.open(folder)
    for part in store.manifest.parts:
        list(store.shards(part))


def read_packed(path: Path) -> None:
    packed = open_packed(path.parent)
    for number in range(len(packed.shards)):
        list(packed.read(number))


KINDS = {
    "packed shards": Kind("data/packed/*/shard-*.tar", read_packed),
    "packed manifests": Kind("data/packed/*/manifest.json", read_packed),
    "embedding shards": Kind("data/embeddings/*/**/shard-*.h5", read_embeddings),
    "embedding manifests": Kind("data/embeddings/*/manifest.json", read_embeddings),
    "moments": Kind("data/moments.h5", load_moments),
    "target files": Kind("data/targets/*.h5", load_space),
    "checkpoints": Kind("models/*/student.*", lambda path: load_student(path.parent)),
}
DAMAGES = ("bit", "byte", "truncate", "extend", "swap", "zero", "insert", "empty", "rename", "exchange")


@pytest.fixture(scope="module")
def layout(made_project: Layout, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    copy = tmp_path_factory.mktemp("fuzz") / "copy"
    shutil.copytree(made_project.root, copy, ignore=shutil.ignore_patterns(".store"))
    return Layout(copy)


@contextmanager
def damaged(damage: str, path: Path, others: list[Path], generator: np.random.Generator) -> Iterator[None]:
    """Damage a file, and put it right again."""
    whole = path.read_bytes()
    other = others[generator.integers(len(others))] if others else None
    if damage == "rename" or (damage == "exchange" and other is None):
        path.rename(path.with_name(f"{path.name}.bak"))
    elif damage == "exchange":
        assert other is not None
        kept = other.read_bytes()
        other.write_bytes(whole)
        path.write_bytes(kept)
    else:
        path.write_bytes(damage_bytes(damage, whole, generator))
    try:
        yield
    finally:
        path.with_name(f"{path.name}.bak").unlink(missing_ok=True)
        path.write_bytes(whole)
        if damage == "exchange" and other is not None:
            other.write_bytes(kept)


def damage_bytes(damage: str, whole: bytes, generator: np.random.Generator) -> bytes:
    data = bytearray(whole)
    at = int(generator.integers(len(data)))
    if damage == "bit":
        data[at] ^= 1 << int(generator.integers(8))
    elif damage == "byte":
        data[at] = (data[at] + int(generator.integers(1, 256))) % 256
    elif damage == "truncate":
        del data[at:]
    elif damage == "extend":
        data += generator.bytes(1 + at % 600)
    elif damage == "insert":
        data[at:at] = generator.bytes(1)
    elif damage == "empty":
        data.clear()
    else:
        size = min(512, len(data) // 2)
        first, second = sorted(generator.integers(0, len(data) - size + 1, 2).tolist())
        moved = data[second : second + size] if damage == "swap" else bytes(size)
        data[first : first + size] = moved
    return bytes(data)


def changed(damage: str, path: Path, others: list[Path], generator: np.random.Generator) -> bool:
    """Return whether this damage would change anything: zeros may meet zeros, and files may be equal."""
    copy = np.random.default_rng()
    copy.bit_generator.state = generator.bit_generator.state
    whole = path.read_bytes()
    other = others[copy.integers(len(others))] if others else None
    if damage == "exchange" and other is not None:
        return other.read_bytes() != whole
    return damage in {"rename", "exchange"} or damage_bytes(damage, whole, copy) != whole


def attack(layout: Layout, kind: Kind, seeds: range) -> int:
    """Damage files in turn and demand that both find it; return how often."""
    paths = sorted(layout.root.glob(kind.glob))
    count = 0
    for seed in seeds:
        generator = np.random.default_rng(seed)
        path = paths[generator.integers(len(paths))]
        others = [other for other in paths if other != path and other.name.split(".")[-1] == path.name.split(".")[-1]]
        damage = DAMAGES[seed % len(DAMAGES)]
        if not changed(damage, path, others, generator):
            continue
        count += 1
        with damaged(damage, path, others, generator):
            told = f"seed {seed}: {damage} of {path.relative_to(layout.root)}"
            assert verify(layout, kind.splits(path)).faults, f"{told} is not found by verify"
            with pytest.raises(CacheError) as caught:
                kind.read(path)
            assert str(layout.root) in str(caught.value), f"{told} is not named: {caught.value}"
    return count


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_found_by_verify_and_by_the_first_reader(layout: Layout, name: str) -> None:
    assert attack(layout, KINDS[name], range(10)) >= 8
    assert verify(layout).faults == []  # Negative control: all is whole again.
    KINDS[name].read(next(layout.root.glob(KINDS[name].glob)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundreds_of_damages_are_all_found(layout: Layout) -> None:
    found = {name: attack(layout, kind, range(100, 160)) for name, kind in KINDS.items()}
    print(found)
    assert sum(found.values()) >= 300
