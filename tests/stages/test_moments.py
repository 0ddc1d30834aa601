from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster

from cache.errors import DamagedError, MissingError
from cache.manifest import read_manifest, write_manifest
from pipeline.moments import MomentsParams, moments
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.whitening.moments_file import load_moments
from tests.factories.embeddings import clip_like, write_split
from tests.factories.stores import TEACHER

COUNTS = np.tile([5, 1, 0, 2], 40)


def split(root: Path, shard_rows: int = 30, views: int = 2) -> tuple[Layout, list[np.ndarray], np.ndarray]:
    layout = Layout(root)
    images = [clip_like(len(COUNTS), seed=v)[0] for v in range(views)]
    text = clip_like(int(COUNTS.sum()), seed=9)[1]
    write_split(layout.embeddings("train"), images, text, COUNTS, shard_rows=shard_rows)
    return layout, images, text


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("shard_rows", [7, 30, 1000])
def test_moments_of_a_store_are_those_of_numpy_however_it_is_cut(tmp_path: Path, shard_rows: int) -> None:
    layout, images, text = split(tmp_path, shard_rows)
    moments(MomentsParams(pre_norm=("l2", "none")), layout, Runtime())
    found = load_moments(layout.moments)
    both = found.for_norm("none")
    x, t = np.concatenate(images).astype(np.float64), text.astype(np.float64)
    owner = np.repeat(np.arange(len(COUNTS)), COUNTS)
    pairs = np.concatenate([view[owner] for view in images]).astype(np.float64), np.concatenate([t, t])

    assert relative(both.image.covariance, np.cov(x, rowvar=False)) < 1e-12
    assert both.text is not None
    assert relative(both.text.covariance, np.cov(t, rowvar=False)) < 1e-12
    assert both.cross is not None
    assert relative(both.cross.covariance, np.cov(pairs[0].T, pairs[1].T)[:16, 16:]) < 1e-12
    assert found.teacher == TEACHER
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert relative(found.for_norm("l2").image.covariance, np.cov(unit, rowvar=False)) < 1e-12


def test_first_captions_only_when_asked(tmp_path: Path) -> None:
    layout, _, text = split(tmp_path)
    moments(MomentsParams(pre_norm=("none",), captions="first"), layout, Runtime())
    found = load_moments(layout.moments).for_norm("none").text
    firsts = text[(np.cumsum(COUNTS) - COUNTS)[COUNTS > 0]].astype(np.float64)
    assert found is not None
    assert relative(found.covariance, np.cov(firsts, rowvar=False)) < 1e-12


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    layout, *_ = split(tmp_path, shard_rows=12)  # 14 shards: two levels of the tree
    first = moments(MomentsParams(), layout, Runtime()).read_bytes()
    assert moments(MomentsParams(), layout, Runtime()).read_bytes() == first
    # Negative control: other embeddings give other bytes.
    write_split(layout.embeddings("train"), [clip_like(len(COUNTS), seed=5)[0]])
    assert moments(MomentsParams(), layout, Runtime()).read_bytes() != first


def test_a_cluster_gives_the_result_of_this_process(tmp_path: Path) -> None:
    layout, *_ = split(tmp_path)
    moments(MomentsParams(), layout, Runtime())
    here = load_moments(layout.moments).for_norm("l2")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        moments(MomentsParams(), layout, Runtime(scheduler=cluster.scheduler_address))
    there = load_moments(layout.moments).for_norm("l2")
    assert here.text is not None
    assert there.text is not None
    assert here.cross is not None
    assert there.cross is not None
    assert relative(there.image.scatter, here.image.scatter) < 1e-12
    assert relative(there.text.scatter, here.text.scatter) < 1e-12
    assert relative(there.cross.scatter, here.cross.scatter) < 1e-12


def test_a_split_of_images_alone_has_no_text_moments(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_split(layout.embeddings("train"), [clip_like(90)[0]])
    moments(MomentsParams(), layout, Runtime())
    assert load_moments(layout.moments).for_norm("l2").text is None


def test_captions_of_other_images_are_refused(tmp_path: Path) -> None:
    layout, *_ = split(tmp_path, views=1)
    manifest = read_manifest(layout.embeddings("train"))
    write_split(tmp_path / "other", [clip_like(160)[0]], shard_rows=30, keys=[f"x{i:07d}" for i in range(160)])
    image = read_manifest(tmp_path / "other").parts["image/view-00"]
    shutil.rmtree(layout.embeddings("train") / "image")
    (tmp_path / "other" / "image").rename(layout.embeddings("train") / "image")
    write_manifest(layout.embeddings("train"), replace(manifest, parts={**manifest.parts, "image/view-00": image}))
    with pytest.raises(DamagedError, match=r"text/shard-0000\d\.h5: other images"):
        moments(MomentsParams(), layout, Runtime())


def test_a_changed_byte_in_a_shard_is_found_before_it_is_counted(tmp_path: Path) -> None:
    layout, *_ = split(tmp_path)
    shard = layout.embeddings("train") / "text" / "shard-00001.h5"
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=r"text/shard-00001\.h5"):
        moments(MomentsParams(), layout, Runtime())
    assert not layout.moments.exists()


def test_without_embeddings_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"manifest\.json"):
        moments(MomentsParams(), Layout(tmp_path), Runtime())


def test_moments_that_were_not_measured_are_named(tmp_path: Path) -> None:
    layout, *_ = split(tmp_path)
    moments(MomentsParams(), layout, Runtime())
    with pytest.raises(UsageError, match=r"not 'none'.*moments\.pre_norm"):
        load_moments(layout.moments).for_norm("none")


def test_a_file_that_holds_no_moments_is_refused(tmp_path: Path) -> None:
    layout, *_ = split(tmp_path)
    shard = layout.embeddings("train") / "text" / "shard-00000.h5"
    with pytest.raises(DamagedError, match="Run `moments` again"):
        load_moments(shard)
