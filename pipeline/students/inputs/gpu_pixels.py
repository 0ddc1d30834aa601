"""Pixels in GPU memory: batches are gathered, cropped, resized and flipped on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from pipeline.students.inputs.pixels import PixelStore

MAX_MEMORY_FRACTION = 0.5
"""Largest fraction of a device's free memory for pixels; weights, activations and batches need the rest."""
A = -0.5
"""Parameter of Pillow's bicubic filter (Keys, 1981)."""


def load_on_gpu(pixels: PixelStore, device: torch.device) -> GpuPixelStore | None:
    """Return a split's pixels on a GPU, or None without a GPU or if they do not fit."""
    if device.type != "cuda" or pixels.nbytes > MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]:
        return None
    return GpuPixelStore.from_store(pixels, device)


@dataclass(frozen=True)
class GpuPixelStore:
    """Images of a pixel store as tensors on one device."""

    pixels: PixelStore
    flat_pixels: UInt8[Tensor, "p 3"]
    """Concatenated pixels of all images."""
    offsets: Int[Tensor, " n"]
    """First pixel of each image."""
    shape: Int[Tensor, "n 2"]

    @classmethod
    def from_store(cls, pixels: PixelStore, device: torch.device) -> GpuPixelStore:
        """Copy a pixel store to a device."""
        colors = torch.empty((pixels.nbytes // 3, 3), dtype=torch.uint8, device=device)
        for start in range(0, len(colors), 1 << 26):  # in parts, so that the memory map is not held in memory
            part = pixels.flat_pixels[start : start + (1 << 26)]
            colors[start : start + len(part)] = torch.from_numpy(np.array(part)).to(device)
        first, shape = torch.from_numpy(pixels.offset // 3), torch.from_numpy(np.array(pixels.shape))
        return cls(pixels, colors, first.to(device), shape.to(device))

    def batch(
        self, rows: Int[np.ndarray, " b"], boxes: Float[np.ndarray, "b 4"], flips: Bool[np.ndarray, " b"], size: int
    ) -> UInt8[Tensor, "b s s 3"]:
        """Return views of images as `PixelStore.batch`, within one level of 255: see `resample`.

        Raises:
            ValueError: a box exceeds the kept box.
        """
        images_on_device, mirrored = self._here(rows), self._here(flips)
        inside = self.pixels.to_local_boxes(rows, boxes)
        images = self._gathered(images_on_device, *self.pixels.shape[rows].max(axis=0).tolist())
        if self.pixels.is_exact_view(rows, boxes, size):
            views = images
        else:
            views = resample(images, self.shape[images_on_device], self._here(inside), size)
        return torch.where(mirrored[:, None, None, None], views.flip(2), views)

    def _gathered(self, rows: Int[Tensor, " b"], height: int, width: int) -> UInt8[Tensor, "b h w 3"]:
        """Return images of equal size; smaller ones are padded by repeating their last row and column."""
        if self.pixels.as_array is not None:
            return self.flat_pixels.view(self.pixels.as_array.shape)[rows]
        y = torch.arange(height, device=rows.device)[None].minimum(self.shape[rows, :1] - 1)
        x = torch.arange(width, device=rows.device)[None].minimum(self.shape[rows, 1:] - 1)
        places = self.offsets[rows, None, None] + y[:, :, None] * self.shape[rows, 1, None, None] + x[:, None, :]
        return self.flat_pixels[places]

    def _here(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        device = self.flat_pixels.device
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def resample(
    images: UInt8[Tensor, "b h w 3"], shapes: Int[Tensor, "b 2"], boxes: Float[Tensor, "b 4"], size: int
) -> UInt8[Tensor, "b s s 3"]:
    """Return a box of each image at `size` × `size`: Pillow's antialiased bicubic as two matrix products.

    out = R(Wy R(Wx image)), where R rounds to bytes and row i of W is Keys' cubic centered at
    c = lo + (i + ½)(hi − lo)/s for output pixel i, stretched by max(1, (hi − lo)/s) and normalized to sum one. Pillow
    resamples tall images vertically first; there about every sixth byte differs by one.
    """
    b, height, width, _ = images.shape
    across = resample_weights(boxes[:, 0::2], shapes[:, 1], width, size)
    down = resample_weights(boxes[:, 1::2], shapes[:, 0], height, size)
    columns = images.permute(0, 2, 1, 3).reshape(b, width, height * 3).float()
    narrow = _bytes(across @ columns).reshape(b, size, height, 3)
    rows = narrow.permute(0, 2, 1, 3).reshape(b, height, size * 3)
    return _bytes(down @ rows).reshape(b, size, size, 3).to(torch.uint8)


def resample_weights(
    ends: Float[Tensor, "b 2"], lengths: Int[Tensor, " b"], longest: int, size: int
) -> Float[Tensor, "b s l"]:
    """Return the weight of each input pixel of a side for each output pixel; `ends` are fractions of the side."""
    low, high = (ends.double() * lengths[:, None]).clamp(max=lengths[:, None]).unbind(1)
    scale = (high - low) / size
    middle = low[:, None] + (torch.arange(size, device=ends.device) + 0.5) * scale[:, None]
    at = torch.arange(longest, device=ends.device) + 0.5
    far = ((at - middle[..., None]) / scale.clamp(min=1)[:, None, None]).abs()
    counts = torch.where(at < lengths[:, None, None], keys_cubic(far), 0.0)
    return (counts / counts.sum(dim=2, keepdim=True)).float()


def keys_cubic(far: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return Keys' cubic of a distance: (A+2)x³ − (A+3)x² + 1 up to 1, A(x³ − 5x² + 8x − 4) up to 2, then 0."""
    near = ((A + 2) * far - (A + 3)) * far.square() + 1
    wide = (((far - 5) * far + 8) * far - 4) * A
    return torch.where(far < 1, near, torch.where(far < 2, wide, 0.0))


def _bytes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (values + 0.5).floor().clamp(0, 255)
