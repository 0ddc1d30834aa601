"""Small stores of embeddings with known rows, made through the library itself."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.fingerprint import fingerprint
from cache.manifest import Manifest, ManifestPart, ShardRecord, shard_name, write_manifest
from cache.shard import ImageShard, PromptShard, Shard, TextShard, write_shard

TEACHER = {"model": "made-up", "weights": "0" * 64, "dim": 8}


def made_rows(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def image_shard(start: int, count: int, dim: int = 8, seed: int = 0, labeled: bool = False) -> ImageShard:
    numbers = np.arange(start, start + count)
    return ImageShard(
        keys=tuple(f"{number:08d}" for number in numbers),
        embedding=made_rows(count, dim, seed=1000 * seed + start),
        box=np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1)),
        flip=numbers % 2 == 1,
        label=numbers % 3 if labeled else None,
    )


def text_shard(start: int, count: int, dim: int = 8) -> TextShard:
    per_image = 1 + np.arange(start, start + count) % 3
    offsets = np.concatenate([[0], np.cumsum(per_image)])
    total = int(offsets[-1])
    shas = [hashlib.sha256(f"caption {start} {i}".encode()).hexdigest() for i in range(total)]
    return TextShard(
        keys=tuple(f"{number:08d}" for number in range(start, start + count)),
        embedding=made_rows(total, dim, seed=7000 + start),
        offsets=offsets,
        tokens=np.arange(total * 5, dtype=np.int32).reshape(total, 5),
        caption_sha=np.array(shas, dtype="S64"),
    )


def prompt_shard(dim: int = 8) -> PromptShard:
    return PromptShard(made_rows(6, dim, seed=9), ("cat", "dog", "œuf"), ("a {c}.", "the {c}."))


def write_part(
    folder: Path, name: str, shards: list[Shard], facts: dict[str, Any], teacher: dict[str, Any] = TEACHER
) -> ManifestPart:
    facts = {"teacher": teacher, **facts}
    mark = fingerprint(facts)
    records: list[ShardRecord] = []
    for number, shard in enumerate(shards):
        records.append(write_shard(folder / name / shard_name(number), shard, mark))
    return ManifestPart(mark, facts, tuple(records))


def make_store(
    folder: Path,
    sizes: tuple[int, ...] = (5, 4, 3),
    *,
    views: int = 1,
    text: bool = True,
    prompts: bool = False,
    dim: int = 8,
) -> Path:
    """Write a whole folder of embeddings; returns it."""
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    parts = {
        f"image/view-{view:02d}": write_part(
            folder,
            f"image/view-{view:02d}",
            [
                image_shard(start, size, dim, seed=view, labeled=prompts)
                for start, size in zip(starts, sizes, strict=False)
            ],
            {"view": view},
        )
        for view in range(views)
    }
    if text:
        texts: list[Shard] = [text_shard(start, size, dim) for start, size in zip(starts, sizes, strict=False)]
        parts["text"] = write_part(folder, "text", texts, {"captions": "made-up"})
    if prompts:
        parts["prompts"] = write_part(folder, "prompts", [prompt_shard(dim)], {"classes": ["cat", "dog", "œuf"]})
    write_manifest(folder, Manifest(folder.name, TEACHER, {"packed": "made-up"}, {"numpy": np.__version__}, 4, parts))
    return folder


def copy_as_split(source: Path, target: Path) -> None:
    """Copy a packed split under another split's name, its manifest included."""
    shutil.copytree(source, target)
    manifest = read_checksummed_json(target / "manifest.json")
    (target / "manifest.json").unlink()
    write_checksummed_json(target / "manifest.json", {**manifest, "split": target.name})
