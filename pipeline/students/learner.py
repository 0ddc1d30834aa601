"""Student and objective as one module: pixels and targets in, losses out."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.students.feed import Batch
from pipeline.students.model import Student, normalise
from pipeline.students.objective import LossParams, Objective, Said
from pipeline.students.ranks import ALONE, Ranks

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Learnt:
    """What one batch has to teach."""

    loss: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    features: tuple[Float[Tensor, "b f"], ...]
    """What left the trunk: of the images, and of the masked images where a loss wants them."""
    read: tuple[Float[Tensor, "b f"], ...] = ()
    """What left the trunk of the text tower, where there is one."""

    def shares(self, weights: dict[str, float]) -> dict[str, float]:
        """Return each term, and the norm of its weighted gradient at the features of each tower's trunk."""
        found = {name: term.item() for name, term in self.terms.items()}
        for kind, features in (("gradient", self.features), ("gradient_text", self.read)):
            if features:
                found |= {f"{kind}_{name}": norm(weights[name] * term, features) for name, term in self.terms.items()}
        return found


def norm(loss: Float[Tensor, ""], features: tuple[Float[Tensor, "b f"], ...]) -> float:
    """Return the norm of a loss's gradient at some features; 0 where it does not depend on them."""
    if not loss.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
    return math.sqrt(sum(g.square().sum().item() for g in gradients if g is not None))


class Learner(nn.Module):
    """What is trained; of it, only the student is kept."""

    def __init__(
        self, student: Student, objective: Objective, precision: str, *, compiled: bool = False, ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self.student, self.objective, self.precision, self.ranks = student, objective, precision, ranks
        self._backbone: Callable[[Tensor], Tensor] = torch.compile(student.backbone) if compiled else student.backbone

    def forward(self, batch: Batch) -> Learnt:
        """Look at a batch and compare with what the teacher said of it."""
        pixels = normalise(batch.pixels, *self.student.mean_std)
        features = [self._features(pixels)]
        if "mfd" in self.objective.params.weights:
            share = self.ranks.share(len(batch.rows))
            features.append(self._features(masked_out(pixels, self.objective.params, len(batch.rows), share)))
        image, *masked = (self.ranks.gathered(self.student.head(each)) for each in features)
        read, text = self._read(batch)
        terms = self.objective(Said(image, text, masked[0] if masked else None), batch.wanted)
        return Learnt(self.objective.total(terms), terms, tuple(features), read)

    def _read(self, batch: Batch) -> tuple[tuple[Float[Tensor, "b f"], ...], Float[Tensor, "b k"] | None]:
        """Return what the text tower's trunk and head make of the captions, or nothing."""
        if self.student.text is None or batch.tokens is None:
            return (), None
        with self._autocast(batch.tokens.device):
            features = self.student.text.features(batch.tokens)
        read = features.float()
        return (read,), self.ranks.gathered(self.student.text.head(read))

    def _features(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b f"]:
        with self._autocast(pixels.device):
            features = self._backbone(pixels)
        return features.float()

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, PRECISIONS[self.precision])


def masked_out(
    pixels: Float[Tensor, "b 3 s s"], params: LossParams, count: int, share: slice
) -> Float[Tensor, "b 3 s s"]:
    """Hide some patches of images that are a share of a batch of `count`; zero is the pixels' mean.

    Drawn for the whole batch from torch's global generator, so that they do not depend on who looks at which part.
    """
    _, _, height, width = pixels.shape
    rows, columns = -(-height // params.mask_patch), -(-width // params.mask_patch)
    order = torch.rand(count, rows * columns, device=pixels.device).argsort(1)[share]
    grid = (order < round(params.mask_ratio * rows * columns)).view(-1, 1, rows, columns).float()
    mask = functional.interpolate(grid, scale_factor=params.mask_patch, mode="nearest")[..., :height, :width]
    return pixels * (1 - mask)
