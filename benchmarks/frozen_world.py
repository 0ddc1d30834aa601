"""Data of the comparison on a frozen trunk: pooled features computed once, and the scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from benchmarks.small_runs import World, open_world
from cache.fingerprint import sha256
from cache.normalization import l2_normalize
from pipeline.evaluation.metrics.retrieval import ground_truth_pairs, rank_candidates
from pipeline.evaluation.scoring_rules import image_vectors, prompt_vectors, reference_spaces
from pipeline.students.backbones import BackboneParams, build_backbone, mean_std
from pipeline.students.inference import CenterViews, center_views
from pipeline.students.model import normalize_pixels
from pipeline.whitening.spaces import TargetSpace

CHOOSE_BY = "recall clip"
"""The score on the validation split that chooses a rate: R@10, text to image, by CLIP's rule."""


@dataclass(frozen=True)
class FrozenWorld:
    """A project's splits with the trunk's features, standardized on the training images."""

    world: World
    features: dict[str, Float[torch.Tensor, "n f"]]

    @cached_property
    def rule_spaces(self) -> dict[str, TargetSpace]:
        """Return the spaces that the rules score in."""
        return reference_spaces(self.world.moments, 0.01)

    @cached_property
    def pairs(self) -> Int[np.ndarray, "p 2"]:
        """Return which captions of val belong to which image."""
        store = self.world.val.store
        return ground_truth_pairs(store.offsets, np.concatenate([shard.caption_sha for shard in store.shards("text")]))

    @cached_property
    def text(self) -> Float[np.ndarray, "m d"]:
        """Return the captions of val as the teacher embeds them, at unit length."""
        return l2_normalize(self.world.val.store.text().load())

    def accuracy(self, image: Float[np.ndarray, "n d"], rule: str) -> float:
        """Return zero-shot top-1 of embeddings of the test images under a rule."""
        store = self.world.test.store
        classes = prompt_vectors(rule, store.prompts(), self.rule_spaces)
        predicted = (image_vectors(rule, image, self.rule_spaces) @ classes.T).argmax(axis=1)
        return float((predicted == store.labels).mean())

    def final_scores(self, test: Float[np.ndarray, "n d"], val: Float[np.ndarray, "m d"]) -> dict[str, float]:
        """Return accuracy by rule, R@10 text to image, and R² in CLIP's space, of embeddings in CLIP's space."""
        found = rank_candidates(self.text, l2_normalize(val), self.pairs[:, ::-1])
        target = l2_normalize(self.world.val.store.image().load()).astype(np.float64)
        rest = np.square(val - target).sum() / np.square(target - target.mean(axis=0)).sum()
        scores = {rule: self.accuracy(test, rule) for rule in ("clip", "whitened")}
        return {**scores, CHOOSE_BY: found.recall(10), "r2": 1 - float(rest)}


def load_world(root: Path, weights: Path, size: int) -> FrozenWorld:
    """Open a project and compute the trunk's features of all splits, or read them where they were kept."""
    world = open_world(root, "cifar10")
    kept = root / "runs" / f"frozen-{sha256(weights)[:12]}-{size}.npz"
    if not kept.exists():
        backbone = build_backbone("efficientnet_lite0", BackboneParams(weights=str(weights))).eval()
        splits = {"train": world.train, "val": world.val, "test": world.test}
        pixels = world.pixels(size)
        arrays: dict[str, Any] = {
            name: trunk_features(backbone, center_views(splits[name].store, pixels[name]), size) for name in splits
        }
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.with_suffix(".partial").open("wb") as file:
            np.savez(file, **arrays)
        kept.with_suffix(".partial").replace(kept)
    with np.load(kept, allow_pickle=False) as stored:
        rows = {name: torch.from_numpy(stored[name]) for name in ("train", "val", "test")}
    mean, deviation = rows["train"].mean(dim=0), rows["train"].std(dim=0).clamp_min(1e-6)
    return FrozenWorld(world, {name: (table - mean) / deviation for name, table in rows.items()})


@torch.no_grad()
def trunk_features(backbone: nn.Module, images: CenterViews, size: int, batch: int = 50) -> Float[np.ndarray, "n f"]:
    """Return the pooled features of the center views of a split."""
    backbone = backbone.to(memory_format=torch.channels_last)
    parts = []
    for start in range(0, len(images.flips), batch):
        rows = np.arange(start, min(start + batch, len(images.flips)))
        pixels = torch.from_numpy(images.pixels.batch(rows, images.boxes[rows], images.flips[rows], size))
        parts.append(backbone(normalize_pixels(pixels, *mean_std(backbone))).numpy())
    return np.concatenate(parts)
