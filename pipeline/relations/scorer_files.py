"""A scorer on disk: weights as safetensors, and a checksummed card that says what they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from cache.atomic import write_bytes
from cache.checksummed_json import read_checksummed_json, write_checksummed_json
from cache.errors import CacheError, DamagedError, MissingError
from cache.fingerprint import sha256, sha256_bytes
from pipeline.project.params import parse
from pipeline.relations.params import ScorerParams
from pipeline.relations.scorers import Scorer, build_scorer
from pipeline.students.training.state import to_contiguous_cpu

WEIGHTS, CARD, HISTORY, METRICS = "scorer.safetensors", "scorer.json", "history.csv", "metrics.json"
FORMAT = 1


def save_scorer(folder: Path, scorer: Scorer, params: ScorerParams, card: Mapping[str, Any]) -> None:
    """Write a scorer and its card, the card last: where it is, the weights are whole."""
    weights = save({name: to_contiguous_cpu(tensor) for name, tensor in scorer.state_dict().items()})
    write_bytes(folder / WEIGHTS, weights)
    parameters = sum(parameter.numel() for parameter in scorer.parameters())
    facts = {"format": FORMAT, "params": params.model_dump(mode="json"), "parameters": parameters}
    write_checksummed_json(folder / CARD, {**card, **facts, "weights_sha256": sha256_bytes(weights)})


def read_scorer_card(folder: Path) -> dict[str, Any]:
    """Return what the card of a scorer says.

    Raises:
        MissingError: no scorer was fitted there.
        DamagedError: the card was changed, or is of another format.
    """
    try:
        card = read_checksummed_json(folder / CARD)
    except MissingError:
        name = folder.name.removeprefix("relate-")
        raise MissingError(f"{folder / CARD}: no scorer. Run `python cli.py relate --scorer {name}` first.") from None
    if card.get("format") != FORMAT:
        raise DamagedError(f"{folder / CARD}: format {card.get('format')}, expected {FORMAT}. Run `relate` again.")
    return card


def load_scorer(folder: Path) -> tuple[Scorer, dict[str, Any]]:
    """Return the scorer of a folder and its card.

    Raises:
        MissingError: no scorer was fitted there.
        DamagedError: weights and card do not belong together.
    """
    card, path = read_scorer_card(folder), folder / WEIGHTS
    params = parse(card["params"], f"{CARD}: params", ScorerParams)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file. Run `relate` again.") from None
    if (found := sha256_bytes(data)) != card["weights_sha256"]:
        known = card["weights_sha256"][:12]
        raise DamagedError(f"{path}: SHA-256 {found[:12]}, its card says {known}. Run `relate` again.")
    scorer = build_scorer(params, int(card["dim"]), int(card["patches"]))
    try:
        scorer.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        raise DamagedError(f"{path}: not the weights that its card describes: {error}. Run `relate` again.") from None
    return scorer.eval(), card


def is_fitted(folder: Path, fingerprint: str) -> bool:
    """Return whether a folder holds a whole scorer of this fingerprint."""
    try:
        card = read_scorer_card(folder)
        whole = sha256(folder / WEIGHTS) == card["weights_sha256"]
    except CacheError:
        return False
    return bool(whole and card.get("fingerprint") == fingerprint)
