"""Several processes embed one split: each its shards, none twice, and together what one process would have written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cache.errors import LockedError, MissingError
from cache.reader import EmbeddingStore
from pipeline.data.views import ViewParams
from pipeline.embed import EmbedParams, embed
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.sharding import ShardAssignment
from tests import ROOT
from tests.stages.test_embed import CAPTIONS, RUNTIME, files, pack_train

Counts = dict[str, int]


@pytest.fixture
def params(tiny_teacher: str) -> EmbedParams:
    return EmbedParams(teacher=TeacherParams(model=tiny_teacher), views=ViewParams(crops=1, seed=1))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return packed(tmp_path / "shared")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Count the images that the teacher is asked about."""
    counts, truly = {"images": 0}, Teacher.forward_images

    def counted(self: Teacher, pixels: np.ndarray) -> torch.Tensor:
        counts["images"] += len(pixels)
        return truly(self, pixels)

    monkeypatch.setattr(Teacher, "forward_images", counted)
    return counts


def packed(folder: Path) -> Layout:
    """Return a project of seven photos in shards of five and two."""
    layout = Layout(folder)
    pack_train(layout, CAPTIONS)
    return layout


@pytest.mark.process
def test_two_processes_at_once_write_the_bytes_of_one(
    layout: Layout, params: EmbedParams, tmp_path: Path, tiny_teacher: str
) -> None:
    alone = files(embed("train", params, packed(tmp_path / "alone"), RUNTIME))
    document = {
        "runtime": {"device": "cpu", "workers": 2, "batch": 4},
        "index": {"splits": ["train"]},
        "embed": {"teacher": {"model": tiny_teacher}, "views": {"crops": 1, "seed": 1}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    at = [sys.executable, "cli.py", "embed", "--params", str(tmp_path / "params.yaml"), "--root", str(layout.root)]
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    started = [
        subprocess.Popen([*at, "--rank", str(rank), "--world", "2"], cwd=ROOT, env=threads, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert files(layout.embeddings("train")) == alone


def test_the_last_rank_puts_the_split_together_and_no_shard_is_made_twice(
    layout: Layout, params: EmbedParams, looks: Counts, capsys: pytest.CaptureFixture[str]
) -> None:
    embed("train", params, layout, RUNTIME, rank=0, world=2)
    assert looks["images"] == 2 * 5, "the first shard, in two views"
    assert "3 shards of other ranks are still to come" in capsys.readouterr().err
    with pytest.raises(MissingError):
        EmbeddingStore.open(layout.embeddings("train"))
    store = EmbeddingStore.open(embed("train", params, layout, RUNTIME, rank=1, world=2))
    assert looks["images"] == 2 * 7
    assert len(store.keys) == 7
    embed("train", params, layout, RUNTIME, rank=0, world=3)  # finished: another number of processes may look at it
    assert looks["images"] == 2 * 7


def test_what_ranks_left_one_process_finishes(layout: Layout, params: EmbedParams, looks: Counts) -> None:
    embed("train", params, layout, RUNTIME, rank=1, world=2)
    assert len(EmbeddingStore.open(embed("train", params, layout, RUNTIME)).keys) == 7
    assert looks["images"] == 2 * 7


def test_ranks_of_another_world_are_refused(layout: Layout, params: EmbedParams) -> None:
    embed("train", params, layout, RUNTIME, rank=0, world=2)
    with pytest.raises(UsageError, match="--world 3: this split was begun with --world 2"):
        embed("train", params, layout, RUNTIME, rank=1, world=3)


def test_while_a_rank_works_its_double_and_a_lone_process_are_kept_out(
    layout: Layout, params: EmbedParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    truly, met = Teacher.forward_images, []

    def meanwhile(self: Teacher, pixels: np.ndarray) -> torch.Tensor:
        monkeypatch.setattr(Teacher, "forward_images", truly)
        for others in ({"rank": 0, "world": 2}, {}):
            with pytest.raises(LockedError) as error:
                embed("train", params, layout, RUNTIME, **others)
            met.append(error.value)
        embed("train", params, layout, RUNTIME, rank=1, world=2)  # negative control: the other rank may work
        return truly(self, pixels)

    monkeypatch.setattr(Teacher, "forward_images", meanwhile)
    assert len(EmbeddingStore.open(embed("train", params, layout, RUNTIME, rank=0, world=2)).keys) == 7
    assert len(met) == 2


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_its_world_is_refused(rank: int, world: int) -> None:
    with pytest.raises(UsageError, match=f"--rank {rank} --world {world}"):
        ShardAssignment(rank, world)


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [ShardAssignment(rank, 6).device("auto") for rank in range(6)] == [f"cuda:{n}" for n in (0, 1, 2, 3, 0, 1)]
    assert ShardAssignment(3, 6).device("cpu") == "cpu"
    assert ShardAssignment().device("auto") == "auto"


def test_a_batch_size_that_was_found_stays_with_the_store(
    layout: Layout, params: EmbedParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([3])
    monkeypatch.setattr("pipeline.teacher.plan.find_batch_size", lambda _teacher, most: min(next(found), most))
    auto = Runtime(device="cpu", workers=0, teacher_batch="auto")
    first = EmbeddingStore.open(embed("train", params, layout, auto)).manifest.batch
    again = EmbeddingStore.open(embed("train", params, layout, RUNTIME)).manifest.batch
    pack_train(layout, CAPTIONS, changed=6)  # another packing is another store: it must not search again
    after = EmbeddingStore.open(embed("train", params, layout, auto)).manifest.batch
    assert (first, again, after) == (3, 3, 3)
