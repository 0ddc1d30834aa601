"""Make shards: decoding runs ahead of the teacher; each finished shard is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from cache.manifest import (
    CAPTIONS,
    FOIL_WORDS,
    FOILS,
    PATCHES,
    PROMPTS,
    TEXT,
    WORDS,
    is_further_captions,
    is_view,
    view_name,
    view_number,
)
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
from pipeline.teacher.parts import PartBuild
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
    """Shards to make, with everything that a worker on any machine needs."""

    packed: PackedSplit
    teacher: TeacherParams
    views: ViewParams
    parts: tuple[PartBuild, ...]
    missing: dict[int, tuple[str, ...]]
    """Names of the missing parts of each packed shard."""
    batch: int
    runtime: Runtime
    grid: int | None = None
    codec: TokenCodec | None = None
    """How tokens are computed and encoded, if requested."""

    def reads_samples(self, number: int) -> bool:
        """Return whether a shard needs its samples; additional captions alone are stored elsewhere."""
        return not all(is_further_captions(name) for name in self.missing[number])

    def for_shard(self, number: int) -> EmbedJob:
        """Return the job of a single shard."""
        return replace(self, missing={number: self.missing[number]})

    def missing_views(self, number: int) -> list[int]:
        """Return the missing views of a shard by number, and the first view if its tokens are missing."""
        numbers = (view_number(name) for name in self.missing[number])
        return sorted({number for number in numbers if number is not None})

    def skips(self, number: int) -> int:
        """Return the number of these views that are needed only for tokens."""
        return int(PATCHES in self.missing[number] and view_name(0) not in self.missing[number])

    @property
    def embeddings(self) -> int:
        """Return the number of images, times views, and of images with captions to embed."""
        return sum(self.packed.shards[number].rows * len(parts) for number, parts in self.missing.items())


def missing_shards(works: Sequence[PartBuild]) -> dict[int, tuple[str, ...]]:
    """Return the missing parts of each packed shard; prompts are made with the first."""
    lacks: dict[int, list[str]] = {}
    for work in works:
        for number in sorted(set(range(work.shards)) - work.finished_shards().keys()):
            lacks.setdefault(number, []).append(work.name)
    return {number: tuple(names) for number, names in sorted(lacks.items())}


def embed_shards(job: EmbedJob, teacher: Teacher, advance: Callable[[int, str], None]) -> None:
    """Embed the missing parts of a job's shards.

    Decoding runs ahead of a teacher on a GPU, also across shards. If the teacher computes on the same cores, they
    decode between its batches.
    """
    clock = PhaseTimer()
    works = {work.name: work for work in job.parts}
    encoder = TokenEncoder(token_reader(teacher, job.grid), job.codec) if job.codec else None
    decoding = chunked_map if teacher.device.type == "cpu" else prefetch_map
    prepared = decoding(lambda item: _prepare(job, teacher, *item), _samples(job), job.runtime.workers, job.batch)
    with closing(prepared):
        for number, parts in job.missing.items():
            views = job.missing_views(number)
            rows = job.packed.shards[number].rows
            encode, skip = encoder.patches if encoder and PATCHES in parts else None, job.skips(number)
            samples = rows if job.reads_samples(number) else 0
            looked = embed_images(
                teacher, prepared, samples, batch=job.batch, clock=clock, advance=advance, encode=encode, skip=skip
            )
            for view, shard in zip(views[skip:], looked.images, strict=True):
                with clock.phase("write"):
                    works[view_name(view)].write(number, shard)
            for name in parts:
                if is_view(name):
                    continue
                with clock.phase("forward"):
                    text = _text_part(name, number, teacher, encoder, looked, job)
                with clock.phase("write"):
                    works[name].write(number, text)
                advance(rows, clock.summary())


def _text_part(  # noqa: PLR0917  what one part may be made of
    name: str, number: int, teacher: Teacher, encoder: TokenEncoder | None, looked: EmbeddedImages, job: EmbedJob
) -> Shard:
    """Return the shard of a part that is made after the images."""
    if is_further_captions(name):
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
"""Parts that are made after the images of a shard."""


def _samples(job: EmbedJob) -> Iterator[tuple[int, Sample]]:
    numbers = (number for number in job.missing if job.reads_samples(number))
    return ((number, sample) for number in numbers for sample in job.packed.read(number, job.runtime.verify))


def _prepare(job: EmbedJob, teacher: Teacher, number: int, sample: Sample) -> PreprocessedSample:
    return preprocess(sample, job.missing_views(number), job.views, teacher.identity)
