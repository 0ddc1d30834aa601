"""Teach an image tower to see small photos: its features of a photo made small are to be those of the photo itself.

Towers with ImageNet weights have seen large photos; of an image that was enlarged from 32 px their features say less.
Here a tower is trained on degraded copies of photos against its own earlier features of the photos as they are, which
are computed once: distillation from itself. Photos whose class the tower's classifier knows are to be named rightly
too. No image of a test set takes part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from benchmarks.frozen_features import blur, normalized
from benchmarks.frozen_teacher import rate_share, resume_state, save_state
from cache.atomic import atomic_write

SAVE_STEPS = 25
WARMUP_STEPS = 20
LEARNING_RATE = 3e-4
BATCH = 48
SMALL_SHARE = 0.8
"""Of the photos that are made small; the others are shown as they are, so that the tower keeps what it knew."""
SMALL_SIDES = (24, 48)
"""Least and greatest side in pixels to which a photo is reduced before it is enlarged again."""
CLASS_WEIGHT = 0.3
"""Of the divergence between classes, beside the error of the features."""
LABEL_WEIGHT = 1.0
"""Of the cross-entropy to the labels. Chosen on classes held out of the training, not on a test set."""


def self_distillation_loss(
    features: Float[torch.Tensor, "b f"],
    targets: Float[torch.Tensor, "b f"],
    variance: float,
    classifier: tuple[Float[torch.Tensor, "c f"], Float[torch.Tensor, " c"]],
) -> Float[torch.Tensor, ""]:
    """Return ‖f − t‖² / σ² + 0.3 KL(softmax(W t + b) ‖ softmax(W f + b)), means over the batch.

    σ² is the total variance of the targets. The second term counts the directions more that tell ImageNet's classes
    apart (Hinton et al., 2015, at temperature 1).
    """
    error = ((features - targets) ** 2).sum(dim=1).mean() / variance
    own, aim = (F.log_softmax(F.linear(rows, *classifier), dim=1) for rows in (features, targets))
    return error + CLASS_WEIGHT * F.kl_div(own, aim, log_target=True, reduction="batchmean")


def label_loss(
    features: Float[torch.Tensor, "b f"],
    labels: Int[torch.Tensor, " b"],
    classifier: tuple[Float[torch.Tensor, "k f"], Float[torch.Tensor, " k"]],
) -> Float[torch.Tensor, ""]:
    """Return the mean cross-entropy of the labelled rows; −1 is no label, and without labels the loss is 0.

    The classifier has the rows of the classes of which there are photos alone: a class without any would only ever be
    pushed away, though the text tower is to learn it (pseudo_features.py).
    """
    labelled = max(int((labels >= 0).sum()), 1)
    return F.cross_entropy(F.linear(features, *classifier), labels, ignore_index=-1, reduction="sum") / labelled


def degrade(pixels: UInt8[np.ndarray, "s s 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
    """Return a photo as it is, or reduced to a side of 24 to 48 pixels and enlarged again."""
    if rng.random() >= SMALL_SHARE:
        return pixels
    return blur(pixels, int(rng.integers(SMALL_SIDES[0], SMALL_SIDES[1] + 1)))


def adapt_tower(
    tower: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
    photos: Sequence[UInt8[np.ndarray, "s s 3"]],
    targets: Float[np.ndarray, "n f"],
    labels: Int[np.ndarray, " n"],
    *,
    out: Path,
    steps: int,
) -> None:
    """Train a tower for some steps and write it to `out`, with the classifier of `weights`; a stopped run goes on.

    `labels` are numbers of the classifier's classes, −1 where a photo is of none of them.
    Batch normalization keeps its statistics, so that photos which are not small are seen as before.
    """
    state = out.with_suffix(".pt")
    classifier = (weights["classifier.weight"].float(), weights["classifier.bias"].float())
    known = np.unique(labels[labels >= 0])
    own_classes = (classifier[0][known], classifier[1][known])
    places = torch.from_numpy(np.where(labels >= 0, np.searchsorted(known, labels), -1))
    aims = torch.from_numpy(targets).float()
    variance = aims.var(dim=0).sum().item()
    tower.eval()
    optimizer = torch.optim.AdamW(tower.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(resume_state(state, tower, optimizer), steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_share(step, steps, WARMUP_STEPS)
        rng = np.random.default_rng([step, 0])
        chosen = rng.choice(len(photos), min(BATCH, len(photos)), replace=False)
        features = tower(normalized([degrade(photos[i], rng) for i in chosen]))
        loss = self_distillation_loss(features, aims[chosen], variance, classifier)
        loss = loss + LABEL_WEIGHT * label_loss(features, places[chosen], own_classes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not say its type
        optimizer.step()
        if (step + 1) % 20 == 0:
            print(f"tower: step {step + 1:5d} of {steps}  loss {loss.item():.3f}", flush=True)
        if (step + 1) % SAVE_STEPS == 0:
            save_state(state, tower, optimizer, step + 1)
    kept = {**weights, **{name: value.contiguous() for name, value in tower.state_dict().items()}}
    with atomic_write(out) as temporary:
        save_file(kept, temporary)
    state.unlink(missing_ok=True)
