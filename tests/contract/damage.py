"""Damage any file of a finished project, let those who read it next read it, and say what came of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

import numpy as np

from cache.errors import CacheError
from cache.reader import EmbeddingStore
from pipeline.commands.export import ExportOptions, export
from pipeline.commands.export_web import export_web
from pipeline.commands.gc import gc
from pipeline.commands.import_embeddings import import_embeddings
from pipeline.commands.profile import graph_cost
from pipeline.commands.results import results
from pipeline.commands.verify import verify
from pipeline.data.packing.packed import open_packed
from pipeline.deployment.labels import labels_of_split
from pipeline.deployment.predictor import open_model
from pipeline.project.errors import PipelineError, UsageError
from pipeline.project.layout import Layout
from pipeline.students.inputs.splits import open_split
from tests.contract.kill_driver import PARTS, RUNTIME, Stage, stages
from tests.factories.students import TINY

SPACES = ("zca", "raw")
MODEL = f"exports/{TINY}-zca-onnx"


def finish(root: Path, teacher: str, *, quick: bool) -> dict[str, Stage]:
    """Run a tiny project to its end and return its stages: two arms and every kind of export, or one arm, no graph."""
    layout, made = Layout(root), stages(teacher, SPACES[:1] if quick else SPACES)
    for stage in made.values():
        stage(layout)
    if quick:
        return made
    form = ExportOptions(labels=labels_of_split("badges", layout))
    export(layout.model(TINY, "zca"), root / MODEL, form, layout, RUNTIME)
    export_web([layout.model(TINY, "zca")], None, layout, RUNTIME, gallery=4)
    return made


def pixels_of(layout: Layout) -> bytes:
    """Read every pixel of every split, decoding what is not whole."""
    digest = hashlib.sha256()
    for split in PARTS:
        pixels = open_split(split, layout, RUNTIME).pixels(16, 2 if split == "train" else 1, layout, RUNTIME)
        digest.update(np.ascontiguousarray(pixels.flat_pixels).data)
    return digest.digest()


def rows_of(layout: Layout) -> bytes:
    """Read every packed sample and every embedding."""
    digest = hashlib.sha256()
    for split in PARTS:
        packed = open_packed(layout.packed(split))
        digest.update(repr([list(packed.read(i)) for i in range(len(packed.shards))]).encode())
        open_split(split, layout, RUNTIME)
    for split in [*PARTS, "again"]:
        store = EmbeddingStore.open(layout.embeddings(split))
        for part in store.manifest.parts:
            for shard in store.shards(part):
                digest.update(
                    np.ascontiguousarray(shard.embedding if hasattr(shard, "embedding") else shard.codes).data
                )
    return digest.digest()


def prediction(layout: Layout) -> bytes:
    """Let exported models embed a gray picture, and the example say what it is."""
    gray, said = np.full((1, 16, 16, 3), 128, np.uint8), io.StringIO()
    picture = layout.root.parent / "gray.png"
    folders = sorted(path for path in layout.exports.glob(f"{TINY}*") if path.is_dir())
    models = [open_model(folder).embed(gray).tobytes() for folder in folders]
    if (layout.root / MODEL).is_dir():
        arguments = mock.patch.object(sys, "argv", ["example.py", str(picture)])
        with arguments, contextlib.redirect_stdout(said):
            runpy.run_path(str(layout.root / MODEL / "example.py"), run_name="__main__")
        graph_cost(layout.root / MODEL / "model.onnx")
    return b"".join(models) + said.getvalue().replace(str(picture), "").encode()


def table_of_results(layout: Layout) -> bytes:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        results([(TINY, space) for space in SPACES], ["badges"], layout)
    return said.getvalue().replace(str(layout.root), "").encode()


def imported(layout: Layout) -> bytes:
    shutil.rmtree(layout.embeddings("again"), ignore_errors=True)
    import_embeddings(layout.root / "exports" / "e", "again", layout)
    return (layout.embeddings("again") / "manifest.json").read_bytes()


def cleaned(layout: Layout) -> bytes:
    return repr(gc(layout, list(PARTS), [(TINY, space) for space in SPACES], dry=True).size).encode()


EXTRA: dict[str, Callable[[Layout], bytes]] = {
    "pixels": pixels_of,
    "rows": rows_of,
    "predict": prediction,
    "results": table_of_results,
    "import again": imported,
    "gc": cleaned,
}
READERS = {
    "data/index/*": ("pack", "evaluate"),
    "data/packed/choices/*": ("embed", "rows", "relate", "report"),
    "data/embeddings/choices/*": ("rows", "relate", "relate --student", "report"),
    "data/packed/*": ("embed", "rows", "report"),
    "data/embeddings/*": ("rows", "moments", "report", "export-embeddings"),
    "data/moments.h5": ("whiten", "evaluate"),
    "data/targets/*": ("distill", "report"),
    "data/.store/pixels-*": ("pixels",),
    "data/.store/pack-*": ("pack", "rows"),
    "data/.store/embed-*": ("embed", "rows"),
    "data/.store/import-*": ("import again",),
    "data/.store/distill-*": ("distill", "evaluate", "report"),
    "data/.store/*.claim": ("gc",),
    "models/*/relate-*": ("relate --student", "report"),
    "models/relate-*": ("relate", "relate --student", "report"),
    "models/*": ("evaluate", "results", "report", "export"),
    "exports/e/*": ("import again",),
    "exports/*.html": (),
    f"exports/{TINY}*": ("predict",),
}
"""Who reads a file next, by its name: the first pattern that fits."""


OPTIONAL = ("models/*/relate-*.json",)
"""What is measured by hand: where it is not there, under that name, it was not measured."""


def tells(reader: str, expected: object, answer: object) -> bool:
    """Return whether an answer differs by what it says to be missing."""
    if reader == "import again" and isinstance(answer, bytes):  # a folder without its record is as anybody's
        return b'"weights_sha256": "unknown"' in answer
    if reader != "report" or not isinstance(answer, dict) or not isinstance(expected, dict):
        return False
    sentences = (page["report/index.html"].count(b"yet: run <code>dvc repro</code>") for page in (expected, answer))
    return next(sentences) < next(sentences)


def readers(name: str) -> tuple[str, ...]:
    return next((who for pattern, who in READERS.items() if fnmatch(name, pattern)), ())


@dataclass
class Outcomes:
    """How often damage was detected, had no effect, or was neither; with the names of the latter."""

    detected: int = 0
    without_effect: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    """Read wrongly by nobody, but not named by `verify` either, though the file is none that anything may write."""

    @property
    def count(self) -> int:
        return self.detected + len(self.without_effect) + len(self.silent) + len(self.tracebacks)


class Range:
    """A finished project, and copies of it to shoot at."""

    def __init__(self, folder: Path, teacher: str, *, quick: bool = False) -> None:
        self.whole, self.target = Layout(folder / "whole"), Layout(folder / "target")
        self.stages = finish(self.whole.root, teacher, quick=quick)
        from PIL import Image

        Image.new("RGB", (40, 30), "gray").save(folder / "gray.png")
        self.files = sorted(
            path.relative_to(self.whole.root).as_posix()
            for part in ("data", "models", "exports", "report")
            for path in (self.whole.root / part).rglob("*")
            if path.is_file() and path.suffix != ".lock"
        )
        self.expected: dict[str, object] = {}
        self.state: dict[str, tuple[int, int, int, int]] = {}
        self.restore()
        for name in {name for who in READERS.values() for name in who}:
            self.expected[name] = self.read(name, frozenset())
            self.restore()

    def restore(self) -> None:
        """Make the copy whole again: where only the contents of files changed, in place; else anew."""
        now = self._state()
        if now and now.keys() == self.state.keys() and all(now[name][:2] == self.state[name][:2] for name in now):
            for name in (name for name in now if now[name] != self.state[name]):
                (self.target.root / name).write_bytes((self.whole.root / name).read_bytes())
                os.utime(self.target.root / name, ns=(self.state[name][2],) * 2)
            return
        shutil.rmtree(self.target.root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(self.whole.root), str(self.target.root)], check=True)
        self.state = self._state()

    def _state(self) -> dict[str, tuple[int, int, int, int]]:
        """Return inode, device, time of change and size of every file of the copy."""
        paths = [path for path in self.target.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
        stats = {path.relative_to(self.target.root).as_posix(): path.stat() for path in paths}
        return {name: (found.st_ino, found.st_dev, found.st_mtime_ns, found.st_size) for name, found in stats.items()}

    def read(self, name: str, damaged: frozenset[int]) -> object:
        """Run a reader and return what came of it: its answer, or every output but the damaged file itself."""
        if name in EXTRA:
            return EXTRA[name](self.target)
        self.stages[name](self.target)
        return {
            path.relative_to(self.target.root).as_posix(): path.read_bytes()
            for path in self.target.root.rglob("*")
            if path.is_file() and self.target.store not in path.parents and path.stat().st_ino not in damaged
        }

    def shoot(self, title: str, names: tuple[str, ...], harm: Callable[[Layout], object], found: Outcomes) -> None:
        """Let every next reader of some files face the harm afresh, and note the worst that came of it."""
        wrong = detected = False
        for reader in dict.fromkeys(reader for name in names for reader in readers(name)):
            self.restore()
            inodes = frozenset((self.target.root / name).stat().st_ino for name in names)
            harm(self.target)
            try:
                answer = self.read(reader, inodes)
            except (CacheError, PipelineError, UsageError):
                detected = True
            except SystemExit as end:
                detected = detected or isinstance(end.code, str)
                wrong = wrong or not isinstance(end.code, str)
            except Exception as error:  # noqa: BLE001  that is what is looked for
                if names[0].endswith("example.py"):  # Python itself says that its source is damaged
                    detected = True
                    continue
                found.tracebacks.append(f"{title}: {reader}: {type(error).__name__}: {error}")
                return
            else:
                told = not self._same(reader, answer) and tells(reader, self.expected[reader], answer)
                detected = detected or told
                wrong = wrong or not (told or self._same(reader, answer))
        if wrong:
            found.silent.append(title)
        elif detected:
            found.detected += 1
        else:
            found.without_effect.append(title)

    def verified(self, title: str, harm: Callable[[Layout], object], found: Outcomes) -> None:
        """Harm a copy and let `verify` look at it."""
        self.restore()
        harm(self.target)
        try:
            faults = verify(self.target).faults
        except Exception as error:  # noqa: BLE001  that is what is looked for
            found.tracebacks.append(f"{title}: verify: {type(error).__name__}: {error}")
        else:
            if not faults:
                found.unseen.append(title)

    def _same(self, reader: str, answer: object) -> bool:
        expected = self.expected[reader]
        if isinstance(answer, dict) and isinstance(expected, dict):
            return all(answer[name] == expected.get(name) for name in answer)
        return answer == expected


def flip(name: str, at: float, bit: int) -> Callable[[Layout], object]:
    """Flip one bit in place: every hard link to the file is damaged with it, as on a disk."""

    def harm(layout: Layout) -> None:
        path = layout.root / name
        place = min(int(at * path.stat().st_size), path.stat().st_size - 1)
        with path.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ (1 << bit)]))

    return harm


def truncate(name: str, at: float) -> Callable[[Layout], object]:
    def harm(layout: Layout) -> None:
        os.truncate(layout.root / name, int(at * (layout.root / name).stat().st_size))

    return harm


def rename(name: str) -> Callable[[Layout], object]:
    def harm(layout: Layout) -> None:
        (layout.root / name).rename(layout.root / f"{name}-old")

    return harm


def exchange(one: str, other: str) -> Callable[[Layout], object]:
    def harm(layout: Layout) -> None:
        first, second, between = (layout.root / name for name in (one, other, "between"))
        first.rename(between)
        second.rename(first)
        between.rename(second)

    return harm


def pairs(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield files and folders that stand for the same kind of thing, two by two."""
    for folder in ("data/index", "data/packed", "data/embeddings", "data/targets", "models", "data/.store"):
        paths = [path for path in sorted((layout.root / folder).iterdir()) if path.suffix not in {".lock", ".claim"}]
        kinds = {path: path.name.rpartition("-")[0] if folder.endswith(".store") else "" for path in paths}
        for i, one in enumerate(paths):
            for other in (path for path in paths[i + 1 :] if kinds[path] == kinds[one]):
                yield str(one.relative_to(layout.root)), str(other.relative_to(layout.root))
    first, second = (f"models/{TINY}-{space}" for space in SPACES)
    for path in sorted((layout.root / first).rglob("*")):
        name = path.relative_to(layout.root / first).as_posix()
        if path.is_file() and (layout.root / second / name).is_file():
            yield f"{first}/{name}", f"{second}/{name}"
    shards = sorted(path.relative_to(layout.root).as_posix() for path in (layout.root / "data").rglob("shard-*"))
    yield from zip(shards[::3], shards[1::3], strict=False)
