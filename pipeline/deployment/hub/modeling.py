"""Embed pictures: python modeling.py photo.jpg …   needs only timm, safetensors, numpy and pillow."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

HERE = Path(__file__).parent


class Student(torch.nn.Module):
    """A timm backbone with a head that is not a plain timm classifier."""

    def __init__(self, about: dict[str, Any], dim: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(about["architecture"], num_classes=0)
        if about["stem"]:
            self.backbone.get_submodule(about["stem"]).stride = (1, 1)
        sizes = about["head"]
        layers = [torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        parts = [part for layer in layers for part in (torch.nn.GELU(), layer)]
        self.head = torch.nn.Sequential(*parts[1:])
        self.radius = about["radius"]
        self.unwhiten = None if self.radius is None else torch.nn.Linear(sizes[-1], dim)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embedding of normalized pixels (b, 3, s, s)."""
        out: torch.Tensor = self.head(self.backbone(pixels))
        if self.unwhiten is not None:
            out = self.unwhiten(self.radius * torch.nn.functional.normalize(out, dim=-1))
        return out


def load(folder: Path = HERE) -> torch.nn.Module:
    """Build the model of this folder, with timm alone if the head is a plain timm classifier."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "student" not in config:
        model: torch.nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        model = Student(config["student"], config["embedding"]["dim"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def pixels(path: str, embedding: dict[str, Any]) -> torch.Tensor:
    """Return the center square of a picture, resized and normalized as in training."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    size = (embedding["image_size"], embedding["image_size"])
    box = (left, top, left + side, top + side)
    square = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box))
    normalized = (square / 255 - embedding["mean"]) / embedding["std"]
    return torch.from_numpy(normalized.transpose(2, 0, 1)[None]).float()


def main(paths: list[str]) -> None:
    """Print the embedding of each picture as one line of JSON."""
    model, config = load(), json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    for path in paths:
        try:
            image = pixels(path, config["embedding"])
        except OSError as error:
            sys.exit(f"error: {path}: not a picture that can be read: {error}")
        with torch.inference_mode():
            print(json.dumps(model(image)[0].tolist()))


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit("usage: python modeling.py photo.jpg …"))
