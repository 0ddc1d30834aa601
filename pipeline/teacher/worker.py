"""Make shards: decoding runs ahead, the teacher looks, the finished shard is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from cache.manifest import CAPTIONS, view_name
from cache.shard import Shard
from cache.token_codecs import TokenCodec
from pipeline.data.packing.packed import PackedSplit, Sample
from pipeline.data.prefetch import chunked_map, prefetch_map
from pipeline.data.views import ViewParams
from pipeline.project.errors import PipelineError
from pipeline.project.params import Runtime
from pipeline.project.progress import PhaseTimer
from pipeline.teacher.further_captions import embed_further_captions
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.parts import FOIL_WORDS, FOILS, PATCHES, PROMPTS, TEXT, WORDS, PartBuild
from pipeline.teacher.shards import (
    EmbeddedImages,
    PreprocessedSample,
    embed_captions,
    embed_images,
    embed_prompts,
    foil_shard,
    preprocess,
)
from pipeline.teacher.token_shards import TokenEncoder
from pipeline.teacher.tokens import token_reader


@dataclass(frozen=True)
class EmbedJob:
    """Shards to make, and everything that a worker on any machine needs for it."""

    packed: PackedSplit
    teacher: TeacherParams
    views: ViewParams
    parts: tuple[PartBuild, ...]
    missing: dict[int, tuple[str, ...]]
    """Names of the parts that each packed shard lacks."""
    batch: int
    runtime: Runtime
    grid: int | None = None
    codec: TokenCodec | None = None
    """How tokens are read and kept, where they are asked for."""

    def reads_samples(self, number: int) -> bool:
        """Return whether a shard lacks anything but further captions, which do not lie in it."""
        return not all(name.startswith(CAPTIONS) for name in self.missing[number])

    def for_shard(self, number: int) -> EmbedJob:
        """Return the job of a single shard."""
        return replace(self, missing={number: self.missing[number]})

    def missing_views(self, number: int) -> list[int]:
        """Return the views that a shard lacks, by their number, and the first where its tokens are lacking."""
        names = [name for name in self.missing[number] if name.startswith(("image/", "patches/"))]
        return sorted({int(name.rpartition("-")[2]) for name in names})

    def skips(self, number: int) -> int:
        """Return how many of these views are shown for their tokens alone."""
        return int(PATCHES in self.missing[number] and view_name(0) not in self.missing[number])

    @property
    def embeddings(self) -> int:
        """Return how many images of how many views, and images with captions, there are to do."""
        return sum(self.packed.shards[number].rows * len(parts) for number, parts in self.missing.items())


def missing_shards(works: Sequence[PartBuild]) -> dict[int, tuple[str, ...]]:
    """Return the names of the parts that each packed shard still lacks; prompts are made beside the first."""
    lacks: dict[int, list[str]] = {}
    for work in works:
        for number in sorted(set(range(work.shards)) - work.finished_shards().keys()):
            lacks.setdefault(number, []).append(work.name)
    return {number: tuple(names) for number, names in sorted(lacks.items())}


def embed_shards(job: EmbedJob, teacher: Teacher, advance: Callable[[int, str], None]) -> None:
    """Embed what the shards of a job lack.

    Decoding runs ahead of a teacher on a GPU, over the ends of shards too. Where the teacher computes on the same
    cores, they decode between its batches.
    """
    clock = PhaseTimer()
    works = {work.name: work for work in job.parts}
    encoder = TokenEncoder(token_reader(teacher, job.grid), job.codec) if job.codec else None
    decoding = chunked_map if teacher.device.type == "cpu" else prefetch_map
    prepared = decoding(lambda item: _prepare(job, teacher, *item), _samples(job), job.runtime.workers, job.batch)
    with closing(prepared):
        for number, parts in job.missing.items():
            views = job.missing_views(number)

            def step(rows: int, done: int = len(views)) -> None:
                advance(rows * done, clock.summary())

            rows = job.packed.shards[number].rows
            encode, skip = encoder.patches if encoder and PATCHES in parts else None, job.skips(number)
            samples = rows if job.reads_samples(number) else 0
            looked = embed_images(
                teacher, prepared, samples, batch=job.batch, clock=clock, step=step, encode=encode, skip=skip
            )
            for view, shard in zip(views[skip:], looked.images, strict=True):
                with clock.phase("write"):
                    works[view_name(view)].write(number, shard)
            for name in parts:
                if name.startswith("image/"):
                    continue
                with clock.phase("forward"):
                    text = _text_part(name, number, teacher, encoder, looked, job)
                with clock.phase("write"):
                    works[name].write(number, text)
                advance(rows, clock.summary())


def _text_part(  # noqa: PLR0917  what one part may be made of
    name: str, number: int, teacher: Teacher, encoder: TokenEncoder | None, looked: EmbeddedImages, job: EmbedJob
) -> Shard:
    """Return the shard of a part that is made after the images were seen."""
    if name.startswith(CAPTIONS):
        return embed_further_captions(teacher, job.packed, name.removeprefix(CAPTIONS), number, job.batch)
    return _TEXT_PARTS[name](teacher, encoder, looked, job)


def _patches(_teacher: Teacher, encoder: TokenEncoder | None, looked: EmbeddedImages, _job: EmbedJob) -> Shard:
    return _required(encoder).patch_shard(looked.keys, looked.patches)


def _words(_teacher: Teacher, encoder: TokenEncoder | None, looked: EmbeddedImages, job: EmbedJob) -> Shard:
    captions = [caption for captions in looked.captions for caption in captions]
    return _required(encoder).word_shard(looked.keys, captions, job.batch)


def _foil_words(_teacher: Teacher, encoder: TokenEncoder | None, looked: EmbeddedImages, job: EmbedJob) -> Shard:
    choices = [choice for choices in looked.choices for choice in choices]
    foils = [foil for choice in choices for foil in choice.foils]
    _required(encoder).check_lengths([*(choice.caption for choice in choices), *foils])
    return _required(encoder).word_shard(looked.keys, foils, job.batch)


def _required(encoder: TokenEncoder | None) -> TokenEncoder:
    if encoder is None:
        raise PipelineError("embed: a part of tokens without a codec")
    return encoder


_TEXT_PARTS: dict[str, Callable[[Teacher, TokenEncoder | None, EmbeddedImages, EmbedJob], Shard]] = {
    TEXT: lambda teacher, _, looked, job: embed_captions(teacher, looked, job.batch),
    PROMPTS: lambda teacher, _, __, job: embed_prompts(teacher, job.packed.classes, job.packed.templates, job.batch),
    FOILS: lambda teacher, _, looked, job: foil_shard(teacher, looked, job.batch),
    PATCHES: _patches,
    WORDS: _words,
    FOIL_WORDS: _foil_words,
}
"""What is made of a shard after its images were seen."""


def _samples(job: EmbedJob) -> Iterator[tuple[int, Sample]]:
    numbers = (number for number in job.missing if job.reads_samples(number))
    return ((number, sample) for number in numbers for sample in job.packed.read(number, job.runtime.verify))


def _prepare(job: EmbedJob, teacher: Teacher, number: int, sample: Sample) -> PreprocessedSample:
    return preprocess(sample, job.missing_views(number), job.views, teacher.identity)
