from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipeline.moments import MomentsParams, moments
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.whiten import whiten
from pipeline.whitening.methods import AUDIT_SPACES, PUBLISHED
from pipeline.whitening.spaces import TargetSpace, load_space
from tests.factories.embeddings import clip_like, write_split

N = 400


def published(root: Path, recipe: str) -> TargetSpace:
    """Run the stages with the recipe's own parameters."""
    layout = Layout(root)
    image, text = clip_like(N, captions=5)
    write_split(layout.embeddings("train"), [image], text, np.full(N, 5))
    captions = "first" if recipe == "wclip-kd" else "all"
    moments(MomentsParams.model_validate({"pre_norm": ["none"], "captions": captions}), layout, Runtime())
    return load_space(whiten(recipe, PUBLISHED[recipe], layout))


def test_wclip_kd_targets_are_those_of_its_notebooks(tmp_path: Path) -> None:
    made = published(tmp_path, "wclip-kd")
    image, text = clip_like(N, captions=5)
    for modality, rows in (("image", image), ("text", text[::5])):
        mean = rows.mean(axis=0, dtype=np.float64)
        u, s, _ = np.linalg.svd((rows - mean).T @ (rows - mean) / (N - 1))
        white = (rows - mean) @ (u @ np.diag(1 / np.sqrt(s + 1e-5)) @ u.T)
        expected = white / np.linalg.norm(white, axis=1, keepdims=True)
        np.testing.assert_allclose(made.to_target(rows, modality), expected, atol=1e-5)  # type: ignore[arg-type]


def test_wclip_targets_are_those_of_its_code_up_to_the_signs_of_axes(tmp_path: Path) -> None:
    made = published(tmp_path, "wclip")
    image = torch.from_numpy(clip_like(N, captions=5)[0]).double()
    centered = image - image.mean(dim=0)
    values, vectors = torch.linalg.eig(torch.cov(centered.T))
    order = values.real.argsort(descending=True)
    w = vectors.real[:, order] @ torch.diag(values.real[order]).inverse().sqrt()
    expected = (centered @ w).numpy()
    found = made.to_target(image.numpy())
    signs = np.sign(np.sum(found * expected, axis=0))
    np.testing.assert_allclose(found, expected * signs, atol=1e-4)


def test_every_recipe_is_a_space_that_can_be_fitted_to_enough_rows(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    image, text = clip_like(N)
    write_split(layout.embeddings("train"), [image], text)
    moments(MomentsParams(pre_norm=("l2", "none")), layout, Runtime())
    for name, params in AUDIT_SPACES.items():
        assert np.isfinite(load_space(whiten(name, params, layout)).to_target(image)).all()
