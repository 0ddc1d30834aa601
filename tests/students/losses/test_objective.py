"""The sum of losses: which are on, what they need, and what they leave undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import brute

from pipeline.project.errors import UsageError
from pipeline.students.losses.contrastive import clip_loss
from pipeline.students.losses.objective import BatchTargets, LossParams, Objective, StudentOutputs
from pipeline.students.losses.rowwise import TargetScale
from pipeline.students.losses.scaling import build_objective, fit_training_logit_scale, small_target_warning
from pipeline.students.training.step import mask_patches
from tests.factories.students import DIM, made_pixels, made_targets

UNIT = TargetScale(variance=0.5, dispersion=0.5)


def test_the_total_is_the_weighted_sum_of_what_is_on() -> None:
    objective = Objective(LossParams(fd=2.0, cosine=0.5), DIM, UNIT)
    y, t = torch.randn(4, DIM), torch.randn(4, DIM)
    terms = objective(StudentOutputs(y), BatchTargets(t))
    assert terms.keys() == {"fd", "cosine"}
    assert objective.weighted_sum(terms).item() == pytest.approx(2 * terms["fd"].item() + 0.5 * terms["cosine"].item())


def test_small_targets_are_told_to_be_small_where_steps_do_not_shrink_with_them() -> None:
    pixels = made_pixels()
    deviation = float(np.sqrt(made_targets(pixels).image.var(axis=(0, 1)).mean()))
    small, unit = (made_targets(pixels, scale=wanted / deviation) for wanted in (0.05, 1.0))
    said = small_target_warning("raw", LossParams(fd=1), "adamw", small)
    assert said is not None
    assert "'raw' have a standard deviation of 0.05" in said
    assert "about 20 times" in said
    assert small_target_warning("scale", LossParams(fd=1), "adamw", unit) is None
    assert small_target_warning("raw", LossParams(fd=1), "sgd", small) is None
    assert small_target_warning("raw", LossParams(cosine=1), "adamw", small) is None


def test_something_has_to_be_learnt() -> None:
    with pytest.raises(ValidationError, match="at least one weight above zero"):
        LossParams()


@pytest.mark.parametrize(
    ("weights", "directional", "pairs"),
    [
        ({"fd": 1}, False, False),
        ({"cosine": 1}, True, False),
        ({"icl": 1}, True, True),
        ({"mfd": 1, "gd": 1}, False, True),
    ],
)
def test_losses_say_what_they_leave_undefined_and_what_they_need(
    weights: dict[str, Any], directional: bool, pairs: bool
) -> None:
    params = LossParams(**weights)
    assert (params.scale_invariant, params.needs_captions) == (directional, pairs)


def test_losses_over_captions_need_captions() -> None:
    targets = made_targets(made_pixels())
    with pytest.raises(UsageError, match="need captions, and the train split has none"):
        build_objective(LossParams(icl=1.0), targets)
    objective = Objective(LossParams(crd=1.0), DIM, UNIT)
    with pytest.raises(UsageError, match="need captions"):
        objective(StudentOutputs(torch.ones(2, DIM)), BatchTargets(torch.ones(2, DIM)))


def test_the_fitted_temperature_is_where_clips_loss_is_smallest() -> None:
    rng = np.random.default_rng(0)
    targets = made_targets(made_pixels(), captions=1)
    assert targets.text is not None
    noisy = targets.text + 2 * rng.standard_normal(targets.text.shape).astype(np.float32)
    targets = type(targets)(targets.image, targets.boxes, targets.flips, noisy, targets.offsets)
    sides = (torch.from_numpy(side).double() for side in (targets.image[0], noisy))
    image, text = (torch.nn.functional.normalize(side, dim=1) for side in sides)
    best = brute(lambda s: clip_loss(image, text, torch.tensor(float(np.exp(s[0])))).item(), [(0.0, 4.6)], Ns=400)
    assert np.log(fit_training_logit_scale(targets)) == pytest.approx(float(best[0]), abs=1e-3)


def test_a_number_is_the_temperature_itself_and_learning_moves_it() -> None:
    targets = made_targets(made_pixels(), captions=1)
    fixed = build_objective(LossParams(icl=1.0, temperature=0.07), targets)
    assert fixed.log_scale.exp().item() == pytest.approx(1 / 0.07)
    assert not fixed.log_scale.requires_grad
    assert build_objective(LossParams(icl=1.0, temperature="learn"), targets).log_scale.requires_grad


def test_masks_hide_the_asked_share_in_whole_patches_whoever_looks() -> None:
    params, pixels = LossParams(mfd=1.0, mask_ratio=0.75, mask_patch=8), torch.ones(6, 3, 32, 32)
    torch.manual_seed(0)
    whole = mask_patches(pixels, params, 6, slice(0, 6))
    assert (whole.mean(dim=(1, 2, 3)) == 0.25).all()
    patches = whole.reshape(6, 3, 4, 8, 4, 8)
    assert (patches.amax((3, 5)) == patches.amin((3, 5))).all()
    assert len({tuple(image.flatten().tolist()) for image in whole}) > 1
    torch.manual_seed(0)
    assert torch.equal(mask_patches(pixels[2:4], params, 6, slice(2, 4)), whole[2:4])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_with_a_text_tower_each_loss_counts_both_modalities(seed: int) -> None:
    """The published sum, slowly and in float64: FD of images and of texts, InfoNCE between the towers, ICL across."""
    rng = np.random.default_rng(seed)
    y, t, s, u = rng.standard_normal((4, 7, DIM))
    image, text = TargetScale(variance=0.5, dispersion=0.5), TargetScale(variance=0.2, dispersion=0.5)
    params = LossParams(fd=1.8, infonce=1.0, icl=1.0, temperature=0.07)
    objective = Objective(params, DIM, image, text, 1 / 0.07).double()
    tensors = [torch.from_numpy(rows) for rows in (y, t, s, u)]
    terms = objective(StudentOutputs(tensors[0], tensors[2]), BatchTargets(tensors[1], tensors[3]))
    fd = ((y - t) ** 2).mean() / 0.5 + ((s - u) ** 2).mean() / 0.2
    assert terms["fd"].item() == pytest.approx(fd, rel=1e-9)
    v, vt, w, wt = (rows / np.sqrt((rows * rows).sum(1, keepdims=True)) for rows in (y, t, s, u))
    # The temperature is kept in float32.
    assert terms["infonce"].item() == pytest.approx((entropy(v, w) + entropy(w, v)) / 2, rel=1e-5)
    assert terms["icl"].item() == pytest.approx((entropy(v, wt) + entropy(w, vt)) / 2, rel=1e-5)
    # Negative control: without the tower, the text side of neither is there.
    alone = objective(StudentOutputs(tensors[0]), BatchTargets(tensors[1], tensors[3]))
    assert alone["fd"].item() == pytest.approx(((y - t) ** 2).mean() / 0.5, rel=1e-9)
    assert alone["icl"].item() == pytest.approx(entropy(v, wt), rel=1e-5)


def entropy(a: np.ndarray, b: np.ndarray) -> float:
    found = 0.0
    for k, row in enumerate(a):
        logits = [float(row @ other) / 0.07 for other in b]
        found += np.log(sum(np.exp(x - max(logits)) for x in logits)) + max(logits) - logits[k]
    return found / len(a)
