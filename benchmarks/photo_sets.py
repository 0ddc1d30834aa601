"""Photo data sets for training a teacher, read from disk."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

KEPT = 72
"""Pixels that are kept of an image."""


@dataclass(frozen=True)
class Photo:
    """An image, what can be said of it, and its concept: photos of one concept are no negatives of each other."""

    pixels: np.ndarray
    words: tuple[str, ...]
    concept: str
    named: bool
    """Whether the words are names, to be put into a template, or whole captions."""


def tiny_imagenet(folder: Path, side: int = KEPT) -> Iterator[Photo]:
    """Yield the photos of WebDataset tars, one concept a WordNet id."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: member for member in tar}
            for name in sorted(files):
                if name.endswith(".json"):
                    note = json.loads(_read(tar, files[name]))
                    pixels = _pixels(io.BytesIO(_read(tar, files[name.removesuffix("json") + "jpg"])), side)
                    yield Photo(pixels, tuple(n.replace("_", " ") for n in note["names"]), note["wnid"], named=True)


def class_folders(folder: Path, side: int = KEPT) -> Iterator[Photo]:
    """Yield the images of a folder per class, in the order of their names."""
    for path in sorted(p for p in folder.glob("*/*") if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
        name = path.parent.name.replace("_", " ")
        yield Photo(_pixels(path, side), (name,), name, named=True)


def flickr8k(folder: Path, side: int = KEPT, split: str = "train") -> Iterator[Photo]:
    """Yield captioned photos in COCO's layout, each a concept of its own."""
    table = json.loads((folder / "annotations" / f"captions_{split}.json").read_text(encoding="utf-8"))
    captions: dict[int, list[str]] = {}
    for note in table["annotations"]:
        captions.setdefault(note["image_id"], []).append(note["caption"])
    for entry in table["images"]:
        if entry["id"] in captions:
            pixels = _pixels(folder / split / entry["file_name"], side)
            yield Photo(pixels, tuple(captions[entry["id"]]), f"photo {entry['id']}", named=False)


READERS: dict[str, Callable[..., Iterator[Photo]]] = {
    "tiny_imagenet": tiny_imagenet,
    "cifar10": class_folders,
    "flickr8k": flickr8k,
}


def first(photos: Iterator[Photo], limit: int | None) -> Iterator[Photo]:
    """Return the first photos, or all of them."""
    return (photo for _, photo in zip(range(limit), photos, strict=False)) if limit else photos


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _pixels(source: Path | io.BytesIO, side: int) -> np.ndarray:
    with Image.open(source) as image:
        return np.array(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
