"""Pooled features of photos by a frozen image tower, computed once, block by block, and kept in a folder."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file

from benchmarks.photo_sets import Photo
from benchmarks.styles import STYLES
from cache.atomic import atomic_write
from pipeline.project.device import has_native_precision

BLOCK_ROWS = 500
"""Photos of one file: what a run that is stopped loses at most."""
SMALL = 32
"""The side of CIFAR-10's images in pixels."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of one set of photos, one array for each view, and what can be said of each photo."""

    views: dict[str, Float[np.ndarray, "n f"]]
    notes: list[Photo]
    """The photos without their pixels."""


def mirror(pixels: UInt8[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """Return the mirror image."""
    return pixels[:, ::-1]


def blur(pixels: UInt8[np.ndarray, "s s 3"], kept: int = SMALL) -> UInt8[np.ndarray, "s s 3"]:
    """Return the photo as if it had been kept at a smaller side in pixels: by default at CIFAR-10's."""
    side = pixels.shape[0]
    small = Image.fromarray(pixels).resize((kept, kept), Image.Resampling.BICUBIC)
    return np.array(small.resize((side, side), Image.Resampling.BICUBIC))


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda pixels: pixels,
    "mirrored": mirror,
    "small": blur,
    **STYLES,
}


def half_precision() -> torch.autocast:
    """Return a context in which a processor that computes in bfloat16 does so."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_native_precision("bf16"))


def load_tower(name: str, weights: Path) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Build a timm model without its classifier with weights from a safetensors file, and return all of these too."""
    tower = timm.create_model(name, num_classes=0, pretrained=False)
    stored = load_file(weights)
    tower.load_state_dict({key: stored[key] for key in tower.state_dict()})
    return tower.eval().to(memory_format=torch.channels_last), stored


def pooled_source(name: str, weights: Path, side: int) -> dict[str, object]:
    """Return what decides the features of a photo."""
    return {"tower": name, "weights": hashlib.sha256(weights.read_bytes()).hexdigest(), "side": side}


def cached_features(
    tower: torch.nn.Module, photos: Iterable[Photo], views: tuple[str, ...], folder: Path, source: dict[str, object]
) -> FeatureSet:
    """Return the features of photos; blocks that lie in the folder are read, the others computed and written.

    Each block's file name holds a hash of what decides it (`source`, the views), so that another tower or another
    size never finds these.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = hashlib.sha256(json.dumps([source, views], sort_keys=True).encode()).hexdigest()[:12]
    stream, blocks, notes = iter(photos), [], []
    for number in itertools.count():
        block = list(itertools.islice(stream, BLOCK_ROWS))
        if not block:
            break
        path = folder / f"{identity}-{number:04d}.safetensors"
        if not path.exists():
            arrays = {view: pooled(tower, [VIEWS[view](photo.pixels) for photo in block]) for view in views}
            with atomic_write(path) as temporary:
                save_arrays(arrays, temporary)
            print(f"features: {folder.name}, {number * BLOCK_ROWS + len(block)} photos", flush=True)
        with safe_open(path, "numpy") as file:
            blocks.append({view: file.get_tensor(view) for view in views})
        notes += [Photo(np.empty(0, np.uint8), photo.words, photo.concept, photo.named) for photo in block]
    return FeatureSet({view: np.concatenate([block[view] for block in blocks]) for view in views}, notes)


def normalized(images: Sequence[UInt8[np.ndarray, "s s 3"]]) -> Float[torch.Tensor, "b 3 s s"]:
    """Return images as the tower wants them."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return ((pixels / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def pooled(tower: torch.nn.Module, images: list[np.ndarray], batch: int = 50) -> Float[np.ndarray, "n f"]:
    """Return the tower's pooled features of uint8 images, the convolutions in bfloat16 where the processor has it.

    Half the time of single precision there; a processor without it takes fifty times as long. The features differ by
    3 % of their length, less than between two crops; what is trained on them is used on exact ones.
    """
    parts = []
    for start in range(0, len(images), batch):
        with half_precision():
            rows = tower(normalized(images[start : start + batch]))
        parts.append(rows.float().numpy())
    return np.concatenate(parts)
