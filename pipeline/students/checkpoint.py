"""A student on disk: weights as safetensors, and a checksummed card that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from cache.atomic import read_checksummed_json, write_bytes, write_checksummed_json
from cache.errors import CacheError, DamagedError, MissingError
from cache.fingerprint import sha256_bytes
from pipeline.evaluation.model_files import check_weights, read_history
from pipeline.project.layout import CARD, WEIGHTS
from pipeline.project.params import parse
from pipeline.students.model import Student, StudentParams
from pipeline.students.towers import Tower, last_layer, make_linear
from pipeline.students.training.state import to_contiguous_cpu

FORMAT = 1


def save_student(folder: Path, student: Student, card: Mapping[str, Any]) -> None:
    """Write a student and its card into a folder; the card is written last, so a folder with a card is complete."""
    weights = save({name: to_contiguous_cpu(tensor) for name, tensor in student.state_dict().items()})
    own = {
        "format": FORMAT,
        "student": student.name,
        "params": student.params.model_dump(mode="json"),
        "mean": list(student.mean_std[0]),
        "std": list(student.mean_std[1]),
        "radius": student.radius,
        "dim": student.dim,
        "target_dim": last_layer(student.head).out_features,
        "parameters": _count(student) - _count(student.text),
        "weights_sha256": sha256_bytes(weights),
    }
    if student.heads:
        own["heads"] = list(student.heads)
    if student.text is not None:
        own |= {"text_parameters": _count(student.text), "text_radius": student.text.radius}
    write_bytes(folder / WEIGHTS, weights)
    write_checksummed_json(folder / CARD, {**card, **own})


def read_card(folder: Path) -> dict[str, Any]:
    """Return a student's card.

    Raises:
        MissingError: there is no student in the folder.
        DamagedError: the card was changed, or has another format.
    """
    card = read_checksummed_json(folder / CARD)
    if card.get("format") != FORMAT:
        raise DamagedError(f"{folder / CARD}: format {card.get('format')}, expected {FORMAT}. Distil it again.")
    return card


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Return whether a folder has a complete student of this fingerprint and its history, checked by hash."""
    try:
        card = read_card(folder)
        check_weights(folder, card)
        read_history(folder, card)
    except CacheError:
        return False
    return bool(card.get("fingerprint") == fingerprint)


def load_student(folder: Path, device: str | torch.device = "cpu") -> Student:
    """Build the student of a folder, with outputs in CLIP space.

    Raises:
        MissingError: there is no student in the folder.
        DamagedError: weights and card do not match.
    """
    card, path = read_card(folder), folder / WEIGHTS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file. Run `distill` again.") from None
    if (digest := sha256_bytes(data)) != card["weights_sha256"]:
        raise DamagedError(f"{path}: SHA-256 {digest[:12]}, its card says {card['weights_sha256'][:12]}. Distil again.")
    student = _built(card)
    try:
        student.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        raise DamagedError(f"{path}: not the weights that its card describes: {error}. Distil it again.") from None
    student.card = card
    return student.to(torch.device(device)).to(memory_format=torch.channels_last).eval()


def _built(card: Mapping[str, Any]) -> Student:
    params = parse(card["params"], f"{CARD}: params", StudentParams)
    nothing = {"weights": None}
    text = None if params.text is None else params.text.model_copy(update=nothing)
    params = params.model_copy(update={"backbone": params.backbone.model_copy(update=nothing), "text": text})
    dim, heads = card["dim"] if card["radius"] is None else card["target_dim"], tuple(card.get("heads", ()))
    student = Student(card["student"], params, dim, heads)
    towers: list[tuple[Tower | None, Any]] = [(student, card["radius"]), (student.text, card.get("text_radius"))]
    for tower, radius in towers:
        if tower is not None and radius is not None:
            tower.radius = radius
            tower.unwhiten = make_linear(torch.zeros(card["dim"], card["target_dim"]), torch.zeros(card["dim"]))
    return student


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())
