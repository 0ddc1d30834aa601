"""Foils made by rules from human captions, each with one error.

Rules do not use the image. Foils can be implausible (an orange dog), and denied objects can be present (the second
number may also fit). The blind score of a set measures how many choices can be solved without the image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, SerializeAsAny

from cache.fingerprint import sha256
from pipeline.data.sources.base import LoadedSample, Source
from pipeline.data.sources.listing import Choice, Entry, FileSpan, Listing, SamplePlan
from pipeline.project.errors import UsageError
from pipeline.project.remote.paths import RemotePath

Rule = Literal[
    "swap-attribute", "replace-attribute", "replace-object", "replace-relation", "replace-number", "negation"
]
ATTRIBUTES = (
    ("black", "white", "red", "blue", "yellow", "green", "brown", "pink", "orange", "purple"),
    ("big", "small"),
    ("large", "little"),
    ("tall", "short"),
    ("young", "old"),
    ("wet", "dry"),
    ("dark", "bright"),
)
"""Families of words that are exchanged."""
OBJECTS = (
    "dog",
    "cat",
    "horse",
    "bird",
    "cow",
    "boy",
    "girl",
    "car",
    "truck",
    "bus",
    "bicycle",
    "boat",
    "train",
    "ball",
    "table",
    "chair",
    "tree",
    "fence",
    "beach",
    "snow",
    "pool",
    "street",
    "guitar",
    "umbrella",
    "hat",
    "skateboard",
)
NUMBERS = ("two", "three", "four", "five", "six")
RELATIONS = (
    ("to the left of", "to the right of"),
    ("above", "below"),
    ("over", "under"),
    ("inside", "outside"),
    ("in front of", "behind"),
    ("on top of", "underneath"),
    ("into", "out of"),
    ("up", "down"),
)


def swapped_choices(captions: Sequence[str], rules: Sequence[Rule], seed: int = 0) -> tuple[Choice, ...]:
    """Return one choice per caption and applicable rule.

    The replacement depends only on caption, rule and seed. A word that occurs in any caption of the image is never
    inserted.
    """
    vocabulary = {word for caption in captions for word in _words(caption)}
    choices = []
    for rule in rules:
        for caption in captions:
            pair = _swap(rule, caption, vocabulary, _number(f"{seed} {rule} {caption}"))
            if pair is not None and pair[0] != pair[1]:
                choices.append(Choice(pair[0], (pair[1],), rule))
    return tuple(choices)


def _swap(rule: Rule, caption: str, vocabulary: set[str], chance: int) -> tuple[str, str] | None:
    if rule == "swap-attribute":
        return _exchanged(caption)
    if rule == "replace-relation":
        return _turned(caption)
    if rule == "negation":
        return _denied(caption, vocabulary, chance)
    families = {"replace-attribute": ATTRIBUTES, "replace-object": (OBJECTS,), "replace-number": (NUMBERS,)}[rule]
    for family in families:
        for word in _words(caption):
            others = [other for other in family if other not in vocabulary]
            if word in family and others:
                return caption, _replace(caption, {word: others[chance % len(others)]})
    return None


def _exchanged(caption: str) -> tuple[str, str] | None:
    """Exchange the first two different words of a family of attributes."""
    for family in ATTRIBUTES:
        members = list(dict.fromkeys(word for word in _words(caption) if word in family))
        if len(members) >= 2:
            return caption, _replace(caption, {members[0]: members[1], members[1]: members[0]})
    return None


def _turned(caption: str) -> tuple[str, str] | None:
    for pair in RELATIONS:
        for word, other in (pair, pair[::-1]):
            if re.search(rf"\b{word}\b", caption, flags=re.IGNORECASE):
                return caption, _replace(caption, {word: other})
    return None


def _denied(caption: str, vocabulary: set[str], chance: int) -> tuple[str, str] | None:
    """Deny an absent object in the caption and a present one in the foil, so that both have the same words."""
    present = [word for word in _words(caption) if word in OBJECTS]
    absent = [word for word in OBJECTS if word not in vocabulary and f"{word}s" not in vocabulary]
    if not present or not absent:
        return None
    here, gone = present[chance % len(present)], absent[chance % len(absent)]
    return f"a {here} but no {gone}", f"a {gone} but no {here}"


def _replace(caption: str, words: dict[str, str]) -> str:
    pattern = "|".join(rf"\b{re.escape(word)}\b" for word in words)
    return re.sub(pattern, lambda match: words[match[0].lower()], caption, flags=re.IGNORECASE)


def _words(caption: str) -> list[str]:
    return re.findall(r"[a-z]+", caption.lower())


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class CaptionSwaps(Source):
    """`{source: swaps, of: {source: karpathy, …}}`: a choice set made by rule from a captioned source."""

    source: Literal["swaps"]
    of: SerializeAsAny[Source]
    rules: tuple[Rule, ...] = Field(default=get_args(Rule), min_length=1)
    seed: int = 0
    max_words: int | None = Field(default=None, ge=1, exclude_if=lambda count: count is None)
    """Captions of more words are not used: a teacher's context may be too short for their tokens."""

    def listing(self, key: str) -> Listing:
        """List the source, and the version of the rules."""
        listing = self.of.listing(f"{key}.of")
        if listing.classes:
            raise UsageError(f"params: '{key}.of': a zero-shot set has no captions to make foils from")
        return Listing(listing.files, (*listing.metadata_files, (RULES, sha256(Path(__file__)))))

    def plan(self, listing: Listing) -> SamplePlan:
        """Return the images for which a rule applies.

        Raises:
            UsageError: the source has no captions before its images are read, or no rule applies.
        """
        plan = self.of.plan(self._own(listing))
        entries = tuple(entry for entry in plan.entries if self._choices(entry.captions))
        if not entries:
            raise UsageError(
                f"source swaps: no choice for any of {len(plan.entries)} images: {', '.join(self.rules)} found no word "
                "to change, or the captions lie in tars: name a karpathy, coco or table source"
            )
        return SamplePlan(entries, plan.skipped)

    def load(self, entry: Entry) -> LoadedSample:
        """Read one image."""
        loaded = self.of.load(entry)
        return LoadedSample(loaded.image_data, choices=self._choices(loaded.captions or ()))

    def image_span(self, entry: Entry) -> tuple[Path | RemotePath, FileSpan] | None:
        """Return the span of the image in the captioned source."""
        return self.of.image_span(entry)

    def content_facts(self, listing: Listing) -> dict[str, str]:
        """The version of the rules, and the facts of the source."""
        return {**self.of.content_facts(self._own(listing)), RULES: dict(listing.metadata_files)[RULES]}

    def locations(self, listing: Listing) -> frozenset[str]:
        """Return the locations of the source's images."""
        return self.of.locations(self._own(listing))

    def _choices(self, captions: Sequence[str]) -> tuple[Choice, ...]:
        """Return the choices of captions that are short enough; a word of the others is still of the image."""
        choices = swapped_choices(captions, self.rules, self.seed)
        if self.max_words is None:
            return choices
        return tuple(choice for choice in choices if len(choice.caption.split()) <= self.max_words)

    def _own(self, listing: Listing) -> Listing:
        return Listing(listing.files, tuple(document for document in listing.metadata_files if document[0] != RULES))


RULES = "caption_swaps.py"
