"""Kill every stage at its writes, one after the other, run it again, and print what came of it as JSON.

A process of its own: it loads the libraries once and forks, so that a kill costs what the stage costs.

    python -m tests.contract.kill_driver ROOT TEACHER POINTS [STAGE ...]

POINTS: kills of each stage; 0: one at every write. STAGE: those that are killed, by default all.

The signals take turns: from one write to the next, and from one stage to the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from cache.atomic import TEMP_SUFFIX
from pipeline.commands.audit import audit, print_audit
from pipeline.commands.export import ExportOptions, export
from pipeline.commands.export_embeddings import export_embeddings
from pipeline.commands.import_embeddings import import_embeddings
from pipeline.data.sources.registry import parse_source
from pipeline.data.views import ViewParams
from pipeline.distill import DistillParams, distill
from pipeline.embed import EmbedParams, embed
from pipeline.evaluate import EvaluateParams, evaluate
from pipeline.index import index
from pipeline.moments import MomentsParams, moments
from pipeline.pack import PackParams, pack
from pipeline.project.code_digest import ENTRY_MODULES, code_digest
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.relate import RelateParams, relate, relate_student
from pipeline.relations.params import ScorerParams
from pipeline.report import ReportParams, report
from pipeline.students.training.loop import ResumeConfig
from pipeline.teacher.model import load_teacher
from pipeline.teacher.params import TeacherParams
from pipeline.teacher.text_slice import TextSliceParams
from pipeline.teacher.token_shards import TokenParams
from pipeline.whiten import TargetParams, whiten
from tests.factories.students import TINY

RUNTIME = Runtime(workers=0, batch=8, device="cpu")
PARTS = {"train": 24, "val": 12, "badges": 20, "choices": 8}
CHOICES = RelateParams(train="choices", sets=("choices",))
WRITES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
SIGNALS = cycle((signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
DONE, FAILED, INTERRUPTED = 0, 1, 130
WHOLE = ExportOptions("safetensors")
Stage = Callable[[Layout], object]


def stages(teacher: str, spaces: tuple[str, ...] = ("zca",)) -> dict[str, Stage]:
    """Return what runs, in order, for one arm or several."""
    parts = {split: {"source": "sample", "part": split, "images": count} for split, count in PARTS.items()}
    parts["badges"]["templates"] = "simple"
    parts["choices"]["part"] = "relations-val"
    sources = {split: parse_source(part, f"index.{split}") for split, part in parts.items()}
    params = EmbedParams(
        teacher=TeacherParams(model=teacher),
        views=ViewParams(crops=1),
        text_slice=TextSliceParams(width=16),
        tokens=TokenParams(splits=("choices",), grid=4, format="int8"),
    )
    scorers = {kind: ScorerParams(kind=kind, epochs=2, columns=16) for kind in ("dcsm", "labclip")}
    settings = {"epochs": 3, "batch": 8, "image_size": 16, "zero_shot_set": "badges", "num_validations": 3}
    arm = DistillParams.model_validate({"training": settings, "loss": {"fd": 1.0, "cosine": 1.0}, "student": {}})
    targets = {space: TargetParams.model_validate({"method": space, "floor": 0.1}) for space in spaces}

    def every(work: Callable[[str, Layout], object]) -> Stage:
        return lambda layout: [work(split, layout) for split in PARTS]

    def each(work: Callable[[str, Path, Layout], object]) -> Stage:
        return lambda layout: [work(space, layout.model(TINY, space), layout) for space in targets]

    def exported(layout: Layout, name: str) -> Path:
        return layout.root / "exports" / name

    return {
        "index": every(lambda split, layout: index(split, sources[split], layout)),
        "pack": every(lambda split, layout: pack(split, sources[split], PackParams(shard_rows=10), layout, RUNTIME)),
        "embed": every(lambda split, layout: embed(split, params, layout, RUNTIME)),
        "moments": lambda layout: moments(MomentsParams(), layout, RUNTIME),
        "whiten": each(lambda space, _, layout: whiten(space, targets[space], layout)),
        "distill": each(lambda space, out, layout: distill(TINY, space, arm, layout, RUNTIME, out)),
        "evaluate": each(
            lambda _, out, layout: evaluate(out, ["badges"], EvaluateParams(map_pairs=8), layout, RUNTIME)
        ),
        "relate": lambda layout: [relate(kind, scorers[kind], CHOICES, layout, RUNTIME) for kind in scorers],
        "relate --student": each(lambda _, out, layout: relate_student("labclip", CHOICES, out, layout, RUNTIME)),
        "export": each(lambda _, out, layout: export(out, exported(layout, out.name), WHOLE, layout, RUNTIME)),
        "export-embeddings": lambda layout: export_embeddings("val", exported(layout, "e"), "npy", layout, RUNTIME),
        "import": lambda layout: import_embeddings(exported(layout, "e"), "again", layout),
        "audit": lambda layout: print_audit(audit(targets, ["badges"], 0.1, layout, RUNTIME), layout),
        "report": lambda layout: report(
            [(TINY, space) for space in targets], list(PARTS), list(targets), ReportParams(samples=4), layout
        ),
    }


def run(stage: Stage, layout: Layout, dies_at: int = 0, number: signal.Signals = signal.SIGKILL) -> tuple[int, int]:
    """Run a stage in a child that signals itself before its n-th write; return its exit code and how many it began."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as told:
            lines = told.read().split()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code, len(lines)
    os.setsid()
    root, begun = str(layout.root), 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal begun
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (event in WRITES or opened) and any(str(argument).startswith(root) for argument in arguments[:2]):
            begun += 1
            os.write(writer, b"w ")
            if begun == dies_at:
                os.kill(os.getpid(), number)

    sys.addaudithook(watch)
    code = FAILED
    try:
        stage(layout)
        code = DONE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:  # noqa: BLE001  a child of a fork must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def load_all(made: dict[str, Stage], layout: Layout) -> None:
    """Digest the code of the stages, and import what they import as they run: no child has to.

    A child tells the names: a process that has run the stages itself has threads, and its children may hang.
    """
    for unit in ENTRY_MODULES:
        code_digest(unit)
    names = layout.root.with_suffix(".json")

    def everything(layout: Layout) -> None:
        before = set(sys.modules)
        for stage in made.values():
            stage(layout)
        names.write_text(json.dumps([name for name in sys.modules if name not in before]), encoding="utf-8")

    if run(everything, layout)[0] != DONE:
        raise SystemExit("the stages fail undisturbed")
    for name in json.loads(names.read_text(encoding="utf-8")):
        with contextlib.suppress(ImportError):  # names that a library enters by itself
            importlib.import_module(name)


def outputs(layout: Layout) -> dict[str, str]:
    """Return the SHA-256 of everything outside of the store."""
    return {
        path.relative_to(layout.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(layout.root.rglob("*"))
        if path.is_file() and layout.store not in path.parents
    }


def attack(stage: Stage, before: Path, after: dict[str, str], writes: int, points: int) -> dict[str, object]:
    """Kill a stage at its writes, each time from where the one before it ended, and run it again."""
    layout = Layout(before.parent / "attacked")
    found: dict[str, Any] = {"writes": writes, "kills": 0, "differ": [], "left": [], "codes": []}
    chosen = [(2 * i + 1) * writes // (2 * points) for i in range(points)] or range(1, writes + 1)
    for point, number in zip(chosen, SIGNALS, strict=False):
        shutil.rmtree(layout.root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(before), str(layout.root)], check=True)
        code = run(stage, layout, point, number)[0]
        again = run(stage, layout)[0]
        found["kills"] += code != DONE
        found["codes"] = sorted({*found["codes"], code, again})
        if again != DONE or outputs(layout) != after:
            found["differ"].append([point, number.name])
        if any(layout.root.rglob(f"*{TEMP_SUFFIX}")):
            found["left"].append([point, number.name])
    shutil.rmtree(layout.root)
    return found


def main() -> None:
    root, teacher, points, *chosen = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background without it
    torch.set_num_threads(1)
    ResumeConfig.__init__.__defaults__ = (0.0,)  # save after every step
    loaded = load_teacher(TeacherParams(model=teacher), "cpu")
    with mock.patch("pipeline.embed.load_teacher", return_value=loaded):
        made = stages(teacher)
        load_all(made, Layout(root / "imports"))
        told = kill_all(made, root, points, chosen)
    print(json.dumps(told))


def kill_all(made: dict[str, Stage], root: Path, points: int, chosen: Sequence[str]) -> dict[str, dict[str, object]]:
    """Run all stages in turn, and kill those that are chosen; return what came of it."""
    told, before = {}, root / "before"
    before.mkdir(parents=True)
    for name, stage in made.items():
        reached = root / "after"
        subprocess.run(["cp", "-a", str(before), str(reached)], check=True)
        code, writes = run(stage, Layout(reached))
        if code != DONE:
            raise SystemExit(f"{name} fails undisturbed")
        if not chosen or name in chosen:
            told[name] = attack(stage, before, outputs(Layout(reached)), writes, points)
            print(name, told[name], file=sys.stderr, flush=True)
        shutil.rmtree(before)
        reached.rename(before)
    return told


if __name__ == "__main__":
    main()
