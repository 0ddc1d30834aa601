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
"""Names of the first convolution in timm's model families."""


class BackboneParams(ParamsSection):
    """Parameters of a backbone."""

    name: str | None = None
    """A timm name; default: the one for the student's name."""
    weights: str | None = None
    """null: train from scratch. `imagenet`: timm's weights, downloaded once. Otherwise a safetensors file.

    The file must belong to the same model. Half-precision weights are converted to float32, and a classifier in it is
    ignored.
    """
    stem_stride: Literal[1, 2] = 2
    """1 keeps twice the resolution in all layers, for about four times the compute; useful below 96 px."""
    drop_rate: float = Field(default=0.0, ge=0, lt=1)
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1)


def timm_name(student: str, params: BackboneParams) -> str:
    """Return the timm name of a student.

    Raises:
        UsageError: neither a short name nor a timm model; suggests similar names.
    """
    name = params.name or STUDENTS.get(student, student)
    if not timm.is_model(name):
        names = [*STUDENTS, *timm.list_models()]
        raise UsageError(f"distill: no student or timm model '{name}'{did_you_mean(name, names)}")
    return name


def build_backbone(student: str, params: BackboneParams) -> nn.Module:
    """Build the backbone (b, 3, s, s) → (b, num_features), initialized from torch's global generator.

    Raises:
        UsageError: unknown name, unavailable weights, or a stem whose stride cannot be changed.
    """
    name = timm_name(student, params)
    rates = {"drop_rate": params.drop_rate, "drop_path_rate": params.drop_path_rate}
    options = {key: rate for key, rate in rates.items() if rate}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="timm")  # ignore timm's deprecation notes on renamed models
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


def initial_weights_facts(params: BackboneParams) -> dict[str, str]:
    """Return the SHA-256 of the file of initial weights as an entry for fingerprints, or no entry without a file.

    Raises:
        UsageError: there is no such file.
    """
    if params.weights in (None, "imagenet"):
        return {}
    path = Path(str(params.weights))
    if not path.is_file():
        raise UsageError(
            f"distill: backbone.weights: {path}: no such file. Expected a .safetensors file, `imagenet` or null."
        )
    return {"backbone_weights": sha256(path)}


def mean_std(backbone: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of pixels that timm recommends for a backbone."""
    config: dict[str, Any] = getattr(backbone, "default_cfg")  # noqa: B009
    return tuple(config["mean"]), tuple(config["std"])


def num_features(backbone: nn.Module) -> int:
    """Return the width of the pooled features, which timm stores under two names."""
    width: int = getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features")  # noqa: B009
    return width


def _load(backbone: nn.Module, path: Path) -> None:
    """Load all weights of a backbone from a file, converted to float32; ignore others, such as a classifier."""
    if path.suffix != ".safetensors":
        raise ValueError("expected a .safetensors file")
    tensors = load_file(path)
    missing = sorted(set(backbone.state_dict()) - set(tensors))
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]}")
    backbone.load_state_dict({key: tensors[key] for key in backbone.state_dict()})


def unstride_stem(backbone: nn.Module, name: str) -> None:
    """Set the stride of a backbone's first convolution to 1; raises UsageError if its location is unknown."""
    modules = dict(backbone.named_modules())
    for stem in STEMS:
        convolution = modules.get(stem)
        if isinstance(convolution, nn.Conv2d):
            convolution.stride = (1, 1)
            return
    raise UsageError(f"distill: backbone.stem_stride: {name} has no stem whose stride can be changed; leave it at 2")
