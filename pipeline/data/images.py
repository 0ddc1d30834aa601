"""Decode whatever people have on disk to RGB, and keep originals byte for byte where possible."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from pipeline.data.errors import BadImageError
from pipeline.data.integrity import check_pixel_limit, intact_format, refuse_bloated

Image.MAX_IMAGE_PIXELS = None  # Pillow warns at half of it: ours is one limit, and one message
ImageFile.LOAD_TRUNCATED_IMAGES = False
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # damaged EXIF of usable photos: many in a crawl
logging.getLogger("PIL").addHandler(logging.NullHandler())

_FULL_COLOR = 0
"""JPEG's 4:4:4. With halved colour (4:2:0, the usual) files are a sixth smaller, and a teacher whose pixels are those
of the resized image moves seven times as far or more (docs/data.md)."""

CODEC = f"pillow {PIL.__version__}, 4:4:4"
"""What decides the bytes of an image that is encoded here."""

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
"""By EXIF's orientation. Pillow's own exif_transpose writes the rest of EXIF again, and fails where that is damaged."""

_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class Encoding:
    """How images are kept: the `pack:` parameters that decide their bytes."""

    resize: int | None = None
    quality: int = 92
    check: ImageCheck = "structure"


@dataclass(frozen=True)
class EncodedImage:
    """An image as it stands in a packed shard."""

    data: bytes
    extension: str


def encode_for_packing(image: bytes | np.ndarray, encoding: Encoding) -> EncodedImage:
    """Return an image as it is packed: originals as they are, arrays and other formats as PNG, resized ones as JPEG.

    With `resize`, an image whose shorter side is longer than that is scaled down to it and re-encoded.

    Raises:
        BadImageError: it cannot be decoded, or it has too many pixels.
    """
    if isinstance(image, np.ndarray):
        return EncodedImage(encode_png(image), "png")
    resize = encoding.resize
    if resize is None and encoding.check == "structure" and (extension := intact_format(image)):
        return EncodedImage(image, extension)
    opened = open_image(image)
    kept = _EXTENSIONS.get(opened.format or "")
    if resize is not None and min(opened.size) > resize:
        return EncodedImage(_encode_jpeg(_shrink(opened, resize), encoding.quality), "jpg")
    pixels = to_rgb(opened)
    return EncodedImage(image, kept) if kept else EncodedImage(encode_png(np.asarray(pixels)), "png")


def decode(data: bytes) -> Image.Image:
    """Return an image as upright RGB of 8 bits.

    EXIF rotation is applied, transparency lies on white, 16 bits are scaled to 8, an animation gives its first frame.

    Raises:
        BadImageError: it cannot be decoded, or it has too many pixels.
    """
    return to_rgb(open_image(data))


def open_image(data: bytes) -> Image.Image:
    """Return an image of which only the header has been read.

    Raises:
        BadImageError: no image, or one with too many pixels.
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
    """Return width and height as `decode` gives them, from the header alone.

    Raises:
        BadImageError: no image, or one with too many pixels.
    """
    image = open_image(data)
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # the last four of eight lie on their side
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
    """Return pixels as PNG, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _shrink(image: Image.Image, shorter: int) -> Image.Image:
    """Return an image scaled to a shorter side; a JPEG is decoded at the nearest size that is twice as large."""
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
    if image.has_transparency_data:  # an alpha channel, or one color of an RGB or grey picture named transparent
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Return grey of 16 bits as 8; Pillow's own conversion would clip it to white."""
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise BadImageError(f"its pixels are no 8 or 16 bits (mode {image.mode})")
    return Image.fromarray((pixels // 257).astype(np.uint8)).convert("RGB")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


# What Pillow and its codecs raise on damaged files; seen on files made by flipping and cutting bytes.
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
