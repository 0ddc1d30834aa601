"""A slice of the teacher's text tower in the cache: written by `embed`, read by students with a text tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.atomic import read_checksummed_json, write_bytes, write_checksummed_json
from cache.errors import DamagedError, MissingError, StaleError
from cache.fingerprint import sha256_bytes

WEIGHTS, CARD = "text-slice.safetensors", "text-slice.json"
FORMAT = 1


@dataclass(frozen=True)
class TextSlice:
    """Weights with the names of open_clip's text transformer, as the bytes of a safetensors file."""

    weights: bytes
    width: int
    layers: int
    """Number of transformer blocks; 0: only embeddings and projection, as published."""
    head_width: int

    @property
    def sha256(self) -> str:
        """Return the hash that identifies it."""
        return sha256_bytes(self.weights)


def write_slice(folder: Path, text_slice: TextSlice, teacher: Mapping[str, Any]) -> None:
    """Write a slice; its card is written last and marks it as complete."""
    write_bytes(folder / WEIGHTS, text_slice.weights)
    facts = {
        "width": text_slice.width,
        "layers": text_slice.layers,
        "head_width": text_slice.head_width,
        "sha256": text_slice.sha256,
    }
    write_checksummed_json(folder / CARD, {"format": FORMAT, "teacher": dict(teacher), **facts})


def read_slice(folder: Path, teacher: Mapping[str, Any]) -> TextSlice:
    """Return the slice in a folder of embeddings, checked against its hash and the teacher of the embeddings.

    Raises:
        MissingError: `embed` was run without `text_slice`.
        DamagedError: the weights or the card were changed.
        StaleError: it belongs to another teacher.
    """
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        raise MissingError(
            f"{folder / WEIGHTS}: no slice of the teacher's text tower. Set embed.text_slice: {{width: 384}} and "
            "embed again, or leave text.weights out."
        )
    card = read_checksummed_json(folder / CARD)
    if card.get("teacher") != dict(teacher):
        raise StaleError(f"{folder / CARD}: a slice of another teacher than these embeddings. Embed again.")
    text_slice = TextSlice((folder / WEIGHTS).read_bytes(), card["width"], card["layers"], card["head_width"])
    if text_slice.sha256 != card["sha256"]:
        raise DamagedError(
            f"{folder / WEIGHTS}: SHA-256 {text_slice.sha256[:12]}, its card says {card['sha256'][:12]}."
        )
    return text_slice
