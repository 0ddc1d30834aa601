"""Predict the labels of pictures: python example.py photo.jpg …   needs only onnxruntime, numpy and pillow."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
AGAIN = "Export it again."
if not Path(__file__).read_bytes().rstrip().endswith(b"# the last line"):
    sys.exit(f"error: {__file__}: cut short. {AGAIN}")


def pixels(path: str, size: int) -> np.ndarray:
    """Return the center square of a picture, resized to the same pixels as in training."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip to white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box))


def listed() -> dict[str, str]:
    """Return the SHA-256 of each exported file."""
    path = HERE / "checksums.json"
    try:
        files: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: {path}: missing or damaged ({error!r}). {AGAIN}")
    return files


def read(name: str) -> bytes:
    """Return the bytes of a file of this folder after checking its SHA-256."""
    try:
        data = (HERE / name).read_bytes()
    except OSError as error:
        sys.exit(f"error: {HERE / name}: cannot be read: {error.strerror}. {AGAIN}")
    if hashlib.sha256(data).hexdigest() != listed().get(name):
        sys.exit(f"error: {HERE / name}: damaged: checksums.json lists another SHA-256. {AGAIN}")
    return data


def main(paths: list[str]) -> None:
    """Print the five most probable labels of each picture, or its embedding if the model has no labels."""
    read("example.py")
    preprocess = json.loads(read("preprocess.json"))
    session = onnxruntime.InferenceSession(read(preprocess["model"]), providers=["CPUExecutionProvider"])
    names = json.loads(read("labels.json"))["labels"] if "labels.json" in listed() else []
    for path in paths:
        try:
            image = pixels(path, preprocess["size"])
        except OSError as error:
            sys.exit(f"error: {path}: not a picture that can be read: {error}")
        outputs = session.run(None, {"image": image[None]})
        if not names:
            print(path, outputs[0][0].tolist())
            continue
        best = np.argsort(-outputs[1][0])[:5]
        print(path, ", ".join(f"{names[i]} {outputs[1][0][i]:.1%}" for i in best))


if __name__ == "__main__":
    main(sys.argv[1:] or sys.exit("usage: python example.py photo.jpg …"))
# the last line
