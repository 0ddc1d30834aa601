from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.arrays import write_arrays
from cache.errors import DamagedError, MissingError
from pipeline.project.errors import PipelineError, UsageError
from pipeline.whitening.comoments import CoMoments, NormMode
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.methods import METHODS
from pipeline.whitening.spaces import TargetParams, TargetSpace, fit_space, fit_warnings, load_space, save_space
from tests.factories.embeddings import clip_like

N = 1500


def moments(pre_norm: NormMode = "l2", n: int = N) -> CoMoments:
    image, text = clip_like(n)
    return estimate_comoments(pre_norm, [image], text, np.arange(n + 1))


def space(**params: object) -> TargetSpace:
    chosen = TargetParams.model_validate(params)
    return fit_space("mine", chosen, moments(chosen.pre_norm), {"model": "made"}, "0123456789ab")


def recall(image: np.ndarray, text: np.ndarray) -> float:
    """Return the share of images whose own caption is the nearest by cosine."""
    image, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text))
    return float(np.mean((image @ text.T).argmax(axis=1) == np.arange(len(image))))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("pre_norm", ["none", "l2"])
def test_an_exact_student_unwhitened_gives_clips_own_ranking(method: str, pre_norm: str) -> None:
    image, text = clip_like(300, seed=4)
    made = space(method=method, pre_norm=pre_norm)
    back = made.to_embedding(made.to_target(image))
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    np.testing.assert_array_equal((back @ unit.T).argmax(axis=1), (image @ unit.T).argmax(axis=1))
    cosine = np.sum(back * image, axis=1) / np.linalg.norm(back, axis=1) / np.linalg.norm(image, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_linear_layer_of_torch_with_the_same_matrix_gives_the_same_targets(method: str) -> None:
    image = clip_like(300, seed=4)[0]
    made = space(method=method)
    layer = torch.nn.Linear(16, 16)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(made.image.forward.T))
        layer.bias.copy_(torch.from_numpy(-made.image.mean @ made.image.forward))
        found = layer(torch.nn.functional.normalize(torch.from_numpy(image), dim=-1)).numpy()
    expected = made.to_target(image)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(made.image.forward).max())  # float32 throughout


def test_an_exact_student_scored_in_the_whitened_space_itself_does_not_rank_as_clip_does() -> None:
    image, text = clip_like(300, seed=4)
    made = space(method="zca")
    whitened = made.to_target(image) @ made.to_target(text, "text").T
    assert not np.array_equal(whitened.argmax(axis=1), (image @ text.T).argmax(axis=1))


def in_own_axes(z: np.ndarray, seed: int) -> np.ndarray:
    """Stretch rows by a symmetric matrix with eigenvectors of its own and eigenvalues over three decades."""
    d = z.shape[1]
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    return (z @ (axes * np.geomspace(1, 1e-3, d) ** 0.5) @ axes.T + 1).astype(np.float32)


def test_pca_of_each_modality_gives_chance_across_modalities() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1000, 32))
    image, text = in_own_axes(z, 1), in_own_axes(0.9 * z + 0.4 * rng.normal(size=z.shape), 2)
    both = estimate_comoments("none", [image], text, np.arange(1001))
    found = {}
    for method in ("zca", "pca", "phi-s"):
        params = TargetParams.model_validate({"method": method, "floor": 0, "pre_norm": "none"})
        made = fit_space("mine", params, both)
        found[method] = recall(made.to_target(image), made.to_target(text, "text"))
    assert found["zca"] > 0.95  # symmetric roots undo symmetric stretches: each side is back in z's own axes
    # Chance is 1/1000; 6/1000 is passed by chance once in ten thousand times.
    assert found["pca"] <= 0.006
    assert found["phi-s"] <= 0.006


def test_shared_zca_uses_one_matrix_and_each_modalitys_own_mean() -> None:
    made = space(method="shared-zca")
    assert made.text is not None
    np.testing.assert_array_equal(made.image.forward, made.text.forward)
    assert np.abs(made.image.mean - made.text.mean).max() > 0.01
    image, text = clip_like(N)
    spread = [np.cov(made.to_target(rows, side).T) for rows, side in ((image, "image"), (text, "text"))]  # type: ignore[arg-type]
    assert np.trace(spread[0] + spread[1]) / 32 == pytest.approx(1, rel=0.02)


def test_unit_targets_have_lost_their_length_and_get_the_mean_radius_back() -> None:
    image = clip_like(300, seed=4)[0]
    made = space(method="zca", pre_norm="none", post_norm="l2")
    y = made.to_target(image)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        made.to_embedding(7 * y), made.to_embedding(y), atol=1e-5
    )  # a student's length is undefined
    variance = np.mean(np.sum((image - image.mean(axis=0)) ** 2, axis=1))
    assert np.mean(np.sum((made.to_embedding(y) - image) ** 2, axis=1)) < 0.1 * variance
    # Negative control: without the radius it is the mean embedding with a little noise.
    assert np.mean(np.sum((made.image.invert(y) - image) ** 2, axis=1)) > 0.5 * variance


def test_a_file_gives_back_the_same_space_and_the_same_bytes(tmp_path: Path) -> None:
    made = space(method="zca", pre_norm="none")
    path = tmp_path / "mine.h5"
    save_space(path, made)
    first = path.read_bytes()
    back = load_space(path)
    words = ("name", "method", "pre_norm", "post_norm", "teacher", "embeddings_digest", "fingerprint")
    assert [getattr(back, word) for word in words] == [getattr(made, word) for word in words]
    assert back.text is not None
    assert made.text is not None
    for found, expected in ((back.image, made.image), (back.text, made.text)):
        np.testing.assert_array_equal(found.forward, expected.forward)
        np.testing.assert_array_equal(found.backward, expected.backward)
        assert (found.num_floored, found.rms_norm) == (expected.num_floored, expected.rms_norm)
    save_space(path, back)
    assert path.read_bytes() == first
    with pytest.raises(DamagedError, match="holds the space 'mine', not 'other'"):
        load_space(path.rename(tmp_path / "other.h5"))


def test_other_parameters_or_embeddings_have_another_fingerprint() -> None:
    prints = {space(method="zca", floor=f).fingerprint for f in (0.01, 0.02)}
    prints.add(fit_space("mine", TargetParams(floor=0.01), moments(), embeddings="other").fingerprint)
    assert len(prints) == 3
    assert space(method="zca", floor=0.01).fingerprint in prints


def test_a_space_of_images_alone_has_no_text_side_and_says_so(tmp_path: Path) -> None:
    made = fit_space("mine", TargetParams(), estimate_comoments("l2", [clip_like(N)[0]]))
    save_space(tmp_path / "mine.h5", made)
    with pytest.raises(PipelineError, match="no text side"):
        load_space(tmp_path / "mine.h5").to_target(clip_like(3)[1], "text")


def test_files_that_are_no_target_space_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load_space(tmp_path / "none.h5")
    write_arrays(tmp_path / "strange.h5", {"image/mean": np.zeros(3)}, {"format": 1})
    with pytest.raises(DamagedError, match="no target space"):
        load_space(tmp_path / "strange.h5")
    write_arrays(tmp_path / "later.h5", {"image/mean": np.zeros(3)}, {"format": 2})
    with pytest.raises(DamagedError, match="another format"):
        load_space(tmp_path / "later.h5")


def test_fewer_rows_than_axes_are_refused_unless_regularised() -> None:
    few = moments(n=12)
    with pytest.raises(UsageError, match="12 rows cannot fit 16 axes"):
        fit_space("bare", TargetParams(method="zca", floor=0), few)
    for help_ in ({"floor": 0.1}, {"floor": 0, "shrinkage": "ledoit-wolf"}, {"floor": 0, "eps": 1e-3}):
        made = fit_space("helped", TargetParams.model_validate({"method": "zca", **help_}), few)
        assert np.isfinite(made.image.forward).all()
    assert fit_space("scaled", TargetParams(method="scale"), few).image.num_floored == 0


@pytest.mark.parametrize("method", ["zca", "pca", "cholesky", "zca-cor", "standardize"])
def test_axes_that_hold_nothing_but_rounding_are_refused_and_never_divided_by(method: str) -> None:
    image, text = clip_like(N)
    text[:, 5] = 0.25  # a dead coordinate
    dead = estimate_comoments("none", [image], text, np.arange(N + 1))
    with pytest.raises(UsageError, match="text: 1 of 16 axes hold no variance to be divided by"):
        fit_space("mine", TargetParams.model_validate({"method": method, "floor": 0, "pre_norm": "none"}), dead)
    made = fit_space("mine", TargetParams.model_validate({"method": method, "pre_norm": "none"}), dead)
    assert made.text is not None
    assert np.abs(made.text.forward).max() < 100


def test_rows_that_are_all_the_same_are_refused() -> None:
    same = estimate_comoments("l2", [np.ones((20, 4), np.float32)])
    for method in sorted(METHODS):
        with pytest.raises(UsageError, match="all 20 rows are the same"):
            fit_space("mine", TargetParams.model_validate({"method": method}), same)


def test_fewer_than_ten_rows_a_dimension_is_worth_a_warning() -> None:
    assert "12 image rows for 16 dimensions" in fit_warnings("zca", TargetParams(), moments(n=12))[0]
    assert fit_warnings("scale", TargetParams(method="scale"), moments(n=12)) == []
    assert fit_warnings("zca", TargetParams(), moments()) == []


def test_a_space_is_fitted_to_moments_of_its_own_pre_normalization_only() -> None:
    with pytest.raises(UsageError, match="pre_norm is 'none'"):
        fit_space("mine", TargetParams(pre_norm="none"), moments("l2"))


def test_components_are_for_pca_and_at_most_the_width() -> None:
    for params in (TargetParams(method="zca", components=3), TargetParams(method="pca", components=17)):
        with pytest.raises(UsageError, match="components"):
            fit_space("mine", params, moments())
