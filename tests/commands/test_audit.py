from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.errors import DamagedError
from pipeline.commands.audit import audit, print_audit
from pipeline.evaluation.audit import IN_SPACE, AuditResult
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.whitening.methods import TargetParams
from tests.factories.audit import embedded
from tests.factories.embeddings import clip_like, write_split

TARGETS = {"raw": TargetParams(method="raw"), "zca": TargetParams(), "narrow": TargetParams(method="pca", components=3)}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return embedded(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def found(layout: Layout) -> AuditResult:
    return audit(TARGETS, ["badges"], 0.01, layout, Runtime())


def test_an_exact_student_of_any_invertible_space_scores_as_the_teacher_by_every_rule(found: AuditResult) -> None:
    for space in found.spaces:
        if space.name not in ("narrow", "wclip-kd"):
            for column, ceiling in found.ceiling.items():
                by_rule = {rule: score for rule, score in space.scores[column].items() if rule != IN_SPACE}
                assert by_rule == pytest.approx({rule: ceiling[rule] for rule in by_rule}, abs=1e-9)
    # Negative control: three axes of sixteen do not give it all back.
    narrow = next(space for space in found.spaces if space.name == "narrow")
    assert narrow.scores["val"]["whitened"] < found.ceiling["val"]["whitened"] / 2
    assert narrow.round_trip_error > 0.1


def test_in_the_space_itself_raw_is_clip_and_center_is_centered(found: AuditResult) -> None:
    by_name = {space.name: space for space in found.spaces}
    for column, ceiling in found.ceiling.items():
        assert by_name["raw"].scores[column][IN_SPACE] == pytest.approx(ceiling["clip"])
        assert by_name["center"].scores[column][IN_SPACE] == pytest.approx(ceiling["centered"])
        assert by_name["zca"].scores[column][IN_SPACE] == pytest.approx(ceiling["whitened"])
        assert by_name["soft-zca"].scores[column][IN_SPACE] == pytest.approx(ceiling["soft"])


def test_scores_are_those_counted_by_hand(found: AuditResult, layout: Layout) -> None:
    image, text = clip_like(200, 16, 1, seed=2)
    labels = np.argmax(text @ text[:4].T - 0.5 * np.sum(text[:4] ** 2, axis=1), axis=1)
    classes = text[:4] / np.linalg.norm(text[:4], axis=1, keepdims=True)
    assert found.ceiling["badges"]["clip"] == np.mean(np.argmax(image @ classes.T, axis=1) == labels)
    assert found.chance["badges"] == 0.25


def test_every_space_is_tried_and_those_of_the_params_come_first(found: AuditResult) -> None:
    names = [space.name for space in found.spaces]
    assert names[:3] == ["raw", "zca", "narrow"]
    assert {"center", "scale", "phi-s", "wclip-kd", "wclip", "shared-zca"} <= set(names)
    assert found.refused == {}
    assert found.counts["train text rows"] == 1600


def test_what_cannot_be_fitted_is_refused_by_name_and_the_rest_is_audited(tmp_path: Path) -> None:
    made = audit({"zca": TargetParams()}, [], 0.01, embedded(tmp_path, n=14, captions=1), Runtime())
    assert "14 rows cannot fit 16 axes" in made.refused["wclip"]
    assert made.spaces[0].name == "zca"
    assert any("below 10 d = 160" in line for line in made.advice)


def test_without_captions_the_audit_scores_by_clip_only(tmp_path: Path) -> None:
    layout = embedded(tmp_path)
    for split in ("train", "val"):
        shutil.rmtree(layout.embeddings(split))
        write_split(layout.embeddings(split), [clip_like(200)[0]])
    made = audit({"zca": TargetParams()}, ["badges"], 0.01, layout, Runtime())
    assert set(made.ceiling) == {"badges"}
    assert all(set(space.scores["badges"]) == {"clip"} for space in made.spaces)
    assert made.correlation.size == 0
    print_audit(made, layout)


def test_a_damaged_shard_ends_the_audit(tmp_path: Path) -> None:
    layout = embedded(tmp_path)
    shard = layout.embeddings("val") / "text" / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(DamagedError):
        audit({}, [], 0.01, layout, Runtime())


def test_showing_prints_tables_and_writes_numbers_and_pictures(
    found: AuditResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_audit(found, Layout(tmp_path))
    printed = capsys.readouterr().out
    assert "badges: the teacher's top-1" in printed
    folder = tmp_path / "report" / "audit"
    written = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    assert written["spaces"][1]["name"] == "zca"
    assert {path.name for path in folder.iterdir()} == {
        "audit.json",
        "checksums.json",
        "spectra.svg",
        "correlation.svg",
        "ceilings-badges.svg",
        "ceilings-val.svg",
    }
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    print_audit(found, Layout(tmp_path))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
