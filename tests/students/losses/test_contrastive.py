"""Losses over pairs: slow references from the papers' formulas, and autograd where a gradient is the loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pipeline.students.losses.contrastive import (
    PAIRWISE,
    AugmentedFeatureDistillation,
    ContrastiveBatch,
    clip_gradients,
    clip_loss,
    crd,
    gd,
    icl,
)

B, K, M = 5, 4, 7


def unit(seed: int, n: int = B) -> torch.Tensor:
    return functional.normalize(torch.from_numpy(np.random.default_rng(seed).standard_normal((n, K))), dim=1)


def pairs(seed: int = 0, scale: float = 9.0, **changes: Any) -> ContrastiveBatch:
    v, s, teacher_v, teacher_s = (unit(4 * seed + i) for i in range(4))
    return ContrastiveBatch(
        **{
            "student_image": v,
            "student_text": s,
            "teacher_v": teacher_v,
            "teacher_s": teacher_s,
            "scale": torch.tensor(scale, dtype=torch.float64),
            "teacher_scale": 6.0,
            **changes,
        }
    )


def probabilities(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """p[k][j] = exp(scale a_k·b_j)/Σ_i exp(scale a_k·b_i), one number at a time."""
    weights = [[math.exp(scale * float(x @ y)) for y in b] for x in a]
    return np.array([[w / sum(row) for w in row] for row in weights])


def entropy(a: np.ndarray, b: np.ndarray, scale: float) -> float:
    p = probabilities(a, b, scale)
    return -sum(math.log(p[k][k]) for k in range(len(a))) / len(a)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return sum(p[k][j] * math.log(p[k][j] / q[k][j]) for k in range(len(p)) for j in range(len(p))) / len(p)


def gradients(v: np.ndarray, s: np.ndarray, scale: float, p: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    q = probabilities(s, v, scale) if p is None else p
    p = probabilities(v, s, scale) if p is None else p
    r = [[(p[k][b] + q[b][k]) / 2 - (k == b) for b in range(B)] for k in range(B)]
    over_v = [sum(r[k][b] * s[b] for b in range(B)) * scale / B for k in range(B)]
    over_s = [sum(r[k][b] * v[k] for k in range(B)) * scale / B for b in range(B)]
    return np.array(over_v), np.array(over_s)


def reference(name: str, x: ContrastiveBatch) -> float:
    v, s, tv, ts = (side.numpy() for side in (x.student_image, x.student_text, x.teacher_v, x.teacher_s))
    scale = x.scale.item()
    if name == "infonce":
        return (entropy(v, s, scale) + entropy(s, v, scale)) / 2
    if name == "icl":
        return (entropy(v, ts, scale) + entropy(s, tv, scale)) / 2
    if name == "crd":
        there = divergence(probabilities(tv, ts, 6), probabilities(v, s, scale))
        return (there + divergence(probabilities(ts, tv, 6), probabilities(s, v, scale))) / 2
    mine, theirs, nothing = gradients(v, s, scale), gradients(tv, ts, 6), gradients(tv, ts, 6, np.full((B, B), 1 / B))
    return sum(((a - b) ** 2).sum() / (c**2).sum() for a, b, c in zip(mine, theirs, nothing, strict=True)) / 2


@pytest.mark.parametrize("name", list(PAIRWISE))
@given(seed=st.integers(0, 10_000), scale=st.floats(1, 30))
@settings(max_examples=15, deadline=None)
def test_each_loss_equals_its_formula_written_out(name: str, seed: int, scale: float) -> None:
    x = pairs(seed, scale)
    assert PAIRWISE[name](x).item() == pytest.approx(reference(name, x), rel=1e-9)


@given(seed=st.integers(0, 10_000), scale=st.floats(1, 30))
@settings(max_examples=15, deadline=None)
def test_the_closed_form_of_the_gradient_is_what_autograd_finds(seed: int, scale: float) -> None:
    v, s = unit(seed).requires_grad_(), unit(seed + 1).requires_grad_()
    loss = clip_loss(v, s, torch.tensor(scale, dtype=torch.float64))
    by_hand = clip_gradients(v, s, torch.tensor(scale, dtype=torch.float64))
    for closed, found in zip(by_hand, torch.autograd.grad(loss, (v, s)), strict=True):
        torch.testing.assert_close(closed, found, rtol=1e-9, atol=1e-12)
    # Negative control: half of CLIP's loss, image-to-text alone, has another gradient.
    half = functional.cross_entropy(scale * v @ s.T, torch.arange(B))
    assert not torch.allclose(by_hand[0], torch.autograd.grad(half, v)[0], rtol=1e-3)


def test_a_student_that_is_its_teacher_has_no_distance_to_it() -> None:
    x = pairs(scale=6.0)
    same = pairs(scale=6.0, student_image=x.teacher_v, student_text=x.teacher_s)
    assert crd(same).item() == pytest.approx(0, abs=1e-12)
    assert gd(same).item() == pytest.approx(0, abs=1e-12)
    # Negative control: agreeing on the pairs is not what makes InfoNCE zero.
    assert PAIRWISE["infonce"](same).item() > 0.1


def test_bank_texts_are_negatives_unless_they_are_the_images_own() -> None:
    bank = unit(99, M)
    none, all_ = torch.zeros(B, M, dtype=torch.bool), torch.ones(B, M, dtype=torch.bool)
    x = pairs()
    alone = pairs(student_text=x.teacher_s, teacher_s=x.teacher_s)
    kept = {
        name: icl(ContrastiveBatch(**{**vars(alone), "bank": bank, "bank_mask": mask})).item()
        for name, mask in (("none", none), ("all", all_))
    }
    logits = (
        np.concatenate(
            [x.student_image.numpy() @ x.teacher_s.numpy().T, x.student_image.numpy() @ bank.numpy().T], axis=1
        )
        * 9.0
    )
    by_hand = np.mean([np.log(np.exp(row).sum()) - row[k] for k, row in enumerate(logits)])
    assert kept["none"] == pytest.approx(by_hand, rel=1e-9)
    assert kept["all"] == pytest.approx(icl(alone).item(), rel=1e-12)


def test_without_a_text_tower_the_half_that_teaches_nothing_is_left_out() -> None:
    x = pairs()
    alone = ContrastiveBatch(**{**vars(x), "student_text": x.teacher_s})
    assert icl(alone).item() == pytest.approx(entropy(x.student_image.numpy(), x.teacher_s.numpy(), 9.0), rel=1e-9)


def test_fusion_is_clips_loss_on_fused_pairs_and_has_weights_of_its_own() -> None:
    torch.manual_seed(0)
    fusion, x = AugmentedFeatureDistillation(K).double(), pairs()
    image = functional.normalize(
        torch.cat([x.student_image, x.teacher_v], 1) @ fusion.image.weight.T + fusion.image.bias, dim=1
    )
    text = functional.normalize(
        torch.cat([x.student_text, x.teacher_s], 1) @ fusion.text.weight.T + fusion.text.bias, dim=1
    )
    assert fusion(x).item() == pytest.approx(clip_loss(image, text, x.scale).item(), rel=1e-12)
    assert len(list(fusion.parameters())) == 4


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_common_rotation_and_the_order_of_the_batch_change_nothing(seed: int) -> None:
    x = pairs(seed)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).standard_normal((K, K))))[0]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(B))
    sides = ("student_image", "student_text", "teacher_v", "teacher_s")
    moved = ContrastiveBatch(**{**vars(x), **{side: (getattr(x, side) @ rotation)[order] for side in sides}})
    for loss in PAIRWISE.values():
        assert loss(moved).item() == pytest.approx(loss(x).item(), rel=1e-8)
    # Negative control: pairing each image with its neighbour's text is another loss.
    apart = ContrastiveBatch(**{**vars(x), "teacher_s": x.teacher_s.roll(1, 0)})
    assert icl(apart).item() != pytest.approx(icl(x).item(), rel=1e-6)
