"""Whatever a person writes in parameters, options, names, paths and files: done, or one line and the right exit code.

Commands run in this process, so that an exception that escapes is seen, and a case that hangs is stopped.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

import cli
from pipeline.comparison.params import CompareParams
from pipeline.data.views import ViewParams
from pipeline.evaluate import EvaluateParams
from pipeline.moments import MomentsParams
from pipeline.pack import PackParams
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.report import ReportParams
from pipeline.students.losses.objective import LossParams
from pipeline.students.model import StudentParams
from pipeline.students.training.params import TrainingParams
from pipeline.teacher.params import TeacherParams
from pipeline.whiten import TargetParams
from tests import ROOT
from tests.data.sources.test_cifar import cifar10
from tests.data.sources.test_karpathy import karpathy
from tests.data.sources.test_sources import class_folder, coco, image
from tests.factories.tars import tar_of

SECONDS = 180
"""Longest that a case may take: `export` needs a minute where others use the machine too."""
COMMANDS = (
    "index",
    "pack",
    "moments",
    "whiten",
    "distill",
    "evaluate",
    "report",
    "results",
    "audit",
    "verify",
    "info",
    "gc",
    "export",
    "predict",
    "search",
    "profile",
    "compare",
    "embed",
    "export-embeddings",
    "import",
)
SECTIONS: dict[str, tuple[str, type[BaseModel]]] = {
    "pack": ("pack", PackParams),
    "runtime": ("verify", Runtime),
    "embed.teacher": ("embed", TeacherParams),
    "embed.views": ("embed", ViewParams),
    "moments": ("moments", MomentsParams),
    "whiten.zca": ("whiten", TargetParams),
    "distill.training": ("distill", TrainingParams),
    "distill.loss": ("distill", LossParams),
    "distill.test_resnet": ("distill", StudentParams),
    "evaluate": ("evaluate", EvaluateParams),
    "report": ("report", ReportParams),
    "compare": ("compare", CompareParams),
}
"""A section of the params, the command that reads it, and its class."""
VALUES = (
    "null",
    "true",
    "[]",
    "{}",
    "''",
    "-1",
    "0",
    "1e309",
    ".inf",
    "-.inf",
    ".nan",
    "010",
    "0o10",
    "1:30",
    "2024-01-01",
    r'"\0"',
    r'"\ud800"',
    "[[[[]]]]",
    "x" * 5000,
    "'[/]'",
    "'$x$'",
    "'{'",
    "99999999999999999999",
    "9007199254740993",
    "[1, true]",
    "{a: {b: c}}",
    "../../etc/passwd",
    "/dev/zero",
    "!!int x",
    "!!bool x",
    "&a [*a]",
    "é",
    "-0.0",
    "[",
    "[a, a]",
    "['']",
    "'a b'",
    "1_0",
    "=1+1",
    "-x",
    "@x",
    "[1, 2, 3]",
    "{c}",
    "[nan, raw]",
    "5" * 5000,
)
NAMES = (
    "[/]",
    "[red]x",
    "$x$",
    "$",
    r"\foo",
    "{",
    "{}",
    "{0}",
    "=1+1",
    "+x",
    "-x",
    "@x",
    "a\nb",
    "\x1b[31mx",
    "\udcff",
    "..",
    "../x",
    "a/b",
    "x" * 5000,
    "é" * 90,
    "",
    " ",
    "a b",
    "<b>",
    "&amp;",
    '"',
    "'",
    "`",
    "犬",
    ":cat:",
    "%s",
    "nul\u202e",
    "train",
    "zca",
    "val",
    "badges",
)


class HungError(BaseException):
    """A case that did not end; no command may catch it."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: object
    out: str
    err: str

    def fault(self) -> str:
        """Return what is wrong with it, or nothing."""
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        if "Traceback" in self.err or self.code not in (0, 1, 2, 3):
            return f"exit {self.code}: {self.err[-500:]}"
        if self.code == 0:
            return "" if not errors else f"exit 0 with {errors}"
        if len(errors) != 1 or lines[-1] != errors[0]:
            return f"exit {self.code} without one last line: {self.err[-500:]}"
        return "" if 10 < len(errors[0]) < 2000 else f"a line of {len(errors[0])} characters: {errors[0][:200]}"


def run(*arguments: str, cwd: Path | None = None) -> Ending:
    """Run the command line in this process, from a folder that relative paths may spoil."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    before, sys.argv = sys.argv, ["cli.py", *arguments]
    handlers = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.chdir(cwd or Path.cwd()):
                cli.main()
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    except HungError:
        code = "hung"
    except Exception as error:  # noqa: BLE001  what escapes is what is looked for
        code = f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGINT, handlers[0])
        sys.argv = before
    texts = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]
    return Ending(code, *texts)


def stop(*_: object) -> None:
    raise HungError


@dataclass(frozen=True)
class Place:
    """A copy of a small project that a case may spoil, and a folder of files that are none."""

    root: Path
    params: Path


@pytest.fixture(scope="module")
def places(made_project: Layout, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    folder = tmp_path_factory.mktemp("hostile")
    document = {
        "runtime": {"workers": 0, "batch": 16, "device": "cpu"},
        "index": {
            "splits": ["train", "val", "badges"],
            "train": {"source": "sample", "part": "train", "images": 80},
            "val": {"source": "sample", "part": "val", "images": 40},
            "badges": {"source": "sample", "part": "badges", "images": 40, "templates": "simple"},
        },
        "pack": {"shard_rows": 30},
        "embed": {"teacher": {"model": "local-dir:nowhere"}, "views": {"crops": 0}},
        "moments": {"pre_norm": ["l2"]},
        "whiten": {"targets": ["raw", "zca"], "raw": {"method": "raw"}, "zca": {"method": "zca", "floor": 0.01}},
        "distill": {
            "students": ["mobilenetv3"],
            "targets": ["raw", "zca"],
            "training": {"epochs": 1, "batch": 16, "image_size": 32, "zero_shot_set": "badges"},
            "loss": {"fd": 1.0},
            "test_resnet": {"learning_rate": 1e-3, "backbone": {"weights": None}},
        },
        "evaluate": {"rules": ["clip"]},
        "report": {},
        "compare": {
            "student": "test_resnet",
            "targets": ["raw"],
            "epochs": [1],
            "learning_rates": [1e-3],
            "seeds": 2,
            "subset": 10,
            "training": {"batch": 16, "image_size": 16, "num_validations": 1},
        },
    }
    count = 0

    def place() -> Place:
        nonlocal count
        count += 1
        root = folder / f"root-{count % 2}"  # the last one stays, to be looked at
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(made_project.root, root)
        (root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        return Place(root, root / "params.yaml")

    return place


def keys(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    """Yield the dotted keys of a params class, and of the classes in it."""
    for name, field in model.model_fields.items():
        yield f"{prefix}.{name}"
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(f"{prefix}.{name}", kind)


def arms(command: str) -> list[str]:
    """Return what keeps a command to one small arm."""
    return {
        "distill": ["--student", "test_resnet", "--target", "zca", "--name", "mine"],
        "evaluate": ["--student", "mobilenetv3", "--target", "zca"],
        "whiten": ["--target", "zca"],
        "pack": ["--split", "val"],
        "embed": ["--split", "val"],
    }.get(command, [])


def parameter_cases(generator: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield a command with one parameter set to something hostile."""
    every = [(command, key) for prefix, (command, model) in SECTIONS.items() for key in keys(prefix, model)]
    sources = ("splits", "train", "train.source", "train.part", "train.images", "val")
    every += [("index", f"index.{key}") for key in sources]
    every += [("results", "distill.students"), ("report", "whiten.targets"), ("evaluate", "distill.targets")]
    while True:
        command, key = every[generator.integers(len(every))]
        value = VALUES[generator.integers(len(VALUES))]
        extra = [] if generator.random() < 0.8 else ["--set", f"{key}.{NAMES[generator.integers(len(NAMES))]}=1"]
        yield (command, *arms(command), "--set", f"{key}={value}", *extra)


def paths(folder: Path) -> list[str]:
    """Return paths that are none, or not what is expected, or lead to what never ends."""
    folder.mkdir(exist_ok=True)
    (folder / "file").write_bytes(b"\x00\xff not what you think")
    (folder / "empty").write_bytes(b"")
    for name in ("pipe", "pipe.jpg", "pipe.onnx", "pipe.txt", "pipe.npy", "pipe.yaml"):
        if not (folder / name).exists():
            os.mkfifo(folder / name)
    for suffix in ("jpg", "onnx", "txt", "npy", "json", "yaml"):
        (folder / f"file.{suffix}").write_bytes(b"\x89 neither this nor that")
    (folder / "loop").unlink(missing_ok=True)
    (folder / "loop").symlink_to(folder / "loop")
    inside = ["file", "empty", "pipe", "loop", "none", "file/below", "."]
    inside += [f"pipe.{suffix}" for suffix in ("jpg", "txt", "onnx", "npy")]
    inside += [f"file.{suffix}" for suffix in ("jpg", "onnx", "txt", "npy", "json", "yaml")]
    never = ["/dev/zero", "/dev/null", "/proc/self/mem", "/proc/kmsg", "/proc/nothing/here", "/proc"]
    odd = ["x" * 5000, str(folder / ("y" * 5000)), "\udcff", "", "-", "[/]"]
    return [*(str(folder / name) for name in inside), *never, *odd]


OPTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "": (("--params", "path"), ("--root", "path"), ("--set", "name")),
    "index": (("--split", "name"),),
    "pack": (("--split", "name"),),
    "embed": (("--split", "name"), ("--rank", "number"), ("--world", "number")),
    "whiten": (("--target", "name"),),
    "distill": (("--student", "name"), ("--target", "name"), ("--name", "name")),
    "evaluate": (("--student", "name"), ("--target", "name"), ("--name", "name")),
    "verify": (("--split", "name"), ("--recompute", "number"), ("--seed", "number")),
    "info": (("--split", "name"),),
    "export": (
        ("--student", "name"),
        ("--target", "name"),
        ("--name", "name"),
        ("--format", "name"),
        ("--space", "name"),
        ("--labels", "name"),
        ("--labels", "path"),
        ("--out", "path"),
    ),
    "predict": (
        ("", "path"),
        ("", "name"),
        ("--labels", "name"),
        ("--labels", "path"),
        ("--model", "path"),
        ("--top", "number"),
        ("--html", "path"),
        ("--student", "name"),
    ),
    "search": (
        ("", "name"),
        ("--image", "path"),
        ("--split", "name"),
        ("--model", "path"),
        ("--top", "number"),
        ("--html", "path"),
    ),
    "compare": (
        ("--targets", "name"),
        ("--seeds", "number"),
        ("--budget", "name"),
        ("--jobs", "number"),
        ("--out", "path"),
        ("--student", "name"),
    ),
    "profile": (("--student", "name"), ("--target", "name")),
    "export-embeddings": (("--split", "name"), ("--format", "name"), ("--captions", "name"), ("--out", "path")),
    "import": (("", "path"), ("--split", "name"), ("--text", "path"), ("--model", "name")),
}
NUMBERS = ("0", "-1", "1", "x", "", "1e9", "99999999999999999999", "1.5", "nan")


def option_cases(generator: np.random.Generator, root: Path) -> Iterator[tuple[str, ...]]:
    """Yield a command with one option or argument set to something hostile."""
    places = paths(root / "places")
    pictures = root / "pictures"
    pictures.mkdir(exist_ok=True)
    shutil.copy(ROOT / "docs" / "stages.svg", pictures / "a.jpg")
    while True:
        command = COMMANDS[generator.integers(len(COMMANDS))]
        choices = (*OPTIONS.get(command, ()), *OPTIONS[""])
        option, kind = choices[generator.integers(len(choices))]
        pool: Sequence[str] = {"name": NAMES, "path": places, "number": NUMBERS}[kind]
        value = pool[int(generator.integers(len(pool)))]
        given = [option, value] if option else [value]
        needed = [str(pictures)] if command in ("predict", "import") and option else []
        needed += ["--labels", "badges"] if command == "predict" and option != "--labels" else []
        needed += ["--image", places[0]] if command == "search" and option not in ("", "--image") else []
        yield (command, *needed, *([] if option in ("--student", "--target", "--name") else arms(command)), *given)


JSON: tuple[Any, ...] = (
    None,
    True,
    -1,
    1.5,
    10**400,
    "",
    "\ud800",
    "a\0b",
    "../x",
    "x" * 5000,
    [],
    {},
    [[[[]]]],
    "a.png",
    "[/]",
    {"id": 1},
)


def mutated(value: Any, generator: np.random.Generator) -> Any:
    """Return a JSON value with one part of it replaced by something else, taken away, or repeated."""
    if not isinstance(value, dict | list) or not value or generator.random() < 0.2:
        return JSON[generator.integers(len(JSON))]
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = places[generator.integers(len(places))]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if (choice := generator.random()) < 0.15:
        del copy[place]
    elif choice < 0.3 and isinstance(copy, list):
        copy.append(copy[place])
    else:
        copy[place] = mutated(value[place], generator)
    return copy


def spoiled(data: bytes, generator: np.random.Generator) -> bytes:
    """Return the bytes of a file with some changed, cut off or put in; of JSON, often one of its values."""
    if data[:1] in (b"{", b"[") and generator.random() < 0.7:
        lines = data.split(b"\n")
        line = generator.integers(len(lines))
        lines[line] = json.dumps(mutated(json.loads(lines[line]), generator)).encode()
        return b"\n".join(lines)
    changed = bytearray(data)
    for _ in range(generator.integers(1, 6)):
        changed[generator.integers(len(changed))] = generator.choice(
            [0, 10, 34, 44, 92, 255, int(generator.integers(256))]
        )
    end = generator.integers(len(changed)) if generator.random() < 0.3 else len(changed)
    more = generator.bytes(int(generator.integers(40))) if generator.random() < 0.3 else b""
    return bytes(changed[:end]) + more


def source_cases(folder: Path, params: Path, generator: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield `index` and then `pack` of a source of each kind of which one file is not what it was."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        value = lay_out(folder, SOURCE_KINDS[generator.integers(len(SOURCE_KINDS))])
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        documents = [path for path in files if path.suffix not in (".png", ".jpg")]
        file = (documents or files)[generator.integers(len(documents or files))]
        original = file.read_bytes()
        late = generator.random() < 0.3  # spoiled after it was listed
        file.write_bytes(original if late else spoiled(original, generator))
        sections = {"splits": ["val"], "val": value, "train": {"source": "sample", "part": "train", "images": 2}}
        params.write_text(yaml.safe_dump({"index": sections, "runtime": {"workers": 0}}))
        yield ("index", "--split", "val", "--params", str(params))
        if late:
            file.write_bytes(spoiled(original, generator))
        yield ("pack", "--split", "val", "--params", str(params), "--set", "pack.max_skipped_fraction=0.9")


SOURCE_KINDS = ("coco", "karpathy", "table", "jsonl", "images", "class-folder", "cifar", "tars", "several")


def lay_out(folder: Path, kind: str) -> dict[str, Any]:  # noqa: PLR0911  one return a kind
    """Write a small source of a kind, and return its parameters."""
    folder.mkdir(parents=True)
    captions: dict[str, list[str]] = {"a.png": ["one", "two"], "b.png": ["three"]}
    if kind == "coco":
        return coco(folder, captions)
    if kind == "karpathy":
        return karpathy(folder, {"a.png": "train", "b.png": "val"}, ["a.png", "b.png"], ["train", "val"])
    if kind in ("class-folder", "images"):
        value = class_folder(folder / "set", {"cat": 2, "dog": 1})
        (folder / "names.json").write_text('["kitten", "puppy"]')
        return {"source": kind, "images": str(folder / "set")} | (
            {"classes": str(folder / "names.json")} if value and kind == "class-folder" else {}
        )
    if kind == "cifar":
        return cifar10(folder)
    if kind == "tars":
        said = {"a.json": b'{"caption": "one"}', "b.txt": b"two"}
        tar_of(folder / "0.tar", dict(sorted({"a.png": image(1), "b.png": image(2), **said}.items())))
        return {"source": "tars", "tars": str(folder)}
    if kind == "several":
        return {"source": "several", "sources": {name: lay_out(folder / name, name) for name in ("coco", "tars")}}
    coco(folder, captions)
    rows = [(name, text) for name, texts in captions.items() for text in texts]
    lines = [json.dumps({"image": name, "caption": text}) for name, text in rows]
    path = folder / ("captions.csv" if kind == "table" else "captions.jsonl")
    path.write_text("\n".join(["image,caption", *map(",".join, rows)] if kind == "table" else lines))
    return {"source": "table", "images": str(folder / "images"), "captions": str(path)}


def attack(
    places: Callable[[], Place],
    cases: Callable[[Place, np.random.Generator], Iterator[tuple[str, ...]]],
    seeds: Sequence[int],
    each: int,
) -> dict[object, int]:
    """Run cases and demand that each is done or ends in one line; return how often which exit code came."""
    codes: dict[object, int] = {}
    faults = []
    for seed in seeds:
        place = places()
        generator = np.random.default_rng(seed)
        for arguments, _ in zip(cases(place, generator), range(each), strict=False):
            ending = run(*with_place(arguments, place), cwd=place.root)
            codes[ending.code] = codes.get(ending.code, 0) + 1
            if fault := ending.fault():
                shown = [argument[:80] for argument in arguments]
                faults.append(f"seed {seed}: {shown}: {fault}")
    assert faults == [], "\n\n".join(faults)
    return codes


def with_place(arguments: tuple[str, ...], place: Place) -> list[str]:
    """Add the params and the root of the place, where the case brings none of its own."""
    found = list(arguments)
    for option, path in (("--params", place.params), ("--root", place.root)):
        if option not in found:
            found += [option, str(path)]
    return found


def parameters(place: Place, generator: np.random.Generator) -> Iterator[tuple[str, ...]]:
    return parameter_cases(generator)


def options(place: Place, generator: np.random.Generator) -> Iterator[tuple[str, ...]]:
    return option_cases(generator, place.root)


def files(place: Place, generator: np.random.Generator) -> Iterator[tuple[str, ...]]:
    return source_cases(place.root / "source", place.params, generator)


def test_spoiled_source_files_end_in_one_line(places: Callable[[], Place]) -> None:
    codes = attack(places, files, range(2), 20)
    assert codes.get(0, 0) > 5
    assert codes.get(2, 0) > 2


def test_hostile_parameters_end_in_one_line(places: Callable[[], Place]) -> None:
    codes = attack(places, parameters, range(2), 12)
    assert codes.get(2, 0) > 2


def test_hostile_options_end_in_one_line(places: Callable[[], Place]) -> None:
    codes = attack(places, options, range(2), 20)
    assert codes.get(2, 0) > 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("cases", [parameters, options, files])
def test_hundreds_of_hostile_cases_end_in_one_line_each(places: Callable[[], Place], cases: Any) -> None:
    print(cases.__name__, attack(places, cases, range(100, 160), 40))


def test_what_people_met_is_one_line_that_says_what_it_is(places: Callable[[], Place]) -> None:
    place = places()
    folder = place.root / "met"
    paths(folder)
    (folder / "one.png").write_bytes(image(1))
    picture, labels = str(folder / "one.png"), ("--labels", "badges")
    cases: list[tuple[list[str], int, str]] = [
        (["predict", "/dev/zero", *labels], 1, "/dev/zero: cannot be read: a device, expected a regular file"),
        (["predict", str(folder), *labels], 1, "file.jpg: not an image that can be read"),
        (["predict", str(folder / "pipe.jpg"), *labels], 1, "pipe.jpg: cannot be read: a pipe"),
        (["predict", picture, "--labels", str(folder / "pipe.txt")], 2, "cannot be read: a pipe"),
        (["predict", "x" * 5000, *labels], 2, "File name too long"),
        (["predict", picture, *labels, "--html", "/proc/none/page.html"], 1, "/proc/none"),
        (["predict", picture, *labels, "--top", "0", "--html", "page.html"], 2, "--top"),
        (["search", "--image", picture, "--top", "0"], 2, "--top"),
        (["distill", "--set", "distill.test_resnet.learning_rate=.inf", *arms("distill")], 2, "finite number"),
        (["distill", "--set", "distill.training.epochs=true", *arms("distill")], 2, "expected a number, found True"),
        (["distill", "--set", "distill.training.epochs=0o10", *arms("distill")], 2, "found '0o10'"),
        (["distill", "--set", "distill.training.epochs=1:30", *arms("distill")], 2, "found '1:30'"),
        (["index", "--set", "index.val={source: images, images: 2024-01-01}"], 2, "no folder 2024-01-01"),
        (["info", "--params", str(folder / "pipe.yaml")], 2, "a pipe, expected a regular file"),
        (["info", "--params", "/dev/zero"], 2, "a device, expected a regular file"),
    ]
    for arguments, code, message in cases:
        ending = run(*with_place(tuple(arguments), place), cwd=place.root)
        assert ending.fault() == ""
        assert ending.code == code, (arguments, ending)
        assert message in ending.err.splitlines()[-1]
