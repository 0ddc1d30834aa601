"""Thumbnails: small, square, WebP, and never enlarged."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.data.errors import BadImageError
from pipeline.data.images import encode_png
from pipeline.data.user_images import thumbnail


def stripes(height: int, width: int) -> bytes:
    """Draw a red center square between blue margins."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 255
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = [255, 0, 0]
    return encode_png(pixels)


@pytest.mark.parametrize(("height", "width", "side"), [(200, 100, 64), (100, 200, 64), (40, 50, 40)])
def test_a_thumbnail_is_the_center_square_at_most_so_large(height: int, width: int, side: int) -> None:
    image = Image.open(io.BytesIO(thumbnail(stripes(height, width), 64)))
    assert (image.format, image.size) == ("WEBP", (side, side))
    assert np.asarray(image.convert("RGB"))[..., 0].min() > 200  # lossy, but red everywhere


def test_bytes_that_are_no_image_are_refused() -> None:
    with pytest.raises(BadImageError):
        thumbnail(b"nothing", 64)
