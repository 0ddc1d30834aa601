"""Choose the true caption of a picture with a student's tokens and a scorer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.reader import EmbeddingStore
from pipeline.data.user_images import load_center_view
from pipeline.deployment.exported_scorer import ExportedChooser
from pipeline.evaluation.model_files import check_arm
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import parse
from pipeline.project.terminal import printable
from pipeline.relations.cached_tokens import CachedTokens
from pipeline.relations.choice_sets import ChoiceSet, Question
from pipeline.relations.fitting import score_captions
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorer_files import load_scorer
from pipeline.relations.scorers import CosineScorer, TextTokens
from pipeline.students.checkpoint import load_student
from pipeline.students.dense_tokens import embed_places
from pipeline.students.inference import embed_pixels


@dataclass(frozen=True)
class CaptionChoice:
    """A picture and its captions, sorted by score, best first."""

    picture: Path
    scores: tuple[tuple[str, float], ...]
    cosine: str
    """The choice of plain cosine."""

    @property
    def line(self) -> str:
        """Return it for a terminal."""
        ranked = "; ".join(f"{caption} ({score:.2f})" for caption, score in self.scores)
        return printable(f"{self.picture}: {ranked}; plain cosine: {self.cosine}")


def choices_as_json(choices: Sequence[CaptionChoice]) -> str:
    """Return choices as JSON, one object a picture, the best caption first."""
    records = [
        {
            "path": str(choice.picture),
            "captions": [{"caption": caption, "score": round(score, 6)} for caption, score in choice.scores],
            "cosine": choice.cosine,
        }
        for choice in choices
    ]
    return json.dumps(records, indent=1, ensure_ascii=False)


def choose(
    pictures: Sequence[Path],
    captions: Sequence[str],
    scorer: str,
    folder: Path,
    *,
    splits: Sequence[str],
    layout: Layout,
) -> list[CaptionChoice]:
    """Score cached captions against any pictures; the teacher is not needed.

    Raises:
        UsageError: fewer than two captions, a caption that no choice set has, a student without tokens or of another
            teacher.
        CacheError: student, scorer or cache are missing or damaged.
        PipelineError: a picture cannot be read.
    """
    fitted, card = load_scorer(layout.scorer(scorer))
    student = load_student(folder)
    check_arm(folder, student.card, layout)
    if student.card["teacher"] != card["teacher"]:
        raise UsageError(f"choose: scorer '{scorer}' and {folder} are of two teachers: fit one on the student's own")
    params = parse(card["params"], f"{scorer}: params", ScorerParams)
    texts = _texts(captions, params, splits, layout)
    grid, size = math.isqrt(int(card["patches"])), int(student.card["image_size"])  # type: ignore[call-overload]
    answers = []
    for picture in pictures:
        pixels = load_center_view(picture, size)[None]
        patches = embed_places(student, pixels, grid) if grid else np.zeros((1, 0, 1), np.float32)
        pooled = embed_pixels(student, pixels)
        scores, cosine = (score_captions(one, pooled, patches, texts) for one in (fitted, CosineScorer()))
        ranked = sorted(zip(captions, scores, strict=True), key=lambda pair: -pair[1])
        answers.append(CaptionChoice(picture, tuple(ranked), captions[int(np.argmax(cosine))]))
    return answers


def choose_exported(
    pictures: Sequence[Path], captions: Sequence[str], folder: Path, *, splits: Sequence[str], layout: Layout
) -> list[CaptionChoice]:
    """Score cached captions against pictures with an exported student and scorer, without torch and the teacher.

    Raises:
        UsageError: fewer than two captions, a caption that no choice set has, or a cache of another teacher.
        CacheError: the folder has no scorer, or something is missing or damaged.
        PipelineError: a picture cannot be read.
    """
    model = ExportedChooser.open(folder)
    texts = _texts(captions, model.params, splits, layout, model.teacher)
    answers = []
    for picture in pictures:
        scores, cosine = model.scores(load_center_view(picture, model.size)[None], texts)
        ranked = sorted(zip(captions, scores, strict=True), key=lambda pair: -pair[1])
        answers.append(CaptionChoice(picture, tuple(ranked), captions[int(np.argmax(cosine))]))
    return answers


def _texts(
    captions: Sequence[str],
    params: ScorerParams,
    splits: Sequence[str],
    layout: Layout,
    teacher: Mapping[str, Any] | None = None,
) -> TextTokens:
    """Return the cached tokens of captions from the first choice set that has all of them."""
    if len(set(captions)) < 2:
        raise UsageError(
            f"--choose: expected at least two captions with | between them, found {' | '.join(captions)!r}"
        )
    choice_set = ChoiceSet((Question(0, captions[0], tuple(captions[1:]), "choose"),))
    for split in splits:
        cached = CachedTokens(EmbeddingStore.open(layout.embeddings(split), "size"), choice_set, params)
        if teacher is not None and cached.store.manifest.teacher != teacher:
            raise UsageError(f"--choose: {cached.store.folder} and the exported student are of two teachers")
        if not cached.missing:
            return cached.texts(np.arange(len(captions)))
    raise UsageError(
        f"--choose: no choice set ({', '.join(splits)}) has all of {' | '.join(captions)!r}: words of your own are "
        "embedded with a table of choices (docs/dense.md)"
    )
