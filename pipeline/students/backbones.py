"""The backbone of a student: any timm model without its classifier."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cache.fingerprint import sha256
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.lazy_dynamo import defer_torch_dynamo
from pipeline.project.params import ParamsSection

with defer_torch_dynamo():
    import timm

STUDENTS = {
    "mobilenetv3": "mobilenetv3_small_100",
    "mobilenetv3-large": "mobilenetv3_large_100",
    "resnet18": "resnet18",
    "mobilevit": "mobilevit_s",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "resnet-tiny": "test_resnet",
}
"""Short name → timm name."""

STEMS = ("conv_stem", "conv1", "stem.conv", "stem.conv1")
"""Where timm's families keep their first convolution."""


class BackboneParams(ParamsSection):
    """What a student looks with."""

    name: str | None = None
    """A timm name; by default the one that the student's own name stands for."""
    weights: str | None = None
    """Nothing: from scratch. `imagenet`: timm's own weights, fetched once. Else a safetensors file of that model.

    Its half-precision weights are widened to float32, and a classifier in it is left there.
    """
    stem_stride: Literal[1, 2] = 2
    """1 keeps twice the resolution all the way up, for about four times the work: it pays below 96 px."""
    drop_rate: float = Field(default=0.0, ge=0, lt=1)
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)


def timm_name(student: str, params: BackboneParams) -> str:
    """Return the timm name behind a student's name, or say which names are near.

    Raises:
        UsageError: neither a short name nor a model that timm knows.
    """
    name = params.name or STUDENTS.get(student, student)
    if not timm.is_model(name):
        known = [*STUDENTS, *timm.list_models()]
        raise UsageError(f"distill: no student or timm model '{name}'{did_you_mean(name, known)}")
    return name


def build_backbone(student: str, params: BackboneParams) -> nn.Module:
    """Build the backbone (b, 3, s, s) → (b, num_features), initialised from torch's global generator.

    Raises:
        UsageError: unknown name, weights that cannot be had, or a stem whose stride cannot be changed.
    """
    name = timm_name(student, params)
    rates = {"drop_rate": params.drop_rate, "drop_path_rate": params.drop_path_rate}
    options = {key: rate for key, rate in rates.items() if rate}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="timm")  # notes on renamed models are for timm's own users
            backbone: nn.Module = timm.create_model(
                name, num_classes=0, pretrained=params.weights == "imagenet", **options
            )
        if params.weights not in (None, "imagenet"):
            _load(backbone, Path(str(params.weights)))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        if params.weights is None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"distill: weights '{params.weights}' of {name} cannot be had: {reason}") from error
    if params.stem_stride == 1:
        unstride_stem(backbone, name)
    return backbone


def weights_sha256(params: BackboneParams) -> str | None:
    """Return the SHA-256 of the file that a backbone begins with, or None where it begins with no file.

    Raises:
        UsageError: there is no such file.
    """
    if params.weights in (None, "imagenet"):
        return None
    path = Path(str(params.weights))
    if not path.is_file():
        raise UsageError(
            f"distill: backbone.weights: {path}: no such file. Expected a .safetensors file, `imagenet` or null."
        )
    return sha256(path)


def mean_std(backbone: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the pixels' mean and deviation that timm made a backbone for."""
    config: dict[str, Any] = getattr(backbone, "default_cfg")  # noqa: B009
    return tuple(config["mean"]), tuple(config["std"])


def num_features(backbone: nn.Module) -> int:
    """Return the width of the pooled features: timm keeps it under two names."""
    width: int = getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features")  # noqa: B009
    return width


def _load(backbone: nn.Module, path: Path) -> None:
    """Load all of a backbone from a file, widened to float32; what else is there, such as a classifier, stays there."""
    if path.suffix != ".safetensors":
        raise ValueError("expected a .safetensors file")
    found = load_file(path)
    missing = sorted(set(backbone.state_dict()) - set(found))
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]}")
    backbone.load_state_dict({key: found[key] for key in backbone.state_dict()})


def unstride_stem(backbone: nn.Module, name: str) -> None:
    """Set the stride of a backbone's first convolution to 1; raises UsageError where timm has it elsewhere."""
    modules = dict(backbone.named_modules())
    for stem in STEMS:
        convolution = modules.get(stem)
        if isinstance(convolution, nn.Conv2d):
            convolution.stride = (1, 1)
            return
    raise UsageError(f"distill: backbone.stem_stride: {name} has no stem whose stride can be changed; leave it at 2")
