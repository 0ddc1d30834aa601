"""Measure the speed of a teacher on this machine with a few batches, without a download."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cache.manifest import PROMPTS, shard_name
from cache.work_store import WorkStore
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.prefetch import chunked_map, prefetch_map
from pipeline.data.views import ViewParams
from pipeline.project.errors import UsageError
from pipeline.project.memory import measure_peak
from pipeline.project.stopwatch import TeacherSpeed, fastest_per_row
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import HUB, LOCAL, RANDOM, TeacherParams
from pipeline.teacher.parts import plan_parts
from pipeline.teacher.shards import preprocess


def load_local_teacher(params: TeacherParams, device: str) -> tuple[Teacher, bool]:
    """Load a teacher, and return whether it has its own weights.

    If published weights are not available offline, random weights take the same time.

    Raises:
        UsageError: unknown names, or a hub model that was never downloaded.
    """
    with _quiet():
        try:
            return load_teacher(params, device), True
        except UsageError:
            if params.model.startswith((LOCAL, HUB)) or params.pretrained == RANDOM:
                raise
            return load_teacher(params.model_copy(update={"pretrained": RANDOM}), device), False


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress open_clip's log about failed downloads."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def measure_teacher(
    teacher: Teacher, load_seconds: float, texts: Sequence[str], batch: int, seconds: float
) -> TeacherSpeed:
    """Time both towers with batch sizes that double until the time is up."""
    size = teacher.identity.image_size

    def images(rows: int) -> None:
        teacher.embed_images(np.zeros((rows, size, size, 3), np.uint8))

    with measure_peak() as peak:
        image = fastest_per_row(images, batch, seconds)
    text = 0.0
    if teacher.identity.reads_text:
        tokens = teacher.tokenize(list(texts) or ["a photo of a thing"])

        def read(rows: int) -> None:
            teacher.embed_tokens(np.resize(tokens, (rows, tokens.shape[1])))

        text = fastest_per_row(read, batch, seconds).seconds
    return TeacherSpeed(
        teacher.device.type,
        teacher.identity.dim,
        teacher.identity.context_length,
        load_seconds,
        image.seconds,
        text,
        peak.grown,
        image.rows,
    )


def measure_preprocessing(teacher: Teacher, packed: PackedSplit, views: ViewParams, workers: int) -> float:
    """Return the seconds to decode an image and make its views, with as many threads as `embed` uses."""
    samples = list(islice(packed.read(0, "size"), packed.rows))
    decoding = chunked_map if teacher.device.type == "cpu" else prefetch_map
    numbers = range(views.crops + 1)
    start = time.perf_counter()
    ready = decoding(
        lambda sample: preprocess(sample, numbers, views, teacher.identity), samples, workers, len(samples)
    )
    done = sum(1 for _ in ready)
    return (time.perf_counter() - start) / max(done, 1)


def count_embedded(packed: PackedSplit, facts: Mapping[str, Any], views: ViewParams, store: Path) -> int:
    """Return the number of finished embeddings of a split in the store: of views, captions and foils."""
    works = plan_parts(packed, facts, views, WorkStore(store, read_only=True))
    rows = [shard.rows for shard in packed.shards]
    parts = [work for work in works if work.name != PROMPTS]
    return sum(rows[n] for work in parts for n in range(work.shards) if (work.folder / shard_name(n)).exists())
