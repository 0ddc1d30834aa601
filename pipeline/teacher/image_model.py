"""Image models as teachers: any timm model without its classifier. It sees images and reads no text."""

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
"""What the identity of a teacher says in place of its tokenizer when it reads no text."""


class ImageModel(nn.Module):
    """A timm model under the name that open_clip's image towers have."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def encode_image(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return the pooled features."""
        features: Tensor = self.trunk(images)
        return features


class NoTokenizer:
    """What an image model has in place of a tokenizer: it refuses."""

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
    """Build a timm model with its weights, and what stands in place of a tokenizer.

    The network is used only for a published tag that is named.

    Raises:
        OSError, RuntimeError, ValueError: weights that cannot be had or do not fit.
    """
    timm, name = import_timm(), params.model.removeprefix(TIMM)
    weights = str(params.pretrained)
    from_file, at_random = Path(weights).is_file(), weights == RANDOM
    published = not from_file and not at_random
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="timm")  # notes on renamed models are for timm's own users
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
    """Return mean, deviation, interpolation, resize mode and size as open_clip's preprocessing names them.

    The view is the largest square of an image, as for CLIP: timm's `crop_pct` would leave out its rim.
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
    """Return what tells a model of a fixed input size, such as a ViT, of another one."""
    name = params.model.removeprefix(TIMM)
    fixed = params.image_size is not None and timm.get_pretrained_cfg(name).fixed_input_size
    return {"img_size": int(params.image_size or 0)} if fixed else {}


def _load(trunk: nn.Module, path: Path) -> None:
    """Load all of a model from a file, widened to float32; a classifier in it is left there."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a .safetensors file")
    found = load_file(path)
    missing = sorted(set(trunk.state_dict()) - set(found))
    if missing:
        raise ValueError(f"{path}: {len(missing)} weights are missing, the first is {missing[0]}")
    trunk.load_state_dict({key: found[key] for key in trunk.state_dict()})
