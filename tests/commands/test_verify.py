"""`verify` finds what is damaged, stale or misplaced, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.manifest import NAME
from pipeline.commands.verify import print_verify, verify
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.project.terminal import PlainConsole
from tests.factories.project import embed_by_arithmetic


def flip(path: Path, position: int | None = None) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)
    return path


def test_a_whole_project_has_no_faults_and_says_what_was_checked(made_project: Layout) -> None:
    result = verify(made_project)
    assert result.faults == []
    result.raise_if_faulty()
    names = [checked.path.relative_to(made_project.root).as_posix() for checked in result.checked]
    outputs = [name for name in names if not name.startswith("data/.store")]
    assert outputs == [
        "data/packed/badges",
        "data/embeddings/badges",
        "data/packed/train",
        "data/embeddings/train",
        "data/packed/val",
        "data/embeddings/val",
        "data/index/badges.json",
        "data/index/train.json",
        "data/index/val.json",
        "data/moments.h5",
        "data/targets/raw.h5",
        "data/targets/zca.h5",
        "models/mobilenetv3-raw",
        "models/mobilenetv3-zca",
    ]
    assert sum(name.startswith("data/.store/pack-") for name in names) == 3
    assert all(checked.size > 0 for checked in result.checked)


def test_one_split_can_be_checked_alone(project_copy: Layout) -> None:
    flip(project_copy.moments)
    assert {checked.path.name for checked in verify(project_copy, ["val"]).checked} == {"val"}
    assert verify(project_copy, ["val"]).faults == []
    with pytest.raises(UsageError, match="did you mean 'train'"):
        verify(project_copy, ["trian"])


def test_a_project_in_which_nothing_was_made_has_no_faults(tmp_path: Path) -> None:
    assert verify(Layout(tmp_path)).checked == ()


@pytest.mark.parametrize(
    "name",
    [
        "data/packed/train/shard-00001.tar",
        "data/packed/train/manifest.json",
        "data/embeddings/train/manifest.json",
        "data/embeddings/train/image/view-00/shard-00002.h5",
        "data/embeddings/val/text/shard-00000.h5",
        "data/embeddings/badges/prompts/shard-00000.h5",
        "data/moments.h5",
        "data/targets/zca.h5",
        "models/mobilenetv3-zca/student.json",
        "models/mobilenetv3-zca/student.safetensors",
        "models/mobilenetv3-zca/history.csv",
        "data/packed/train/skipped.json",
    ],
)
def test_a_flipped_bit_a_missing_file_and_a_new_name_are_found_and_named(project_copy: Layout, name: str) -> None:
    path = project_copy.root / name
    whole = path.read_bytes()
    flip(path)
    assert any(path.name in fault for fault in verify(project_copy).faults)
    path.rename(path.with_name(f"{path.name}.bak"))
    assert any(path.name in fault for fault in verify(project_copy).faults)
    path.with_name(f"{path.name}.bak").unlink()
    if path.parent.name != "targets":  # a student outlives the space that it learnt in
        assert any(path.name in fault for fault in verify(project_copy).faults)
    path.write_bytes(whole)
    assert verify(project_copy).faults == []  # Negative control.


def test_every_fault_of_a_folder_is_named_not_only_the_first(project_copy: Layout) -> None:
    folder = project_copy.embeddings("train") / "image" / "view-00"
    damaged = [flip(folder / "shard-00000.h5"), flip(folder / "shard-00002.h5")]
    assert [any(str(path) in fault for fault in verify(project_copy).faults) for path in damaged] == [True, True]


def test_a_result_with_faults_is_an_error_and_is_shown_in_full(project_copy: Layout) -> None:
    path = flip(project_copy.moments)
    result = verify(project_copy)
    with pytest.raises(PipelineError, match="1 faults"):
        result.raise_if_faulty()
    console = PlainConsole(record=True, width=60, file=(project_copy.root / "shown").open("w"))
    print_verify(result, console)
    console.file.close()
    assert f"{path}: damaged" in console.export_text()


def test_an_unfinished_file_is_named(project_copy: Layout) -> None:
    left = project_copy.embeddings("val") / "text" / ".shard-00001.h5.unfinished"
    left.write_bytes(b"half")
    assert verify(project_copy).faults == [f"{left}: not in the manifest. Delete it."]


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = read_checksummed_json(folder / NAME)
    change(value)
    write_checksummed_json(folder / NAME, value)


def test_embeddings_of_another_packed_split_are_stale(project_copy: Layout) -> None:
    def more(value: Any) -> None:
        value["counts"]["listed"] += 1

    resealed(project_copy.packed("val"), more)
    assert any("embedded from packed split" in fault and "dvc repro" in fault for fault in verify(project_copy).faults)


def test_a_split_in_the_place_of_another_is_found(project_copy: Layout) -> None:
    for kind in (project_copy.packed, project_copy.embeddings):
        kind("val").rename(project_copy.root / "kept")
        shutil.copytree(kind("train"), kind("val"))
        shutil.rmtree(project_copy.root / "kept")
    assert sum("holds 'train'" in fault for fault in verify(project_copy).faults) == 2


@pytest.mark.parametrize(
    ("what", "part"),
    [("captions", "text"), ("labels", "image/view-00"), ("keys", "image/view-00"), ("classes", "prompts")],
)
def test_embeddings_of_other_samples_under_a_right_seal_are_found(
    project_copy: Layout, what: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A shard of the packed split is written anew with one thing changed, and every manifest made to agree with it.
    split = "badges" if what in {"labels", "classes"} else "val"
    import tests.factories.project as module

    real: dict[str, Callable[..., Any]] = {
        "captions": module._captions,
        "keys": module._images,
        "labels": module._images,
        "classes": module._prompts,
    }

    def changed(*arguments: Any) -> Any:
        from dataclasses import replace

        shard = real[what](*arguments)
        if what == "captions":
            return replace(shard, caption_sha=shard.caption_sha[::-1].copy())
        if what == "keys":
            return replace(shard, keys=(shard.keys[1], shard.keys[0], *shard.keys[2:]))
        if what == "labels":
            return replace(shard, label=(shard.label + 1) % 10)
        return replace(shard, classes=shard.classes[::-1])

    monkeypatch.setattr(module, real[what].__name__, changed)
    shutil.rmtree(project_copy.embeddings(split))
    embed_by_arithmetic(project_copy, split)
    assert any(f"{part}/shard-0000" in fault and f"other {what}" in fault for fault in verify(project_copy).faults)


def test_moments_of_other_embeddings_and_targets_of_other_moments_are_stale(project_copy: Layout) -> None:
    folder = project_copy.embeddings("train")
    kept = json.loads((folder / NAME).read_text())["parts"]["image/view-00"]["shards"][0]["sha256"]
    store = project_copy.embeddings("train") / "image" / "view-00" / "shard-00000.h5"
    from cache.shard import ImageShard, read_shard, write_shard

    shard = read_shard(store, ImageShard)
    fingerprint = json.loads((folder / NAME).read_text())["parts"]["image/view-00"]["fingerprint"]
    from dataclasses import replace

    record = write_shard(store, replace(shard, embedding=np.array(shard.embedding) * 2), fingerprint)
    resealed(folder, lambda value: value["parts"]["image/view-00"]["shards"][0].update(sha256=record.sha256))
    assert record.sha256 != kept
    assert [
        fault for fault in verify(project_copy).faults if "moments.h5: of embeddings" in fault and "dvc repro" in fault
    ]


def test_a_student_of_another_target_space_is_stale(project_copy: Layout) -> None:
    from pipeline.whiten import TargetParams, whiten

    whiten("zca", TargetParams(method="zca", floor=0.5), project_copy)
    assert any("student.json: learnt target space" in fault for fault in verify(project_copy).faults)


@pytest.mark.parametrize(
    "place",
    [
        "data/index/train.json",
        "data/.store/pixels-0123456789ab/index.h5",
        "data/.store/pack-0123456789ab/val-manifest.json",
        "data/.store/x.claim",
        "data/code.json",
        "data/.store/pixels-0123456789ab/code.json",
        "data/labels-0123456789ab.h5",
        "exports/a/checksums.json",
        "exports/b/wclip-kd.json",
        "runs/compare/0123456789ab/raw-0123456789ab/epochs-1.json",
        "runs/compare/0123456789ab/result/checksums.json",
        "report/audit/checksums.json",
    ],
)
def test_a_file_of_ours_that_is_not_whole_is_named_wherever_it_lies(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{")
    assert any(path.name in fault for fault in verify(Layout(tmp_path)).faults)


def test_an_arm_under_the_name_of_another_is_found_and_a_run_may_be_called_anything(project_copy: Layout) -> None:
    shutil.copytree(project_copy.model("mobilenetv3", "zca"), project_copy.run("mine"))
    assert verify(project_copy).faults == []
    shutil.copytree(project_copy.model("mobilenetv3", "zca"), project_copy.model("mobilenetv3", "other"))
    assert ["holds the arm 'mobilenetv3-zca'" in fault for fault in verify(project_copy).faults] == [True]
