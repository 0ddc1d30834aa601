"""Machines that share no file system share finished shards through object storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from cache.errors import LockedError, StaleError
from cache.manifest import shard_name
from pipeline.data.packing.packed import open_packed
from pipeline.embed import EmbedParams, embed
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.remote.objects import list_objects
from pipeline.project.remote.paths import RemotePath
from pipeline.teacher.model import Teacher
from pipeline.teacher.params import TeacherParams
from tests.factories.object_storage import BUCKET, FaultyProxy, S3Server
from tests.stages.test_embed import CAPTIONS, files, pack_train

Counts = dict[str, int]


@pytest.fixture
def params(tiny_teacher: str) -> EmbedParams:
    return EmbedParams(teacher=TeacherParams(model=tiny_teacher))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Count the images that the teacher is shown."""
    counts, forward = {"images": 0}, Teacher.forward_images

    def counted(self: Teacher, rows: np.ndarray) -> Any:
        counts["images"] += len(rows)
        return forward(self, rows)

    monkeypatch.setattr(Teacher, "forward_images", counted)
    return counts


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[str], Layout]:
    """Return a builder of projects of the same seven photos, each with a file system of its own."""

    def build(name: str) -> Layout:
        layout = Layout(tmp_path / name)
        pack_train(layout, CAPTIONS)
        return layout

    return build


def runtime(prefix: str, **settings: Any) -> Runtime:
    return Runtime(device="cpu", workers=0, **{"batch": 4, "remote": RemotePath(f"s3://{BUCKET}/{prefix}"), **settings})


def test_what_one_machine_has_embedded_another_fetches_through_faults_without_asking_a_teacher(
    faulty_s3: FaultyProxy, machine: Callable[[str], Layout], params: EmbedParams, asked: Counts
) -> None:
    local = files(embed("train", params, machine("local"), runtime("faults", remote=None)))
    assert asked["images"] == 7
    assert files(embed("train", params, machine("one"), runtime("faults"))) == local
    assert asked["images"] == 14
    assert files(embed("train", params, machine("other"), runtime("faults"))) == local
    assert asked["images"] == 14
    assert sum(faulty_s3.injected.values()) > 10
    manifest = json.loads(faulty_s3_object("faults/embeddings/train/manifest.json"))
    assert {shard["name"] for shard in manifest["parts"]["text"]["shards"]} == {shard_name(0), shard_name(1)}


def faulty_s3_object(name: str) -> bytes:
    from pipeline.project.remote.objects import read_object

    return read_object(RemotePath(f"s3://{BUCKET}/{name}"), 1 << 20)


def test_while_one_writes_a_second_writer_is_refused_and_two_readers_are_not(
    s3: S3Server,
    machine: Callable[[str], Layout],
    params: EmbedParams,
    asked: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = files(embed("train", params, machine("before"), runtime("shared")))
    began, go_on, counted = Event(), Event(), Teacher.forward_images

    def slow(self: Teacher, rows: np.ndarray) -> Any:
        began.set()
        assert go_on.wait(60)
        return counted(self, rows)

    mirrored = params.model_copy(update={"views": params.views.model_copy(update={"crops": 1})})
    writer, second, readers = machine("writer"), machine("second"), [machine("reader-1"), machine("reader-2")]
    with monkeypatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(Teacher, "forward_images", slow)
        written = pool.submit(embed, "train", mirrored, writer, runtime("shared"))
        try:
            assert began.wait(60)
            with pytest.raises(LockedError, match=r"held by process .* if it was killed, its lease ends in"):
                embed("train", mirrored, second, runtime("shared"))
            done = asked["images"]
            there = list(pool.map(lambda layout: files(embed("train", params, layout, runtime("shared"))), readers))
            assert there == [before, before]
            assert asked["images"] == done
        finally:
            go_on.set()
        made = files(written.result(timeout=60))
    assert asked["images"] == done + 7
    assert files(embed("train", mirrored, second, runtime("shared"))) == made
    assert asked["images"] == done + 7


def test_a_machine_goes_on_where_another_was_stopped(
    s3: S3Server,
    machine: Callable[[str], Layout],
    params: EmbedParams,
    asked: Counts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Teacher.forward_images

    def stopped(self: Teacher, rows: np.ndarray) -> Any:
        if asked["images"] >= 5:
            raise KeyboardInterrupt
        return counted(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "forward_images", stopped)
        with pytest.raises(KeyboardInterrupt):
            embed("train", params, machine("stopped"), runtime("stopped"))
    assert not list_objects(RemotePath(f"s3://{BUCKET}/stopped/embeddings"))
    layout = machine("next")
    out = embed("train", params, layout, runtime("stopped"))
    assert asked["images"] == 7
    assert files(out) == files(embed("train", params, machine("alone"), runtime("stopped", remote=None)))
    assert [shard.rows for shard in open_packed(layout.packed("train")).shards] == [5, 2]


def test_a_new_machine_takes_the_batch_size_of_those_before_it_and_one_that_began_with_another_is_refused(
    s3: S3Server, machine: Callable[[str], Layout], params: EmbedParams
) -> None:
    other = machine("other")
    embed("train", params, other, runtime("batch", batch=2, remote=None))
    first = files(embed("train", params, machine("first"), runtime("batch")))
    assert files(embed("train", params, machine("next"), runtime("batch", batch=3))) == first
    for _ in range(2):  # the refusal leaves what it found
        with pytest.raises(StaleError, match=r"begun with batches of 2, and at s3://bucket/batch with 4"):
            embed("train", params, other, runtime("batch", batch=2))


def test_shards_from_before_a_url_was_named_are_put_too(
    s3: S3Server, machine: Callable[[str], Layout], params: EmbedParams, asked: Counts
) -> None:
    layout = machine("one")
    embed("train", params, layout, runtime("late", remote=None))
    embed("train", params, layout, runtime("late"))
    embed("train", params, machine("other"), runtime("late"))
    assert asked["images"] == 7
