"""Rule-made styles of photos, and the words for them: contours, flat colors, brush strokes, grey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance, ImageFilter
from scipy.ndimage import gaussian_filter

Pixels = UInt8[np.ndarray, "s s 3"]

STYLE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "sketch": ("a sketch of {c}.", "a drawing of {c}.", "a pencil sketch of {c}."),
    "cartoon": ("a cartoon of {c}.", "a comic picture of {c}."),
    "painting": ("a painting of {c}.", "an oil painting of {c}."),
    "grey": ("a black and white photo of {c}.",),
}
"""Style -> what can be said of a photo in it; {c} is a caption, or the name of a class with its article."""

LINE_SIGMA = 0.008
"""Width of a pencil line, as a share of the side; contours finer than that are left out."""
FAINT, BLACK = 2.5, 6.0
"""Grey levels between the two blurs where a line begins and where it is black: edges of about 20 and 45."""
LEVELS = 5
"""Values of a channel that a cartoon keeps."""
STROKE = 7
"""Pixels of a brush stroke: each takes the commonest color about it."""


def contours(pixels: Pixels) -> Float[np.ndarray, "s s"]:
    """Return how dark a pencil line is at each pixel, from 0 to 1.

    A difference of two Gaussian blurs of the brightness (Marr & Hildreth, 1980): positive on the darker side
    of an edge.
    """
    brightness = pixels.astype(np.float32).mean(axis=2)
    sigma = LINE_SIGMA * len(pixels)
    difference = gaussian_filter(brightness, 1.6 * sigma) - gaussian_filter(brightness, sigma)
    darkness: np.ndarray = np.clip((difference - FAINT) / (BLACK - FAINT), 0, 1)
    return darkness


def sketch(pixels: Pixels) -> Pixels:
    """Return dark contours on white paper."""
    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(5)))
    grey = np.round(255 * (1 - contours(smooth))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def cartoon(pixels: Pixels) -> Pixels:
    """Return a few flat, strong colors within dark contours."""
    smooth = Image.fromarray(pixels).filter(ImageFilter.MedianFilter(5))
    strong = np.asarray(ImageEnhance.Color(smooth).enhance(1.6), np.float32)
    flat = np.round(strong / 255 * (LEVELS - 1)) * (255 / (LEVELS - 1))
    lines = contours(np.asarray(smooth))[..., None]
    drawn: np.ndarray = np.round(flat * (1 - lines)).astype(np.uint8)
    return drawn


def painting(pixels: Pixels) -> Pixels:
    """Return strokes of the commonest color about each pixel, a little stronger."""
    coarse = Image.fromarray((pixels // 16) * 16 + 8)
    return np.array(ImageEnhance.Color(coarse.filter(ImageFilter.ModeFilter(STROKE))).enhance(1.3))


def grey(pixels: Pixels) -> Pixels:
    """Return the brightness alone."""
    return np.array(Image.fromarray(pixels).convert("L").convert("RGB"))


STYLES: dict[str, Callable[[Pixels], Pixels]] = {
    "sketch": sketch,
    "cartoon": cartoon,
    "painting": painting,
    "grey": grey,
}
