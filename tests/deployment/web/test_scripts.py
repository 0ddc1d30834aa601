"""The page's arithmetic, run by node: pixels are Pillow's, tokens are CLIP's, scores are Python's."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.views import apply_view, center_view
from pipeline.deployment.labels import Labels
from pipeline.deployment.web.demo_page import ASSETS
from pipeline.deployment.web.gallery import quantize_rows
from pipeline.students.text_tower import tokenize, tokenizer_merges

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node on this machine")

RESAMPLE = """
const rgba = Uint8Array.from(input.rgba), w = input.width;
const read = (left, top, columns, rows) => {
  const part = [];
  for (let y = top; y < top + rows; y++) part.push(...rgba.subarray((y * w + left) * 4, (y * w + left + columns) * 4));
  return part;
};
return Array.from(centerSquare(w, input.height, input.size, read, input.strip));
"""


def node(files: tuple[str, ...], body: str, **values: Any) -> Any:
    """Return what a function body gives, with the page's own scripts before it."""
    scripts = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in files)
    values_read = "const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
    program = f"{scripts}\n{values_read}\nprocess.stdout.write(JSON.stringify((() => {{ {body} }})()));"
    made = subprocess.run(
        [str(NODE), "-e", program], input=json.dumps(values), capture_output=True, text=True, check=True
    )
    return json.loads(made.stdout)


@pytest.mark.parametrize(
    ("width", "height", "size", "strip"),
    [
        (64, 64, 64, 256),
        (90, 70, 32, 7),
        (51, 121, 48, 20),
        (121, 51, 48, 256),
        (33, 20, 64, 5),
        (100, 151, 50, 256),
        (100, 150, 50, 64),
    ],
)
def test_the_pages_pixels_are_pillows_to_the_last_bit(width: int, height: int, size: int, strip: int) -> None:
    image = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgba = np.dstack([image, np.full((height, width), 255, np.uint8)])
    found = node(
        ("resample.js",), RESAMPLE, rgba=rgba.ravel().tolist(), width=width, height=height, size=size, strip=strip
    )
    expected = apply_view(Image.fromarray(image), center_view(width, height), size)
    assert np.array_equal(np.array(found, np.uint8).reshape(size, size, 3), expected)


TEXTS = [
    "a photo of a cat.",
    "Two  dogs\tand a MAN'S hat, it's 12:30!",
    "Ünïcode – naïve café 日本語 🙂",
    "&lt;b&gt; &amp;amp; “quoted” it’s",
    "x" * 300,
    "word " * 90,
    "",
    "<end_of_text> inside",
    "we'll they've I'd don't",
    "C++ / C# <3 10%",
]
UNESCAPE = "(text) => text.replace(/&(lt|gt|amp);/g, (_, name) => ({ lt: '<', gt: '>', amp: '&' })[name])"


@pytest.mark.parametrize("context", [16, 77])
def test_the_pages_tokens_are_clips(context: int) -> None:
    body = f"""const tokenizer = new Tokenizer(input.merges, {UNESCAPE});
    return input.texts.map((text) => Array.from(tokenizer.encode(text, {context})));"""
    found = node(("tokenizer.js",), body, merges=tokenizer_merges(), texts=TEXTS)
    expected = tokenize(TEXTS, context)
    assert np.array_equal(np.array(found), expected)
    assert len(np.unique(expected, axis=0)) == len(TEXTS)  # negative control: they do differ


def test_the_pages_probabilities_and_neighbors_are_pythons() -> None:
    rng = np.random.default_rng(0)
    embedding, rows = rng.standard_normal(24), rng.standard_normal((50, 24))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    kept = quantize_rows(rows)
    found = node(
        ("scoring.js",),
        "const q = quantizedCosines(input.x, input.bytes, input.scales);"
        "return {p: probabilities(input.x, input.rows, 20), q, best: largest(q, 5)};",
        x=embedding.tolist(),
        rows=unit.ravel().tolist(),
        bytes=kept.values.ravel().tolist(),
        scales=kept.scales.tolist(),
    )
    assert np.allclose(found["p"], Labels(("",) * 50, unit, 20.0).probabilities(embedding[None])[0], atol=1e-6)
    cosines = unit @ embedding / np.linalg.norm(embedding)
    assert np.abs(np.array(found["q"]) - cosines).max() < 4e-3
    assert found["best"] == np.argsort(-np.array(found["q"]), kind="stable")[:5].tolist()


def test_typed_labels_are_parted_trimmed_and_each_once() -> None:
    assert node(("scoring.js",), "return splitLabels(input.text);", text=" cat, dog\nred bus ,,cat") == [
        "cat",
        "dog",
        "red bus",
    ]
