"""Small WebP copies of images, for pages."""

from __future__ import annotations

import io

from PIL import Image

from pipeline.data.images import decode

QUALITY = 80


def thumbnail(data: bytes, side: int) -> bytes:
    """Return an image as WebP, its center square scaled to `side` pixels, or left alone where it is smaller.

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
