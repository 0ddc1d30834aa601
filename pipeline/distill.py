"""distill@<student>-<target>: train a student on the cached targets of one target space."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch

from cache.atomic import link_or_copy, write_text
from cache.errors import DamagedError
from cache.fingerprint import fingerprint, sha256_bytes
from cache.teachers import widths
from cache.work_store import WorkStore
from pipeline.project.device import choose_device, emulated_precision_warning
from pipeline.project.errors import UsageError
from pipeline.project.layout import CARD, HISTORY, WEIGHTS, Layout
from pipeline.project.params import ParamsSection, Runtime
from pipeline.project.project import Project
from pipeline.students.arm import TrainingArm, open_arm
from pipeline.students.checkpoint import is_finished, read_card, save_student
from pipeline.students.inputs.pixels import PixelStore
from pipeline.students.losses.objective import LossParams
from pipeline.students.losses.scaling import is_length_undefined, small_target_warning
from pipeline.students.model import Student, StudentParams
from pipeline.students.run import ArmParams, TrainingRun, load_run_targets, read_recipe
from pipeline.students.towers import Tower
from pipeline.students.trackers import open_trackers
from pipeline.students.training.distributed import DistributedContext, distributed_context
from pipeline.students.training.loop import ResumeConfig
from pipeline.students.training.params import TrainingParams
from pipeline.students.training.validation import (
    HistoryRow,
    Validator,
    build_validator,
    render_history,
)
from pipeline.whitening.spaces import Modality, TargetSpace

STATE, BOARD = "state.safetensors", "tensorboard"
Show = Callable[[list[HistoryRow]], None]
FILES = (WEIGHTS, HISTORY, CARD)
"""Files of a student; the card is written last and marks it as complete."""


class DistillParams(ParamsSection):
    """Parameters of an arm: `distill.training`, `distill.loss` and `distill.<student>`."""

    training: TrainingParams
    loss: LossParams
    student: StudentParams
    tensorboard: bool = False
    """Log to TensorBoard; no effect on results, and no stage depends on it."""
    wandb: bool = False
    """Log to Weights & Biases, offline; needs an extra."""


def read_params(project: Project, student: str) -> DistillParams:
    """Return the three sections of an arm; raises UsageError with the key in the parameters."""
    recipe = read_recipe(project, student)
    trackers = {name: project.get(f"distill.{name}", default=False) for name in ("tensorboard", "wandb")}
    for name, enabled in trackers.items():
        if not isinstance(enabled, bool):
            raise UsageError(f"params: 'distill.{name}': expected true or false, found {enabled!r}")
    return DistillParams(training=recipe.training, loss=recipe.loss, student=recipe.student, **trackers)


def distill(  # noqa: PLR0917  the contract of the stage
    student: str,
    target: str,
    params: DistillParams,
    layout: Layout,
    runtime: Runtime,
    out: Path,
    force: bool = False,
) -> Path:
    """Train a student if necessary, and write weights, card and history to a folder.

    The work is done in the store, under the fingerprint of its inputs: an interrupted run resumes from its last
    checkpoint, and a finished one is only linked again.

    Raises:
        UsageError: unknown student, or the folder holds another experiment.
        PipelineError: the loss is NaN or infinite.
        CacheError: embeddings or targets are missing, damaged or stale.
        LockedError: another process trains the same arm.
    """
    arm = open_arm(student, target, ArmParams(params.training, params.loss, params.student), layout, runtime)
    arm, reason = arm.choose_pixels(layout)
    _print_hint(reason)
    if (mix := params.training.mixed_files) and not arm.recipe.mixed_files:
        _print_hint(f"distill.training.caption_mix: {', '.join(mix)} decides nothing here: no loss looks at captions")
    name, device = fingerprint(arm.facts()), choose_device(runtime.device)
    _check_same_experiment(out, name, force)
    store = WorkStore(layout.store)
    with distributed_context(device) as ranks, store.lock("distill", name) if ranks.is_main else nullcontext():
        workspace = store.workspace("distill", name)
        if not ranks.broadcast(is_finished(workspace, name), device):
            board = out / BOARD if params.tensorboard and ranks.is_main else None
            wandb = params.wandb and ranks.is_main
            with open_trackers(out, out.name, arm.facts(), tensorboard=board, wandb=wandb) as log_rows:
                model, history = _train(arm, layout, runtime, workspace / STATE, ranks, show=log_rows)
            if ranks.is_main:
                write_text(workspace / HISTORY, table := render_history(history))
                facts = {"fingerprint": name, "last": history[-1], "processes": ranks.world, "norms": model.norms}
                save_student(workspace, model, {**arm.card(), **facts, "history_sha256": sha256_bytes(table.encode())})
                (workspace / STATE).unlink(missing_ok=True)
        if ranks.is_main:
            store.pin("distill", out, [f"{workspace.name}/"])
            for file in FILES:
                link_or_copy(workspace / file, out / file)
    return out


def _check_same_experiment(out: Path, name: str, force: bool) -> None:
    """Refuse to replace a student of other parameters or inputs without `force`.

    Raises:
        UsageError: there is one.
    """
    if force or not (out / CARD).is_file():
        return
    try:
        present = read_card(out).get("fingerprint")
    except DamagedError as error:
        present = f"unreadable: {error}"
    if present != name:
        raise UsageError(
            f"{out}: holds another experiment ({present}; this one is {name}). Pass --force to replace it, "
            "or --name NAME to keep both."
        )


def _train(
    arm: TrainingArm, layout: Layout, runtime: Runtime, state: Path, ranks: DistributedContext, *, show: Show
) -> tuple[Student, list[HistoryRow]]:
    """Train one arm, resuming an interrupted run; return the student, in CLIP space, and its history."""
    recipe, space = arm.recipe, arm.space
    training = recipe.training
    targets = load_run_targets(arm.splits["train"], space, recipe)
    if ranks.is_main and training.head_steps == "absolute":
        _print_hint(small_target_warning(space.name, recipe.loss, training.optimizer, targets))
    size, views = training.image_size, len(targets.image)
    pixels_of_train = arm.training_pixels(views, layout, runtime)
    pixels = {n: split.pixels(size, views, layout, runtime) for n, split in arm.splits.items() if n != "train"}
    device = choose_device(runtime.device)
    if ranks.is_main:
        _print_hint(emulated_precision_warning(device, training.precision))
    run = TrainingRun.build(
        arm.student, recipe, targets, pixels_of_train, device, ranks=ranks, start_text=arm.start_text
    )
    student, history = run.train(_validator(arm, pixels, runtime), ResumeConfig(state), show)
    _fold(student, space, undefined=is_length_undefined(recipe.loss, space))
    return student, history


def _validator(arm: TrainingArm, pixels: Mapping[str, PixelStore], runtime: Runtime) -> Validator:
    """Return the validator of the training."""
    training, text, labeled = arm.recipe.training, arm.recipe.student.text, arm.recipe.training.zero_shot_set
    return build_validator(
        arm.space,
        training.image_size,
        runtime.batch,
        (arm.splits["val"].store, pixels["val"]),
        (arm.splits[labeled].store, pixels[labeled]) if labeled else None,
        context=text.context if text else None,
    )


def _print_hint(hint: str | None) -> None:
    if hint:
        print(hint, file=sys.stderr, flush=True)


def _fold(student: Student, space: TargetSpace, undefined: bool) -> None:
    """Fold un-whitening into both towers, so that they output CLIP embeddings.

    If their norm is undefined, the RMS norm of the target space is used.
    """
    student.heads = widths(space.teacher) if space.heads else ()
    sides: list[tuple[Tower | None, Modality]] = [(student, "image"), (student.text, "text")]
    for tower, side in sides:
        if tower is not None:
            way = space.transform(side)
            tower.radius = way.rms_norm if undefined else None
            tower.fold_unwhitening(torch.from_numpy(way.backward), torch.from_numpy(way.mean))
