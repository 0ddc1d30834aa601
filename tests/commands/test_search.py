"""Search finds what is nearest in the cached embeddings, by a picture or by words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import MissingError
from cache.reader import EmbeddingStore
from pipeline.commands.search import image_query, search, text_query, write_contact_sheet
from pipeline.data.user_images import find_images
from pipeline.deployment.predictor import open_model
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.teacher.params import TeacherParams


def test_an_image_of_the_split_finds_itself(shipping: Layout) -> None:
    store = EmbeddingStore.open(shipping.embeddings("val"))
    hits = search(np.asarray(store.image()[7]), "val", shipping, top=3).hits
    assert hits[0].key == store.keys[7]
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_picture_finds_the_split_in_the_order_of_its_cosines(
    shipping: Layout, pictures: Path, tmp_path: Path
) -> None:
    model = open_model(shipping.model("test_resnet", "zca"))
    query = image_query(find_images([str(pictures / "*.jpg")])[0], model)
    hits = search(query, "val", shipping, top=5).hits
    store = EmbeddingStore.open(shipping.embeddings("val"))
    rows = store.image().load().astype(np.float64)
    cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    assert [hit.key for hit in hits] == [store.keys[row] for row in np.argsort(-cosines)[:5]]
    write_contact_sheet(tmp_path / "sheet.html", "one.jpg", hits, "val", shipping)
    text = (tmp_path / "sheet.html").read_text()
    assert text.count("image/webp") >= 5
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_words_are_read_by_the_teacher(shipping: Layout, tiny_teacher: str) -> None:
    query = text_query("two dogs in snow", TeacherParams(model=tiny_teacher))
    assert query.shape == (16,)
    with pytest.raises(UsageError, match="the query has 16 dimensions, 'val' has 24: made by two teachers"):
        search(query, "val", shipping)


def test_a_split_that_was_never_embedded_is_one_line(shipping: Layout) -> None:
    with pytest.raises(MissingError, match=r"nothing.manifest\.json: no such file"):
        search(np.ones(24, np.float32), "nothing", shipping)
