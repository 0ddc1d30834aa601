"""The `relate:` section: which scorers are fitted, on what, and how long."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.project.params import ParamsSection
from pipeline.relations.functional_words import PUBLISHED, Column

Kind = Literal["cosine", "late", "labclip", "dcsm", "dcsm-published"]
TOKENLESS = ("cosine", "labclip")
"""Kinds that read pooled vectors only: any cache will do."""
FITTED = ("labclip", "dcsm", "dcsm-published")


class ScorerParams(ParamsSection):
    """`relate.<scorer>:`, one scorer."""

    kind: Kind
    epochs: int = Field(default=6, ge=1)
    groups: int = Field(default=4, ge=1)
    """Groups of questions in a step; every image of a step is scored against every text of it."""
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = Field(default=0, ge=0)
    columns: int = Field(default=32, ge=2)
    """Word columns of a map; a caption of more tokens is refused."""
    functional_words: tuple[str, ...] = PUBLISHED
    functional_column: Column = "word"
    """Where a functional row goes: the word's own column, that of the published code, or nowhere."""
    shuffle_patches: bool = False
    """A control: every image's patches in an order of its own, so that a map says what is there and not where."""
