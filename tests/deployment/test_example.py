"""The example of an export looks at pictures with the pixels that training saw."""

from __future__ import annotations

import runpy
import shutil
import sys
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


@pytest.fixture
def device(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an exported folder, and a picture to show to it."""
    shutil.copytree(exported, tmp_path / "device")
    picture = KINDS["rgb"](tmp_path / "picture.png")
    monkeypatch.setattr(sys, "argv", ["example.py", str(picture)])
    return tmp_path / "device"


def run(device: Path) -> None:
    runpy.run_path(str(device / "example.py"), run_name="__main__")


def test_the_whole_example_prints_labels(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(device)
    assert "%" in capsys.readouterr().out


def test_an_example_that_is_cut_behind_any_line_does_not_end_as_if_it_had_worked(device: Path) -> None:
    path = device / "example.py"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith("    sys.exit"))
    for number in range(first + 1, len(lines)):
        path.write_text("".join(lines[:number]), encoding="utf-8")
        with pytest.raises((SystemExit, SyntaxError)) as caught:
            run(device)
        assert isinstance(caught.value, SyntaxError) or "example.py: cut short. Export it again." in str(caught.value)


@pytest.mark.parametrize("name", ["labels.json", "preprocess.json", "model.onnx", "checksums.json"])
def test_a_missing_or_damaged_file_of_an_export_is_one_line_of_its_example(device: Path, name: str) -> None:
    path = device / name
    whole = path.read_bytes()
    for harm in (lambda: path.write_bytes(whole[:-9]), path.unlink):
        harm()
        with pytest.raises(SystemExit, match=rf"^error: .*{name}: .*Export it again\.$"):
            run(device)
