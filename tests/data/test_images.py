from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.data import integrity
from pipeline.data.errors import BadImageError
from pipeline.data.images import Encoding, decode, encode_for_packing, encode_png
from pipeline.data.integrity import intact_format

RNG = np.random.default_rng(0)
PHOTO = Image.fromarray(np.kron(RNG.integers(0, 256, (12, 16, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG, PNG, WEBP = saved(PHOTO, "JPEG"), saved(PHOTO, "PNG"), saved(PHOTO, "WEBP")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data))


@pytest.mark.parametrize(("data", "extension"), [(JPEG, "jpg"), (PNG, "png"), (WEBP, "webp")])
@pytest.mark.parametrize("check", ["structure", "decode"])
def test_originals_pass_through_byte_for_byte(
    data: bytes, extension: str, check: Literal["structure", "decode"]
) -> None:
    stored = encode_for_packing(data, Encoding(check=check))
    assert (stored.data, stored.extension) == (data, extension)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_become_png(kind: str) -> None:
    data = saved(PHOTO, kind)
    stored = encode_for_packing(data, Encoding())
    assert stored.extension == "png"
    assert np.array_equal(pixels(stored.data), pixels(data))


def test_arrays_become_png_with_the_same_pixels_and_the_same_bytes() -> None:
    array = np.asarray(PHOTO)
    assert np.array_equal(pixels(encode_png(array)), array)
    assert encode_for_packing(array, Encoding(resize=8)).data == encode_png(array)


def test_resizing_scales_the_shorter_side_and_leaves_small_images_alone() -> None:
    stored = encode_for_packing(PNG, Encoding(resize=48))
    assert (decode(stored.data).size, stored.extension) == ((64, 48), "jpg")
    assert encode_for_packing(PNG, Encoding(resize=96)).data == PNG
    assert encode_for_packing(PNG, Encoding(resize=48)) == stored


def test_resizing_keeps_the_color_of_every_pixel() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255  # red beside blue, a pixel each
    twice = Image.fromarray(stripes).resize((128, 128), Image.Resampling.NEAREST)
    kept = pixels(encode_for_packing(saved(twice, "PNG"), Encoding(resize=64)).data).astype(int)
    assert np.abs(kept - stripes).mean() < 40
    # Negative control: with halved colour, Pillow's default, every pixel is the same purple.
    halved = pixels(saved(Image.fromarray(stripes), "JPEG", quality=92)).astype(int)
    assert np.abs(halved - stripes).mean() > 60


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = saved(PHOTO, "JPEG", exif=exif)
    assert decode(turned).size == (96, 128)
    assert np.array_equal(pixels(turned), np.rot90(pixels(JPEG), -1))
    assert decode(encode_for_packing(turned, Encoding(resize=48)).data).size == (48, 64)


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.open(io.BytesIO(saved(PHOTO, "PNG", exif=exif)))
    assert np.array_equal(pixels(saved(PHOTO, "PNG", exif=exif)), np.asarray(ImageOps.exif_transpose(photo)))


def test_a_photo_with_damaged_exif_is_used_and_turned_all_the_same() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    data = saved(PHOTO, "JPEG", exif=exif).replace(b"\x01\x0f", b"\x01\x3d", 1)  # the maker's name became a number
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))  # why it is not used
    assert decode(data).size == (96, 128)


def test_cmyk_gray_and_palette_become_rgb() -> None:
    for mode, kind in [("CMYK", "JPEG"), ("L", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG")]:
        decoded = decode(saved(PHOTO.convert(mode), kind))
        assert (decoded.mode, decoded.size) == ("RGB", PHOTO.size)
    gray = saved(PHOTO.convert("L"), "PNG")
    assert np.array_equal(pixels(gray), np.asarray(PHOTO.convert("L"))[..., None].repeat(3, -1))


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (pixels(saved(clear, "PNG")) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    assert (pixels(saved(palette, "PNG", transparency=0)) == 255).all()
    named = Image.new("RGB", (4, 4), (10, 20, 30))
    assert (pixels(saved(named, "PNG", transparency=(10, 20, 30))) == 255).all()
    assert (pixels(saved(named, "PNG", transparency=(10, 20, 31))) == (10, 20, 30)).all()
    # Negative control: the same colours, opaque, stay what they are.
    assert (pixels(saved(Image.new("RGBA", (4, 4), (10, 20, 30, 255)), "PNG")) == (10, 20, 30)).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    found = pixels(saved(Image.fromarray(ramp), "PNG"))[..., 0]
    assert np.abs(found.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert (pixels(data) == (255, 0, 0)).all(), kind


def test_one_pixel_is_an_image() -> None:
    assert decode(saved(Image.new("RGB", (1, 1), "red"), "PNG")).size == (1, 1)


def png_header(width: int, height: int) -> bytes:
    """A PNG of any size that weighs a few bytes: what a bomb looks like."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    for attempt in (decode, intact_format, lambda data: encode_for_packing(data, Encoding(resize=64))):
        with pytest.raises(BadImageError, match="100000 x 100000 pixels: more than"):
            attempt(png_header(100_000, 100_000))


def test_a_jpeg_with_megabytes_of_exif_is_refused_before_anything_joins_them() -> None:
    photo = saved(PHOTO, "JPEG")

    def padded(*segments: bytes) -> bytes:
        marked = b"".join(b"\xff\xe1" + (len(part) + 2).to_bytes(2) + part for part in segments)
        return photo[:2] + marked + photo[2:]

    exif = padded(*[b"Exif\0\0" + bytes(65_000)] * 20)
    for data, reason in ((exif, "bytes of EXIF"), (padded(*[b"x"] * 10_001), "segments before its pixels")):
        for use in (decode, lambda found: encode_for_packing(found, Encoding())):
            with pytest.raises(BadImageError, match=reason):
                use(data)
    # Negative control: one segment of EXIF, and a color profile of megabytes, are what cameras and editors write.
    for data in (padded(b"Exif\0\0" + bytes(65_000)), padded(*[b"ICC_PROFILE\0" + bytes(65_000)] * 100)):
        assert encode_for_packing(data, Encoding()).data == data
        assert decode(data).size == PHOTO.size


def test_a_hundred_megapixels_are_no_bomb() -> None:
    stored = encode_for_packing(png_header(10_000, 10_000), Encoding())
    assert stored.extension == "png"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"hello, I am a text", "not an image: begins with b'hello, I'"),
        (JPEG[: len(JPEG) // 2], "damaged: image file is truncated"),
        (PNG[: len(PNG) // 2], "damaged: "),
        (WEBP[: len(WEBP) // 2], "damaged: |not an image"),
        (JPEG[:10], "not an image|damaged"),
    ],
)
@pytest.mark.parametrize("resize", [None, 32])
def test_damage_has_a_reason(data: bytes, reason: str, resize: int | None) -> None:
    with pytest.raises(BadImageError, match=reason):
        encode_for_packing(data, Encoding(resize))


def test_a_photo_with_bytes_behind_its_end_mark_is_kept_if_it_decodes() -> None:
    assert intact_format(JPEG) == "jpg"
    assert intact_format(JPEG + b"camera maker's note") == ""
    assert encode_for_packing(JPEG + b"camera maker's note", Encoding()).extension == "jpg"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([JPEG, PNG, WEBP, saved(PHOTO, "GIF"), saved(PHOTO, "TIFF")]), st.data())
def test_flipped_and_cut_bytes_never_raise_anything_but_a_reason(original: bytes, data: st.DataObject) -> None:
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for encoding in (Encoding(), Encoding(check="decode"), Encoding(32)):
        with suppress(BadImageError):
            assert encode_for_packing(cut, encoding).data


SEGMENTS = st.lists(
    st.tuples(st.sampled_from([0x01, 0xC0, 0xC4, 0xD8, 0xDA, 0xE1, 0xFE, 0xFF]), st.integers(0, 40)), max_size=30
)
CHANGES = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=3)


def verdict(data: bytes) -> str:
    try:
        return intact_format(data)
    except BadImageError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(segments=SEGMENTS, changes=CHANGES, cut=st.integers(0, 20))
def test_the_short_check_of_ordinary_jpegs_gives_the_verdict_of_the_full_one(
    segments: list[tuple[int, int]], changes: list[tuple[int, int]], cut: int
) -> None:
    more = b"".join(bytes((0xFF, kind)) + (2 + size).to_bytes(2) + bytes(size) for kind, size in segments)
    data = bytearray(JPEG[:2] + more + JPEG[2:])
    for at, value in changes:
        data[min(at, len(data) - 1)] = value
    damaged = bytes(data[: len(data) - cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integrity, "_is_plain_jpeg", lambda data: False)
        full = verdict(damaged)
    assert verdict(damaged) == full


@pytest.mark.parametrize("segments", [14, 15, 16, 17, 18])
def test_segments_are_counted_whether_the_short_check_or_the_full_one_reads_them(segments: int) -> None:
    exif = b"\xff\xe1\xff\xffExif" + bytes(65529)
    said = verdict(JPEG[:2] + exif * segments + JPEG[2:])
    assert ("EXIF and more" in said) == (segments * 65535 > integrity.MAX_EXIF_BYTES)
    assert said == "jpg" or "EXIF" in said
