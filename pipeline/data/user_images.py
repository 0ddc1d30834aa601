"""A user's own pictures: found by file, folder or pattern, and preprocessed as in training."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pipeline.data.errors import BadImageError
from pipeline.data.images import decode
from pipeline.data.views import apply_view, center_view
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.input_files import MAX_IMAGE_BYTES, read_input

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def find_images(arguments: Sequence[str]) -> list[Path]:
    """Return the files of names, folders (all pictures in them) and patterns, in that order.

    Raises:
        UsageError: a name matches no file.
    """
    images: list[Path] = []
    for name in arguments:
        path = Path(name)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
        else:
            files = [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207  the pattern may be absolute
        if not files:
            raise UsageError(f"{name}: no such picture, no picture in it, or nothing that matches")
        images += files
    return images


def load_center_view(path: Path, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Return the center view of a picture, as in training.

    Raises:
        PipelineError: it cannot be read, or is not an image.
    """
    with _unreadable_as_failure(path):
        image = decode(read_input(path, MAX_IMAGE_BYTES))
    return apply_view(image, center_view(*image.size), size)


def small_copy(path: Path, side: int) -> bytes:
    """Return a picture as a small WebP for a page.

    Raises:
        PipelineError: it cannot be read, or is not an image.
    """
    with _unreadable_as_failure(path):
        return thumbnail(read_input(path, MAX_IMAGE_BYTES), side)


@contextmanager
def _unreadable_as_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {error.strerror}") from None
    except BadImageError as error:
        raise PipelineError(f"{path}: not an image that can be read: {error}") from None


QUALITY = 80


def thumbnail(data: bytes, side: int) -> bytes:
    """Return the center square of an image as WebP, scaled down to `side` pixels if larger.

    Raises:
        BadImageError: it cannot be decoded.
    """
    image = decode(data)
    length = min(image.size)
    left, top = ((extent - length) // 2 for extent in image.size)
    square = image.crop((left, top, left + length, top + length))
    if length > side:
        square = square.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    square.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()
