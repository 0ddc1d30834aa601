"""Files next to a scorer's weights, each checked against its recorded hash.

scorer.json      the card, with its own checksum: names the scorer, hashes of the weights and of history.csv
evaluation.json  with its own checksum: hashes of metrics.json and of the evaluated scorer

A student's scores, `relate-<scorer>.json` in its folder, have their own checksum and the hashes of student and scorer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.atomic import read_checksummed_json, write_checksummed_json, write_json
from cache.checksums import read_checksums, write_checksums
from cache.errors import CacheError, DamagedError, MissingError, StaleError
from cache.fingerprint import sha256
from pipeline.project.layout import EVALUATION

WEIGHTS, CARD, HISTORY, METRICS = "scorer.safetensors", "scorer.json", "history.csv", "metrics.json"
PREFIX = "relate-"
"""Prefix of a scorer's folder, and of the file with a student's scores."""
FORMAT = 1
_REMEDY = "Run `relate` again."

Card = Mapping[str, Any]


def read_scorer_card(folder: Path) -> dict[str, Any]:
    """Return the card of a scorer.

    Raises:
        MissingError: no scorer was fitted there.
        DamagedError: the card was changed, or has another format.
        StaleError: the folder was renamed or copied.
    """
    try:
        card = read_checksummed_json(folder / CARD)
    except MissingError:
        name = folder.name.removeprefix(PREFIX)
        raise MissingError(f"{folder / CARD}: no scorer. Run `python cli.py relate --scorer {name}` first.") from None
    if card.get("format") != FORMAT:
        raise DamagedError(f"{folder / CARD}: format {card.get('format')}, expected {FORMAT}. {_REMEDY}")
    if folder.name.startswith(PREFIX) and folder.name != (own := f"{PREFIX}{card.get('scorer', '')}") != PREFIX:
        raise StaleError(f"{folder}: holds '{own}': it was renamed or copied. Move it back, or run `relate` again.")
    return card


def check_scorer_history(folder: Path, card: Card) -> None:
    """Check the training history of a scorer against its card; a card of an earlier version has none.

    Raises:
        MissingError: the history does not exist.
        DamagedError: it differs from the one recorded in the card.
    """
    path, expected = folder / HISTORY, card.get("history_sha256")
    if expected is None:
        return
    if not path.is_file():
        raise MissingError(f"{path}: missing, though {CARD} vouches for it. {_REMEDY}")
    if (digest := sha256(path)) != expected:
        raise DamagedError(f"{path}: damaged: SHA-256 {digest[:12]}, {CARD} says {expected[:12]}. {_REMEDY}")


def write_scores(folder: Path, card: Card, metrics: Mapping[str, Any]) -> Path:
    """Write the scores of a scorer, then the list of hashes; return the file of metrics."""
    (folder / EVALUATION).unlink(missing_ok=True)
    write_json(folder / METRICS, metrics)
    write_checksums(folder / EVALUATION, [METRICS], {"scorer_sha256": card["weights_sha256"]})
    return folder / METRICS


def read_scores(folder: Path) -> dict[str, Any] | None:
    """Return the scores of a folder's scorer; None if it was not scored.

    Raises:
        MissingError: metrics without their list or their scorer: unfinished, renamed or of an earlier version.
        DamagedError: the list or a listed file was changed.
        StaleError: another scorer was scored, or the folder was renamed.
    """
    path = folder / EVALUATION
    if not path.exists():
        if (folder / METRICS).exists():
            raise MissingError(f"{path}: missing, though {METRICS} is there. {_REMEDY}")
        return None
    listed, card = read_checksums(path, _REMEDY), read_scorer_card(folder)
    _check_subject(path, "scorer", listed.facts, card, _REMEDY)
    metrics: dict[str, Any] = json.loads(listed.read(METRICS))
    return metrics


def write_student_scores(folder: Path, student: Card, scorer: Card, name: str, metrics: Mapping[str, Any]) -> Path:
    """Write a student's scores by a scorer into the student's folder; return the file."""
    path = folder / f"{PREFIX}{name}.json"
    of = {"student_sha256": student["weights_sha256"], "scorer_sha256": scorer["weights_sha256"]}
    write_checksummed_json(path, {**metrics, **of})
    return path


def read_student_scores(folder: Path, student: Card, scorer: Card, name: str) -> dict[str, Any] | None:
    """Return a student's scores by a scorer; None if it was not scored.

    Raises:
        DamagedError: the file was changed.
        StaleError: it was written for another student or scorer.
    """
    path = folder / f"{PREFIX}{name}.json"
    if not path.exists():
        return None
    scores, remedy = read_checksummed_json(path), f"Run `relate --scorer {name} --student` again, or delete it."
    if scores.get("scorer") != name:
        raise StaleError(f"{path}: scores of '{scores.get('scorer')}': it was renamed. Move it back, or delete it.")
    for subject, card in (("student", student), ("scorer", scorer)):
        _check_subject(path, subject, scores, card, remedy)
    return scores


def student_score_faults(folder: Path, student: Card, models: Path) -> Iterator[str]:
    """Yield one line for each file of a student's scores that is damaged, or of another student or scorer."""
    for path in sorted(folder.glob(f"{PREFIX}*.json")):
        name = path.stem.removeprefix(PREFIX)
        try:
            read_student_scores(folder, student, _known_scorer(models / path.stem, path), name)
        except CacheError as error:
            yield str(error)
    for path in sorted(folder.glob(f"{PREFIX}*/{CARD}")):  # fitted on the student's own tokens
        try:
            card = read_scorer_card(path.parent)
            if (digest := sha256(path.parent / WEIGHTS)) != card["weights_sha256"]:
                yield f"{path.parent / WEIGHTS}: SHA-256 {digest[:12]}, its card says {card['weights_sha256'][:12]}"
            check_scorer_history(path.parent, card)
            _check_subject(path, "student", card, student, "Run `relate --student` again, or remove it.")
        except CacheError as error:
            yield str(error)


def _known_scorer(folder: Path, scores: Path) -> Card:
    """Return the card of a scorer; if it is missing, or damaged and reported elsewhere, the facts in the scores."""
    try:
        return read_scorer_card(folder)
    except CacheError:
        return {"weights_sha256": read_checksummed_json(scores).get("scorer_sha256")}


def _check_subject(path: Path, subject: str, facts: Mapping[str, Any], card: Card, remedy: str) -> None:
    digest, expected = str(facts.get(f"{subject}_sha256")), str(card.get("weights_sha256"))
    if digest != expected:
        raise StaleError(f"{path}: of {subject} {digest[:12]}, but its card is of {expected[:12]}. {remedy}")
