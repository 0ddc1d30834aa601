"""How students are trained: what all arms of an experiment share, so that they can be compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.project.params import ParamsSection
from pipeline.students.inputs.pixels import PixelMode
from pipeline.students.training.optimizer import Schedule

Precision = Literal["fp32", "bf16", "fp16"]


class TrainingParams(ParamsSection):
    """The `distill.training:` section, shared by all arms so that they can be compared."""

    epochs: int = Field(default=8, ge=1)
    steps: int | None = Field(default=None, ge=1, exclude_if=lambda steps: steps is None)
    """End after so many steps, where the epochs have more; default: all of theirs."""
    batch: int = Field(default=128, ge=2)
    image_size: int = Field(default=64, ge=8)
    seed: int = Field(default=0, ge=0)
    watch: str | None = None
    """The zero-shot set whose accuracy is logged; it does not influence training."""
    evaluations: int = Field(default=4, ge=1)
    """Validations of the student, evenly spaced over the run, the last one at its end."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without a lower val_nmse."""
    optimizer: str = "adamw"
    head_steps: Literal["absolute", "relative"] = Field(default="absolute", exclude_if=lambda kind: kind == "absolute")
    """`relative`: the head's rate grows with its targets' standard deviation, so that their unit decides nothing."""
    weight_decay: float = Field(default=0.05, ge=0)
    schedule: Schedule = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the run over which the learning rate rises."""
    gradient_clip: float | None = Field(default=None, gt=0)
    """Largest norm of all gradients together."""
    accumulate: int = Field(default=1, ge=1)
    """Parts a batch is computed in; losses over pairs see one part at a time."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is then what is saved; 0: none."""
    precision: Precision = "fp32"
    compile: bool = False
    views: int | None = Field(default=None, ge=1)
    """The first so many of the cached views; default: all."""
    captions: int | None = Field(default=None, ge=1, exclude_if=lambda count: count is None)
    """The first so many of an image's captions; default: all, one of them drawn each epoch."""
    augmentation: Literal["cached", "free"] = "cached"
    """`free` draws crops that the cached target was not computed from; recorded in the card."""
    pixels: PixelMode = Field(default="stored", exclude_if=lambda mode: mode == "stored")
    """Whether images are decoded once and kept, or at each use; `auto`: stored where disk allows."""
    shuffle_buffer: int = Field(default=10_000, ge=1, exclude_if=lambda rows: rows == 10_000)
    """Images that are shuffled among each other where pixels are streamed: about so many, in whole shards."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of a mirror image against the target of the image itself, for `augmentation: free`."""

    def count_steps(self, epoch_steps: int) -> int:
        """Return the steps of the whole run."""
        all_steps = self.epochs * epoch_steps
        return all_steps if self.steps is None else min(self.steps, all_steps)

    @model_validator(mode="after")
    def _targets_exist(self) -> TrainingParams:
        if self.flip and self.augmentation != "free":
            raise ValueError("the cache has no targets for flips drawn here: cache views, or say augmentation: free")
        return self
