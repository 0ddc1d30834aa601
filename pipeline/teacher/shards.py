"""Embed the images, captions and prompts of one packed shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from cache.shard import ImageShard, PromptShard, TextShard
from cache.token_codecs import EncodedTokens
from pipeline.data.errors import bad_image_as_failure
from pipeline.data.images import decode
from pipeline.data.packing.packed import Sample
from pipeline.data.prompts import render_prompts
from pipeline.data.sources.listing import Choice
from pipeline.data.views import FULL_BOX, View, ViewParams, apply_view, view_of
from pipeline.project.errors import PipelineError
from pipeline.project.progress import PhaseTimer
from pipeline.teacher.model import Teacher, TeacherIdentity, to_numpy


@dataclass(frozen=True)
class PreprocessedSample:
    """A sample with the pixels of its missing views."""

    key: str
    label: int | None
    captions: tuple[str, ...]
    views: tuple[View, ...]
    pixels: tuple[UInt8[np.ndarray, "s s 3"], ...]
    choices: tuple[Choice, ...] = ()


def preprocess(
    sample: Sample, numbers: Sequence[int], params: ViewParams, identity: TeacherIdentity
) -> PreprocessedSample:
    """Decode a sample once and make the requested views.

    Raises:
        PipelineError: it cannot be decoded.
    """
    if not numbers:
        return PreprocessedSample(sample.key, sample.label, sample.captions, (), (), sample.choices)
    with bad_image_as_failure(sample.key, sample.source):
        image = decode(sample.image)
    squash = identity.preprocess["resize_mode"] == "squash"
    views = tuple(
        View(FULL_BOX) if squash and index == 0 else view_of(params, sample.key, index, *image.size)
        for index in numbers
    )
    size, interpolation = identity.image_size, identity.preprocess["interpolation"]
    return PreprocessedSample(
        sample.key,
        sample.label,
        sample.captions,
        views,
        tuple(apply_view(image, view, size, interpolation) for view in views),
        sample.choices,
    )


@dataclass(frozen=True)
class EmbeddedImages:
    """Embeddings of one packed shard: one image shard per view, and the captions."""

    keys: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    images: tuple[ImageShard, ...]
    choices: tuple[tuple[Choice, ...], ...] = ()
    patches: tuple[EncodedTokens, ...] = ()
    """Encoded tokens of the first view, one item per batch, if requested."""


def embed_images(
    teacher: Teacher,
    prepared: Iterator[PreprocessedSample],
    rows: int,
    *,
    batch: int,
    clock: PhaseTimer,
    advance: Callable[[int, str], None],
    encode: Callable[[UInt8[np.ndarray, "b s s 3"]], tuple[torch.Tensor | None, EncodedTokens]] | None = None,
    skip: int = 0,
) -> EmbeddedImages:
    """Embed the next `rows` prepared samples, in batches that never cross this shard.

    After each batch, `advance` counts the views it decoded. `encode` receives the pixels of the first view; the first
    `skip` views are not embedded. If `encode` also returns the embeddings, these are used, so that the view is not
    passed twice.

    Raises:
        PipelineError: the teacher's output has NaN, infinity or zeros.
    """
    remaining = islice(prepared, rows)
    samples: list[PreprocessedSample] = []
    embedded: list[list[torch.Tensor]] = []
    patches: list[EncodedTokens] = []
    while True:
        with clock.phase("data"):
            chunk = list(islice(remaining, batch))
            pixels = [np.stack(view) for view in zip(*(sample.pixels for sample in chunk), strict=True)]
        if not chunk:
            break
        with clock.phase("forward"):
            first, coded = encode(pixels[0]) if encode else (None, None)
            patches += [coded] if coded else []
            views = [first] if first is not None and not skip else []
            embedded.append(views + [teacher.forward_images(view) for view in pixels[skip + len(views) :]])
        # Free the pixels: a shard of eight views at 224 px would be 600 MB.
        samples += [replace(sample, pixels=()) for sample in chunk]
        advance(len(chunk) * len(pixels), clock.summary())
    keys = tuple(sample.key for sample in samples)
    with clock.phase("forward"):  # a GPU runs while the next batches are prepared; this waits for it
        embeddings = [to_numpy(torch.cat(view)) for view in zip(*embedded, strict=True)]
    for embedding in embeddings:
        check_finite(embedding, keys)
    images = tuple(_image_shard(samples, number, embedding) for number, embedding in enumerate(embeddings, start=skip))
    captions, choices = (tuple(getattr(sample, name) for sample in samples) for name in ("captions", "choices"))
    return EmbeddedImages(keys, captions, images, choices, tuple(patches))


def _image_shard(samples: Sequence[PreprocessedSample], number: int, embedding: Float[np.ndarray, "n d"]) -> ImageShard:
    labels = [sample.label for sample in samples]
    return ImageShard(
        tuple(sample.key for sample in samples),
        embedding,
        np.array([sample.views[number].box for sample in samples], np.float32).reshape(-1, 4),
        np.array([sample.views[number].flip for sample in samples], bool),
        None if None in labels else np.array(labels, np.int64),
    )


def embed_captions(teacher: Teacher, looked: EmbeddedImages, batch: int) -> TextShard:
    """Embed all captions of a shard."""
    captions = [caption for captions in looked.captions for caption in captions]
    counts = [len(captions) for captions in looked.captions]
    tokens = teacher.tokenize(captions)
    embedding = embed_unique_texts(teacher, tokens, batch)
    check_finite(embedding, np.repeat(np.array(looked.keys), counts))
    digests = np.array([sha256(caption.encode()).hexdigest() for caption in captions], "S64")
    return TextShard(looked.keys, embedding, np.cumsum([0, *counts], dtype=np.int64), tokens, digests)


def foil_shard(teacher: Teacher, looked: EmbeddedImages, batch: int) -> TextShard:
    """Embed all foils of a shard.

    Its keys are those of captions, `<image>#<number>`, so the offsets assign foils to captions.
    """
    keyed = zip(looked.keys, looked.choices, strict=True)
    foils = {f"{key}#{i}": choice.foils for key, choices in keyed for i, choice in enumerate(choices)}
    return embed_captions(teacher, EmbeddedImages(tuple(foils), tuple(foils.values()), ()), batch)


def embed_prompts(teacher: Teacher, classes: tuple[str, ...], templates: tuple[str, ...], batch: int) -> PromptShard:
    """Embed every class in every template."""
    prompts = render_prompts(classes, templates)
    embedding = embed_unique_texts(teacher, teacher.tokenize(prompts), batch)
    check_finite(embedding, prompts)
    return PromptShard(embedding, classes, templates)


def embed_unique_texts(teacher: Teacher, tokens: Int[np.ndarray, "m l"], batch: int) -> Float[np.ndarray, "m d"]:
    """Embed distinct texts only once, sorted by length, so that there is little padding."""
    unique, inverse = np.unique(tokens, axis=0, return_inverse=True)
    order = np.argsort(unique.argmax(axis=1), kind="stable")  # the end-of-text token has the highest id
    embedding = np.empty((len(unique), teacher.identity.dim), np.float32)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        embedding[rows] = teacher.embed_tokens(unique[rows])
    return embedding[inverse.reshape(-1)]


def check_finite(embedding: Float[np.ndarray, "n d"], keys: Sequence[str] | Int[np.ndarray, " n"]) -> None:
    """Refuse NaN, infinity and rows of zeros, and name the sample.

    Raises:
        PipelineError: there are some.
    """
    wrong = np.flatnonzero(~np.isfinite(embedding).all(axis=1) | ~embedding.any(axis=1))
    if wrong.size:
        named = ", ".join(f"'{keys[row]}'" for row in wrong[:5])
        raise PipelineError(
            f"the teacher answered with NaN, infinity or only zeros for {wrong.size} of {len(embedding)}: {named}"
            f"{', …' if wrong.size > 5 else ''}. Nothing of this shard was written. "
            "Try embed.teacher.precision: fp32, and check its weights."
        )
