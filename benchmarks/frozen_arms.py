"""Arms of the comparison on a frozen trunk: target space, loss, optimizer, and scaling of the head's steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.students.losses.objective import LossParams
from pipeline.whitening.methods import TargetParams

EPOCHS = (3, 20)
SEEDS = 5
RATES = {"adamw": (1e-3, 3e-3, 9e-3), "sgd": (1e-2, 3e-2, 9e-2)}


FD = LossParams(fd=1.0)
COSINE = LossParams(cosine=1.0)


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
}
"""`unit`: targets divided by their length after the transform, as the published ones were."""
