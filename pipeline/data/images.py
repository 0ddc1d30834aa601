"""Decode image files to RGB; keep original bytes where possible."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from pipeline.data.errors import BadImageError
from pipeline.data.integrity import check_pixel_limit, intact_format, refuse_bloated

Image.MAX_IMAGE_PIXELS = None  # Pillow warns at half of its limit; here there is one limit and one message
ImageFile.LOAD_TRUNCATED_IMAGES = False
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # damaged EXIF of usable photos
logging.getLogger("PIL").addHandler(logging.NullHandler())

_FULL_COLOR = 0
"""JPEG with 4:4:4 chroma.

With the usual 4:2:0, files are a sixth smaller, but the embedding of a resized image at the teacher's size changes at
least seven times as much (docs/data.md).
"""

CODEC = f"pillow {PIL.__version__}, 4:4:4"
"""Version of the encoding, which decides the bytes of re-encoded images."""

ImageCheck = Literal["structure", "decode"]

_TURNS: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions by EXIF orientation. Pillow's exif_transpose rewrites other EXIF data and fails on damaged ones."""

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class Encoding:
    """The `pack:` parameters that decide the bytes of packed images."""

    resize: int | None = None
    quality: int = 92
    check: ImageCheck = "structure"


class EncodedImage(NamedTuple):
    """An image as stored in a packed shard."""

    data: bytes
    extension: str


def encode_for_packing(image: bytes | np.ndarray, encoding: Encoding) -> EncodedImage:
    """Return an image as packed: originals unchanged, arrays and other formats as PNG, resized ones as JPEG.

    With `resize`, an image with a longer shorter side is scaled down and re-encoded.

    Raises:
        BadImageError: it cannot be decoded, or has too many pixels.
    """
    if isinstance(image, np.ndarray):
        return EncodedImage(encode_png(image), "png")
    resize = encoding.resize
    if resize is None and encoding.check == "structure" and (extension := intact_format(image)):
        return EncodedImage(image, extension)
    opened = open_image(image)
    original_extension = _EXTENSIONS.get(opened.format or "")
    if resize is not None and min(opened.size) > resize:
        return EncodedImage(_encode_jpeg(_shrink(opened, resize), encoding.quality), "jpg")
    pixels = to_rgb(opened)
    return (
        EncodedImage(image, original_extension)
        if original_extension
        else EncodedImage(encode_png(np.asarray(pixels)), "png")
    )


def decode(data: bytes) -> Image.Image:
    """Return an image as upright 8-bit RGB.

    EXIF rotation is applied, transparency becomes white, 16 bits are scaled to 8, an animation gives its first frame.

    Raises:
        BadImageError: it cannot be decoded, or has too many pixels.
    """
    return to_rgb(open_image(data))


def open_image(data: bytes) -> Image.Image:
    """Open an image and read only its header.

    Raises:
        BadImageError: not an image, or too many pixels.
    """
    if not data:
        raise BadImageError("an empty file")
    refuse_bloated(data)
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise BadImageError(f"not an image: begins with {data[:8]!r}") from None
    except _DECODING_ERRORS as error:
        raise BadImageError(f"damaged: {_first_line(error)}") from None
    check_pixel_limit(*image.size)
    return image


def oriented_size(data: bytes) -> tuple[int, int]:
    """Return width and height after EXIF rotation, from the header alone.

    Raises:
        BadImageError: not an image, or too many pixels.
    """
    image = open_image(data)
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # 5 to 8 swap the sides
    except _DECODING_ERRORS as error:
        raise BadImageError(f"damaged: {_first_line(error)}") from None
    return (image.height, image.width) if turned else image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image to upright RGB.

    Raises:
        BadImageError: it cannot be decoded.
    """
    try:
        image.load()
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
        return _flatten(image if turn is None else image.transpose(turn))
    except _DECODING_ERRORS as error:
        raise BadImageError(f"damaged: {_first_line(error)}") from None


def encode_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Encode pixels as PNG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _shrink(image: Image.Image, shorter: int) -> Image.Image:
    """Scale an image to a shorter side; a JPEG is decoded at a reduced size that is at least twice as large."""
    image.draft("RGB", (2 * shorter, 2 * shorter))
    upright = to_rgb(image)
    scale = shorter / min(upright.size)
    width, height = (max(1, round(side * scale)) for side in upright.size)
    return upright.resize((width, height), Image.Resampling.BICUBIC)


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=_FULL_COLOR)
    return buffer.getvalue()


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_16_bit(image)
    if image.has_transparency_data:  # an alpha channel, or a transparent color of an RGB or gray image
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Convert 16-bit gray to 8 bits; Pillow's own conversion would clip it to white."""
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise BadImageError(f"its pixels are no 8 or 16 bits (mode {image.mode})")
    return Image.fromarray((pixels // 257).astype(np.uint8)).convert("RGB")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# Exceptions of Pillow and its codecs on damaged files, observed by flipping and cutting bytes.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    struct.error,
    OverflowError,
    MemoryError,
    Image.DecompressionBombError,
    zlib.error,
    AttributeError,
)
