"""Training parameters, shared by all arms of an experiment so that they can be compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.project.params import ParamsSection, renamed
from pipeline.students.inputs.caption_mix import WHOLE
from pipeline.students.inputs.pixels import PixelMode
from pipeline.students.training.optimizer import Schedule

Precision = Literal["fp32", "bf16", "fp16"]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class TrainingParams(ParamsSection):
    """The `distill.training:` section, shared by all arms so that they can be compared."""

    epochs: int = Field(default=8, ge=1)
    steps: int | None = Field(default=None, ge=1, exclude_if=lambda steps: steps is None)
    """Maximum number of steps; default: those of all epochs."""
    batch: int = Field(default=128, ge=2)
    image_size: int = Field(default=64, ge=8)
    seed: int = Field(default=0, ge=0)
    zero_shot_set: str | None = renamed("watch", default=None)
    """Zero-shot set whose accuracy is logged; it does not influence training."""
    num_validations: int = renamed("evaluations", default=4, ge=1)
    """Number of validations, evenly spaced over the run, the last one at its end."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many validations without a lower val_nmse."""
    optimizer: str = "adamw"
    head_steps: Literal["absolute", "relative"] = Field(default="absolute", exclude_if=lambda kind: kind == "absolute")
    """`relative`: the head's learning rate is scaled by its targets' standard deviation, to cancel their scale."""
    weight_decay: float = Field(default=0.05, ge=0)
    schedule: Schedule = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the run over which the learning rate rises."""
    gradient_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient."""
    accumulation_steps: int = renamed("accumulate", default=1, ge=1)
    """Number of parts in which a batch is computed; losses over pairs use one part at a time."""
    ema_decay: float = renamed("ema", default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which is saved instead of them; 0: none."""
    precision: Precision = "fp32"
    compile: bool = False
    max_views: int | None = renamed("views", default=None, ge=1)
    """Number of cached views used, the first ones; default: all."""
    max_captions: int | None = renamed("captions", default=None, ge=1, exclude_if=lambda count: count is None)
    """Number of captions used per image, the first ones; default: all, one of them drawn each epoch."""
    caption_mix: dict[str, Share] = Field(default_factory=dict, exclude_if=lambda mix: not any(mix.values()))
    """Share of the steps in which an image is used with a caption of this further file instead of one of its own; where
    the file has none, its own are used."""
    augmentation: Literal["cached", "free"] = "cached"
    """`free` allows augmentation without cached targets; recorded in the card."""
    pixels: PixelMode = Field(default="stored", exclude_if=lambda mode: mode == "stored")
    """Decode images once and store them, or at each use; `auto`: store if the disk allows."""
    shuffle_buffer: int = Field(default=10_000, ge=1, exclude_if=lambda rows: rows == 10_000)
    """Approximate number of images shuffled together, in whole shards, if pixels are streamed."""
    shard_groups: int = Field(default=1, ge=1, exclude_if=lambda count: count == 1)
    """Number of groups of shards that give an equal part of each batch if pixels are streamed: shard i is of group i
    mod this. Where it is a multiple of the processes, each of them reads the shards of its groups only."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of a mirrored image with the target of the original, for `augmentation: free`."""

    def count_steps(self, epoch_steps: int) -> int:
        """Return the steps of the whole run."""
        all_steps = self.epochs * epoch_steps
        return all_steps if self.steps is None else min(self.steps, all_steps)

    @property
    def mixed_files(self) -> tuple[str, ...]:
        """Return the files of captions that decide something."""
        return tuple(sorted(name for name, share in self.caption_mix.items() if share))

    @field_validator("caption_mix")
    @classmethod
    def _shares_add_up(cls, mix: dict[str, float]) -> dict[str, float]:
        if sum(mix.values()) > 1 + WHOLE:
            raise ValueError(f"shares add up to {sum(mix.values()):g}, expected at most 1")
        return mix

    @model_validator(mode="after")
    def _targets_exist(self) -> TrainingParams:
        if self.flip and self.augmentation != "free":
            raise ValueError("the cache has no targets for flips drawn here: cache views, or say augmentation: free")
        return self
