"""Spaces, students and comparisons are named by what they were made from and hold, not by what was asked for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.fingerprint import fingerprint
from cache.manifest import read_manifest, write_manifest
from pipeline.distill import DistillParams, distill
from pipeline.moments import MomentsParams, moments
from pipeline.project.layout import Layout
from pipeline.students.arm import open_arm
from pipeline.students.checkpoint import read_card
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import StudentParams
from pipeline.students.run import ArmParams
from pipeline.students.training.params import TrainingParams
from pipeline.whiten import whiten
from pipeline.whitening.spaces import TargetParams, load_space
from pipeline.whitening.transforms import digest_arrays
from tests.factories.project import RUNTIME
from tests.factories.students import TINY

pytestmark = pytest.mark.project(students=(), targets=("zca",))

ZCA = TargetParams(method="zca", floor=0.01)
RECIPE = ArmParams(TrainingParams(epochs=1, batch=16, image_size=16), LossParams(fd=1.0, icl=0.1), StudentParams())


def fitted(layout: Layout, captions: str) -> str:
    """Run `moments` and `whiten`; return the fingerprint of the space."""
    moments(MomentsParams.model_validate({"captions": captions}), layout, RUNTIME)
    return load_space(whiten("zca", ZCA, layout)).fingerprint


def trained(layout: Layout) -> dict[str, bytes]:
    params = DistillParams(training=RECIPE.training, loss=RECIPE.loss, student=RECIPE.student)
    out = distill(TINY, "zca", params, layout, RUNTIME, layout.model(TINY, "zca"), force=True)
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_moments_of_first_captions_give_another_space_and_another_student(project_copy: Layout, tmp_path: Path) -> None:
    every = fitted(project_copy, "all")
    before = trained(project_copy)
    first = fitted(project_copy, "first")
    assert first != every
    after = trained(project_copy)
    assert after["student.safetensors"] != before["student.safetensors"]
    # What a run from scratch gives, byte for byte.
    shutil.copytree(project_copy.root, tmp_path / "scratch")
    scratch = Layout(tmp_path / "scratch")
    shutil.rmtree(scratch.store)
    shutil.rmtree(scratch.root / "models")
    fitted(scratch, "first")
    assert trained(scratch) == after
    # And back: the space and the student of before, without training.
    assert fitted(project_copy, "all") == every
    assert trained(project_copy) == before
    assert len([path for path in project_copy.store.glob("distill-*") if path.is_dir()]) == 2


def test_the_same_bytes_have_the_same_name_whatever_made_them(project_copy: Layout) -> None:
    assert fitted(project_copy, "all") == fitted(project_copy, "all")
    space = load_space(project_copy.target("zca"))
    assert replace(space.image).digest() == space.image.digest()


def test_one_bit_of_a_map_is_another_digest() -> None:
    rows = np.arange(6.0).reshape(2, 3)
    nudged = rows.copy()
    nudged[1, 2] = np.nextafter(5.0, 6.0)
    assert digest_arrays([rows]) == digest_arrays([rows.copy(order="F")])
    assert len({digest_arrays(arrays) for arrays in ([rows], [nudged], [rows.T], [rows.ravel()], [rows, rows])}) == 5


def test_embeddings_that_differ_in_their_bytes_alone_make_another_student(project_copy: Layout) -> None:
    before = fingerprint(open_arm(TINY, "zca", RECIPE, project_copy, RUNTIME).facts())
    assert fingerprint(open_arm(TINY, "zca", RECIPE, project_copy, RUNTIME).facts()) == before
    manifest = read_manifest(project_copy.embeddings("val"))
    part = manifest.parts["image/view-00"]
    shards = (replace(part.shards[0], sha256="0" * 64), *part.shards[1:])
    parts = {**manifest.parts, "image/view-00": replace(part, shards=shards)}
    write_manifest(project_copy.embeddings("val"), replace(manifest, parts=parts))
    assert fingerprint(open_arm(TINY, "zca", RECIPE, project_copy, RUNTIME).facts()) != before


def test_the_card_names_the_space_that_was_learnt(project_copy: Layout) -> None:
    first = fitted(project_copy, "first")
    trained(project_copy)
    assert read_card(project_copy.model(TINY, "zca"))["target_fingerprint"] == first
