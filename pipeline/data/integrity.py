"""Check the structure of an image file without decoding it, at reading speed."""

from __future__ import annotations

import struct
import zlib

from pipeline.data.errors import BadImageError

MAX_PIXELS = 178_956_970
"""Pillow's own limit, half a gigabyte of RGB; accepts photos of 100 megapixels, refuses decompression bombs."""

MAX_EXIF_BYTES = 1 << 20
"""For JPEG, where one segment has at most 64 KB. Pillow joins further segments at quadratic cost."""
MAX_SEGMENTS = 10_000
"""Segments before a JPEG's pixels; color profiles and depth maps need hundreds."""
_FEW_SEGMENTS = MAX_EXIF_BYTES // (1 << 16)
_LONE = {0x01, *range(0xD0, 0xD9)}
"""Two-byte markers without a length."""
_FRAMES = (0xC0, 0xC1, 0xC2)
"""Frame headers of 8-bit baseline, extended and progressive JPEG, which every decoder reads."""


def intact_format(data: bytes) -> str:
    """Return the extension of a structurally complete JPEG or PNG, or "" if the file must be decoded to check it.

    A JPEG must have a readable frame header and an end marker; every chunk of a PNG must match its checksum.

    Raises:
        BadImageError: its header declares too many pixels, or an excessive amount of metadata.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            if _is_plain_jpeg(data):
                return "jpg"
            refuse_bloated(data)
            return "jpg" if _jpeg_is_whole(data) else ""
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return "png" if _png_is_whole(data) else ""
    except (struct.error, IndexError):
        return ""  # the structure points past the end of the file
    return ""


def _is_plain_jpeg(data: bytes) -> bool:
    """Return whether one short walk shows that `refuse_bloated` and `_jpeg_is_whole` accept the file; most are such.

    Up to 16 segments of 64 KB hold no more EXIF than is allowed. Fill bytes, markers without a length and anything
    unusual are left to the other two.
    """
    at, end, framed = 2, len(data), False
    for _ in range(_FEW_SEGMENTS + 1):
        if at + 10 > end or data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xDA:
            return framed and data[-2:] == b"\xff\xd9"
        if marker == 0xFF or marker in _LONE:
            return False
        if marker in _FRAMES:
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            framed = data[at + 4] == 8 and 0 < height * width <= MAX_PIXELS and data[at + 9] in (1, 3, 4)
            if not framed:
                return False
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False


def _jpeg_is_whole(data: bytes) -> bool:
    at, framed = 2, False
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        marker = data[at + 1]
        if marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            check_pixel_limit(width, height)
            framed = bits == 8 and height > 0 and width > 0 and channels in (1, 3, 4)
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return bool(framed and data[at] == 0xFF and data[-2:] == b"\xff\xd9" and at + 4 < len(data))


def _png_is_whole(data: bytes) -> bool:
    width, height = struct.unpack_from(">II", data, 16)
    check_pixel_limit(width, height)
    at, view = 8, memoryview(data)
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        (expected,) = struct.unpack_from(">I", data, at + 8 + length)
        if zlib.crc32(view[at + 4 : at + 8 + length]) != expected:
            return False
        if name == b"IEND":
            return bool(width > 0 and height > 0)
        at += 12 + length


def refuse_bloated(data: bytes) -> None:
    """Refuse a JPEG with excessive metadata; other formats and damaged files pass.

    Raises:
        BadImageError: its EXIF is longer than MAX_EXIF_BYTES, or it has more than MAX_SEGMENTS segments.
    """
    if data[:3] != b"\xff\xd8\xff":
        return
    at, exif, segments = 2, 0, 0
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF or data[at + 1] in _LONE:
            at += 1 if data[at + 1] == 0xFF else 2
        else:
            length = int.from_bytes(data[at + 2 : at + 4])
            exif += length if data[at + 1] == 0xE1 and data[at + 4 : at + 8] == b"Exif" else 0
            at += 2 + length
        segments += 1
        if exif > MAX_EXIF_BYTES or segments > MAX_SEGMENTS:
            what = f"{exif} bytes of EXIF" if exif > MAX_EXIF_BYTES else f"{segments} segments before its pixels"
            raise BadImageError(f"{what} and more: no camera writes that")


def check_pixel_limit(width: int, height: int) -> None:
    """Refuse an image by its size, before decoding it.

    Raises:
        BadImageError: it has too many pixels.
    """
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} x {height} pixels: more than the {MAX_PIXELS} that are decoded")
