"""Fit a scorer of image-caption pairs on cached tokens, and evaluate it next to CLIP's cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from cache.atomic import write_checksummed_json
from cache.fingerprint import fingerprint
from cache.reader import EmbeddingStore
from cache.work_store import WorkStore
from pipeline.evaluation.csv_tables import round_numbers
from pipeline.evaluation.model_files import check_arm
from pipeline.project.code_versions import code_identity
from pipeline.project.device import choose_device
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection, Runtime, parse
from pipeline.project.project import Project
from pipeline.relations.cached_tokens import CachedTokens, StudentTokens
from pipeline.relations.fitting import fit_scorer
from pipeline.relations.params import TOKENLESS, ScorerParams
from pipeline.relations.score_files import write_scores, write_student_scores
from pipeline.relations.scorer_files import is_fitted, load_scorer, own_scorer, save_scorer
from pipeline.relations.scorers import build_scorer
from pipeline.relations.scoring import embed_split_places, open_tokens, score_set
from pipeline.students.checkpoint import load_student

HISTORY_HEAD = "epoch,loss\n"


class RelateParams(ParamsSection):
    """Splits of the `relate:` section; each scorer has its own section `relate.<scorer>`."""

    train: str
    """Choice set on which scorers are fitted."""
    sets: tuple[str, ...] = Field(min_length=1)
    """Choice sets on which scorers are evaluated."""


def read_splits(project: Project) -> RelateParams:
    """Return the splits of the section; raises UsageError."""
    value = {key: project.get(f"relate.{key}") for key in RelateParams.model_fields}
    return parse(value, "relate", RelateParams)


def read_scorer(project: Project, name: str) -> ScorerParams:
    """Return the section of a scorer; optional if it has the name of its kind. Raises UsageError."""
    section = project.get(f"relate.{name}", default={"kind": name})
    return parse({"kind": name, **section} if isinstance(section, dict) else section, f"relate.{name}", ScorerParams)


def relate(name: str, params: ScorerParams, splits: RelateParams, layout: Layout, runtime: Runtime) -> Path:
    """Write `models/relate-<name>/`: the scorer, its history, and its accuracy on every choice set; and its record.

    The teacher is not needed. An interrupted fit resumes at its current epoch.

    Raises:
        UsageError: a split without choices or tokens, a text with more tokens than columns, or sets of two teachers.
        CacheError: a split is missing, damaged or was embedded from other images.
        LockedError: another process fits the same.
    """
    train = open_tokens(splits.train, params, layout, runtime)
    sets = {split: open_tokens(split, params, layout, runtime) for split in splits.sets}
    for split, tokens in sets.items():
        _check_teacher(tokens.store, train.store, split, layout)
    folder, store = layout.scorer(name), WorkStore(layout.store)
    facts = {"scorer": name, "code": code_identity("relate"), **_facts(params, train.store)}
    mark = fingerprint(facts)
    with store.lock("relate", mark):
        if not is_fitted(folder, mark):
            _fit(params, train, store.workspace("relate", mark) / "state.safetensors", folder, facts)
        scorer, card = load_scorer(folder)
        metrics = {split: score_set(scorer, tokens) for split, tokens in sets.items()}
        scores = round_numbers({"scorer": name, "parameters": card["parameters"], "sets": metrics})
        write_checksummed_json(layout.scorer_record(name), {"scorer": name, "weights_sha256": card["weights_sha256"]})
        return write_scores(folder, card, scores)


def relate_student(name: str, splits: RelateParams, folder: Path, layout: Layout, runtime: Runtime) -> Path:
    """Score a student's tokens with the teacher's scorer, and with one fitted on the student.

    Writes `relate-<name>.json` and the folder `relate-<name>/` into the student's folder. The student's scorer is
    initialized with the teacher's and fitted further with the same parameters, on the student's tokens of the same
    choice set. Both show the limits of a student of pooled embeddings.

    Raises:
        UsageError: the scorer belongs to another teacher, or the student has no tokens.
        CacheError: scorer, student or split are missing or damaged, or the student's folder was renamed.
    """
    scorer, card = load_scorer(layout.scorer(name))
    params = parse(card["params"], f"{name}: params", ScorerParams)
    student = load_student(folder, choose_device(runtime.device))
    check_arm(folder, student.card, layout)
    if student.card["teacher"] != card["teacher"]:
        model = card["teacher"].get("model")
        raise UsageError(f"relate: scorer '{name}' is fitted on {model}, and {folder} learnt from another teacher")
    grid = math.isqrt(int(card["patches"]))

    def tokens(split: str) -> StudentTokens:
        cached = open_tokens(split, params, layout, runtime)
        return StudentTokens(cached, *embed_split_places(student, split, grid, layout, runtime))

    own, history = build_scorer(params, int(card["dim"]), int(card["patches"])), HISTORY_HEAD
    if any(parameter.requires_grad for parameter in own.parameters()):
        own.load_state_dict(scorer.state_dict())  # initialized with the teacher's scorer
        train = tokens(splits.train)
        rows = fit_scorer(own, train.cached.choices, train, params, title=f"relate {name} on {folder.name}")
        history += render_epochs(rows)
    facts = {"scorer": name, "student_sha256": student.card["weights_sha256"], "teacher": card["teacher"]}
    shape = {"dim": card["dim"], "patches": card["patches"]}
    save_scorer(own_scorer(folder, name), own, params, {**facts, **shape}, history)
    metrics = {}
    for split in splits.sets:
        split_tokens = tokens(split)
        metrics[split] = {"teacher's": score_set(scorer, split_tokens), "own": score_set(own, split_tokens)}
    scores = round_numbers({"scorer": name, "student": folder.name, "sets": metrics})
    return write_student_scores(folder, student.card, card, name, scores)


def render_epochs(rows: Sequence[tuple[int, float]]) -> str:
    """Return the mean loss of each epoch as CSV."""
    return "".join(f"{epoch},{loss:.6f}\n" for epoch, loss in rows)


def _fit(params: ScorerParams, train: CachedTokens, state: Path, folder: Path, facts: dict[str, Any]) -> None:
    dim = train.store.dim
    patches = 0 if params.kind in TOKENLESS else train.store.patches().places
    scorer = build_scorer(params, dim, patches)
    history = HISTORY_HEAD
    if any(parameter.requires_grad for parameter in scorer.parameters()):
        rows = fit_scorer(scorer, train.choices, train, params, state=state, title=f"relate {facts['scorer']}")
        history += render_epochs(rows)
    card = {**facts, "fingerprint": fingerprint(facts), "dim": dim, "patches": patches}
    save_scorer(folder, scorer, params, card, history)
    state.unlink(missing_ok=True)


def _facts(params: ScorerParams, store: EmbeddingStore) -> dict[str, Any]:
    """Return the facts that decide a scorer: its parameters, and the parts it is fitted on with their hashes."""
    parts = {
        name: fingerprint({"part": part.fingerprint, "shards": [shard.sha256 for shard in part.shards]})
        for name, part in store.manifest.parts.items()
    }
    return {"params": params.model_dump(mode="json"), "parts": parts, "teacher": dict(store.manifest.teacher)}


def _check_teacher(store: EmbeddingStore, train: EmbeddingStore, split: str, layout: Layout) -> None:
    if store.manifest.teacher != train.manifest.teacher:
        raise UsageError(
            f"relate: {layout.embeddings(split)} was embedded by {store.manifest.teacher.get('model')}, and the scorer "
            f"is fitted on {train.manifest.teacher.get('model')}: embed both by one teacher"
        )
