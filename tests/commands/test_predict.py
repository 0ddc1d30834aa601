"""A picture of one's own: labels from anywhere, from a checkpoint or an exported file, and what can be wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from cache.errors import DamagedError, MissingError
from pipeline.commands.predict import as_json, labels_for, predict, write_page
from pipeline.data.user_images import find_images, load_center_view
from pipeline.deployment.labels import (
    Labels,
    known_labels,
    labels_of_split,
    resolve_labels,
    save_labels,
    saved_labels_path,
)
from pipeline.deployment.predictor import Predictor, open_model
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import CARD, Layout
from pipeline.students.checkpoint import save_student
from pipeline.students.model import Student, StudentParams
from pipeline.teacher.model import load_teacher
from pipeline.teacher.params import TeacherParams
from tests import ROOT
from tests.factories.stores import TEACHER


def percentages(line: str) -> dict[str, float]:
    """Return what the example printed: `one.jpg ring 12.3%, star 4.5%` by label."""
    found = [pair.rsplit(" ", 1) for pair in line.strip().split(" ", 1)[1].split(", ")]
    return {name: float(share.rstrip("%")) for name, share in found}


def agree(line: str, model: Predictor, labels: Labels, path: Path) -> bool:
    """Whether the example's answer is predict's: the same labels, to the tenth of a percent that it prints."""
    said = percentages(line)
    ours = dict(predict(model, [path], labels)[0].labels)
    return said.keys() == ours.keys() and all(abs(said[name] - 100 * ours[name]) < 0.06 for name in said)


def test_the_example_needs_no_line_of_ours(shipping: Layout, exported: Path, pictures: Path, tmp_path: Path) -> None:
    """Run away from the project, with imports of it made impossible."""
    moved = tmp_path / "device"
    exported.rename(moved)
    try:
        blocked = "import sys; sys.modules.update(dict.fromkeys(['torch','timm','pipeline','cache'])); import runpy; "
        code = f"{blocked}sys.argv=['example.py', *sys.argv[1:]]; runpy.run_path('example.py', run_name='__main__')"
        command = [sys.executable, "-c", code, str(pictures / "one.jpg"), str(pictures / "two.png")]
        made = subprocess.run(command, cwd=moved, capture_output=True, text=True, check=True)
    finally:
        moved.rename(exported)
    model, labels = open_model(exported), labels_of_split("badges", shipping)
    for line, name in zip(made.stdout.splitlines(), ("one.jpg", "two.png"), strict=True):
        assert agree(line.replace(str(pictures), ""), model, labels, pictures / name)
    # Negative control: another picture's answer does not agree.
    assert not agree(made.stdout.splitlines()[0].replace(str(pictures), ""), model, labels, pictures / "two.png")


def test_a_checkpoint_and_its_export_predict_the_same(shipping: Layout, exported: Path, pictures: Path) -> None:
    labels, paths = labels_of_split("badges", shipping), find_images([str(pictures)])
    assert [p.name for p in paths] == ["one.jpg", "two.png"]
    ours = predict(open_model(shipping.model("test_resnet", "zca")), paths, labels)
    theirs = predict(open_model(exported / "model.onnx"), paths, labels)
    for one, other in zip(ours, theirs, strict=True):
        assert [name for name, _ in one.labels] == [name for name, _ in other.labels]
        assert np.allclose([x for _, x in one.labels], [x for _, x in other.labels], atol=1e-4)
    assert json.loads(as_json(ours))[0]["labels"][0]["label"] == ours[0].labels[0][0]


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("nothing-here.jpg", UsageError, "no such picture"),
        ("*.nothing", UsageError, "nothing that matches"),
    ],
)
def test_pictures_that_are_not_there_are_named(wanted: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_images([wanted])


def test_a_text_file_called_jpg_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fake.jpg").write_text("not a picture")
    with pytest.raises(PipelineError, match=r"fake\.jpg: not an image that can be read"):
        load_center_view(tmp_path / "fake.jpg", 32)


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no student and no exported model"):
        open_model(tmp_path)
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(DamagedError, match="onnxruntime cannot read it"):
        open_model(tmp_path / "broken.onnx")


@pytest.mark.slow
def test_a_fresh_environment_of_three_packages_gives_the_same_answer(
    shipping: Layout, exported: Path, pictures: Path, tmp_path: Path
) -> None:
    """Needs a package index: onnxruntime, numpy and pillow, as pinned, are installed."""
    pins = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if line.split("==")[0] in ("numpy", "onnxruntime", "pillow")
    ]
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
    device = shutil.copytree(exported, tmp_path / "device")
    model, labels = open_model(shipping.model("test_resnet", "zca")), labels_of_split("badges", shipping)
    for picture in ("one.jpg", "two.png"):
        shutil.copy(pictures / picture, device)
        made = subprocess.run([python, "example.py", picture], cwd=device, capture_output=True, text=True, check=True)
        assert agree(made.stdout, model, labels, pictures / picture)
    torchless = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert torchless.returncode != 0


def test_predictions_make_a_page_without_requests(shipping: Layout, pictures: Path, tmp_path: Path) -> None:
    model = open_model(shipping.model("test_resnet", "zca"))
    paths = find_images([str(pictures / "*.jpg")])
    write_page(tmp_path / "strip.html", "student", predict(model, paths, labels_of_split("badges", shipping)))
    text = (tmp_path / "strip.html").read_text()
    assert "image/webp" in text
    assert text.count('class="fill"') == 5  # a bar a label, as in the page of `export --web`
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_names_come_from_a_file_as_from_the_command_line(shipping: Layout, tmp_path: Path) -> None:
    names = labels_of_split("badges", shipping).names[:2]
    (tmp_path / "mine.txt").write_text("\n".join([*names, "", names[0]]))
    assert resolve_labels(str(tmp_path / "mine.txt"), ["badges"], shipping).names == names
    with pytest.raises(UsageError, match=r"gone\.txt: cannot be read: No such file or directory\. Expected one name"):
        resolve_labels(str(tmp_path / "gone.txt"), ["badges"], shipping)


def test_labels_never_embedded_are_named_with_what_to_do(shipping: Layout) -> None:
    with pytest.raises(UsageError, match=r"'zeppelin' was never embedded.*no text tower.*--teacher"):
        resolve_labels("zeppelin", ["badges"], shipping, open_model(shipping.model("test_resnet", "zca")))


def test_a_student_with_a_text_tower_reads_names_that_were_never_embedded(shipping: Layout, tmp_path: Path) -> None:
    text = {"layers": 1, "width": 16, "heads": 2, "context": 8}
    params = StudentParams.model_validate({"backbone": {"weights": None}, "text": text})
    card = {
        "target": "raw",
        "target_fingerprint": "0" * 12,
        "image_size": 32,
        "teacher": {**TEACHER, "logit_scale": 7.0},
    }
    save_student(tmp_path, Student("test_resnet", params, 24), {**card, "fingerprint": "0" * 12})
    found = labels_for("zeppelin,a red kite", [], shipping, open_model(tmp_path), None)
    assert found.names == ("zeppelin", "a red kite")
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(found.vectors[0], found.vectors[1])
    assert found.scale == 7.0


def test_the_teacher_embeds_a_name_once_and_is_not_asked_again(
    shipping: Layout, tiny_teacher: str, tmp_path: Path
) -> None:
    layout, params = Layout(tmp_path), TeacherParams(model=tiny_teacher)
    facts = load_teacher(params, "cpu").identity.facts()
    model = Predictor("student", 32, lambda pixels: np.ones((len(pixels), 16), np.float32), teacher=facts)
    first = labels_for("zeppelin,cat", [], layout, model, params)
    assert saved_labels_path(layout, facts).is_file()
    again = labels_for("cat", [], layout, model, None)
    assert np.array_equal(again.vectors[0], first.vectors[1])
    assert again.scale == first.scale
    # Another teacher's labels are no labels of this student's.
    other = open_model(shipping.model("test_resnet", "zca"))
    with pytest.raises(UsageError, match="its labels would mean nothing"):
        labels_for("zeppelin", [], layout, other, params)
    with pytest.raises(UsageError, match="'cat' was never embedded"):
        labels_for("cat", [], layout, other, None)


def test_labels_are_kept_beside_those_that_were_kept(shipping: Layout) -> None:
    kept = saved_labels_path(shipping, TEACHER)
    for name in ("zeppelin", "kite"):
        save_labels(kept, Labels((name,), np.full((1, 24), 24**-0.5), 50.0))
    known = known_labels(["badges"], shipping, TEACHER)
    assert {*labels_of_split("badges", shipping).names, "zeppelin", "kite"} == set(known.vectors)
    assert resolve_labels("zeppelin", ["badges"], shipping).scale == 50.0
    kept.unlink()


def test_sets_of_another_teacher_are_refused_by_name(shipping: Layout) -> None:
    model = Predictor("other", 32, lambda pixels: np.ones((len(pixels), 24), np.float32), teacher={"model": "another"})
    with pytest.raises(UsageError, match=r"--labels badges: embedded by made-up, but the model speaks .* another"):
        resolve_labels("badges", ["badges"], shipping, model)


def test_labels_of_another_width_are_one_line(shipping: Layout, pictures: Path) -> None:
    model = Predictor("narrow", 32, lambda pixels: np.ones((len(pixels), 8), np.float32))
    with pytest.raises(UsageError, match="narrow: speaks 8 dimensions, the labels 24: they are of two teachers"):
        predict(model, [pictures / "one.jpg"], labels_of_split("badges", shipping))


def test_a_student_of_another_version_is_one_line(shipping: Layout, tmp_path: Path) -> None:
    from cache.atomic import read_checksummed_json, write_checksummed_json

    folder = shutil.copytree(shipping.model("test_resnet", "raw"), tmp_path / "later")
    write_checksummed_json(folder / CARD, {**read_checksummed_json(folder / CARD), "format": 9})
    with pytest.raises(DamagedError, match=r"student\.json: format 9, expected 1\. Distil it again"):
        open_model(folder)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format": 9}, DamagedError, "a model of format 9, this program reads 2. Export it again"),
        ({"space": "zca"}, UsageError, "speaks the target space 'zca'. Export it again with --space clip"),
        ({"format": None}, DamagedError, "a model of format None"),
    ],
)
def test_an_export_of_another_version_or_space_is_one_line(
    exported: Path, tmp_path: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    folder = shutil.copytree(exported, tmp_path / "other")
    about = folder / "preprocess.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **change}))
    with pytest.raises(error, match=message):
        open_model(folder)
    about.write_text("{")
    with pytest.raises(DamagedError, match="not what `export` writes"):
        open_model(folder)
