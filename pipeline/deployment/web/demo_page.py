"""Render one self-contained HTML page with onnxruntime's WASM build, students, labels and a gallery."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from pipeline.deployment.labels import DEFAULT_TEMPLATE, Labels
from pipeline.deployment.web.gallery import Gallery, QuantizedRows

ASSETS = Path(__file__).parent / "assets"
VENDOR = Path(__file__).parent / "vendor" / "onnxruntime-web"
SCRIPTS = ("resample.js", "tokenizer.js", "scoring.js", "inference.js", "page.js")
GZIP_LEVEL = 6


@dataclass(frozen=True)
class BrowserTextTower:
    """A student's text tower as ONNX, and its maximum number of tokens."""

    onnx: bytes
    context: int


@dataclass(frozen=True)
class BrowserStudent:
    """An exported student for the page."""

    name: str
    onnx: bytes
    image_size: int
    parameters: int
    text: BrowserTextTower | None = None


@dataclass(frozen=True)
class DemoPage:
    """Contents of a page besides the runtime."""

    students: tuple[BrowserStudent, ...]
    teacher: str
    logit_scale: float
    labels: Labels | None = None
    gallery: Gallery | None = None
    merges: str = ""
    """BPE merges of the tokenizer, if a student has a text tower."""


def render_demo(page: DemoPage, style: str) -> str:
    """Return the page as HTML; `style` is the CSS shared with the other pages.

    Its content security policy allows no connections; scripts are allowed by their SHA-256. User-chosen names are
    embedded as JSON with `<` escaped, and inserted as text.
    """
    runtime = _without_source_map(_text(VENDOR / "ort.wasm.min.js"))
    script = "\n".join(_text(ASSETS / name) for name in SCRIPTS)
    style += _text(ASSETS / "demo.css")
    names = " and ".join(student.name for student in page.students)
    return Template(_text(ASSETS / "demo.html")).substitute(
        title=html.escape(f"What does {names} see?"),
        facts=html.escape(_facts(page)),
        notes=html.escape(_notes(page)),
        policy=_policy((runtime, script), style),
        style=style,
        data=_data(page),
        runtime=runtime,
        script=script,
    )


def _facts(page: DemoPage) -> str:
    sizes = [
        f"{student.name}: {student.parameters / 1e6:.1f} million parameters, {len(student.onnx) / 1e6:.1f} MB, "
        f"{student.image_size} px"
        for student in page.students
    ]
    return f"{'; '.join(sizes)}. Distilled from {page.teacher}. It runs in this page, without a network."


def _notes(page: DemoPage) -> str:
    scores = "Probabilities are over the labels given, also when none of them is in the picture. "
    gallery = "Neighbors are cosines with the teacher's embeddings, kept in 8 bits. " if page.gallery else ""
    return f"{scores}{gallery}Runs on onnxruntime-web {runtime_version()} (MIT license)."


def runtime_version() -> str:
    """Return the version of the vendored onnxruntime-web."""
    return str(json.loads(_text(VENDOR / "package.json"))["version"])


def _policy(scripts: Sequence[str], style: str) -> str:
    allowed = " ".join(f"'{_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed} 'wasm-unsafe-eval' blob:; style-src '{_sha256(style)}'; "
        "img-src data: blob:; media-src blob: mediastream:; base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(page: DemoPage) -> str:
    parts = {"glue": (VENDOR / "ort-wasm-simd-threaded.mjs").read_bytes()}
    for place, student in enumerate(page.students):
        parts[f"model-{place}"] = student.onnx
        if student.text is not None:
            parts[f"text-{place}"] = student.text.onnx
    if page.merges:
        parts["merges"] = page.merges.encode()
    if page.labels is not None:
        parts["label-vectors"] = page.labels.vectors.astype("<f4").tobytes()
    if page.gallery is not None:
        parts |= _rows("gallery-images", page.gallery.images) | _rows("gallery-captions", page.gallery.captions)
    packed = {name: gzip.compress(data, GZIP_LEVEL, mtime=0) for name, data in parts.items()}
    packed["runtime"] = (VENDOR / "ort-wasm-simd-threaded.wasm.gz").read_bytes()
    about = f'<script type="application/json" id="about">{_json(_about(page))}</script>'
    return "\n".join([about, *(_element(name, data) for name, data in packed.items())])


def _rows(name: str, rows: QuantizedRows) -> dict[str, bytes]:
    return {f"{name}-bytes": rows.values.tobytes(), f"{name}-scales": rows.scales.astype("<f4").tobytes()}


def _element(name: str, data: bytes) -> str:
    return f'<script type="application/octet-stream" id="{name}">{base64.b64encode(data).decode()}</script>'


def _about(page: DemoPage) -> Mapping[str, Any]:
    labels, gallery = page.labels, page.gallery
    return {
        "students": [
            {"name": s.name, "size": s.image_size, "context": s.text.context if s.text else 0} for s in page.students
        ],
        "scale": page.logit_scale,
        "prompt": DEFAULT_TEMPLATE,
        "labels": {"names": labels.names, "scale": labels.scale} if labels else None,
        "gallery": gallery
        and {
            "split": gallery.split,
            "images": [
                {"image": f"data:image/webp;base64,{base64.b64encode(image).decode()}", "text": text}
                for image, text in zip(gallery.thumbnails, gallery.names, strict=True)
            ],
            "captions": gallery.texts,
        },
    }


def _json(value: Mapping[str, Any]) -> str:
    """Return JSON that cannot close the enclosing HTML element."""
    return json.dumps(value, sort_keys=True).replace("<", "\\u003c")


def _without_source_map(script: str) -> str:
    """Remove the last line, a reference to a source map that is not shipped."""
    return script.partition("//# sourceMappingURL=")[0]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
