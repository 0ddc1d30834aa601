"""Export a student: a folder with the model, labels, preprocessing, an example script and a card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from cache.atomic import atomic_directory, write_text
from cache.checksums import list_files
from pipeline.data.packing.packed import open_packed
from pipeline.deployment import example
from pipeline.deployment.edge_formats import EDGE_FORMATS, require_edge_format
from pipeline.deployment.exported_scorer import SCORED_ROWS, ExportedScorer, open_scorer, write_scorer
from pipeline.deployment.labels import Labels, resolve_labels
from pipeline.deployment.model_card import write_card, write_preprocess
from pipeline.deployment.onnx_graph import Graph, write_onnx
from pipeline.deployment.onnx_session import Parity, open_session, parity, run_session
from pipeline.deployment.predictor import CLIP, open_model
from pipeline.deployment.quantize import PrecisionPoint, quantize_mixed
from pipeline.evaluation.model_files import check_arm, read_metrics
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import CARD, PREPROCESS, WEIGHTS, Layout
from pipeline.project.params import Runtime
from pipeline.project.terminal import is_text
from pipeline.students.checkpoint import load_student, read_card
from pipeline.students.dense_tokens import StudentPlaces
from pipeline.students.inference import embed_pixels
from pipeline.students.inputs.pixels import open_pixel_store
from pipeline.students.model import Student
from pipeline.whitening.spaces import TargetSpace, load_space

FLOAT_TOLERANCE = 1e-4
"""Largest difference between onnxruntime and torch in float32: a thousand times the rounding error at norm one."""
MIN_INT8_COSINE = 0.99
"""Mean cosine between the int8 and the float model below which layers go back to float."""
CALIBRATION_ROWS, CHECK_ROWS = 128, 256

Pixels = UInt8[np.ndarray, "n s s 3"]
Images = Callable[[str, int, int], Pixels]
"""The first rows of a split, at one image size."""


@dataclass(frozen=True)
class ExportResult:
    """Result of an export, and its differences from the student."""

    folder: Path
    parity: Parity | None
    curve: tuple[PrecisionPoint, ...] = ()
    files: dict[str, int] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """Return one line for the terminal."""
        near = f", cosine {self.parity.mean_cosine:.5f} to the student" if self.parity else ""
        float_layers = f", {self.curve[-1].float_layers} layers in float" if self.curve else ""
        return f"{self.folder}: {sum(self.files.values()) / 1e6:.2f} MB{near}{float_layers}"


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export."""

    format: Literal["onnx", "safetensors", "openvino", "executorch"] = "onnx"
    int8: bool = False
    space: TargetSpace | None = None
    """Whitened output space; None: CLIP's own."""
    labels: Labels | None = None
    """Fixed labels, whose probabilities become the second output, so that the device needs no text tower."""
    scorer: ExportedScorer | None = None
    """Scorer of captions: the student's tokens become the last output, and the scorer a separate graph."""

    @property
    def file(self) -> str:
        """Return the file name of the model."""
        if self.format == "safetensors":
            return WEIGHTS
        if self.format in EDGE_FORMATS:
            return EDGE_FORMATS[self.format].file
        return "model-int8.onnx" if self.int8 else "model.onnx"


def parse_export_options(  # noqa: PLR0917  they are the command's options
    folder: Path,
    model_format: str,
    int8: bool,
    space: str,
    labels: str | None,
    zero_shot: Sequence[str],
    layout: Layout,
    scorer: str | None = None,
) -> ExportOptions:
    """Return the checked options of the command line.

    Raises:
        UsageError: an unknown format or space, or labels that were never embedded.
    """
    if model_format not in ("onnx", "safetensors", *EDGE_FORMATS):
        raise UsageError(f"--format {model_format}: expected onnx, safetensors, {' or '.join(EDGE_FORMATS)}")
    if model_format in EDGE_FORMATS:
        require_edge_format(model_format)
        if int8:
            raise UsageError(f"--format {model_format}: in float32; --int8 needs onnx")
    if space not in ("clip", "whitened"):
        raise UsageError(f"--space {space}: expected clip or whitened")
    if model_format == "safetensors" and (int8 or labels or space != "clip"):
        raise UsageError("--format safetensors: the trained weights as they are; --int8, --labels, --space need onnx")
    if scorer and (model_format != "onnx" or int8 or space != "clip"):
        raise UsageError("--scorer: with --format onnx, in float and in CLIP's space; leave out --int8 and --space")
    whitened = load_space(layout.target(str(read_card(folder)["target"]))) if space == "whitened" else None
    if whitened and whitened.teacher != read_card(folder)["teacher"]:
        raise UsageError(f"--space whitened: '{whitened.name}' is of several teachers, and the head of one: use clip")
    label_set = resolve_labels(labels, zero_shot, layout, open_model(folder)) if labels else None
    opened = open_scorer(scorer, folder, layout) if scorer else None
    return ExportOptions(model_format, int8, whitened, label_set, opened)  # type: ignore[arg-type]  # checked above


def check_export_kind(web: bool, hub: str | None, push: bool, plain: bool) -> None:
    """Refuse incompatible options of `export`; `plain`: none of --format, --space and --int8 was given.

    Raises:
        UsageError: two kinds of export, --push without --hub, or a format with a kind that has its own.
    """
    if web and hub:
        raise UsageError("export: --web and --hub are two exports; give one of them")
    if push and not hub:
        raise UsageError("--push: only with --hub NAME")
    if not plain:
        kind, more = ("--web", "") if web else ("--hub", " and --int8")
        raise UsageError(f"{kind}: has a format and a space of its own; leave out --format, --space{more}")


def export(folder: Path, out: Path, form: ExportOptions, layout: Layout, runtime: Runtime) -> ExportResult:
    """Write an export folder; if it differs from the student, nothing is written and an existing folder is kept.

    Raises:
        CacheError: the student, its metrics or the images for the comparison are missing or damaged.
        PipelineError: the export differs from the student by more than the tolerance.
        UsageError: int8 below a path that is not UTF-8.
    """
    if form.int8 and not is_text(str(out)):
        raise UsageError(f"--out {out}: onnxruntime quantises no file whose path is not UTF-8: choose another folder")
    student = load_student(folder)
    check_arm(folder, student.card, layout)
    with atomic_directory(out, PREPROCESS, CARD) as building:
        checked, curve = _model(student, folder, building, form, partial(center_pixels, layout=layout, runtime=runtime))
        measured = read_metrics(folder, student.card)
        card = write_card(student.card, measured, checked, curve, folder_sizes(building))
        write_text(building / "README.md", card)
        list_files(building, {"arm": folder.name, "student_sha256": student.card["weights_sha256"]})
    return ExportResult(out, checked, tuple(curve), folder_sizes(out))


def _model(
    student: Student, folder: Path, building: Path, form: ExportOptions, images: Images
) -> tuple[Parity | None, list[PrecisionPoint]]:
    if form.format == "safetensors":
        for name in (WEIGHTS, CARD):
            shutil.copyfile(folder / name, building / name)
        return None, []
    size = int(student.card["image_size"])  # type: ignore[call-overload]  # a card is JSON
    if form.format == "onnx":
        write_text(building / "example.py", Path(example.__file__).read_text(encoding="utf-8"))
    space = CLIP if form.space is None else form.space.name
    grid = form.scorer.grid if form.scorer else 0
    write_preprocess(building, form.file, space, student.card, form.labels, grid)
    return _onnx(student, building / form.file, form, images, size)


def _onnx(
    student: Student, path: Path, form: ExportOptions, images: Images, size: int
) -> tuple[Parity, list[PrecisionPoint]]:
    """Write the graph and compare it with the student on images that were not used for calibration."""
    pixels = images("val", CHECK_ROWS, size)
    clip = embed_pixels(student, pixels)
    expected = clip if form.space is None else form.space.to_target(clip)
    vectors = form.labels.vectors if form.labels and form.space is None else None

    def check(model_path: Path) -> Parity:
        return parity(run_session(open_session(model_path), pixels)[0], expected, vectors)

    plain = path if form == replace(form, format="onnx", int8=False) else path.with_name("float.onnx")
    places = StudentPlaces(student, form.scorer.grid, size) if form.scorer and form.scorer.grid else None
    graph = Graph(student, form.labels, form.space, places)
    write_onnx(plain, graph, size)
    parities = check(plain)
    _require(parities.max_difference <= FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max())), parities, path)
    if form.scorer:
        write_scorer(path.parent, form.scorer, run_session(open_session(plain), pixels[:SCORED_ROWS]), student, pixels)
    if form.format in EDGE_FORMATS:
        edge = EDGE_FORMATS[form.format]
        edge.write(path, graph, plain, size)
        parities = parity(edge.open(path, 0)(pixels)[0], expected, vectors)
        _require(parities.max_difference <= FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max())), parities, path)
        plain.unlink()
    if not form.int8:
        return parities, []
    curve = quantize_mixed(plain, path, images("train", CALIBRATION_ROWS, size), _mean_cosine(check), MIN_INT8_COSINE)
    plain.unlink()
    parities = check(path)
    _require(parities.mean_cosine >= MIN_INT8_COSINE, parities, path)
    return parities, curve


def _mean_cosine(check: Callable[[Path], Parity]) -> Callable[[Path], float]:
    return lambda path: check(path).mean_cosine


def _require(holds: bool, measured: Parity, path: Path) -> None:
    if not holds:
        raise PipelineError(
            f"{path.name}: differs from the student by {measured.max_difference:.2g}, cosine "
            f"{measured.mean_cosine:.4f}: nothing was exported. Export without --int8, or tell us which model it is."
        )


def center_pixels(split: str, rows: int, size: int, layout: Layout, runtime: Runtime) -> Pixels:
    """Return the center views of the first images of a split."""
    pixels = open_pixel_store(open_packed(layout.packed(split)), size, [{"kind": "center"}], layout, runtime)
    numbers = np.arange(min(rows, len(pixels)))
    return pixels.batch(numbers, pixels.kept_box[numbers], np.zeros(len(numbers), bool), size)


def folder_sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file of a folder."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
