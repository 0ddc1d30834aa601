"""Arms of the comparison on a frozen trunk: target space, loss, optimizer, and scaling of the head's steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.students.losses.objective import LossParams
from pipeline.whitening.methods import TargetParams

EPOCHS = (3, 20, 30)
"""The last shows whether the second is enough."""
SEEDS = 5
RATES = {"adamw": (1e-3, 3e-3, 9e-3), "sgd": (1e-2, 3e-2, 9e-2)}

FD = LossParams(fd=1.0)
COSINE = LossParams(cosine=1.0)
PUBLISHED_RAW, PUBLISHED_UNIT = 3.5, 3.9
"""Weights of FD in NMSE units that are the published 2000·FD on photo-160: 2000 · 0.00174 on unit vectors,
and 2000/512 on whitened vectors of length one."""


def paired(fd: float, temperature: Literal["fit"] | float = "fit") -> LossParams:
    """Return FD with this weight and ICL, the losses of the published study."""
    return LossParams(fd=fd, icl=1.0, temperature=temperature)


@dataclass(frozen=True)
class HeadArm:
    """Targets and training of one arm's head."""

    target: TargetParams
    loss: LossParams = FD
    optimizer: str = "adamw"
    head_steps: Literal["absolute", "relative"] = "absolute"
    placebo: bool = False
    shuffled: bool = False

    def facts(self) -> dict[str, Any]:
        """Return the facts that decide its runs."""
        return {
            "target": self.target.model_dump(mode="json"),
            "loss": self.loss.model_dump(mode="json"),
            "optimizer": self.optimizer,
            "head_steps": self.head_steps,
            "placebo": self.placebo,
            "shuffled": self.shuffled,
        }


def space(method: str, **options: Any) -> TargetParams:
    """Return a target space's parameters."""
    return TargetParams.model_validate({"method": method, **options})


ARMS: dict[str, HeadArm] = {
    "raw": HeadArm(space("raw")),
    "scale": HeadArm(space("scale")),
    "zca": HeadArm(space("zca")),
    "soft-zca": HeadArm(space("soft-zca")),
    "center": HeadArm(space("center")),
    "raw sgd": HeadArm(space("raw"), optimizer="sgd"),
    "scale sgd": HeadArm(space("scale"), optimizer="sgd"),
    "raw relative": HeadArm(space("raw"), head_steps="relative"),
    "raw cosine": HeadArm(space("raw"), COSINE),
    "center cosine": HeadArm(space("center"), COSINE),
    "scale cosine": HeadArm(space("scale"), COSINE),
    "zca cosine": HeadArm(space("zca"), COSINE),
    "soft-zca cosine": HeadArm(space("soft-zca"), COSINE),
    "scale unit": HeadArm(space("scale", post_norm="l2")),
    "zca unit": HeadArm(space("zca", post_norm="l2")),
    "soft-zca unit": HeadArm(space("soft-zca", post_norm="l2")),
    "soft-quarter": HeadArm(space("soft-zca", power=0.25)),
    "phi-s": HeadArm(space("phi-s")),
    "placebo": HeadArm(space("zca"), placebo=True),
    "shuffled": HeadArm(space("scale"), shuffled=True),
    "zca sgd": HeadArm(space("zca"), optimizer="sgd"),
    "raw relative sgd": HeadArm(space("raw"), optimizer="sgd", head_steps="relative"),
    "raw icl": HeadArm(space("raw"), paired(PUBLISHED_RAW)),
    "raw icl lengths": HeadArm(space("raw"), paired(PUBLISHED_RAW, 0.01)),
    "raw icl tau": HeadArm(space("raw"), paired(PUBLISHED_RAW, 0.07)),
    "center icl": HeadArm(space("center"), paired(PUBLISHED_RAW)),
    "scale icl": HeadArm(space("scale"), paired(PUBLISHED_RAW)),
    "scale icl tau": HeadArm(space("scale"), paired(PUBLISHED_RAW, 0.07)),
    "zca icl": HeadArm(space("zca"), paired(PUBLISHED_RAW)),
    "zca icl tau": HeadArm(space("zca"), paired(PUBLISHED_RAW, 0.07)),
    "zca icl weight": HeadArm(space("zca"), paired(2000.0, 0.07)),
    "zca icl unit": HeadArm(space("zca", post_norm="l2"), paired(PUBLISHED_UNIT, 0.07)),
    "soft-zca icl unit": HeadArm(space("soft-zca", post_norm="l2"), paired(PUBLISHED_UNIT, 0.07)),
    "scale icl unit": HeadArm(space("scale", post_norm="l2"), paired(PUBLISHED_UNIT, 0.07)),
}
"""`unit`: targets divided by their length after the transform, as the published ones were. `icl`: the published losses
and what the study changed with whitening, one at a time; `lengths`: texts of length 23 against unit vectors are
τ = 0.07/23, and 0.01 is the smallest that is allowed; `zca icl unit` is the published recipe."""


@dataclass(frozen=True)
class Family:
    """Arms of one question; p-values are corrected over them, for each reference."""

    references: tuple[str, ...]
    arms: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    "target spaces": Family(
        ("raw", "scale"),
        ("raw", "center", "scale", "phi-s", "soft-quarter", "soft-zca", "zca", "placebo", "shuffled"),
    ),
    "cosine and unit length": Family(
        ("scale", "center cosine", "scale unit"),
        (
            "scale",
            "raw cosine",
            "center cosine",
            "soft-zca cosine",
            "zca cosine",
            "scale unit",
            "soft-zca unit",
            "zca unit",
        ),
    ),
    "optimizer": Family(
        ("raw", "scale"), ("raw", "scale", "raw relative", "raw sgd", "scale sgd", "zca sgd", "raw relative sgd")
    ),
    "published losses": Family(
        ("raw icl", "scale icl unit"), tuple(name for name in ARMS if " icl" in name and name != "scale icl tau")
    ),
    "cosine of scaled targets": Family(("center cosine",), ("center cosine", "scale cosine")),
    "unit length alone": Family(("scale icl tau",), ("scale icl tau", "scale icl unit", "zca icl tau")),
}
"""The last two were added after the others had been seen, and do not change their corrections."""
