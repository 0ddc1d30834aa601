"""What was made from different inputs is refused where it meets, with both values and what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.errors import DamagedError, StaleError
from cache.fingerprint import fingerprint
from cache.manifest import NAME, Manifest, ManifestPart, read_manifest, write_manifest
from cache.shard import ImageShard, PromptShard, TextShard, read_shard, write_shard
from pipeline.commands.audit import audit
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.moments import MomentsParams, moments
from pipeline.project.layout import Layout
from pipeline.students.inputs.splits import open_split
from pipeline.whitening.moments_file import load_moments, save_moments
from tests.factories.project import RUNTIME

KINDS = {"image": ImageShard, "text": TextShard, "prompts": PromptShard}
OTHER = {"model": "another", "weights": "1" * 64, "dim": 24}


def by_another_teacher(folder: Path) -> None:
    """Say of every shard of a folder that another teacher made it, with every hash and seal in order."""
    manifest = read_manifest(folder)
    parts = {}
    for name, part in manifest.parts.items():
        facts = {**part.facts, "teacher": OTHER}
        records = []
        for shard in part.shards:
            path = folder / name / shard.name
            held = read_shard(path, KINDS[name.partition("/")[0]])
            copy: dict[str, Any] = {
                field: np.array(getattr(held, field)) for field in held.columns if getattr(held, field) is not None
            }
            records.append(write_shard(path, replace(held, **copy), fingerprint(facts)))
        parts[name] = ManifestPart(fingerprint(facts), facts, tuple(records))
    write_manifest(folder, Manifest(manifest.split, OTHER, manifest.source, {}, 16, parts))


def test_a_split_of_another_teacher_than_the_target_space_is_refused_before_a_student_learns(
    project_copy: Layout,
) -> None:
    by_another_teacher(project_copy.embeddings("val"))
    space_teacher = load_moments(project_copy.moments).teacher
    open_split("train", project_copy, RUNTIME, space_teacher)  # Negative control.
    with pytest.raises(StaleError, match=r"embeddings/val: embedded from teacher \w{12} .*, but \w{12} .* is at hand"):
        open_split("val", project_copy, RUNTIME, space_teacher)


def test_an_audit_of_splits_by_two_teachers_is_refused(project_copy: Layout) -> None:
    by_another_teacher(project_copy.embeddings("val"))
    with pytest.raises(StaleError, match=r"embeddings/val: embedded from teacher \w{12}, but \w{12} is at hand"):
        audit({}, ["badges"], 0.01, project_copy, RUNTIME)


def test_moments_of_another_teacher_are_refused_where_a_student_is_scored(project_copy: Layout) -> None:
    found = load_moments(project_copy.moments)
    save_moments(project_copy.moments, found.by_pre_norm, OTHER, found.embeddings_digest, found.captions)
    with pytest.raises(StaleError, match=r"moments\.h5: of \w{12} \(another\), but .* learnt from \w{12} \(made-up\)"):
        evaluate(project_copy.model("mobilenetv3", "zca"), ["badges"], EvaluateParams(), project_copy, RUNTIME)


def test_captions_or_images_that_changed_since_they_were_embedded_are_refused(project_copy: Layout) -> None:
    folder = project_copy.packed("train")
    manifest = read_checksummed_json(folder / NAME)
    manifest["shards"][0]["captions_sha256"] = "0" * 64
    write_checksummed_json(folder / NAME, manifest)
    with pytest.raises(StaleError, match=r"embeddings/train: embedded from packed split \w{12}, but \w{12} is at hand"):
        open_split("train", project_copy, RUNTIME)


def test_shards_in_another_order_are_refused(project_copy: Layout) -> None:
    folder = project_copy.embeddings("train") / "image" / "view-00"
    (folder / "shard-00000.h5").rename(folder / "kept")
    (folder / "shard-00001.h5").rename(folder / "shard-00000.h5")
    (folder / "kept").rename(folder / "shard-00001.h5")
    with pytest.raises(DamagedError, match=r"shard-0000[01]\.h5: damaged: another file than the manifest records"):
        moments(MomentsParams(), project_copy, RUNTIME)
