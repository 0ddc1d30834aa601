"""Views of an image, and the function that makes their pixels.

A view is a box, as fractions of the decoded image, and a flip. View 0 is CLIP's own center view; views 1, 2, … are
random resized crops, each a function of (seed, key, index).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import AfterValidator, Field

from pipeline.project.params import ParamsSection

Box = tuple[float, float, float, float]
Interpolation = Literal["bicubic", "bilinear"]

FULL_BOX: Box = (0.0, 0.0, 1.0, 1.0)
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MARGIN = 1.1
"""Extra pixels beyond a crop's size; with them and Lanczos, a stored crop embeds at cosine 0.99 of the true one."""
TRIES = 10
"""Attempts to draw a crop before the center view is used: torchvision's number."""


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("expected [smallest, largest]")
    return bounds


AreaFraction = Annotated[float, Field(gt=0, le=1)]
AspectRatio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ViewParams(ParamsSection):
    """The `embed.views:` section: the center view always exists, `crops` are additional."""

    crops: int = Field(default=0, ge=0, le=99)
    """Random resized crops per image in addition to the center view."""
    scale: Annotated[tuple[AreaFraction, AreaFraction], AfterValidator(_ascending)] = (0.5, 1.0)
    """Smallest and largest fraction of the image's area."""
    ratio: Annotated[tuple[AspectRatio, AspectRatio], AfterValidator(_ascending)] = (0.75, 1.3333)
    """Smallest and largest width / height, in pixels."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability that a crop is mirrored."""
    seed: int = Field(default=0, ge=0)

    def facts(self, index: int) -> dict[str, Any]:
        """Return the facts that decide view `index`; they do not depend on the number of crops."""
        if index == 0:
            return {"kind": "center"}
        return {"kind": "crop", "index": index, **self.model_dump(mode="json", exclude={"crops"})}


@dataclass(frozen=True)
class View:
    """Left, top, right and bottom as fractions of width and height, and whether the view is mirrored."""

    box: Box
    flip: bool = False


def center_view(width: int, height: int) -> View:
    """Return the largest centered square, as in CLIP's preprocessing: resize the shorter side, then crop."""
    side = min(width, height)
    left, top = (1 - side / width) / 2, (1 - side / height) / 2
    return View(_round_to_float32(left, top, 1 - left, 1 - top))


def random_view(params: ViewParams, key: str, index: int, width: int, height: int) -> View:
    """Return crop `index` of an image, independent of order and machine.

    Area fraction s ~ U(scale) and log of the ratio r ~ U(log ratio) give a box of √(s·W·H·r) × √(s·W·H/r) pixels,
    placed uniformly; drawn again if it does not fit (Szegedy et al., 2015; torchvision's RandomResizedCrop, without its
    rounding to whole pixels).
    """
    uniforms = _uniforms(params.seed, key, index)
    flip = next(uniforms) < params.flip
    for _ in range(TRIES):
        share = params.scale[0] + next(uniforms) * (params.scale[1] - params.scale[0])
        low, high = (math.log(ratio) for ratio in params.ratio)
        ratio = math.exp(low + next(uniforms) * (high - low))
        wide, tall = math.sqrt(share * ratio * height / width), math.sqrt(share / ratio * width / height)
        left, top = next(uniforms) * (1 - wide), next(uniforms) * (1 - tall)
        if wide <= 1 and tall <= 1:
            return View(_round_to_float32(left, top, left + wide, top + tall), flip)
    return View(center_view(width, height).box, flip)


def view_of(params: ViewParams, key: str, index: int, width: int, height: int) -> View:
    """Return view `index` of an image: 0 is the center view, the others are random crops."""
    if index == 0:
        return center_view(width, height)
    return random_view(params, key, index, width, height)


def apply_view(
    image: Image.Image | UInt8[np.ndarray, "h w 3"], view: View, size: int, interpolation: Interpolation = "bicubic"
) -> UInt8[np.ndarray, "s s 3"]:
    """Return the pixels of a view at `size` × `size`, for both the teacher and students.

    Antialiased resampling of the box (Pillow's `resize(box=…)`, which equals resizing the whole image and cropping),
    then the flip.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    left, top, right, bottom = view.box
    width, height = picture.size
    box = (left * width, top * height, min(right * width, width), min(bottom * height, height))
    pixels = np.asarray(picture.resize((size, size), FILTERS[interpolation], box=box))
    return pixels[:, ::-1] if view.flip else pixels


def resize_shorter_side(image: Image.Image, side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the whole image with its shorter side scaled to `side`, with its aspect ratio; never enlarged."""
    scale = side / min(image.size)
    if scale < 1:
        width, height = (max(side, round(length * scale)) for length in image.size)
        # Lanczos keeps more of the fine detail than bicubic, and the crop is resampled once more.
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def required_side(size: int, views: Iterable[Mapping[str, Any]]) -> int:
    """Return the shorter side at which every view of an image has `size` real pixels and a margin.

    A crop of area fraction s and ratio r on W × H has a shorter side of at least √(s·min(r, 1/r))·min(W, H).
    """
    return max(math.ceil(MARGIN * size / _shortest(view)) for view in views)


def _shortest(view: Mapping[str, Any]) -> float:
    if view["kind"] == "center":
        return 1.0
    low, high = view["ratio"]
    return math.sqrt(view["scale"][0] * min(low, 1 / high, 1.0))


def _uniforms(seed: int, key: str, index: int) -> Iterator[float]:
    """Yield numbers in [0, 1) from Philox keyed by (seed, key), with its counter starting at the view's index.

    Raw 64-bit words are used, because NumPy guarantees this stream but not those of its distributions.
    """
    digest = hashlib.blake2b(f"{seed}\n{key}".encode(), digest_size=16).digest()
    words = np.random.Philox(key=int.from_bytes(digest, "little"), counter=index << 64)
    while True:
        yield (int(words.random_raw()) >> 11) * 2.0**-53


def _round_to_float32(*box: float) -> Box:
    """Round a box to float32, the type in shards, so that teacher and student use the same values."""
    left, top, right, bottom = (float(np.float32(min(max(edge, 0.0), 1.0))) for edge in box)
    return left, top, right, bottom
