"""Files in the folder of an arm besides its weights, each checked against its recorded hash.

student.json      the card, with its own checksum: names the arm, hashes of the weights and of history.csv
evaluation.json   with its own checksum: hashes of metrics.json and of every table, and of the evaluated student
profile.json      with its own checksum and the hash of the measured student
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cache.atomic import read_checksummed_json, write_checksummed_json, write_json
from cache.checksums import Checksums, read_checksums, write_checksums
from cache.errors import CacheError, DamagedError, MissingError, StaleError
from cache.fingerprint import sha256, sha256_bytes
from pipeline.evaluation.csv_tables import CsvTable, parse_table, write_tables
from pipeline.project.layout import CARD, EVALUATION, HISTORY, METRICS, PROFILE, TABLES, WEIGHTS, Layout

Card = Mapping[str, Any]
_DISTILL, _EVALUATE = "Run `dvc repro`, or `distill` again.", "Run `dvc repro`, or `evaluate` again."


def read_arm_card(folder: Path) -> dict[str, Any] | None:
    """Return the card of a folder; None if it has no files of an arm.

    Raises:
        MissingError: files of an arm without its card: unfinished, renamed or moved.
        DamagedError: the card was changed after it was written.
    """
    if (folder / CARD).exists():
        return read_checksummed_json(folder / CARD)
    for name in (WEIGHTS, HISTORY, EVALUATION, METRICS, PROFILE):
        if (folder / name).exists():
            raise MissingError(f"{folder / CARD}: missing, though {name} is there: unfinished or moved. {_DISTILL}")
    return None


def check_arm(folder: Path, card: Card, layout: Layout) -> None:
    """Refuse a folder of `models/` whose name is not its arm's; folders of `runs/` have any name.

    Raises:
        StaleError: it was renamed or copied.
    """
    own = layout.model(str(card.get("student")), str(card.get("target")))
    if folder.parent == layout.models and folder != own:
        raise StaleError(f"{folder}: holds the arm '{own.name}': it was renamed or copied. Move it back, or distill.")


def read_history(folder: Path, card: Card) -> CsvTable | None:
    """Return a student's training history; None if its card, of an earlier version, records none.

    Raises:
        MissingError: the history does not exist.
        DamagedError: it differs from the one recorded in the card.
    """
    path, expected = folder / HISTORY, card.get("history_sha256")
    if expected is None:
        return parse_table(path.read_bytes()) if path.is_file() else None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{path}: missing, though {CARD} vouches for it. {_DISTILL}") from None
    if (digest := sha256_bytes(data)) != expected:
        raise DamagedError(f"{path}: damaged: SHA-256 {digest[:12]}, {CARD} says {expected[:12]}. {_DISTILL}")
    return parse_table(data)


def write_evaluation(folder: Path, card: Card, metrics: Mapping[str, Any], tables: Mapping[str, CsvTable]) -> Path:
    """Write metrics and tables, then the list of their hashes; return the file of metrics."""
    (folder / EVALUATION).unlink(missing_ok=True)
    write_tables(folder / TABLES, tables)
    write_json(folder / METRICS, metrics)
    names = [METRICS, *(f"{TABLES}/{name}.csv" for name in tables)]
    write_checksums(folder / EVALUATION, names, {"student_sha256": card["weights_sha256"]})
    return folder / METRICS


def read_evaluation(folder: Path, card: Card) -> Checksums | None:
    """Return the list of files that `evaluate` wrote; None if it has not run.

    Raises:
        MissingError: metrics without this list: unfinished, renamed or of an earlier version.
        DamagedError: the list was changed.
        StaleError: another student was evaluated.
    """
    if not (folder / EVALUATION).exists():
        if (folder / METRICS).exists():
            raise MissingError(f"{folder / EVALUATION}: missing, though {METRICS} is there. {_EVALUATE}")
        return None
    checksums = read_checksums(folder / EVALUATION, _EVALUATE)
    _check_student(folder / EVALUATION, checksums.facts, card, _EVALUATE)
    return checksums


def read_metrics(folder: Path, card: Card) -> dict[str, Any] | None:
    """Return the metrics of a folder's student; None if it was not evaluated. Raises as `read_evaluation`."""
    evaluation = read_evaluation(folder, card)
    if evaluation is None:
        return None
    metrics: dict[str, Any] = json.loads(evaluation.read(METRICS))
    return metrics


def read_evaluated_table(folder: Path, card: Card, name: str) -> CsvTable | None:
    """Return a table of an evaluation; None if it has no such table. Raises as `read_evaluation`."""
    evaluation, path = read_evaluation(folder, card), f"{TABLES}/{name}.csv"
    return parse_table(evaluation.read(path)) if evaluation and path in evaluation.sha256 else None


def arm_faults(folder: Path, card: Card) -> Iterator[str]:
    """Yield one line for each file of an arm that is missing, damaged or of another student."""
    checks: tuple[Callable[[Path, Card], object], ...] = (check_weights, read_history, read_profile)
    for check in checks:
        try:
            check(folder, card)
        except CacheError as error:
            yield str(error)
    try:
        evaluation = read_evaluation(folder, card)
    except CacheError as error:
        yield str(error)
    else:
        yield from evaluation.faults() if evaluation else ()


def check_weights(folder: Path, card: Card) -> None:
    """Check a student's weights against its card.

    Raises:
        MissingError: they do not exist.
        DamagedError: they differ from those recorded in the card.
    """
    if (digest := sha256(folder / WEIGHTS)) != card["weights_sha256"]:
        raise DamagedError(
            f"{folder / WEIGHTS}: damaged: SHA-256 {digest[:12]}, {CARD} says {card['weights_sha256'][:12]}. {_DISTILL}"
        )


def write_profile(folder: Path, card: Card, costs: list[dict[str, Any]]) -> None:
    """Write the cost of a student."""
    write_checksummed_json(folder / PROFILE, {"costs": costs, "student_sha256": card["weights_sha256"]})


def read_profile(folder: Path, card: Card) -> dict[str, Any] | None:
    """Return the cost of a student; None if it was not measured.

    Raises:
        DamagedError: the file was changed.
        StaleError: another student was measured.
    """
    path = folder / PROFILE
    if not path.exists():
        return None
    profile = read_checksummed_json(path)
    _check_student(path, profile, card, "Run `profile` again, or delete it.")
    return profile


def _check_student(path: Path, facts: Mapping[str, Any], card: Card, remedy: str) -> None:
    digest, expected = str(facts.get("student_sha256")), str(card.get("weights_sha256"))
    if digest != expected:
        raise StaleError(f"{path}: of student {digest[:12]}, but {CARD} is of {expected[:12]}. {remedy}")
