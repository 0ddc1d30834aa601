"""Export a student as a folder for the Hugging Face Hub, and upload it on request."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cache.atomic import atomic_directory, write_json, write_text
from cache.checksums import list_files
from pipeline.commands.export import (
    CHECK_ROWS,
    FLOAT_TOLERANCE,
    ExportOptions,
    Images,
    center_pixels,
    export,
    folder_sizes,
)
from pipeline.deployment.hub import modeling
from pipeline.deployment.hub.hub_card import hub_metadata, usage
from pipeline.deployment.hub.hub_upload import check_hub_name, require_token, upload_model
from pipeline.deployment.labels import resolve_labels
from pipeline.deployment.model_card import write_card
from pipeline.deployment.predictor import open_model
from pipeline.deployment.web.text_graph import write_text_onnx
from pipeline.evaluation.model_files import read_metrics
from pipeline.project.errors import PipelineError
from pipeline.project.layout import PREPROCESS, Layout
from pipeline.project.params import Runtime
from pipeline.students.checkpoint import load_student
from pipeline.students.inference import embed_pixels
from pipeline.students.model import Student
from pipeline.students.timm_model import architecture, embed_with_timm, save_image_weights, save_timm, to_timm

TIMM_WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class HubExport:
    """A written folder and, after an upload, its address."""

    folder: Path
    name: str
    in_timm: bool
    address: str | None = None

    @property
    def line(self) -> str:
        """Return one line for the terminal."""
        by = f'timm.create_model("hf-hub:{self.name}")' if self.in_timm else "its modeling.py"
        where = f"; uploaded to {self.address}, private" if self.address else "; --push uploads it"
        return f"{self.folder}: {sum(folder_sizes(self.folder).values()) / 1e6:.2f} MB, loaded by {by}{where}"


def export_hub(
    folder: Path,
    name: str,
    out: Path | None,
    layout: Layout,
    runtime: Runtime,
    *,
    labels: str | None = None,
    zero_shot: Sequence[str] = (),
    push: bool = False,
) -> HubExport:
    """Write weights and config for timm, ONNX, card and `modeling.py`; with `push`, upload the folder.

    Raises:
        UsageError: an invalid name, or nobody is logged in for an upload.
        CacheError: the student, its metrics or the images for the comparison are missing or damaged.
        PipelineError: the weights in timm's format, or the ONNX graph, differ from the student; or the upload fails.
    """
    check_hub_name(name)
    token = require_token() if push else ""
    student, path = load_student(folder), out or layout.exports / "hub" / name
    label_set = resolve_labels(labels, zero_shot, layout, open_model(folder)) if labels else None
    with atomic_directory(path, CONFIG) as building:
        exported = export(folder, building / "onnx", ExportOptions(labels=label_set), layout, runtime)
        for file in (ExportOptions().file, PREPROCESS, "labels.json"):
            if (exported.folder / file).exists():
                (exported.folder / file).rename(building / file)
        shutil.rmtree(exported.folder)
        in_timm = write_weights(building, student, partial(center_pixels, layout=layout, runtime=runtime))
        if student.text is not None:
            write_text_onnx(building / "text.onnx", student.text)
        write_text(building / "modeling.py", Path(modeling.__file__).read_text(encoding="utf-8"))
        measured = read_metrics(folder, student.card)
        front, use = (
            hub_metadata(name, student.card, measured, in_timm),
            usage(name, in_timm, student.text is not None),
        )
        card = write_card(student.card, measured, exported.parity, (), folder_sizes(building), front=front, use=use)
        write_text(building / "README.md", card)
        list_files(building, {"arm": folder.name, "student_sha256": student.card["weights_sha256"]})
    return HubExport(path, name, in_timm, upload_model(path, name, token) if push else None)


def write_weights(building: Path, student: Student, images: Images) -> bool:
    """Write weights and config, and return whether timm alone builds the model from them."""
    card: dict[str, Any] = student.card
    size, (mean, std) = int(card["image_size"]), student.mean_std
    embedding = {
        "dim": student.dim,
        "image_size": size,
        "mean": list(mean),
        "std": list(std),
        "space": "CLIP",
        "teacher": card["teacher"],
        "crop": "the center square, bicubic, antialiased",
    }
    model = to_timm(student)
    if model is None:
        save_image_weights(building / TIMM_WEIGHTS, student)
        write_json(building / CONFIG, {"embedding": embedding, "student": architecture(student)})
        return False
    pixels = images("val", CHECK_ROWS, size)
    expected, outputs = embed_pixels(student, pixels), embed_with_timm(model, student, pixels)
    difference = float(np.abs(outputs - expected).max())
    if difference > FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise PipelineError(
            f"--hub: as a timm model it differs from the student by {difference:.2g}: nothing was "
            "exported. Tell us which model it is."
        )
    save_timm(building, model, student, size, {"embedding": embedding})
    return True
