"""Student and objective as one module: pixels and targets in, losses out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.students.dense_tokens import PlaceFeatures
from pipeline.students.inputs.loader import Batch, BatchLoader
from pipeline.students.losses.objective import LossParams, Objective, StudentOutputs
from pipeline.students.losses.rowwise import TargetStats
from pipeline.students.model import Student, normalize_pixels
from pipeline.students.towers import init_head
from pipeline.students.training.distributed import SINGLE_PROCESS, DistributedContext
from pipeline.students.training.precision import autocast, check_strides


@dataclass(frozen=True)
class StepOutput:
    """Losses and features of one batch."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    features: tuple[Float[Tensor, "b f"], ...]
    """Output of the backbone: for images and, if a loss needs them, masked images and every position."""
    text_features: tuple[Float[Tensor, "b f"], ...] = ()
    """Output of the text tower's trunk, if there is one."""

    def gradient_shares(self, weights: dict[str, float]) -> dict[str, float]:
        """Return each term, and the norm of its weighted gradient at the output of each tower's trunk."""
        shares = {name: term.item() for name, term in self.terms.items()}
        for kind, features in (("gradient", self.features), ("gradient_text", self.text_features)):
            if features:
                shares |= {
                    f"{kind}_{name}": gradient_norm(weights[name] * term, features) for name, term in self.terms.items()
                }
        return shares


def gradient_norm(loss: Float[Tensor, ""], features: tuple[Float[Tensor, "b f"], ...]) -> float:
    """Return the norm of a loss's gradient with respect to features; 0 if it does not depend on them."""
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(g.square().sum().item() for g in gradients if g is not None))


class DistillationStep(nn.Module):
    """All trained modules; only the student is kept."""

    def __init__(
        self,
        student: Student,
        objective: Objective,
        precision: str,
        *,
        compiled: bool = False,
        ranks: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        super().__init__()
        self.student, self.objective, self.precision, self.ranks = student, objective, precision, ranks
        self._backbone: Callable[[Tensor], Tensor] = torch.compile(student.backbone) if compiled else student.backbone
        self.places: PlaceFeatures | None = None
        """Computes features of every position, if a loss needs them."""

    def forward(self, batch: Batch) -> StepOutput:
        """Embed a batch and compute the losses against its targets."""
        pixels = normalize_pixels(batch.pixels, *self.student.mean_std)
        first, places = self._looked(pixels)
        features = [first]
        if "mfd" in self.objective.params.weights:
            share = self.ranks.local_slice(len(batch.rows))
            features.append(self._features(mask_patches(pixels, self.objective.params, len(batch.rows), share)))
        image, *masked = (self.ranks.all_gather(self.student.head(each)) for each in features)
        read, text = self._read(batch)
        patches = None if places is None else self.ranks.all_gather(self.student.head(places))
        outputs = StudentOutputs(image, text, masked[0] if masked else None, patches)
        terms = self.objective(outputs, batch.targets)
        leaves = tuple(features) if places is None else (*features, places)
        return StepOutput(self.objective.weighted_sum(terms), terms, leaves, read)

    def _looked(self, pixels: Float[Tensor, "b 3 s s"]) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b p f"] | None]:
        """Return the pooled features of images and, if a loss needs them, those of every position."""
        if self.places is None:
            return self._features(pixels), None
        with autocast(self.precision, pixels.device):
            pooled, places = self.places(pixels, training=self.training)
        return pooled.float(), places.float()

    def _read(self, batch: Batch) -> tuple[tuple[Float[Tensor, "b f"], ...], Float[Tensor, "b k"] | None]:
        """Return the outputs of the text tower's trunk and head for the captions, or None."""
        if self.student.text is None or batch.tokens is None:
            return (), None
        with autocast(self.precision, batch.tokens.device):
            features = self.student.text.features(batch.tokens)
        read = features.float()
        return (read,), self.ranks.all_gather(self.student.text.head(read))

    def _features(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b f"]:
        with autocast(self.precision, pixels.device):
            features = self._backbone(pixels)
        return features.float()


def mask_patches(
    pixels: Float[Tensor, "b 3 s s"], params: LossParams, count: int, share: slice
) -> Float[Tensor, "b 3 s s"]:
    """Mask some patches of images that are a share of a batch of `count`; the fill value zero is the pixels' mean.

    Masks are drawn for the whole batch from torch's global generator, so that they do not depend on the division among
    processes.
    """
    _, _, height, width = pixels.shape
    rows, columns = -(-height // params.mask_patch), -(-width // params.mask_patch)
    order = torch.rand(count, rows * columns, device=pixels.device).argsort(1)[share]
    grid = (order < round(params.mask_ratio * rows * columns)).view(-1, 1, rows, columns).float()
    mask = functional.interpolate(grid, scale_factor=params.mask_patch, mode="nearest")[..., :height, :width]
    return pixels * (1 - mask)


@torch.no_grad()
def init_heads(learner: DistillationStep, feed: BatchLoader) -> None:
    """Initialize the heads so that their first outputs have the targets' mean and variance.

    The features are those of the first batch with its own batch statistics, as in the first step.

    Raises:
        UsageError: the gradient of the backbone is undefined in this precision.
    """
    student, batch, targets, gathered = learner.student, feed.batch_at(0), feed.targets, feed.ranks.all_gather
    pixels = normalize_pixels(batch.pixels, *student.mean_std)
    check_strides(student.backbone, pixels, learner.precision)
    buffers = {name: buffer.clone() for name, buffer in student.backbone.named_buffers()}
    features = gathered(student.backbone(pixels))
    _init_head_to(student.head, features, [each.image_stats for each in targets.by_head], student.heads)
    for name, buffer in student.backbone.named_buffers():
        buffer.copy_(buffers[name])
    if student.text is not None and batch.tokens is not None and targets.text_stats is not None:
        _init_head_to(student.text.head, gathered(student.text.features(batch.tokens)), [targets.text_stats])


def _init_head_to(
    head: nn.Module,
    features: Float[Tensor, "b f"],
    stats: Sequence[TargetStats],
    heads: tuple[int, ...] = (),
) -> None:
    mean = torch.from_numpy(np.concatenate([each.mean for each in stats])).to(features)
    init_head(head, features, mean, [each.variance for each in stats], heads)


def micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    """Split a batch into `count` parts of nearly equal size."""
    size = -(-len(batch.rows) // count)
    for start in range(0, len(batch.rows), size):
        yield batch.part(slice(start, start + size))
