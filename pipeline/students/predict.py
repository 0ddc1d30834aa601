"""What a student says of pixels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8

from pipeline.students.model import Student, normalise


@torch.inference_mode()
def embed_pixels(student: Student, pixels: UInt8[np.ndarray, "n s s 3"], batch: int = 256) -> Float[np.ndarray, "n d"]:
    """Return the embeddings of images, in CLIP space for a student that was loaded from its folder."""
    mean, std = student.mean_std
    device = next(student.parameters()).device
    out = np.empty((len(pixels), student.dim), dtype=np.float32)
    for start in range(0, len(pixels), batch):
        part = torch.from_numpy(np.require(pixels[start : start + batch], requirements=["C", "W"])).to(device)
        out[start : start + batch] = student(normalise(part, mean, std)).float().cpu().numpy()
    return out
