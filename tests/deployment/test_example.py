"""The example of an export looks at pictures with the pixels that training saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images import decode
from pipeline.data.views import apply_view, center_view
from pipeline.deployment.example import pixels

SIZE = 24
COLORS = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
DEEP = np.linspace(0, 65535, 48 * 64, dtype=np.uint16).reshape(48, 64)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, "PNG", **options)
    return path


KINDS: dict[str, Callable[[Path], Path]] = {
    "rgb": lambda path: saved(Image.fromarray(COLORS), path),
    "grey": lambda path: saved(Image.fromarray(COLORS).convert("L"), path),
    "grey of 16 bits": lambda path: saved(Image.fromarray(DEEP), path),
    "palette": lambda path: saved(Image.fromarray(COLORS).convert("P"), path, transparency=3),
    "alpha": lambda path: saved(Image.fromarray(np.dstack([COLORS, COLORS[..., :1]])), path),
    "grey with alpha": lambda path: saved(Image.fromarray(COLORS).convert("LA"), path),
    "a transparent color": lambda path: saved(
        Image.fromarray(COLORS), path, transparency=tuple(map(int, COLORS[20, 30]))
    ),
    "a transparent grey": lambda path: saved(
        Image.fromarray(COLORS[..., 0]), path, transparency=int(COLORS[20, 30, 0])
    ),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_example_sees_what_training_saw(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path / "picture.png")
    image = decode(path.read_bytes())
    trained = apply_view(image, center_view(*image.size), SIZE)
    assert np.array_equal(pixels(str(path), SIZE), trained)
    # Negative control: nothing above is one flat color, as a clipped or a wholly transparent picture would be.
    assert trained.std() > 10


def test_a_transparent_color_is_white_for_both(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (30, 30), (10, 20, 30)), tmp_path / "clear.png", transparency=(10, 20, 30))
    assert (pixels(str(path), SIZE) == 255).all()
    assert (np.asarray(decode(path.read_bytes())) == 255).all()
