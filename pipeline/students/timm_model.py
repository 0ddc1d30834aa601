"""A student as a plain timm model whose classifier outputs the embedding, if possible."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save
from torch import nn

from cache.atomic import write_bytes
from pipeline.project.lazy_dynamo import defer_torch_dynamo
from pipeline.students.backbones import STEMS, timm_name
from pipeline.students.model import Student, normalize_pixels
from pipeline.students.towers import last_layer
from pipeline.students.training.state import to_contiguous_cpu

with defer_torch_dynamo():
    import timm
    from timm.models import save_for_hf

CENTER_SQUARE: Mapping[str, Any] = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
"""timm's name for the center view."""


def to_timm(student: Student) -> nn.Module | None:
    """Return a timm model with the student's weights, (b, 3, s, s) normalized → (b, d), or None.

    timm's classifier is one linear layer: it can be a linear head with folded un-whitening. It cannot express an mlp
    head, a normalized output, or a stem with another stride.
    """
    if len(student.head) != 1 or student.radius is not None or student.params.backbone.stem_stride != 2:
        return None
    name = timm_name(student.name, student.params.backbone)
    model: nn.Module = timm.create_model(name, num_classes=student.dim)
    classifier = model.get_classifier()  # type: ignore[operator]  # timm's models have it
    head = last_layer(student.head)
    if not isinstance(classifier, nn.Linear) or classifier.weight.shape != head.weight.shape:
        return None
    prefix = next(path for path, module in model.named_modules() if module is classifier)
    weights = {**student.backbone.state_dict(), f"{prefix}.weight": head.weight, f"{prefix}.bias": head.bias}
    if weights.keys() != model.state_dict().keys():
        return None
    model.load_state_dict({key: tensor.contiguous() for key, tensor in weights.items()})
    return model.eval()


def save_timm(folder: Path, model: nn.Module, student: Student, size: int, about: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `config.json`, from which `timm.create_model` builds the model."""
    mean, std = student.mean_std
    view = {"input_size": (3, size, size), "mean": mean, "std": std, **CENTER_SQUARE}
    save_for_hf(model, str(folder), {**about}, safe_serialization=True, data_config=view)


def save_image_weights(path: Path, student: Student) -> None:
    """Write the weights of backbone, head and un-whitening, without those of a text tower."""
    state = {
        name: to_contiguous_cpu(tensor) for name, tensor in student.state_dict().items() if not name.startswith("text.")
    }
    write_bytes(path, save(state))


@torch.inference_mode()
def embed_with_timm(
    model: nn.Module, student: Student, pixels: UInt8[np.ndarray, "n s s 3"]
) -> Float[np.ndarray, "n d"]:
    """Return the embeddings of images by a student's timm model."""
    out: torch.Tensor = model(normalize_pixels(torch.from_numpy(pixels), *student.mean_std))
    return out.numpy()


def architecture(student: Student) -> dict[str, Any]:
    """Return the data to build a student outside this project: timm's name, stem stride, head widths."""
    backbone = student.params.backbone
    linear = [layer for layer in student.head if isinstance(layer, nn.Linear)]
    modules = dict(student.backbone.named_modules())
    return {
        "architecture": timm_name(student.name, backbone),
        "stem": next((stem for stem in STEMS if stem in modules), None) if backbone.stem_stride == 1 else None,
        "head": [linear[0].in_features, *(layer.out_features for layer in linear)],
        "radius": student.radius,
    }
