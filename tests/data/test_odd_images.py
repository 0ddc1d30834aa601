"""Whatever people have on disk: every file of a mixed bag ends as packed or as skipped with a reason."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit
from pipeline.data.synthetic.world import render_image
from tests.data.test_images import png_header
from tests.stages.test_pack import packed, samples

GOOD, BAD = "good", "bad"


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oddities() -> dict[str, tuple[str, bytes]]:
    """Every odd file that the design names, and whether people expect to see it used."""
    scene = Image.fromarray(render_image("train", 1).image).resize((320, 240))
    jpeg, exif = saved(scene, "JPEG"), Image.Exif()
    exif[0x0112] = 8
    frames = {"save_all": True, "append_images": [scene.rotate(90)]}
    deep = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)
    return {
        "truncated.jpg": (BAD, jpeg[: len(jpeg) // 2]),
        "bomb.png": (BAD, png_header(60_000, 60_000)),
        "cmyk.jpg": (GOOD, saved(scene.convert("CMYK"), "JPEG")),
        "grey.jpg": (GOOD, saved(scene.convert("L"), "JPEG")),
        "palette.png": (GOOD, saved(scene.convert("P"), "PNG")),
        "transparent.png": (GOOD, saved(scene.convert("RGBA"), "PNG")),
        "transparent palette.gif": (GOOD, saved(scene.convert("P"), "GIF", transparency=0)),
        "rotated.jpg": (GOOD, saved(scene, "JPEG", exif=exif)),
        "one pixel.png": (GOOD, saved(scene.resize((1, 1)), "PNG")),
        "nothing.jpg": (BAD, b""),
        "a text.jpg": (BAD, b"404 Not Found"),
        "a page.png": (BAD, b"<!DOCTYPE html><html></html>"),
        "animated.gif": (GOOD, saved(scene, "GIF", **frames)),
        "animated.webp": (GOOD, saved(scene, "WEBP", **frames)),
        "deep.png": (GOOD, saved(deep, "PNG")),
        "progressive.jpg": (GOOD, saved(scene, "JPEG", progressive=True)),
        "scan.tiff": (GOOD, saved(scene, "TIFF")),
        "old.bmp": (GOOD, saved(scene, "BMP")),
        "a png.jpg": (GOOD, saved(scene, "PNG")),
        "floats.tiff": (BAD, saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF")),
        "no extension": (GOOD, jpeg),
        "captions.csv": (BAD, b"image,caption\n"),
    }


def bag(folder: Path) -> dict[str, str]:
    """Fill a folder with 300 files and return what each is: good, bad, or anything's guess."""
    rng = np.random.default_rng(0)
    files = oddities()
    for number in range(150):
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        files[f"photo {number}.{kind.lower()}"] = (
            GOOD,
            saved(Image.fromarray(render_image("val", number).image), kind),
        )
    while len(files) < 230:
        files[f"random {len(files)}.jpg"] = (BAD, rng.bytes(int(rng.integers(1, 4000))))
    originals = [data for told, data in files.values() if told == GOOD]
    while len(files) < 300:
        data = bytearray(originals[int(rng.integers(len(originals)))])
        for at in rng.integers(0, len(data), 10):
            data[at] = rng.integers(256)
        files[f"flipped {len(files)}.jpg"] = ("?", bytes(data))
    for name, (_, content) in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {name: told for name, (told, _) in files.items()}


def sorted_out(split: PackedSplit) -> tuple[set[str], dict[str, str]]:
    skipped = json.loads((split.folder / "skipped.json").read_text())
    return {sample.source for sample in samples(split)}, {skip["origin"]: skip["reason"] for skip in skipped}


@pytest.mark.parametrize(("check", "resize"), [("structure", None), ("decode", None), ("structure", 64)])
def test_every_file_of_a_mixed_bag_is_packed_or_skipped_with_a_reason(
    tmp_path: Path, check: str, resize: int | None
) -> None:
    told = bag(tmp_path / "bag")
    source = {"source": "images", "images": str(tmp_path / "bag")}
    split = packed(tmp_path, source, max_skipped_fraction=1, image_check=check, resize=resize)
    used, skipped = sorted_out(split)
    assert used | set(skipped) == set(told)
    assert not used & set(skipped)
    assert {name for name, what in told.items() if what == GOOD} <= used
    assert {name for name, what in told.items() if what == BAD} <= set(skipped)
    assert all(skipped.values())
    assert split.counts["listed"] == split.counts["packed"] + split.counts["skipped"] == 300
    if check == "decode" or resize:
        for sample in samples(split):
            assert decode(sample.image).mode == "RGB"


def test_each_oddity_has_the_reason_that_a_person_would_give(tmp_path: Path) -> None:
    bag(tmp_path / "bag")
    _, skipped = sorted_out(
        packed(tmp_path, {"source": "images", "images": str(tmp_path / "bag")}, max_skipped_fraction=1)
    )
    expected = {
        "truncated.jpg": "damaged: image file is truncated",
        "bomb.png": "60000 x 60000 pixels: more than the 178956970 that are decoded",
        "nothing.jpg": "an empty file",
        "a text.jpg": "not an image: begins with b'404 Not '",
        "a page.png": "not an image: begins with b'<!DOCTYP'",
        "captions.csv": "not an image: begins with b'image,ca'",
        "floats.tiff": "its pixels are no 8 or 16 bits (mode F)",
    }
    assert {name: skipped[name][: len(reason)] for name, reason in expected.items()} == expected


def test_a_file_that_may_not_be_read_is_skipped_with_the_systems_word(tmp_path: Path) -> None:
    bag(tmp_path / "bag")
    (tmp_path / "bag" / "photo 0.jpeg").chmod(0)
    if os.access(tmp_path / "bag" / "photo 0.jpeg", os.R_OK):
        return  # root reads everything
    _, skipped = sorted_out(
        packed(tmp_path, {"source": "images", "images": str(tmp_path / "bag")}, max_skipped_fraction=1)
    )
    assert skipped["photo 0.jpeg"] == "cannot be read: Permission denied"


def usable(name: str) -> bool:
    raw = os.fsencode(name)
    return name[0] != "." and not {"/", "\0"} & set(name) and len(raw) <= 255


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).filter(usable)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(NAMES, min_size=1, max_size=8))
@example({"__init__.jpg", "a.b.c.jpg", "a.jpg", "a.png", "a", " ", "-", "~", "%", "a\nb.jpg", "pipe:x.jpg", "x" * 255})
@example({"\udcff\udcfe.jpg"})
def test_no_name_of_a_file_is_too_odd(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    root = tmp_path_factory.mktemp("names")
    (root / "bag").mkdir()
    photo = saved(Image.fromarray(render_image("val", 1).image), "PNG")
    for name in names:
        (root / "bag" / name).write_bytes(photo)
    used, skipped = sorted_out(packed(root, {"source": "images", "images": str(root / "bag")}, max_skipped_fraction=1))
    assert used | set(skipped) == names
    assert all("has the same key" in reason for reason in skipped.values())


def test_a_hundred_megapixels_are_packed_and_decoded(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "big.jpg").write_bytes(saved(Image.new("L", (12_000, 8_500), 90), "JPEG"))
    for resize in (None, 256):
        split = packed(tmp_path, {"source": "images", "images": str(tmp_path / "bag")}, resize=resize)
        assert split.rows == 1
    assert decode(samples(split)[0].image).size == (361, 256)
