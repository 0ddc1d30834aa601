"""Names that mean something to rich, matplotlib, HTML, a shell or a spreadsheet go through every command as text."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from cache.reader import EmbeddingStore
from pipeline.data.sources.registry import parse_source
from pipeline.index import index
from pipeline.pack import PackParams, pack
from pipeline.project.layout import Layout
from pipeline.project.terminal import printable
from pipeline.whiten import TargetParams, whiten
from pipeline.whitening.estimate import estimate_comoments
from pipeline.whitening.moments_file import embeddings_digest, save_moments
from tests.contract.test_hostile_input import Ending, run
from tests.data.sources.test_sources import image
from tests.factories.project import RUNTIME, embed_by_arithmetic, untrained

ROOT = "[⁄] $x$ {0} =1 ' \" <b> %s é \udcff"
FOLDER = "[/b] $y$ {1} <i>".replace("/", "⁄")
CLASSES = [
    "[bold]",
    "$x$",
    r"$\frac",
    "{",
    "=1+1",
    "-x",
    "@x",
    "<script>alert(1)</script>",
    "a`b`",
    "![x](y)|z",
    "\x1b[31mred",
    "a\nb",
    "%s{0}",
    "\u202egnp",
]
FILES = [*(name.replace("/", "_") for name in CLASSES), "caf\udce9", "x" * 200]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A small project of hostile names, with a student that was never trained."""
    layout = Layout(tmp_path_factory.mktemp("names") / ROOT)
    document = sources(layout.root.parent / FOLDER)
    for split, value in document.items():
        source = parse_source(value, f"index.{split}")
        index(split, source, layout)
        pack(split, source, PackParams(shard_rows=30), layout, RUNTIME)
        embed_by_arithmetic(layout, split)
    store = EmbeddingStore.open(layout.embeddings("train"))
    moments = estimate_comoments("l2", [store.image().load()], store.text().load(), store.offsets)
    save_moments(layout.moments, {"l2": moments}, store.manifest.teacher, embeddings_digest(store.manifest), "all")
    for target in ("raw", "zca"):
        whiten(target, TargetParams(method=target, floor=0.01), layout)
    untrained(layout, "test_resnet", "zca")
    params: dict[str, Any] = {
        "runtime": {"workers": 0, "batch": 16, "device": "cpu"},
        "index": {"splits": list(document), **document},
        "whiten": {"targets": ["raw", "zca"], "raw": {"method": "raw"}, "zca": {"method": "zca", "floor": 0.01}},
        "distill": {"students": ["test_resnet"], "targets": ["zca"]},
        "evaluate": {"rules": ["clip"]},
    }
    (layout.root.parent / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")
    return layout


def sources(folder: Path) -> dict[str, dict[str, Any]]:
    """Lay out a table of captions, images without any, and a folder for each class; every name is hostile."""
    found: dict[str, dict[str, Any]] = {}
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        rows = [(f"{name}.png", f"{name} {split}") for name in FILES if "\n" not in name and name.isprintable()]
        for number, (name, _) in enumerate(rows):
            (folder / split / name).write_bytes(image(number + 50 * (split == "val")))
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption"), *rows])
        found[split] = {"source": "table", "images": str(folder / split), "captions": str(folder / f"{split}.csv")}
    for number, name in enumerate(FILES[: len(CLASSES)]):
        (folder / "set" / name).mkdir(parents=True)
        for shade in range(2):
            (folder / "set" / name / f"{FILES[-2]}{shade}.png").write_bytes(image(100 + 5 * number + shade))
    found["badges"] = {"source": "class-folder", "images": str(folder / "set")}
    return found


def cli(place: Layout, command: str, *arguments: str) -> Ending:
    given = [command, *arguments, "--params", str(place.root.parent / "params.yaml"), "--root", str(place.root)]
    ending = run(*given)
    assert ending.code == 0, (command, ending)
    assert "\x1b" not in ending.out
    return ending


class Page(HTMLParser):
    """The text of a page, and what in it could run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.alive: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.alive += [tag] if tag in ("script", "iframe", "object") else []
        self.alive += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls(path.read_text(encoding="utf-8"))
        assert page.alive == []
        return page


def test_every_command_walks_through(place: Layout, tmp_path: Path) -> None:
    cli(place, "results")
    cli(place, "evaluate")
    cli(place, "report")
    for command in ("results", "audit", "verify", "info", "gc"):
        cli(place, command, *(["--dry-run"] if command == "gc" else []))
    cli(place, "export-embeddings", "--split", "train", "--out", str(tmp_path / ROOT / "out"))
    shown = Page.read(place.report)
    text = " ".join(shown.texts)
    assert [name for name in CLASSES if name.isprintable() and "/" not in name and name not in text] == []


def test_tables_hold_no_formula(place: Layout) -> None:
    cli(place, "evaluate")
    tables = sorted(place.root.glob("models/*/tables/*.csv"))
    texts = [path.read_bytes().decode() for path in tables]
    cells = [cell for text in texts for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert "'=1+1" in cells
    assert [cell for cell in cells if cell.startswith(("=", "@", "+"))] == []


def test_predict_and_search_show_names_as_they_are(place: Layout, tmp_path: Path) -> None:
    folder = tmp_path / ROOT
    folder.mkdir()
    for number, name in enumerate(FILES):
        (folder / f"{name}.png").write_bytes(image(number))
    for extra in ([], ["--json"], ["--html", str(folder / "page.html")]):
        ending = cli(place, "predict", str(folder), "--labels", "badges", *extra)
        assert len(ending.out.splitlines()) >= len(FILES)
    assert "$x$" in " ".join(Page.read(folder / "page.html").texts)
    assert printable(str(folder / "caf\udce9.png")) in cli(place, "predict", str(folder), "--labels", "badges").out
    for name in FILES:
        sheet = folder / f"{name}.html"
        cli(place, "search", "--image", str(folder / f"{name}.png"), "--html", str(sheet))
        Page.read(sheet)


@pytest.mark.slow
def test_an_export_says_names_as_text(place: Layout, tmp_path: Path) -> None:
    out = tmp_path / ROOT
    cli(place, "export", "--labels", "badges", "--out", str(out))
    front = (out / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert yaml.safe_load(front)["base_model"]
