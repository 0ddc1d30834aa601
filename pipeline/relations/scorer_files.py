"""A scorer on disk: weights as safetensors, and a checksummed card that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from cache.atomic import write_bytes, write_checksummed_json, write_text
from cache.errors import CacheError, DamagedError, MissingError, StaleError
from cache.fingerprint import sha256, sha256_bytes
from pipeline.project.params import parse
from pipeline.relations.params import ScorerParams
from pipeline.relations.score_files import CARD, FORMAT, HISTORY, WEIGHTS, check_scorer_history, read_scorer_card
from pipeline.relations.scorers import Scorer, build_scorer
from pipeline.students.training.state import to_contiguous_cpu


def save_scorer(folder: Path, scorer: Scorer, params: ScorerParams, card: Mapping[str, Any], history: str) -> None:
    """Write the training history, the weights and, last, the card, which marks the scorer as complete."""
    write_text(folder / HISTORY, history)
    weights = save({name: to_contiguous_cpu(tensor) for name, tensor in scorer.state_dict().items()})
    write_bytes(folder / WEIGHTS, weights)
    parameters = sum(parameter.numel() for parameter in scorer.parameters())
    facts = {"format": FORMAT, "params": params.model_dump(mode="json"), "parameters": parameters}
    hashes = {"weights_sha256": sha256_bytes(weights), "history_sha256": sha256_bytes(history.encode())}
    write_checksummed_json(folder / CARD, {**card, **facts, **hashes})


def load_scorer(folder: Path) -> tuple[Scorer, dict[str, Any]]:
    """Return the scorer of a folder and its card.

    Raises:
        MissingError: no scorer was fitted there.
        DamagedError: weights and card do not match.
    """
    card, path = read_scorer_card(folder), folder / WEIGHTS
    params = parse(card["params"], f"{CARD}: params", ScorerParams)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file. Run `relate` again.") from None
    if (digest := sha256_bytes(data)) != card["weights_sha256"]:
        expected = card["weights_sha256"][:12]
        raise DamagedError(f"{path}: SHA-256 {digest[:12]}, its card says {expected}. Run `relate` again.")
    scorer = build_scorer(params, int(card["dim"]), int(card["patches"]))
    try:
        scorer.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        raise DamagedError(f"{path}: not the weights that its card describes: {error}. Run `relate` again.") from None
    return scorer.eval(), card


def own_scorer(folder: Path, name: str) -> Path:
    """Return the folder of the scorer fitted on a student's tokens, inside the student's folder."""
    return folder / f"relate-{name}"


def load_students_scorer(folder: Path, name: str, student_sha256: str) -> tuple[Scorer, dict[str, Any]] | None:
    """Return the scorer fitted on a student's tokens, or None.

    Raises:
        StaleError: it was fitted on another student.
        DamagedError: weights and card do not match.
    """
    if not (own_scorer(folder, name) / CARD).exists():
        return None
    scorer, card = load_scorer(own_scorer(folder, name))
    if card.get("student_sha256") != student_sha256:
        raise StaleError(
            f"{own_scorer(folder, name)}: fitted on student {str(card.get('student_sha256'))[:12]}, but {folder.name} "
            f"is {student_sha256[:12]}. Run `relate --scorer {name} --student` again, or remove it."
        )
    return scorer, card


def is_fitted(folder: Path, fingerprint: str) -> bool:
    """Return whether a folder has a complete scorer of this fingerprint."""
    try:
        card = read_scorer_card(folder)
        check_scorer_history(folder, card)
        whole = sha256(folder / WEIGHTS) == card["weights_sha256"]
    except CacheError:
        return False
    return bool(whole and card.get("fingerprint") == fingerprint)
