"""Training targets: cached embeddings in a target space, whitened once or per batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64

from cache.manifest import CAPTIONS, TEXT
from cache.reader import EmbeddingStore
from cache.shard import PromptShard
from pipeline.evaluation.scoring_rules import prompt_vectors, select_templates
from pipeline.project.errors import UsageError
from pipeline.students.inputs.caption_mix import CaptionSet, first_captions, representative_rows
from pipeline.students.inputs.patch_targets import PatchTargets
from pipeline.students.inputs.whitened_rows import CaptionTokenRows, WhitenedRows, WhitenedViews, measured, take_columns
from pipeline.students.losses.rowwise import TargetStats, measure_targets
from pipeline.students.text_tower import truncate_tokens
from pipeline.whitening.spaces import Head, TargetSpace


@dataclass(frozen=True)
class Targets:
    """All images, views and captions in one target space: arrays, or rows that are whitened on access."""

    image: Float[np.ndarray, "v n k"]
    boxes: Float[np.ndarray, "v n 4"]
    flips: Bool[np.ndarray, "v n"]
    text: Float[np.ndarray, "m k"] | None
    offsets: Int64[np.ndarray, " n+1"] | None
    """Captions of image i are rows offsets[i] … offsets[i+1] of `text`."""
    tokens: Int32[np.ndarray, "m l"] | None = None
    """Token ids of the same captions, for a student with a text tower."""
    labels: Int64[np.ndarray, " n"] | None = None
    classes: Float[np.ndarray, "c k"] | None = None
    """One unit vector per class, the mean of its prompts, for losses over labels."""
    domains: Float[np.ndarray, "c j k"] | None = None
    """One unit vector per class and domain, the mean of the domain's own prompts."""
    teacher_classes: Float[np.ndarray, "c k"] | None = None
    """Class vectors of the teacher's own predictions, if they differ from `classes` (in a placebo)."""
    patches: PatchTargets | None = None
    """The teacher's patch tokens, for the loss `dense`."""
    heads: tuple[Head, ...] = ()
    """For several teachers with one head each: the heads, in the order of their parts of a target."""
    caption_files: tuple[CaptionSet, ...] = ()
    """Further captions that replace the images' own in a share of the steps."""

    @cached_property
    def image_stats(self) -> TargetStats:
        """Statistics of all image targets, measured once; on a sample if they are not in memory."""
        return measure_targets(measured(self.image))

    @cached_property
    def text_stats(self) -> TargetStats | None:
        """Statistics of all caption targets; None without captions."""
        return None if self.text is None else measure_targets(measured(self.text_sample))

    @cached_property
    def by_head(self) -> tuple[Targets, ...]:
        """The targets of each head, or these themselves; texts only if the head's teacher has a text tower."""
        if not self.heads:
            return (self,)
        ends = np.cumsum([head.dim for head in self.heads])
        blocks = [slice(end - head.dim, end) for head, end in zip(self.heads, ends, strict=True)]
        return tuple(
            replace(
                self,
                image=take_columns(self.image, block),
                text=take_columns(self.text, block) if self.text is not None and head.reads_text else None,
                caption_files=tuple(each.columns(block) for each in self.caption_files if head.reads_text),
                heads=(),
            )
            for head, block in zip(self.heads, blocks, strict=True)
        )

    @property
    def own_captions(self) -> CaptionSet:
        """Return the captions that are the images' own."""
        if self.offsets is None:
            raise ValueError("these targets were loaded without captions")
        return CaptionSet(self.text, self.offsets, self.tokens)

    @property
    def text_sample(self) -> Any:
        """Return the texts that statistics are taken of: all of the images' own, or of all sets in proportion."""
        return representative_rows(self.own_captions, self.caption_files) if self.caption_files else self.text

    def first_texts(self, rows: Int64[np.ndarray, " b"]) -> Float[np.ndarray, "b k"]:
        """Return one text of each image, the same each time."""
        return first_captions(self.own_captions, self.caption_files, rows)


def load_targets(
    store: EmbeddingStore,
    space: TargetSpace,
    views: int | None = None,
    *,
    texts: bool = False,
    context: int | None = None,
    labels: bool = False,
    domains: Mapping[str, Sequence[str]] | None = None,
    resident: bool = True,
    mix: Mapping[str, float] | None = None,
) -> Targets:
    """Whiten a split's rows, all views or the first few: once or, if not `resident`, at every use.

    Captions are loaded only for losses or students that use them, with `context` tokens each, and further ones only for
    files with a share in the `mix`; labels, class vectors and those of the `domains` (the templates of each) only for
    losses that use them.

    Raises:
        UsageError: labels or captions are needed, and there are none.
    """
    if labels and not store.has_classes:
        names = "label, kd, rise_absolute and rise_relative"
        raise UsageError(f"distill.loss: {names} need classes, and the train split has none")
    texts = texts or context is not None
    if texts and not store.has_captions:
        raise UsageError(
            f"distill.loss: icl, crd, gd, afd and infonce need captions, and {store.folder} has none by "
            f"{store.manifest.teacher.get('model')}: use losses over images, such as fd"
        )
    count = store.views if views is None else min(views, store.views)
    rows = _resident_rows if resident else _whitened_rows
    image, text, tokens = rows(store, space, count, texts, context)
    return Targets(
        image=image,
        boxes=np.stack([store.boxes(view) for view in range(count)]),
        flips=np.stack([store.flips(view) for view in range(count)]),
        text=text,
        offsets=np.asarray(store.offsets) if texts else None,
        tokens=tokens,
        labels=store.labels if labels else None,
        classes=class_targets(store, space) if labels else None,
        domains=domain_targets(store, space, domains) if labels and domains else None,
        heads=space.heads,
        caption_files=tuple(
            _caption_set(store, space, f"{CAPTIONS}{name}", context, resident, share)
            for name, share in sorted((mix or {}).items())
            if texts and share
        ),
    )


def _caption_set(  # noqa: PLR0917  what one set is made of
    store: EmbeddingStore, space: TargetSpace, part: str, context: int | None, resident: bool, share: float
) -> CaptionSet:
    """Return the captions of a further file; raises MissingError where they are not embedded."""
    whiten = _resident_texts if resident else _whitened_texts
    return CaptionSet(*whiten(store, space, part, context), share=share)


def _resident_texts(store: EmbeddingStore, space: TargetSpace, part: str, context: int | None) -> tuple[Any, Any, Any]:
    tokens = None if context is None else truncate_tokens(caption_tokens(store, part), context)
    return space.to_target(store.text(part).load(), "text"), np.asarray(store.offsets_of(part)), tokens


def _whitened_texts(store: EmbeddingStore, space: TargetSpace, part: str, context: int | None) -> tuple[Any, Any, Any]:
    tokens = None if context is None else CaptionTokenRows(store, context, part)
    return WhitenedRows(store.text(part), space, "text"), np.asarray(store.offsets_of(part)), tokens


def _resident_rows(store: EmbeddingStore, space: TargetSpace, views: int, texts: bool, context: int | None) -> _Rows:
    image = np.stack([space.to_target(store.image(view).load(), "image") for view in range(views)])
    text = space.to_target(store.text().load(), "text") if texts else None
    return image, text, None if context is None else truncate_tokens(caption_tokens(store), context)


def _whitened_rows(store: EmbeddingStore, space: TargetSpace, views: int, texts: bool, context: int | None) -> _Rows:
    image = WhitenedViews([WhitenedRows(store.image(view), space, "image") for view in range(views)])
    text = WhitenedRows(store.text(), space, "text") if texts else None
    return image, text, None if context is None else CaptionTokenRows(store, context)


_Rows = tuple[Any, Any, Any]
"""Images, captions and tokens: arrays, or objects that are indexed like arrays."""


def with_patches(targets: Targets, store: EmbeddingStore, space: TargetSpace, *, undefined: bool) -> Targets:
    """Return targets with the teacher's patch tokens; `undefined`: no loss determines the norm of the output."""
    rows = store.patches()
    return replace(targets, patches=PatchTargets(rows, math.isqrt(rows.places), space, undefined))


def class_targets(store: EmbeddingStore, space: TargetSpace) -> Float[np.ndarray, "c k"]:
    """Return one unit vector per class in a target space: transform each prompt, normalize, average, normalize."""
    return class_vectors(store.prompts(), space)


def class_vectors(prompts: PromptShard, space: TargetSpace) -> Float[np.ndarray, "c k"]:
    """Return one unit vector per class in a target space, from these prompts.

    Without captions a space has no text transform; `raw`, the identity, uses that of images.
    """
    words = replace(space, text=space.image) if space.text is None and space.method == "raw" else space
    return prompt_vectors("target", prompts, {"target": words})


def domain_targets(
    store: EmbeddingStore, space: TargetSpace, domains: Mapping[str, Sequence[str]]
) -> Float[np.ndarray, "c j k"]:
    """Return one unit vector per class and domain: as `class_targets`, with the domain's own templates."""
    prompts = store.prompts()
    each = [class_vectors(select_templates(prompts, templates), space) for templates in domains.values()]
    return np.stack(each, axis=1)


def caption_tokens(store: EmbeddingStore, part: str = TEXT) -> Int32[np.ndarray, "m l"]:
    """Return the token ids of a split's captions, from the teacher's tokenizer."""
    tokens: Int32[np.ndarray, "m l"] = np.concatenate([np.asarray(shard.tokens) for shard in store.shards(part)])
    return tokens
