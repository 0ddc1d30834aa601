"""What leaves the workshop says the same as what was trained, on any machine with onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from cache.errors import WriteError
from pipeline.commands.export import MIN_INT8_COSINE, ExportOptions, export, parse_export_options
from pipeline.data.synthetic.world import render_image
from pipeline.deployment.labels import labels_of_split
from pipeline.deployment.onnx_graph import OPSET
from pipeline.deployment.onnx_session import open_session, run_session
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.students.checkpoint import load_student
from pipeline.students.inference import embed_pixels
from pipeline.whitening.spaces import load_space
from tests.factories.project import RUNTIME


def pixels(shipping: Layout, size: int, rows: int = 8) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(render_image("val", n).image).resize((size, size))) for n in range(rows)]
    )


def test_the_graph_gives_the_students_embeddings_for_any_batch(shipping: Layout, exported: Path) -> None:
    student = load_student(shipping.model("test_resnet", "zca"))
    session = open_session(exported / "model.onnx")
    for rows in (1, 3, 8):
        images = pixels(shipping, int(str(student.card["image_size"])), rows)
        found = run_session(session, images)[0]
        assert np.abs(found - embed_pixels(student, images)).max() <= 1e-4
    # Negative control: other images are other embeddings.
    assert np.abs(found - embed_pixels(student, images[::-1])).max() > 1e-3


def test_the_graph_is_clean_and_states_its_opset(exported: Path) -> None:
    model = onnx.load(str(exported / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_label_head_gives_the_probabilities_of_clips_rule(shipping: Layout, exported: Path) -> None:
    labels = labels_of_split("badges", shipping)
    session = open_session(exported / "model.onnx")
    images = pixels(shipping, int(session.get_inputs()[0].shape[1]))
    embedding, probabilities = run_session(session, images)
    assert np.allclose(probabilities, labels.probabilities(embedding), atol=1e-5)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert json.loads((exported / "labels.json").read_text())["labels"] == list(labels.names)


def test_a_whitened_export_speaks_the_arms_own_target_space(shipping: Layout) -> None:
    folder = shipping.model("test_resnet", "zca")
    form = parse_export_options(folder, "onnx", False, "whitened", None, ["badges"], shipping)
    made = export(folder, shipping.root / "exports" / "whitened", form, shipping, RUNTIME)
    student = load_student(folder)
    images = pixels(shipping, int(str(student.card["image_size"])))
    found = run_session(open_session(made.folder / "model.onnx"), images)[0]
    expected = load_space(shipping.target("zca")).to_target(embed_pixels(student, images))
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_int8_is_smaller_and_near_and_its_curve_stands_on_the_card(shipping: Layout, exported: Path) -> None:
    made = export(
        shipping.model("test_resnet", "raw"),
        shipping.root / "exports" / "int8",
        ExportOptions(int8=True),
        shipping,
        RUNTIME,
    )
    assert made.curve
    assert made.parity is not None
    assert made.parity.mean_cosine >= MIN_INT8_COSINE
    assert (made.folder / "model-int8.onnx").stat().st_size < 0.6 * (exported / "model.onnx").stat().st_size
    assert "layers left in float" in (made.folder / "README.md").read_text()
    assert sorted(p.name for p in made.folder.iterdir()) == [
        "README.md",
        "checksums.json",
        "example.py",
        "model-int8.onnx",
        "preprocess.json",
    ]


def test_an_export_that_differs_is_refused_and_what_was_there_stays(
    shipping: Layout, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    monkeypatch.setattr("pipeline.commands.export.FLOAT_TOLERANCE", -1.0)
    with pytest.raises(PipelineError, match="nothing was exported"):
        export(shipping.model("test_resnet", "zca"), exported, ExportOptions(), shipping, RUNTIME)
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
    assert not list(exported.parent.glob(".*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_format": "tflite"}, "expected onnx, safetensors, openvino or executorch"),
        ({"space": "raw"}, "expected clip or whitened"),
        ({"model_format": "safetensors", "int8": True}, "need onnx"),
        ({"labels": " , "}, "expected names"),
    ],
)
def test_wrong_export_options_are_one_line(shipping: Layout, options: dict[str, object], message: str) -> None:
    asked = {"model_format": "onnx", "int8": False, "space": "clip", "labels": None, **options}
    with pytest.raises(UsageError, match=message):
        parse_export_options(shipping.model("test_resnet", "zca"), zero_shot=["badges"], layout=shipping, **asked)  # type: ignore[arg-type]


def test_a_folder_that_holds_something_else_is_left_alone(shipping: Layout, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my thesis")
    with pytest.raises(WriteError, match="holds something else, which would be lost"):
        export(shipping.model("test_resnet", "zca"), tmp_path, ExportOptions(), shipping, RUNTIME)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
