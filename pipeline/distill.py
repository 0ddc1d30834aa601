"""distill@<student>-<target>: a student learns the cached targets of one target space."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.atomic import link_or_copy, write_text
from cache.errors import DamagedError, StaleError
from cache.fingerprint import fingerprint
from cache.store import Store
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.opened import Project
from pipeline.project.params import Section
from pipeline.project.runtime import Runtime
from pipeline.students.backbones import timm_name
from pipeline.students.checkpoint import CARD, WEIGHTS, read_card, save_student
from pipeline.students.device import choose_device
from pipeline.students.feed import Feed
from pipeline.students.history import Row, render_history
from pipeline.students.model import Student, StudentParams
from pipeline.students.monitor import Monitor, held_out, watched
from pipeline.students.objective import LossParams
from pipeline.students.ranks import Ranks, joined
from pipeline.students.recipe import TrainingParams
from pipeline.students.splits import Split, open_split
from pipeline.students.targets import load_targets
from pipeline.students.training import Resume, train
from pipeline.students.units import build_objective
from pipeline.whitening.moments_file import embeddings_digest
from pipeline.whitening.spaces import TargetSpace, load_space

HISTORY, STATE = "history.csv", "state.safetensors"
FILES = (WEIGHTS, HISTORY, CARD)
"""The card last: where it is, the others are whole."""


class DistillParams(Section):
    """What one arm is made of: `distill.training`, `distill.loss` and `distill.<student>`."""

    training: TrainingParams
    loss: LossParams
    student: StudentParams


def read_params(project: Project, student: str) -> DistillParams:
    """Return the three sections of an arm; raises UsageError with the key as it stands in the params."""
    return DistillParams(
        training=project.section("distill.training", TrainingParams, default={}),
        loss=project.section("distill.loss", LossParams, default={"fd": 1.0}),
        student=project.section(f"distill.{student}", StudentParams, default={}),
    )


def distill(  # noqa: PLR0917  the contract of the stage
    student: str,
    target: str,
    params: DistillParams,
    layout: Layout,
    runtime: Runtime,
    out: Path,
    force: bool = False,
) -> Path:
    """Train a student, unless that has been done, and put weights, card and history into a folder.

    The work is done in the store, under the fingerprint of all that decides it: an interrupted run goes on from
    its last saved step, and a finished one is only linked again.

    Raises:
        UsageError: unknown student, or another experiment is in the way.
        PipelineError: the loss is no number any more.
        CacheError: embeddings or targets are missing, damaged or stale.
        LockedError: another process trains this very arm.
    """
    arm = _open(student, target, params, layout, runtime)
    name, device = fingerprint(arm.facts()), choose_device(runtime.device)
    _refuse_another(out, name, force)
    store = Store(layout.store)
    with joined(device) as ranks, store.lock("distill", name) if ranks.first else nullcontext():
        workspace = store.workspace("distill", name)
        if not ranks.agreed(all((workspace / file).is_file() for file in FILES), device):
            model, history = _train(arm, layout, runtime, workspace / STATE, ranks)
            if ranks.first:
                write_text(workspace / HISTORY, render_history(history))
                made = {"fingerprint": name, "last": history[-1], "processes": ranks.world}
                save_student(workspace, model, {**arm.card(), **made})
                (workspace / STATE).unlink(missing_ok=True)
        if ranks.first:
            store.claim("distill", out, [f"{workspace.name}/"])
            for file in FILES:
                link_or_copy(workspace / file, out / file)
    return out


@dataclass(frozen=True)
class _Arm:
    """A student, a target space, and everything they learn from."""

    student: str
    params: DistillParams
    space: TargetSpace
    splits: dict[str, Split]

    def facts(self) -> dict[str, Any]:
        """Return what decides its bytes."""
        return {
            "student": self.student,
            "backbone": timm_name(self.student, self.params.student.backbone),
            "params": self.params.model_dump(mode="json"),
            "target": self.space.fingerprint,
            "embeddings": {name: split.facts() for name, split in self.splits.items()},
        }

    def card(self) -> dict[str, Any]:
        """Return what a person should know before using the student."""
        training = self.params.training
        return {
            "target": self.space.name,
            "target_fingerprint": self.space.fingerprint,
            "teacher": self.space.teacher,
            "backbone": timm_name(self.student, self.params.student.backbone),
            "image_size": training.image_size,
            "augmentation": training.augmentation,
            "training": training.model_dump(mode="json"),
            "loss": self.params.loss.weights,
        }


def _open(student: str, target: str, params: DistillParams, layout: Layout, runtime: Runtime) -> _Arm:
    timm_name(student, params.student.backbone)  # a mistyped name is said before anything is read
    space = load_space(layout.target(target))
    names = ("train", "val", params.training.watch)
    splits = {name: open_split(name, layout, runtime, space.teacher) for name in names if name}
    if space.embeddings != (found := embeddings_digest(splits["train"].store.manifest)):
        raise StaleError(
            f"{layout.target(target)}: fitted on embeddings {space.embeddings}, but {layout.embeddings('train')} "
            f"holds {found}. Run `moments` and `whiten` again."
        )
    return _Arm(student, params, space, splits)


def _refuse_another(out: Path, name: str, force: bool) -> None:
    """Refuse to replace a student of other parameters or inputs, unless told to.

    Raises:
        UsageError: there is one.
    """
    if force or not (out / CARD).is_file():
        return
    try:
        found = read_card(out).get("fingerprint")
    except DamagedError as error:
        found = f"unreadable: {error}"
    if found != name:
        raise UsageError(
            f"{out}: holds another experiment ({found}; this one is {name}). Pass --force to replace it, "
            "or --name NAME to keep both."
        )


def _train(arm: _Arm, layout: Layout, runtime: Runtime, state: Path, ranks: Ranks) -> tuple[Student, list[Row]]:
    """Train one arm from where it stands; return the student, in CLIP space, and its history."""
    training, loss, space = arm.params.training, arm.params.loss, arm.space
    targets = load_targets(arm.splits["train"].store, space, training.views, texts=loss.pairs)
    views, rows, dim = targets.image.shape
    ranks.check(min(training.batch, rows), training.accumulate)
    size, device = training.image_size, choose_device(runtime.device)
    pixels = {name: split.decoded(size, views, layout, runtime) for name, split in arm.splits.items()}
    torch.manual_seed(training.seed)
    student = Student(arm.student, arm.params.student, dim)
    student.radius = targets.radius if loss.directional else None
    feed = Feed(
        pixels["train"], targets, min(training.batch, rows), size, training.seed, device,
        free_flip=training.flip, bank=loss.bank, ranks=ranks,
    )  # fmt: skip
    val, name = arm.splits["val"].store, training.watch
    monitor = Monitor(
        space, size, runtime.batch, held_out(val, pixels["val"]), space.to_target(val.image().load()),
        watched(arm.splits[name].store, pixels[name]) if name else None,
    )  # fmt: skip
    kept, history = train(
        student, build_objective(loss, targets), feed, look=monitor, params=training, resume=Resume(state)
    )
    kept.radius = space.image.radius if loss.directional or space.post_norm == "l2" else None
    kept.fold(torch.from_numpy(space.image.backward), torch.from_numpy(space.image.mean))
    return kept, history
