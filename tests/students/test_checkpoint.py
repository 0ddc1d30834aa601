"""Students on disk: what comes back is what was saved, and nothing else is taken for it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, MissingError
from pipeline.project.layout import CARD, WEIGHTS
from pipeline.students.checkpoint import load_student, save_student
from pipeline.students.inference import embed_pixels
from tests.factories.students import made_student
from tests.students.test_model import made_space

BYTES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("directional", [False, True])
def test_a_student_comes_back_as_it_was_saved(tmp_path: Path, directional: bool) -> None:
    student, space = made_student(head={"kind": "mlp", "hidden": 9}).eval(), made_space()
    student.radius = space.image.rms_norm if directional else None
    student.fold_unwhitening(torch.from_numpy(space.image.backward), torch.from_numpy(space.image.mean))
    save_student(tmp_path, student, {"target": "zca"})
    again = load_student(tmp_path)
    assert np.array_equal(embed_pixels(again, BYTES), embed_pixels(student, BYTES))
    assert again.card["target"] == "zca"
    assert again.card["parameters"] == sum(p.numel() for p in student.parameters())
    assert not again.training


def test_the_same_student_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_student(tmp_path / name, made_student(), {"target": "zca"})
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_batches_of_any_size_give_the_same_embeddings() -> None:
    student = made_student().eval()
    np.testing.assert_allclose(embed_pixels(student, BYTES, batch=2), embed_pixels(student, BYTES), atol=1e-5)


def test_loading_fetches_nothing_even_where_training_started_from_published_weights(tmp_path: Path) -> None:
    student = made_student()
    published = student.params.backbone.model_copy(update={"weights": "imagenet"})
    student.params = student.params.model_copy(update={"backbone": published})
    save_student(tmp_path, student, {})
    assert cast(Any, load_student(tmp_path).card["params"])["backbone"]["weights"] == "imagenet"


def test_no_student_weights_without_a_card_and_other_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=CARD):
        load_student(tmp_path)
    save_student(tmp_path, made_student(), {})
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedError, match="its card says"):
        load_student(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(MissingError, match="Run `distill` again"):
        load_student(tmp_path)


def test_a_card_that_was_changed_or_describes_another_model_is_refused(tmp_path: Path) -> None:
    save_student(tmp_path, made_student(), {})
    text = (tmp_path / CARD).read_text()
    (tmp_path / CARD).write_text(text.replace('"dim": 6', '"dim": 7'))
    with pytest.raises(DamagedError, match="seal"):
        load_student(tmp_path)
    (tmp_path / CARD).write_text(text)
    card = read_checksummed_json(tmp_path / CARD)
    for change, words in (({"dim": 7}, "not the weights that its card describes"), ({"format": 99}, "expected 1")):
        write_checksummed_json(tmp_path / CARD, {**card, **change})
        with pytest.raises(DamagedError, match=words):
            load_student(tmp_path)


def test_a_hostile_header_is_refused_even_when_the_card_agrees_with_it(tmp_path: Path) -> None:
    from cache.fingerprint import sha256

    save_student(tmp_path, made_student(), {})
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    card = read_checksummed_json(tmp_path / CARD)
    write_checksummed_json(tmp_path / CARD, {**card, "weights_sha256": sha256(tmp_path / WEIGHTS)})
    with pytest.raises(DamagedError, match="not the weights"):
        load_student(tmp_path)
