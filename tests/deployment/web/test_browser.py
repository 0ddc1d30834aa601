"""The exported page in a real browser, opened from disk: what it says is what Python says, and it asks nobody."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.commands.export_web import export_web
from pipeline.data.synthetic.world import render_image
from pipeline.data.user_images import load_center_view
from pipeline.deployment.labels import Labels, labels_of_split
from pipeline.deployment.web.demo_page import BrowserStudent, DemoPage, render_demo
from pipeline.project.layout import Layout
from pipeline.reporting.page import style
from pipeline.students.checkpoint import load_student, read_card, save_student
from pipeline.students.inference import embed_pixels, label_vectors
from pipeline.students.model import Student, StudentParams
from tests.factories.chromium import BINARY, MISSING, Chromium
from tests.factories.project import RUNTIME
from tests.factories.students import TEXT

pytestmark = [pytest.mark.process, pytest.mark.skipif(BINARY is None, reason=MISSING)]
READY = "window.demo?.ready"
DONE = "document.getElementById('status').textContent === 'Done.'"
TYPED = ["a cat", "two dogs", "Ünïcode & “quotes”"]


@pytest.fixture(scope="module")
def reader(shipping: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with a text tower of its own, untrained."""
    torch.manual_seed(3)
    card = read_card(shipping.model("test_resnet", "raw"))
    params = {"backbone": {"weights": None}, "text": {**TEXT, "context": 16}}
    folder = tmp_path_factory.mktemp("models") / "reader"
    student = Student("test_resnet", StudentParams.model_validate(params), card["dim"])
    save_student(
        folder,
        student,
        {key: card[key] for key in ("target", "target_fingerprint", "image_size", "teacher", "fingerprint")},
    )
    return folder


@pytest.fixture(scope="module")
def demo_page(shipping: Layout, reader: Path) -> Path:
    folders = [reader, shipping.model("test_resnet", "zca")]
    out = shipping.root / "exports" / "both.html"
    return export_web(folders, out, shipping, RUNTIME, zero_shot=["badges"], gallery=12).path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    made = Chromium(tmp_path / "profile")
    yield made
    made.close()


@pytest.fixture(scope="module")
def pictures_50(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Fifty pictures of many sizes: PNG and JPEG, some of them turned by EXIF."""
    folder, paths = tmp_path_factory.mktemp("fifty"), []
    for number in range(50):
        image = Image.fromarray(render_image("val", 900 + number).image).resize((40 + 7 * number, 300 - 4 * number))
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        path = folder / f"{number:02d}.{'png' if number % 2 else 'jpg'}"
        options: dict[str, Any] = {} if number % 2 else {"exif": exif, "quality": 92}
        image.save(path, **options)
        paths.append(path)
    return paths


def embeddings(browser: Chromium, place: int) -> np.ndarray:
    return np.array(browser.evaluate(f"demo.looks.map(look => Array.from(look.answers[{place}].embedding))"))


def test_fifty_pictures_look_as_in_python_and_nobody_is_asked(
    browser: Chromium, demo_page: Path, reader: Path, shipping: Layout, pictures_50: list[Path]
) -> None:
    browser.open(demo_page, READY)
    browser.choose("#files", pictures_50)
    browser.wait(DONE)
    labels = labels_of_split("badges", shipping)
    for place, folder in enumerate([reader, shipping.model("test_resnet", "zca")]):
        student = load_student(folder)
        pixels = np.stack([load_center_view(path, 32) for path in pictures_50])
        expected, found = embed_pixels(student, pixels), embeddings(browser, place)
        assert np.abs(found - expected).max() <= 1e-3
        top = browser.evaluate(f"demo.looks.map(look => largest(look.answers[{place}].probabilities, 1)[0])")
        assert top == labels.probabilities(expected).argmax(axis=1).tolist()
        assert np.abs(found - expected[::-1]).max() > 1e-2  # negative control: other pictures are other embeddings
    assert browser.console() == []
    assert browser.requests() == []
    assert browser.evaluate("document.querySelectorAll('.look').length") == 50


def test_typed_labels_are_read_by_the_students_own_tower_in_the_page(
    browser: Chromium, demo_page: Path, reader: Path
) -> None:
    browser.open(demo_page, READY)
    browser.evaluate(f"document.getElementById('labels-text').value = {','.join(TYPED)!r}")
    browser.evaluate("document.querySelector('#labels-form button').click()")
    browser.wait("demo.labels[0].names.length === 3")
    found = np.array(browser.evaluate("Array.from(demo.labels[0].rows)")).reshape(3, -1)
    expected = label_vectors(load_student(reader), TYPED)
    assert ((found * expected).sum(axis=1) > 0.99).all()  # the tower is in 8 bits
    assert np.abs(found - expected[::-1]).max() > 1e-2
    assert browser.evaluate("demo.labels[1].names.length") == 10  # the other student reads nothing
    browser.evaluate("document.getElementById('words-text').value = 'a red boat'")
    browser.evaluate("document.querySelector('#words-form button').click()")
    browser.wait("document.querySelectorAll('#words-found .tile').length === 8")
    assert browser.console() == []


@pytest.mark.parametrize(
    "event",
    ["new DragEvent('drop', {dataTransfer: given})", "new ClipboardEvent('paste', {clipboardData: given})"],
    ids=["dropped", "pasted"],
)
def test_a_picture_is_also_taken_when_it_is(
    browser: Chromium, demo_page: Path, pictures_50: list[Path], event: str
) -> None:
    browser.open(demo_page, READY)
    data = base64.b64encode(pictures_50[1].read_bytes()).decode()
    browser.evaluate(
        f"""{{
        const bytes = Uint8Array.from(atob('{data}'), (letter) => letter.charCodeAt(0));
        const given = new DataTransfer();
        given.items.add(new File([bytes], 'one.png', {{type: 'image/png'}}));
        dispatchEvent({event});
        }}"""
    )
    browser.wait(DONE)
    assert browser.evaluate("demo.looks.map(look => look.name)") == ["one.png"]


def test_what_is_no_picture_gets_one_line_and_the_rest_is_looked_at(
    browser: Chromium, demo_page: Path, pictures_50: list[Path], tmp_path: Path
) -> None:
    fake, cut = tmp_path / "thesis.jpg", tmp_path / "cut.png"
    fake.write_bytes(b"%PDF-1.7\n" + bytes(3000))
    cut.write_bytes(pictures_50[1].read_bytes()[:40])
    browser.open(demo_page, READY)
    browser.choose("#files", [pictures_50[0], fake])
    browser.wait(DONE)
    problem = "document.getElementById('problem').textContent"
    assert browser.evaluate(problem) == "thesis.jpg: not a picture that this browser can read."
    assert browser.evaluate("demo.looks.length") == 1
    browser.choose("#files", [cut])
    browser.wait(f"{problem}.startsWith('cut.png')")


def test_a_picture_of_fifty_megapixels_is_looked_at_exactly(browser: Chromium, demo_page: Path, tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    path = tmp_path / "large.png"
    Image.fromarray(coarse).resize((8660, 5774), Image.Resampling.NEAREST).save(path, compress_level=1)
    browser.open(demo_page, READY)
    browser.choose("#files", [path])
    browser.wait(DONE)
    found = np.array(browser.evaluate("Array.from(demo.looks[0].answers[0].pixels)"), np.uint8)
    assert np.array_equal(found.reshape(32, 32, 3), load_center_view(path, 32))


def test_without_the_cameras_permission_the_page_says_so_and_goes_on(browser: Chromium, demo_page: Path) -> None:
    browser.open(demo_page, READY)
    browser.evaluate("document.getElementById('camera').click()")
    browser.wait("document.getElementById('problem').textContent")
    said = browser.evaluate("document.getElementById('problem').textContent")
    assert said.startswith("The camera cannot be used: ")
    assert browser.evaluate("document.getElementById('camera-view').hidden") is True
    assert browser.console() == []


def test_the_camera_is_looked_through_where_there_is_one(demo_page: Path, tmp_path: Path) -> None:
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    browser = Chromium(tmp_path / "profile", *fake)
    try:
        browser.open(demo_page, READY)
        browser.evaluate("document.getElementById('camera').click()")
        browser.wait("!document.getElementById('camera-view').hidden")
        browser.evaluate("document.getElementById('camera-look').click()")
        browser.wait("demo.looks.length === 1")
        browser.evaluate("document.getElementById('live').click()")
        browser.wait("demo.looks.length === 2")
        browser.evaluate("window.first = demo.looks[1].card")
        browser.wait("demo.looks[1].card !== first")  # it looks again, into one card, and leaves the other alone
        assert browser.evaluate("[demo.looks.length, document.querySelectorAll('.look').length]") == [2, 2]
        browser.evaluate("document.getElementById('camera-stop').click()")
        assert browser.evaluate("camera.stream") is None
        assert browser.console() == []
    finally:
        browser.close()


def press(browser: Chromium, key: str, code: int, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)


def test_the_keyboard_alone_reaches_an_image_of_the_gallery_and_looks_at_it(browser: Chromium, demo_page: Path) -> None:
    browser.open(demo_page, READY)
    for _ in range(30):
        press(browser, "Tab", 9)
        if browser.evaluate("document.activeElement.classList.contains('tile')"):
            break
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Look at: ")
    press(browser, "Enter", 13, "\r")
    browser.wait("demo.looks.length === 1 && document.querySelectorAll('.look h3').length")
    assert browser.evaluate("[...document.querySelectorAll('canvas')].every(c => c.getAttribute('aria-label'))") is True
    named = "control.labels?.length || control.innerText.trim() || control.getAttribute('aria-label')"
    every = f"[...document.querySelectorAll('input, button')].every(control => {named})"
    assert browser.evaluate(f"Boolean({every})") is True


@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_screen(browser: Chromium, demo_page: Path, tmp_path: Path, width: int) -> None:
    browser.open(demo_page, READY)
    browser.evaluate("document.querySelector('.tile').click()")
    browser.wait("demo.looks.length === 1")
    browser.screenshot(tmp_path / "page.png", width, 900, "dark")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 20)"


def test_a_hostile_label_is_shown_as_it_is_written(browser: Chromium, exported: Path, tmp_path: Path) -> None:
    hostile = '</script><img src=x onerror="window.broken=1">'
    labels = Labels((hostile, "cat"), np.eye(24, dtype=np.float32)[:2])
    student = BrowserStudent("student", (exported / "model.onnx").read_bytes(), 32, 1)
    path = tmp_path / "hostile.html"
    path.write_text(render_demo(DemoPage((student,), "teacher", 100.0, labels), style()), encoding="utf-8")
    picture = tmp_path / "one.png"
    Image.fromarray(render_image("val", 900).image).save(picture)
    shutil.copyfile(picture, tmp_path / "<img src=x onerror=window.broken=1>.png")
    browser.open(path, READY)
    browser.choose("#files", sorted(tmp_path.glob("*.png")))
    browser.wait(DONE)
    names = browser.evaluate("[...document.querySelectorAll('.look:first-child .name')].map(n => n.textContent)")
    assert sorted(names) == sorted([hostile, "cat"])
    assert browser.evaluate("window.broken === undefined && document.images.length === 0") is True
    assert browser.console() == []


def test_a_request_would_be_seen(browser: Chromium, tmp_path: Path) -> None:
    """Negative control of the browser's own log."""
    path = tmp_path / "chatty.html"
    path.write_text('<img src="http://127.0.0.1:9/pixel.png"><script>console.log("hello")</script>')
    browser.open(path, "document.readyState === 'complete'")
    assert browser.requests() == ["http://127.0.0.1:9/pixel.png"]
    assert "hello" in browser.console()
