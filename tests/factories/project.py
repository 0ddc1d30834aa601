"""A small project whose teacher is arithmetic: real packed images, made-up embeddings of them, untrained students."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.atomic import write_text
from cache.fingerprint import sha256_bytes
from cache.manifest import Manifest, write_manifest
from cache.reader import EmbeddingStore
from cache.shard import ImageShard, PromptShard, Shard, TextShard
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed
from pipeline.data.sources.registry import parse_source
from pipeline.data.views import center_view
from pipeline.evaluation.csv_tables import parse_table
from pipeline.evaluation.model_files import read_arm_card, write_evaluation
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import HISTORY, METRICS, TABLES, Layout
from pipeline.project.params import Runtime
from pipeline.whiten import TargetParams, whiten
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.moments_file import embeddings_digest, save_moments
from pipeline.whitening.spaces import load_space
from tests.factories.stores import TEACHER, write_part

DIM = 24
RUNTIME = Runtime(workers=0, batch=16, device="cpu")
PARTS = {"train": 80, "val": 40, "badges": 40}


def project(
    folder: Path,
    students: tuple[str, ...] = ("mobilenetv3",),
    targets: tuple[str, ...] = ("raw", "zca"),
    tokens: int = 0,
    views: int = 1,
    *,
    further: bool = False,
) -> Layout:
    """Lay out a project up to finished students, none of them evaluated; with captions as so many true tokens.

    Views of training images beyond the first are mirrored center views. Three in four of these images have `further`
    captions in a file `seen`.
    """
    layout = Layout(folder)
    for split, images in PARTS.items():
        extra: dict[str, Any] = {"templates": "simple"} if split == "badges" else {}
        if further and split == "train":
            extra["caption_files"] = {"seen": {"file": str(write_further_captions(folder / "seen.jsonl"))}}
        source = parse_source({"source": "sample", "part": split, "images": images, **extra}, f"index.{split}")
        index(split, source, layout)
        pack(split, source, PackParams(shard_rows=30), layout, RUNTIME)
        embed_by_arithmetic(layout, split, tokens, views if split == "train" else 1)
    store = EmbeddingStore.open(layout.embeddings("train"))
    moments = estimate_comoments("l2", [store.image().load()], store.text().load(), store.offsets)
    save_moments(layout.moments, {"l2": moments}, store.manifest.teacher, embeddings_digest(store.manifest), "all")
    for target in targets:
        whiten(target, TargetParams.model_validate({"method": target, "floor": 0.01}), layout)
        for student in students:
            untrained(layout, student, target)
    return layout


def write_further_captions(path: Path, gap: int = 4) -> Path:
    """Write two captions of each training image as JSON lines, and of every fourth none."""
    named = [number for number in range(PARTS["train"]) if (number + 1) % gap]
    lines = [json.dumps({"image": f"{n:06d}", "caption": [f"number {n}", f"once more {n}"]}) for n in named]
    write_text(path, "\n".join(lines))
    return path


def embed_by_arithmetic(layout: Layout, split: str, tokens: int = 0, views: int = 1) -> None:
    """Embed images by a fixed projection of their 8 × 8 means; captions and classes lie near their images."""
    packed = open_packed(layout.packed(split))
    shards = [list(packed.read(i)) for i in range(len(packed.shards))]
    parts: dict[str, list[Shard]] = {
        f"image/view-{view:02d}": [_images(shard, view) for shard in shards] for view in range(views)
    }
    if packed.classes:
        parts["prompts"] = [_prompts(packed, shards)]
    else:
        parts["text"] = [_captions(shard, tokens) for shard in shards]
    facts: dict[str, dict[str, Any]] = {name: {"part": name, "view": {"kind": "center"}} for name in parts}
    for name, file in packed.caption_files.items():
        own = [packed.read_captions(name, number)[1] for number in range(packed.num_shards)]
        further = [
            [replace(sample, captions=said) for sample, said in zip(shard, captions, strict=True)]
            for shard, captions in zip(shards, own, strict=True)
        ]
        parts[part := f"captions/{name}"] = [_captions(shard, tokens, 100) for shard in further]
        facts[part] = {"part": part, "captions": file.digest}
    folder = layout.embeddings(split)
    teacher = {**TEACHER, "tokenizer": "SimpleTokenizer"} if tokens else TEACHER
    made = {name: write_part(folder, name, shards, facts[name], teacher) for name, shards in parts.items()}
    write_manifest(folder, Manifest(split, teacher, {"packed": packed.digest}, {"numpy": "2"}, 16, made))


def embed_images(shard: list[Sample]) -> ImageShard:
    """Embed the center views of some packed samples by arithmetic."""
    return _images(shard, 0)


def untrained(layout: Layout, student: str, target: str) -> None:
    """Write a student that never learnt anything, with a history as if it had."""
    import torch

    from pipeline.students.checkpoint import save_student
    from pipeline.students.model import Student, StudentParams
    from pipeline.students.training.validation import render_history

    torch.manual_seed(zlib.crc32(f"{student}-{target}".encode()))
    folder = layout.model(student, target)
    model = Student(student, StudentParams.model_validate({"backbone": {"weights": None}}), DIM)
    space = load_space(layout.target(target))
    card = {"target": target, "target_fingerprint": space.fingerprint, "image_size": 32, "teacher": TEACHER}
    rows = [
        {
            "step": s,
            "epoch": s / 10,
            "learning_rate": 0.001,
            "loss": 1 / s,
            "val_nmse": 0.2 + 8 / s,
            "zero_shot": 0.8 - 6 / (s + 2),
        }
        for s in (10, 20, 30, 40)
    ]
    write_text(folder / HISTORY, table := render_history(rows))
    save_student(folder, model, {**card, "fingerprint": "0" * 12, "history_sha256": sha256_bytes(table.encode())})


def rewrite_evaluation(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Write the metrics of an arm anew after a change, and list all of its tables as they stand, as `evaluate` does."""
    card = read_arm_card(folder)
    assert card is not None
    metrics: dict[str, Any] = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    tables = {path.stem: parse_table(path.read_bytes()) for path in (folder / TABLES).glob("*.csv")}
    write_evaluation(folder, card, change(metrics) or metrics, tables)


def _embedding(sample: Sample) -> np.ndarray:
    pixels = np.asarray(decode(sample.image).resize((8, 8)), np.float64).ravel() / 255
    projection = np.random.default_rng(0).normal(size=(pixels.size, DIM)) / np.sqrt(pixels.size)
    return pixels @ projection + 0.3


def _near(rows: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=rows.shape) * rows.std(axis=0)
    return (rows + 0.5 * noise + 0.2).astype(np.float32)


def _keys(shard: list[Sample]) -> tuple[str, ...]:
    return tuple(sample.key for sample in shard)


def _images(shard: list[Sample], view: int) -> ImageShard:
    boxes = [center_view(*decode(sample.image).size).box for sample in shard]
    labels = None if shard[0].label is None else np.array([sample.label for sample in shard], np.int64)
    rows = np.array([_embedding(sample) for sample in shard], np.float32) + np.float32(0.1 * view)
    flips = np.full(len(shard), view > 0)
    return ImageShard(_keys(shard), rows, np.array(boxes, np.float32), flips, labels)


def _captions(shard: list[Sample], length: int, seed: int = 0) -> TextShard:
    counts = [len(sample.captions) for sample in shard]
    rows = _near(np.repeat([_embedding(sample) for sample in shard], counts, axis=0), seed=seed + len(shard))
    shas = [sha256_bytes(caption.encode()).encode() for sample in shard for caption in sample.captions]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    tokens = np.zeros((len(rows), 4), np.int32)
    if length:
        from pipeline.students.text_tower import tokenize

        tokens = tokenize([caption for sample in shard for caption in sample.captions], length)
    return TextShard(_keys(shard), rows, offsets, tokens, np.array(shas, "S64"))


def _prompts(packed: PackedSplit, shards: list[list[Sample]]) -> PromptShard:
    samples = [sample for shard in shards for sample in shard]
    rows = np.array([_embedding(sample) for sample in samples])
    labels = np.array([sample.label for sample in samples])
    means = [rows[labels == c].mean(axis=0) for c in range(len(packed.classes))]
    return PromptShard(_near(np.repeat(means, len(packed.templates), axis=0), 5), packed.classes, packed.templates)
