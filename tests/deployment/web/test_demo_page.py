"""One HTML file in which a student runs: what is in it, and that nothing a person wrote can get out of its place."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.normalization import l2_normalize
from cache.reader import EmbeddingStore
from pipeline.commands.export_web import export_web
from pipeline.deployment.labels import Labels
from pipeline.deployment.web.demo_page import VENDOR, BrowserStudent, DemoPage, render_demo
from pipeline.deployment.web.gallery import build_gallery, quantize_rows
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.reporting.page import style
from tests.factories.project import RUNTIME

HOSTILE = "</script><img src=x onerror=alert(1)>"


def page(**changes: object) -> DemoPage:
    plain = DemoPage((BrowserStudent("student", b"onnx", 64, 1_000_000),), "a teacher", 100.0)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_hostile_name_stays_text_wherever_it_is_said() -> None:
    labels = Labels((HOSTILE,), np.ones((1, 4), np.float32))
    student = BrowserStudent(HOSTILE, b"onnx", 64, 1)
    text = render_demo(page(students=(student,), teacher=HOSTILE, labels=labels), style())
    assert "<img" not in text
    about = re.search(r'id="about">(.*?)</script>', text)
    assert about is not None
    assert json.loads(about[1])["labels"]["names"] == [HOSTILE]


def test_the_page_names_no_address_and_allows_only_its_own_scripts() -> None:
    text = render_demo(page(), style())
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe-inline" not in policy[1]
    assert len(scripts) == 2
    assert len(re.findall("sha256-", policy[1])) == 3
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "sourceMappingURL" not in text


def test_two_pages_of_the_same_are_the_same_bytes(shipping: Layout) -> None:
    gallery = build_gallery("val", 6, shipping)
    assert render_demo(page(gallery=gallery), style()) == render_demo(
        page(gallery=build_gallery("val", 6, shipping)), style()
    )


def test_the_vendored_runtime_is_what_its_record_says() -> None:
    import gzip

    record = json.loads((VENDOR / "package.json").read_text())
    assert record["license"] == "MIT"
    assert (VENDOR / "LICENSE").read_text().startswith("MIT License")
    for name, expected in record["sha256"].items():
        packed = VENDOR / f"{name}.gz"
        data = gzip.decompress(packed.read_bytes()) if packed.exists() else (VENDOR / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == expected
    assert f"v{record['version']}" in (VENDOR / "ort.wasm.min.js").read_text()[:200]


def test_eight_bits_keep_cosines_and_the_gallery_keeps_captions_with_their_images(shipping: Layout) -> None:
    store = EmbeddingStore.open(shipping.embeddings("val"))
    gallery = build_gallery("val", 10, shipping)
    assert len(gallery.thumbnails) == len(gallery.names) == len(gallery.images.values) == 10
    kept = gallery.images.scales[:, None] * gallery.images.values
    chosen = np.linspace(0, store.rows - 1, 10).astype(int)
    assert np.abs(kept - l2_normalize(store.image().load()[chosen])).max() < 1 / 127
    texts = np.concatenate([np.arange(store.offsets[r], store.offsets[r + 1]) for r in chosen])
    assert len(gallery.texts) == len(texts)
    captions = gallery.captions.scales[:, None] * gallery.captions.values
    # Half a step of 1/127 of the largest entry, 24 of them: what no sum of signs can exceed by much.
    assert ((captions * l2_normalize(store.text().load()[texts])).sum(axis=1) > 0.995).all()


def test_a_row_of_zeros_stays_zeros_in_eight_bits() -> None:
    rows = quantize_rows(np.zeros((2, 4), np.float32))
    assert not rows.values.any()


def test_three_students_are_too_many_for_a_page(shipping: Layout) -> None:
    folder = shipping.model("test_resnet", "zca")
    with pytest.raises(UsageError, match=r"one or two students go on a page, found 3"):
        export_web([folder] * 3, None, shipping, RUNTIME)


def test_students_of_two_teachers_share_no_page(shipping: Layout, tmp_path: Path) -> None:
    import shutil

    from cache.atomic import read_checksummed_json, write_checksummed_json

    folder, other = shipping.model("test_resnet", "zca"), tmp_path / "other"
    shutil.copytree(folder, other)
    card = read_checksummed_json(other / "student.json")
    write_checksummed_json(other / "student.json", {**card, "teacher": {**card["teacher"], "model": "another"}})
    with pytest.raises(UsageError, match=r"learned from two teachers, made-up and another"):
        export_web([folder, other], None, shipping, RUNTIME)
