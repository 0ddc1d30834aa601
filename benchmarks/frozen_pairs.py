"""Batches for a text tower on frozen features: features, texts, and which text is true of which image.

Captioned photos, photos of classes, and features drawn for classes of which there are no photos (pseudo_features.py);
some of them in a rule-made style (styles.py), with words for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from benchmarks.frozen_features import FeatureSet
from benchmarks.imagenet_words import KINDS, ClassWords, imagenet_classes
from benchmarks.photo_sets import Photo
from benchmarks.pseudo_features import PseudoFeatures
from benchmarks.styles import STYLE_TEMPLATES
from pipeline.data.prompts import TEMPLATES


@dataclass(frozen=True)
class Pairs:
    """A batch: features, a text for each, and which text is true of which row."""

    features: Float[np.ndarray, "b f"]
    texts: list[str]
    positives: Bool[np.ndarray, "b b"]
    """[i, j]: text j is true of features i."""


@dataclass(frozen=True)
class PairSampler:
    """Draws the batch of a step from captioned photos, photos of classes, and pseudo-features of all classes."""

    captioned: FeatureSet
    classed: FeatureSet
    pseudo: PseudoFeatures
    shares: tuple[float, float] = (0.45, 0.2)
    """Of captioned and of classed photos; pseudo-features fill the batch."""
    kind_share: float = 0.0
    """Of captioned photos that are told by a kind that their captions name, instead of by a caption."""

    def batch(self, step: int, rows: int, seed: int = 0) -> Pairs:
        """Return the batch of a step, a function of seed and step alone."""
        rng = np.random.default_rng([seed, step])
        counts = [round(share * rows) for share in self.shares]
        drawn = [
            self._captioned(rng, counts[0]),
            self._classed(rng, counts[1]),
            self._pseudo(rng, rows - sum(counts)),
        ]
        columns: list[list[Any]] = [[item for part in drawn for item in part[i]] for i in range(4)]
        features, texts, topics, truths = columns
        positives = np.array([[topic in truth for topic in topics] for truth in truths])
        return Pairs(np.stack(features), texts, positives)

    def _captioned(self, rng: np.random.Generator, count: int) -> _Rows:
        chosen = rng.choice(len(self.captioned.notes), min(count, len(self.captioned.notes)), replace=False)
        notes = [self.captioned.notes[i] for i in chosen]
        captions = [self._caption(note, rng) for note in notes]
        truths = [{note.concept, *mentioned(note.words)} for note in notes]
        features, views = _views(self.captioned, chosen, rng)
        texts = ([text for text, _ in captions], [topic for _, topic in captions], truths)
        return (features, *_in_styles(views, texts, rng))

    def _caption(self, note: Photo, rng: np.random.Generator) -> tuple[str, str]:
        """Return a text of a captioned photo and what it is about."""
        kinds = sorted(mentioned(note.words)) if self.kind_share else []
        if kinds and rng.random() < self.kind_share:
            kind = str(rng.choice(kinds))
            return f"a {rng.choice(KINDS[kind][0])}", kind
        return str(rng.choice(note.words)), note.concept

    def _classed(self, rng: np.random.Generator, count: int) -> _Rows:
        chosen = rng.choice(len(self.classed.notes), min(count, len(self.classed.notes)), replace=False)
        classes = {words.wnid: words for words in imagenet_classes()}
        known = [classes.get(self.classed.notes[i].concept) for i in chosen]
        words = [
            found or ClassWords(note.concept, note.words, note.words[0], None)
            for found, note in zip(known, (self.classed.notes[i] for i in chosen), strict=True)
        ]
        features, views = _views(self.classed, chosen, rng)
        return (features, *_in_styles(views, _class_texts(words, rng), rng))

    def _pseudo(self, rng: np.random.Generator, count: int) -> _Rows:
        classes = imagenet_classes()
        kinds = [kind for kind, (_, ranges) in KINDS.items() if ranges]
        by_kind = [[n for n, words in enumerate(classes) if words.kind == kind] for kind in kinds]
        chosen = [
            int(rng.choice(by_kind[rng.integers(len(by_kind))]) if i % 2 else rng.integers(len(classes)))
            for i in range(count)
        ]
        features, views = self.pseudo.draw(chosen, rng)
        return (list(features), *_in_styles(views, _class_texts([classes[n] for n in chosen], rng), rng))


_Texts = tuple[list[str], list[str], list[set[str]]]
"""Texts, what each is about, and what is true of the image at its place."""
_Rows = tuple[list[np.ndarray], list[str], list[str], list[set[str]]]
"""Features, and the three lists of `_Texts`."""


def mentioned(captions: Sequence[str]) -> set[str]:
    """Return the kinds of which a caption has a word."""
    words = set(" ".join(captions).lower().replace(".", " ").replace(",", " ").split())
    return {kind for kind, (names, _) in KINDS.items() if words & {*names, *(f"{name}s" for name in names)}}


def _views(photos: FeatureSet, chosen: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], list[str]]:
    names = list(photos.views)
    views = [names[rng.integers(len(names))] for _ in chosen]
    return [photos.views[view][i] for view, i in zip(views, chosen, strict=True)], views


def _in_styles(views: list[str], rows: _Texts, rng: np.random.Generator) -> _Texts:
    """Name the style in half of the texts of styled views; a text that names one is true of images in it alone."""
    texts, topics, truths = rows
    for i, view in enumerate(views):
        if view in STYLE_TEMPLATES:
            truths[i] = truths[i] | {_styled_topic(topic, view) for topic in truths[i]}
            if rng.random() < 0.5:
                texts[i] = str(rng.choice(STYLE_TEMPLATES[view])).format(c=_phrase(texts[i]))
                topics[i] = _styled_topic(topics[i], view)
    return texts, topics, truths


def _styled_topic(topic: str, style: str) -> str:
    return f"{topic} as {style}"


def _phrase(text: str) -> str:
    """Return a sentence as part of another one: a template's own medium ("a photo of …") goes, and the full stop."""
    phrase = text.strip().rstrip(" .")
    return re.sub(r"^an? ([a-z-]+ )*?photo of ", "", phrase[:1].lower() + phrase[1:])


def _class_texts(words: Sequence[ClassWords], rng: np.random.Generator) -> _Texts:
    """Return for each class a text, what the text is about, and what is true of the class."""
    texts, topics = [], []
    for each in words:
        about = rng.random()
        template = str(rng.choice(TEMPLATES["cifar10"]))
        if each.kind and about < 0.45:
            texts.append(template.format(c=rng.choice(KINDS[each.kind][0])))
        else:
            texts.append(each.definition if about > 0.9 else template.format(c=rng.choice(each.names)))
        topics.append(each.kind if each.kind and about < 0.45 else each.wnid)
    return texts, topics, [{each.wnid, each.kind or each.wnid} for each in words]
