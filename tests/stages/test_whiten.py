from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cache.errors import MissingError
from pipeline.moments import MomentsParams, moments
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.whiten import TargetParams, whiten
from pipeline.whitening.spaces import load_space
from tests.factories.embeddings import clip_like, write_split


def project(root: Path, n: int = 400) -> Layout:
    layout = Layout(root)
    image, text = clip_like(n)
    write_split(layout.embeddings("train"), [image], text)
    moments(MomentsParams(), layout, Runtime())
    return layout


def test_a_target_space_is_fitted_from_the_moments_alone(tmp_path: Path) -> None:
    layout = project(tmp_path)
    path = whiten("mine", TargetParams(method="zca", floor=0), layout)
    assert path == tmp_path / "data" / "targets" / "mine.h5"
    made = load_space(path)
    y = made.to_target(clip_like(400)[0])
    np.testing.assert_allclose(np.cov(y.T), np.eye(16), atol=1e-4)
    assert made.teacher["model"] == "made-up"


def test_two_fits_write_the_same_bytes(tmp_path: Path) -> None:
    layout = project(tmp_path)
    first = whiten("zca", TargetParams(), layout).read_bytes()
    assert whiten("zca", TargetParams(), layout).read_bytes() == first


def test_eigenvalues_of_a_millionth_survive_storage_and_would_not_survive_half_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    deviations = np.where(np.arange(16) < 12, 1, 1e-3)
    x = ((rng.normal(size=(3000, 16)) * deviations) @ axes.T + 1).astype(np.float32)
    tails = {}
    for name, stored in {"float32": x, "float16": x.astype(np.float16)}.items():
        layout = Layout(tmp_path / name)
        write_split(layout.embeddings("train"), [stored])
        moments(MomentsParams(pre_norm=("none",)), layout, Runtime())
        space = load_space(whiten("zca", TargetParams(floor=0, pre_norm="none"), layout))
        tails[name] = space.image.eigenvalues[-4:]
    centered = x - x.mean(axis=0, dtype=np.float64)
    expected = np.linalg.svd(centered, compute_uv=False)[-4:] ** 2 / 2999
    np.testing.assert_allclose(tails["float32"], expected, rtol=1e-8)
    # Negative control: float16 adds about 2⁻²⁴ to each variance, here a tenth of what is there.
    assert (tails["float16"] / expected).min() > 1.02


def test_too_few_rows_are_said_once_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = project(tmp_path, n=60)
    whiten("zca", TargetParams(), layout)
    assert "60 image rows for 16 dimensions: below 10 d = 160" in capsys.readouterr().err


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"moments\.h5"):
        whiten("zca", TargetParams(), Layout(tmp_path))
    with pytest.raises(UsageError, match=r"not 'none'"):
        whiten("zca", TargetParams(pre_norm="none"), project(tmp_path))
