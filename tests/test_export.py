"""What leaves the workshop says the same as what was trained, on any machine with onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from cache.errors import DamagedError, MissingError
from cache.reader import EmbeddingStore
from pipeline.commands.export import INT8_BAR, Form, export, read_form
from pipeline.commands.predict import as_json, predict, write_page
from pipeline.commands.search import picture_query, search, write_sheet
from pipeline.data.pictures import find_pictures, look
from pipeline.data.sample_world import draw
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.shipping.graph import OPSET
from pipeline.shipping.labels import Labels, keep, kept_file, known_labels, named_labels, set_labels
from pipeline.shipping.model import open_model
from pipeline.shipping.session import open_session, parity, run
from pipeline.students.checkpoint import load_student
from pipeline.students.predict import embed_pixels
from pipeline.whitening.spaces import load_space
from tests.made_project import RUNTIME, project


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return project(tmp_path_factory.mktemp("project"), students=("test_resnet",), targets=("raw", "zca"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of one's own, not square, one with transparency."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(draw("val", 900).image).resize((90, 70)).save(folder / "one.jpg")
    Image.fromarray(draw("val", 901).image).convert("RGBA").save(folder / "two.png")
    return folder


@pytest.fixture(scope="module")
def exported(layout: Layout) -> Path:
    form = Form(labels=set_labels("badges", layout))
    return export(layout.model("test_resnet", "zca"), layout.root / "exports" / "labels", form, layout, RUNTIME).folder


def pixels(layout: Layout, size: int, rows: int = 8) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(draw("val", n).image).resize((size, size))) for n in range(rows)])


def test_the_graph_gives_the_students_embeddings_for_any_batch(layout: Layout, exported: Path) -> None:
    student = load_student(layout.model("test_resnet", "zca"))
    session = open_session(exported / "model.onnx")
    for rows in (1, 3, 8):
        images = pixels(layout, student.card["image_size"], rows)
        found = run(session, images)[0]
        assert np.abs(found - embed_pixels(student, images)).max() <= 1e-4
    # Negative control: other images are other embeddings.
    assert np.abs(found - embed_pixels(student, images[::-1])).max() > 1e-3


def test_the_graph_is_clean_and_states_its_opset(exported: Path) -> None:
    model = onnx.load(str(exported / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_label_head_gives_the_probabilities_of_clips_rule(layout: Layout, exported: Path) -> None:
    labels = set_labels("badges", layout)
    session = open_session(exported / "model.onnx")
    images = pixels(layout, int(session.get_inputs()[0].shape[1]))
    embedding, probabilities = run(session, images)
    assert np.allclose(probabilities, labels.probabilities(embedding), atol=1e-5)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert json.loads((exported / "labels.json").read_text())["labels"] == list(labels.names)


def test_a_whitened_export_speaks_the_arms_own_target_space(layout: Layout) -> None:
    folder = layout.model("test_resnet", "zca")
    form = read_form(folder, "onnx", False, "whitened", None, ["badges"], layout)
    made = export(folder, layout.root / "exports" / "whitened", form, layout, RUNTIME)
    student = load_student(folder)
    images = pixels(layout, student.card["image_size"])
    found = run(open_session(made.folder / "model.onnx"), images)[0]
    expected = load_space(layout.target("zca")).to_target(embed_pixels(student, images))
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def test_int8_is_smaller_and_near_and_its_curve_stands_on_the_card(layout: Layout, exported: Path) -> None:
    made = export(
        layout.model("test_resnet", "raw"), layout.root / "exports" / "int8", Form(int8=True), layout, RUNTIME
    )
    assert made.curve
    assert made.parity is not None
    assert made.parity.mean_cosine >= INT8_BAR
    assert (made.folder / "model-int8.onnx").stat().st_size < 0.6 * (exported / "model.onnx").stat().st_size
    assert "layers left in float" in (made.folder / "README.md").read_text()
    assert sorted(p.name for p in made.folder.iterdir()) == [
        "README.md", "example.py", "model-int8.onnx", "preprocess.json"
    ]  # fmt: skip


def test_an_export_that_differs_is_refused_and_what_was_there_stays(
    layout: Layout, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in exported.iterdir()}
    monkeypatch.setattr("pipeline.commands.export.FLOAT_BAR", -1.0)
    with pytest.raises(PipelineError, match="nothing was exported"):
        export(layout.model("test_resnet", "zca"), exported, Form(), layout, RUNTIME)
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == before
    assert not list(exported.parent.glob(".*"))


def test_the_example_needs_no_line_of_ours(layout: Layout, exported: Path, pictures: Path, tmp_path: Path) -> None:
    """Run away from the project, with imports of it made impossible."""
    moved = tmp_path / "device"
    exported.rename(moved)
    try:
        blocked = "import sys; sys.modules.update(dict.fromkeys(['torch','timm','pipeline','cache'])); import runpy; "
        code = f"{blocked}sys.argv=['example.py', *sys.argv[1:]]; runpy.run_path('example.py', run_name='__main__')"
        command = [sys.executable, "-c", code, str(pictures / "one.jpg")]
        made = subprocess.run(command, cwd=moved, capture_output=True, text=True, check=True)
    finally:
        moved.rename(exported)
    model = open_model(exported)
    best = predict(model, [pictures / "one.jpg"], set_labels("badges", layout), top=1)
    assert "one.jpg" in made.stdout
    assert best[0].labels[0][0] in made.stdout


def test_a_checkpoint_and_its_export_predict_the_same(layout: Layout, exported: Path, pictures: Path) -> None:
    labels, paths = set_labels("badges", layout), find_pictures([str(pictures)])
    assert [p.name for p in paths] == ["one.jpg", "two.png"]
    ours = predict(open_model(layout.model("test_resnet", "zca")), paths, labels)
    theirs = predict(open_model(exported / "model.onnx"), paths, labels)
    for one, other in zip(ours, theirs, strict=True):
        assert [name for name, _ in one.labels] == [name for name, _ in other.labels]
        assert np.allclose([x for _, x in one.labels], [x for _, x in other.labels], atol=1e-4)
    assert json.loads(as_json(ours))[0]["labels"][0]["label"] == ours[0].labels[0][0]


def test_predictions_and_search_results_make_pages_without_requests(
    layout: Layout, pictures: Path, tmp_path: Path
) -> None:
    model = open_model(layout.model("test_resnet", "zca"))
    paths = find_pictures([str(pictures / "*.jpg")])
    write_page(tmp_path / "strip.html", "student", predict(model, paths, set_labels("badges", layout)))
    hits = search(picture_query(paths[0], model), "val", layout, top=5)
    assert len({hit.key for hit in hits}) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    write_sheet(tmp_path / "sheet.html", "one.jpg", hits, "val", layout)
    for page in ("strip.html", "sheet.html"):
        text = (tmp_path / page).read_text()
        assert "image/webp" in text
        assert "http://" not in text.replace("http://www.w3.org", "")


def test_an_image_of_the_split_finds_itself(layout: Layout) -> None:
    store = EmbeddingStore.open(layout.embeddings("val"))
    hits = search(np.asarray(store.image()[7]), "val", layout, top=3)
    assert hits[0].key == store.keys[7]
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_labels_are_kept_once_embedded_and_unknown_ones_are_named(layout: Layout) -> None:
    known = known_labels(["badges"], layout)
    assert set(known) >= set(set_labels("badges", layout).names)
    with pytest.raises(UsageError, match=r"'zeppelin' was never embedded.*--teacher"):
        named_labels("zeppelin", ["badges"], layout)
    keep(kept_file(layout), Labels(("zeppelin",), np.full((1, 24), 24**-0.5), 50.0))
    assert named_labels("zeppelin", ["badges"], layout).scale == 50.0
    kept_file(layout).unlink()


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("nothing-here.jpg", UsageError, "no such picture"),
        ("*.nothing", UsageError, "nothing that matches"),
    ],
)
def test_pictures_that_are_not_there_are_named(wanted: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_pictures([wanted])


def test_a_text_file_called_jpg_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fake.jpg").write_text("not a picture")
    with pytest.raises(PipelineError, match=r"fake\.jpg: not an image that can be read"):
        look(tmp_path / "fake.jpg", 32)


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no student and no exported model"):
        open_model(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(DamagedError, match="onnxruntime cannot read it"):
        open_model(tmp_path / "broken.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_format": "tflite"}, "expected onnx or safetensors"),
        ({"space": "raw"}, "expected clip or whitened"),
        ({"model_format": "safetensors", "int8": True}, "need onnx"),
        ({"labels": " , "}, "expected names"),
    ],
)
def test_wrong_export_options_are_one_line(layout: Layout, options: dict[str, object], message: str) -> None:
    asked = {"model_format": "onnx", "int8": False, "space": "clip", "labels": None, **options}
    with pytest.raises(UsageError, match=message):
        read_form(layout.model("test_resnet", "zca"), zero_shot=["badges"], layout=layout, **asked)  # type: ignore[arg-type]


def test_parity_sees_a_difference() -> None:
    rows = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    same, other = parity(rows, rows, np.eye(4)), parity(-rows, rows, np.eye(4))
    assert (same.max_difference, same.top1_agreement) == (0.0, 1.0)
    assert same.min_cosine == pytest.approx(1.0)
    assert other.mean_cosine == pytest.approx(-1.0)
    assert other.top1_agreement == 0.0
