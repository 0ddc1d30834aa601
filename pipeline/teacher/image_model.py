"""Image-only teachers: any timm model without its classifier and without a text tower."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.project.errors import UsageError
from pipeline.teacher.params import RANDOM, TIMM, TeacherParams, import_timm

NO_TOKENIZER = "none"
"""Value of the tokenizer in the identity of a teacher without text tower."""


class ImageModel(nn.Module):
    """A timm model with the interface of open_clip's image towers."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def encode_image(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return the pooled features."""
        features: Tensor = self.trunk(images)
        return features


class NoTokenizer:
    """Tokenizer of a teacher without text tower: it raises."""

    def __init__(self, model: str) -> None:
        self.model = model

    def __call__(self, texts: list[str]) -> Tensor:
        """Refuse texts.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{self.model} is an image model and reads no text (asked for '{texts[0][:40]}'): name a teacher that "
            "open_clip knows first in embed.teachers"
        )


def create_image_model(params: TeacherParams) -> tuple[nn.Module, Any]:
    """Build a timm model with its weights, and its placeholder tokenizer.

    The network is used only for the tag of published weights.

    Raises:
        OSError, RuntimeError, ValueError: weights that are unavailable or do not fit.
    """
    timm, name = import_timm(), params.model.removeprefix(TIMM)
    weights = str(params.pretrained)
    from_file, at_random = Path(weights).is_file(), weights == RANDOM
    published = not from_file and not at_random
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="timm")  # ignore timm's deprecation notes on renamed models
        torch.manual_seed(0)
        trunk = timm.create_model(
            f"{name}.{weights}" if published else name,
            num_classes=0,
            pretrained=published,
            **_size_option(timm, params),
        )
    if from_file:
        _load(trunk, Path(weights))
    return ImageModel(trunk).eval(), NoTokenizer(params.name)


def image_preprocess(model: ImageModel, params: TeacherParams) -> dict[str, Any]:
    """Return mean, deviation, interpolation, resize mode and size, in open_clip's format.

    The view is the largest square of an image, as for CLIP, without timm's `crop_pct`.
    """
    config: dict[str, Any] = import_timm().data.resolve_model_data_config(model.trunk)
    side = params.image_size or int(config["input_size"][-1])
    return {
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"],
        "resize_mode": "shortest",
        "size": side,
    }


def _size_option(timm: Any, params: TeacherParams) -> dict[str, int]:
    """Return the option that sets the input size of a model with a fixed one, such as a ViT."""
    name = params.model.removeprefix(TIMM)
    fixed = params.image_size is not None and timm.get_pretrained_cfg(name).fixed_input_size
    return {"img_size": int(params.image_size or 0)} if fixed else {}


def _load(trunk: nn.Module, path: Path) -> None:
    """Load all weights of a model from a file, converted to float32; a classifier in the file is ignored."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a .safetensors file")
    tensors = load_file(path)
    missing = sorted(set(trunk.state_dict()) - set(tensors))
    if missing:
        raise ValueError(f"{path}: {len(missing)} weights are missing, the first is {missing[0]}")
    trunk.load_state_dict({key: tensors[key] for key in trunk.state_dict()})
