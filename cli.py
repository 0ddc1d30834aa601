"""Distill CLIP into small students against cached, whitened teacher embeddings."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in: it needs no import that Ctrl-C could interrupt

if __name__ == "__main__":  # until `main` can say it in a line, Ctrl-C ends the program in silence
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

ACTIVATE = "Activate the environment (`. .venv/bin/activate`), or let `make repro` do it."
try:
    import typer
except ModuleNotFoundError as missing:
    # `.venv/bin/dvc repro` runs `python` from the path, which may be another one.
    print(f"error: {sys.executable}: no module named '{missing.name}'. {ACTIVATE}", file=sys.stderr)
    sys.exit(2)

app = typer.Typer(
    name="cli.py",
    help=__doc__,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="Parameters file, one section per stage.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a parameter: section.key=value; repeatable.")]
Root = Annotated[Path, typer.Option("--root", help="Folder of data/, models/ and report/.")]
Split = Annotated[str | None, typer.Option("--split", help="train, val or a zero-shot set; default: all, in order.")]
Target = Annotated[str | None, typer.Option("--target", help="A target space of the parameters; default: all.")]
Student = Annotated[str | None, typer.Option("--student", help="A short name or any timm model; default: all.")]
Students = Annotated[list[str] | None, typer.Option("--student", help="A student; twice with --web.")]
Name = Annotated[str | None, typer.Option("--name", help="Use runs/NAME instead of models/STUDENT-TARGET.")]

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, as shells count."""
PARAMS = Path("params.yaml")
ROOT = Path()
STAGES, STUDY, SHIP, CARE = "Pipeline stages, in order", "Inspect and compare", "Deploy", "Cache maintenance"


def _print_version(wanted: bool) -> None:
    if wanted:
        from pipeline import __version__

        print(f"wclip-kd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Distill CLIP into small students against cached, whitened teacher embeddings."""


@app.command(rich_help_panel=STAGES)
def index(split: Split = None, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """List the file names and sizes of a split as they are on disk now.

    Runs each time and costs a second or so; an equal list stops everything that hangs on it.
    """
    from pipeline.data.sources.registry import parse_source
    from pipeline.index import index as run
    from pipeline.project.code_versions import record_code
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    train = parse_source(project.get("index.train"), "index.train")
    for name in project.select("index.splits", split):
        # Scorers may be fitted on the images that students learn from; only what is scored must be apart.
        apart = None if name == project.get("relate.train", default="") else train
        run(name, parse_source(project.get(f"index.{name}"), f"index.{name}"), project.layout, apart)
        project.check_unchanged(f"index.{name}")
    record_code(project.layout)


@app.command(rich_help_panel=STAGES)
def pack(split: Split = None, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Pack images and captions into byte-reproducible tar shards.

    Files pass through as they are; `pack.resize` re-encodes them smaller, `pack.limit` takes the first N.
    What cannot be read is listed in skipped.json with the reason; too much of it is an error.
    """
    from pipeline.data.sources.registry import parse_source
    from pipeline.pack import PackParams
    from pipeline.pack import pack as run
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("pack")
    for name in project.select("index.splits", split):
        source = parse_source(project.get(f"index.{name}"), f"index.{name}")
        run(name, source, project.section("pack", PackParams, default={}), project.layout, project.runtime)
        project.check_unchanged(f"index.{name}", "pack")
        code.record(project.layout)


@app.command(rich_help_panel=STAGES)
def embed(
    split: Split = None,
    rank: Annotated[int, typer.Option("--rank", help="Rank of this process, from 0 to --world - 1.")] = 0,
    world: Annotated[int, typer.Option("--world", help="Number of processes that share the shards, one per GPU.")] = 1,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Embed a split with the teacher and store the embeddings as unnormalized float32.

    Finished shards are kept in data/.store whatever happens: stop it and run it again. With --rank and --world
    the last process to finish puts the split together. This is the last command that needs the teacher.
    """
    from pipeline.embed import EmbedParams
    from pipeline.embed import embed as run
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("embed")
    for name in project.select("index.splits", split):
        run(name, project.section("embed", EmbedParams), project.layout, project.runtime, rank, world)
        project.check_unchanged("embed")
        code.record(project.layout)


@app.command(rich_help_panel=STAGES)
def moments(params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Compute means and co-moments of the training embeddings in one streaming pass."""
    from pipeline.moments import MomentsParams
    from pipeline.moments import moments as run
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("moments")
    run(project.section("moments", MomentsParams, default={}), project.layout, project.runtime)
    project.check_unchanged("moments")
    code.record(project.layout)


@app.command(rich_help_panel=STAGES)
def whiten(target: Target = None, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Fit a target space y = (x − μ)W from the moments: one eigendecomposition, about a second."""
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project
    from pipeline.whiten import TargetParams
    from pipeline.whiten import whiten as run

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("whiten")
    for name in project.select("whiten.targets", target):
        run(name, project.section(f"whiten.{name}", TargetParams), project.layout)
        project.check_unchanged(f"whiten.{name}")
        code.record(project.layout)


@app.command(rich_help_panel=STAGES)
def distill(
    student: Student = None,
    target: Target = None,
    name: Name = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite another experiment in the folder.")] = False,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Train a student against the cached targets; the teacher is not needed.

    Without --student or --target, all of the params in turn. A run that was stopped goes on where it was.
    """
    from pipeline.distill import distill as run
    from pipeline.distill import read_params
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("distill")
    arms = _arms(project.name_list("distill.students"), student, project.select("distill.targets", target))
    _one_arm(name, arms)
    for chosen, space in arms:
        out = project.layout.run(name) if name else project.layout.model(chosen, space)
        run(chosen, space, read_params(project, chosen), project.layout, project.runtime, out, force)
        project.check_unchanged("distill.training", "distill.loss", f"distill.{chosen}")
        code.record(project.layout)


@app.command(rich_help_panel=STAGES)
def relate(
    scorer: Annotated[str | None, typer.Option("--scorer", help="A scorer of the params; default: all.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="Score this student's tokens by it.")] = None,
    target: Target = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Fit a scorer of images against captions on cached tokens, and score it on choice sets beside plain cosine.

    Which of two things is blue, left, missing or one of three: what one vector an image cannot say. The teacher is
    not needed. With --student, a student's own tokens are scored by it, and by a scorer of their own.
    """
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project
    from pipeline.relate import read_scorer, read_splits, relate_student
    from pipeline.relate import relate as run

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("relate")
    splits, layout, runtime = read_splits(project), project.layout, project.runtime
    arms = [(student, space) for space in project.select("distill.targets", target)] if student else []
    for name in project.select("relate.scorers", scorer):
        for arm in arms:
            typer.echo(relate_student(name, splits, layout.model(*arm), layout, runtime))
        if arms:
            continue
        typer.echo(run(name, read_scorer(project, name), splits, layout, runtime))
        project.check_unchanged("relate.train", "relate.sets", f"relate.{name}")
        code.record(layout)


@app.command(rich_help_panel=STAGES)
def evaluate(
    student: Student = None,
    target: Target = None,
    name: Name = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Evaluate a student under each scoring rule, next to the teacher's score and chance."""
    from pipeline.evaluate import EvaluateParams
    from pipeline.evaluate import evaluate as run
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("evaluate")
    section = project.section("evaluate", EvaluateParams, default={})
    arms = _arms(project.name_list("distill.students"), student, project.select("distill.targets", target))
    folders = [project.layout.run(name)] if name else [project.layout.model(*arm) for arm in arms]
    for folder in folders:
        run(folder, project.zero_shot_splits, section, project.layout, project.runtime)
        project.check_unchanged("evaluate")
        code.record(project.layout)


@app.command(rich_help_panel=STAGES)
def report(params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Write the report: report/index.html, one self-contained file."""
    from pipeline.evaluate import EvaluateParams
    from pipeline.project.code_versions import StageCode
    from pipeline.project.project import Project
    from pipeline.report import ReportParams
    from pipeline.report import report as run

    project = Project.open(params, settings or (), root)
    code = StageCode.snapshot("report")
    splits, targets = project.name_list("index.splits"), project.name_list("whiten.targets")
    section = project.section("report", ReportParams, default={})
    rules = project.section("evaluate", EvaluateParams, default={}).rules
    typer.echo(run(project.arms, splits, targets, section, project.layout, rules=rules))
    project.check_unchanged("report", "evaluate.rules")
    code.record(project.layout)


@app.command(rich_help_panel=STUDY)
def results(
    names: Annotated[list[str] | None, typer.Option("--name", help="Compare runs of runs/; repeatable.")] = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Print the table of results and the path of the report.

    With --name a --name b, those of runs/a and runs/b side by side, and how they learned in one plot.
    """
    from pipeline.commands import results as command
    from pipeline.evaluate import EvaluateParams
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    rules = project.section("evaluate", EvaluateParams, default={}).rules
    if names:
        command.run_results(names, project.zero_shot_splits, project.layout, rules)
    else:
        command.results(project.arms, project.zero_shot_splits, project.layout, rules)


@app.command(rich_help_panel=STUDY)
def audit(params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Score the teacher in every target space under every rule, before any training.

    A target space that caps its students says so here, with the rule that does not. Pictures and figures go
    to report/audit/.
    """
    from pipeline.commands.audit import audit as run
    from pipeline.commands.audit import print_audit
    from pipeline.evaluate import EvaluateParams
    from pipeline.project.project import Project
    from pipeline.whiten import TargetParams

    project = Project.open(params, settings or (), root)
    targets = {name: project.section(f"whiten.{name}", TargetParams) for name in project.name_list("whiten.targets")}
    floor = project.section("evaluate", EvaluateParams, default={}).floor
    print_audit(run(targets, project.zero_shot_splits, floor, project.layout, project.runtime), project.layout)
    if project.choice_sets:
        from pipeline.commands.audit_choices import audit_choices, print_choices
        from pipeline.project.terminal import PlainConsole

        print_choices(audit_choices(project.choice_sets, project.layout, project.runtime), PlainConsole())


@app.command(rich_help_panel=STUDY)
def compare(
    student: Student = None,
    targets: Annotated[str | None, typer.Option("--targets", help="Target spaces: raw,scale,zca.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Paired seeds per arm.", min=2, max=1000)] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Time budget to plan for: 60m, 2h.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Number of parallel runs.", min=1, max=1000)] = 1,
    out: Annotated[Path | None, typer.Option("--out", help="Output folder of figures and verdict.")] = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Compare target spaces fairly on your data, over paired seeds and tuned learning rates.

    Paired seeds, a learning rate chosen per arm, one scoring rule fixed beforehand, and a verdict that says no
    more than its intervals allow. Stop it and run it again: finished runs are kept.
    """
    from pipeline.commands.compare import compare as run
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    wanted = [name.strip() for name in targets.split(",")] if targets else None
    made = run(project, student=student, targets=wanted, seeds=seeds, budget=budget, jobs=jobs, out=out)
    typer.echo(made.read_text(encoding="utf-8"))


@app.command(rich_help_panel=CARE)
def verify(
    split: Split = None,
    recompute: Annotated[int, typer.Option("--recompute", help="Re-embed N random rows and compare.", min=0)] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Random seed of the rows of --recompute.")] = 0,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Verify every file: structure, counts, checksums and provenance.

    --recompute 64 embeds random rows again: across machines, that is the bar.
    """
    from pipeline.commands import verify as command
    from pipeline.project.project import Project
    from pipeline.project.terminal import PlainConsole

    project = Project.open(params, settings or (), root)
    splits = project.select("index.splits", split)
    result = command.verify(project.layout, [split] if split else None)
    command.print_verify(result, PlainConsole())
    result.raise_if_faulty()
    if recompute:
        from pipeline.commands import recompute as again
        from pipeline.teacher.params import first_teacher

        embedded = [name for name in splits if (project.layout.embeddings(name) / "manifest.json").exists()]
        teacher = first_teacher(project)
        found = again.recompute(project.layout, embedded, teacher, recompute, project.runtime, seed)
        again.print_recompute(found, PlainConsole())
        again.require_within_tolerance(found)


@app.command(rich_help_panel=CARE)
def info(
    split: Split = None,
    card: Annotated[Path | None, typer.Option("--card", help="Write a dataset card to this file instead.")] = None,
    teacher_license: Annotated[str, typer.Option("--license", help="The teacher's license, for the card.")] = "",
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Show what the cache holds, what produced it, and its size.

    --card README.md writes the dataset card of a published cache: teacher, source, counts, hashes, rights.
    """
    from pipeline.commands import info as command
    from pipeline.commands.cache_card import write_cache_card
    from pipeline.project.project import Project
    from pipeline.project.terminal import PlainConsole

    project = Project.open(params, settings or (), root)
    splits = project.select("index.splits", split)
    if card:
        sources = {name: project.get(f"index.{name}") for name in splits}
        typer.echo(write_cache_card(card, splits, sources, project.layout, teacher_license))
        return
    command.print_info(command.info(project.layout, splits), PlainConsole())


@app.command(rich_help_panel=CARE)
def accept(
    code: Annotated[list[str] | None, typer.Argument(help="Stages, pixels, synthetic, compare; default: all.")] = None,
    root: Root = ROOT,
) -> None:
    """Keep results although the code that makes them changed: it counts as the code before the last change.

    After an upgrade, or an edit without effect on results, `dvc repro` then makes nothing again for it. Written to
    pipeline/versions.json. `docs/reproducibility.md` says what reruns when.
    """
    from pipeline.project.code_versions import accept_code
    from pipeline.project.layout import Layout

    accepted = accept_code(code or (), Layout(root))
    typer.echo("\n".join(one.line for one in accepted) or "nothing to accept: no code changed")


@app.command(rich_help_panel=CARE)
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")] = False,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Remove from data/.store everything that the current parameters do not use."""
    from pipeline.commands import gc as command
    from pipeline.project.project import Project
    from pipeline.project.terminal import PlainConsole

    project = Project.open(params, settings or (), root)
    found = command.gc(project.layout, project.name_list("index.splits"), project.arms, dry_run)
    command.print_result(found, PlainConsole())


@app.command(rich_help_panel=SHIP)
def export(
    student: Students = None,
    target: Target = None,
    name: Name = None,
    model_format: Annotated[str, typer.Option("--format", help="onnx, safetensors, openvino or executorch.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Quantize; sensitive layers stay in float.")] = False,
    space: Annotated[str, typer.Option("--space", help="clip, or whitened: the arm's own target space.")] = "clip",
    labels: Annotated[str | None, typer.Option("--labels", help="A zero-shot set, or names: cat,dog.")] = None,
    web: Annotated[bool, typer.Option("--web", help="One HTML page that runs in a browser, offline.")] = False,
    hub: Annotated[str | None, typer.Option("--hub", help="A folder for the Hugging Face Hub, by this name.")] = None,
    push: Annotated[bool, typer.Option("--push", help="With --hub: upload it, private.")] = False,
    gallery: Annotated[int, typer.Option("--gallery", help="Number of searchable images on the page.", min=0)] = 120,
    out: Annotated[Path | None, typer.Option("--out", help="Default: exports/STUDENT-TARGET.")] = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Export a student: model, labels, preprocessing, an example script and a model card.

    Preprocessing and un-whitening are inside the graph: bytes of an image in, its CLIP embedding out, and
    with --labels their probabilities as well. An export that differs from the student is refused.
    --web writes one HTML file instead: open it, and drop pictures on it.
    """
    from pipeline.commands.export import export as run
    from pipeline.commands.export import parse_options
    from pipeline.commands.export_hub import export_hub
    from pipeline.commands.export_web import export_web
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    targets, layout = project.select("distill.targets", target), project.layout
    arms = _arms(student or project.name_list("distill.students"), None, targets)
    folders = [layout.run(name)] if name else [layout.model(*arm) for arm in arms]
    if web or hub or push:
        _check_export_kind(web, hub, push, plain=model_format == "onnx" and space == "clip" and (web or not int8))
    if web:
        page = export_web(
            folders,
            out,
            layout,
            project.runtime,
            labels=labels,
            zero_shot=project.zero_shot_splits,
            int8=int8,
            gallery=gallery,
        )
        typer.echo(page.line)
        return
    if hub:
        _one_arm(hub, folders, "--hub")
        made = export_hub(
            folders[0], hub, out, layout, project.runtime, labels=labels, zero_shot=project.zero_shot_splits, push=push
        )
        typer.echo(made.line)
        return
    for folder in folders:
        form = parse_options(folder, model_format, int8, space, labels, project.zero_shot_splits, layout)
        typer.echo(run(folder, out or layout.exports / folder.name, form, layout, project.runtime).line)


@app.command(rich_help_panel=SHIP)
def predict(
    pictures: Annotated[list[str], typer.Argument(help="Images, folders or glob patterns.")],
    labels: Annotated[str, typer.Option("--labels", help="A zero-shot set, names: cat,dog, or a file: names.txt.")],
    student: Student = None,
    target: Target = None,
    model: Annotated[Path | None, typer.Option("--model", help="A run, an exported folder or an ONNX file.")] = None,
    top: Annotated[int, typer.Option("--top", help="Number of labels per image.", min=1)] = 5,
    teacher: Annotated[bool, typer.Option("--teacher", help="Embed unknown labels and cache them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of lines.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page with the images.")] = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Predict the most probable labels of images, with a student or an exported file."""
    from pipeline.commands import predict as command
    from pipeline.data.user_images import find_images
    from pipeline.deployment.predictor import open_arm, open_model
    from pipeline.project.project import Project
    from pipeline.teacher.params import first_teacher

    project = Project.open(params, settings or (), root)
    chosen = _arms(project.name_list("distill.students"), student, project.select("distill.targets", target))[0]
    opened = open_model(model) if model else open_arm(project.layout, *chosen)
    found = first_teacher(project) if teacher else None
    named = command.labels_for(labels, project.zero_shot_splits, project.layout, opened, found)
    predictions = command.predict(opened, find_images(pictures), named, top)
    typer.echo(command.as_json(predictions) if as_json else "\n".join(p.line for p in predictions))
    if html:
        command.write_page(html, opened.name, predictions)


@app.command(rich_help_panel=STUDY)
def choose(
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders or patterns.")],
    captions: Annotated[str, typer.Option("--choose", help="Captions of a choice set, with | between them.")],
    scorer: Annotated[str, typer.Option("--scorer", help="A scorer that `relate` has fitted.")] = "dcsm",
    student: Student = None,
    target: Target = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Say which of some captions is true of a picture, by a student's tokens: which thing is where."""
    from pipeline.commands.choose import choose as run
    from pipeline.data.user_images import find_images
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    arm = _arms(project.name_list("distill.students"), student, project.select("distill.targets", target))[0]
    texts = [caption.strip() for caption in captions.split("|")]
    folder, sets = project.layout.model(*arm), project.choice_sets
    for found in run(find_images(pictures), texts, scorer, folder, splits=sets, layout=project.layout):
        typer.echo(found.line)


@app.command(rich_help_panel=STUDY)
def search(
    text: Annotated[str | None, typer.Argument(help="Query text, embedded by the teacher.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Query image, embedded by the student.")] = None,
    split: Annotated[str, typer.Option("--split", help="The split to search in.")] = "val",
    student: Student = None,
    target: Target = None,
    model: Annotated[Path | None, typer.Option("--model", help="A run, an exported folder or an ONNX file.")] = None,
    top: Annotated[int, typer.Option("--top", help="Number of images.", min=1)] = 12,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a contact sheet.")] = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Search a split by text or image: exact search over the cached embeddings."""
    from pipeline.commands import search as command
    from pipeline.deployment.predictor import open_arm, open_model
    from pipeline.project.errors import UsageError
    from pipeline.project.project import Project
    from pipeline.teacher.params import first_teacher

    project = Project.open(params, settings or (), root)
    if (text is None) == (image is None):
        raise UsageError("search: give either words or --image FILE")
    if image:
        chosen = _arms(project.name_list("distill.students"), student, project.select("distill.targets", target))[0]
        query = command.image_query(image, open_model(model) if model else open_arm(project.layout, *chosen))
    else:
        query = command.text_query(text or "", first_teacher(project))
    hits = command.search(query, split, project.layout, top)
    typer.echo("\n".join(f"{hit.score:.4f}  {hit.key}" for hit in hits))
    if html:
        command.write_contact_sheet(html, text or str(image), hits, split, project.layout)


@app.command(rich_help_panel=SHIP)
def profile(
    student: Student = None,
    target: Target = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Also measure the teacher's image tower.")] = False,
    bottleneck: Annotated[bool, typer.Option("--bottleneck", help="Measure what limits embed and distill.")] = False,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Measure the cost of students: parameters, MACs, file size and latency, in float and int8.

    --bottleneck times stages one and two instead, a few batches each: what they wait for, and what to change.
    """
    from pipeline.commands.profile import print_costs
    from pipeline.commands.profile import profile as run
    from pipeline.project.project import Project
    from pipeline.teacher.params import first_teacher

    project = Project.open(params, settings or (), root)
    arms = _arms(project.name_list("distill.students"), student, project.select("distill.targets", target))
    if bottleneck:
        from pipeline.commands import bottleneck as command

        command.print_bottlenecks(project, arms)
        return
    print_costs(run(arms, project.layout, first_teacher(project) if teacher else None))


@app.command(rich_help_panel=SHIP, name="export-embeddings")
def export_embeddings(
    split: Annotated[str, typer.Option("--split", help="The split to export.")] = "train",
    layout_format: Annotated[str, typer.Option("--format", help="clip-retrieval or npy.")] = "clip-retrieval",
    captions: Annotated[str, typer.Option("--captions", help="all, or the first of each image.")] = "all",
    unit: Annotated[bool, typer.Option("--unit", help="Write unit-length float16, as clip-retrieval does.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Default: exports/embeddings-SPLIT.")] = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Export embeddings for other tools: clip-retrieval's npy and parquet, or plain .npy files."""
    from pipeline.commands.export_embeddings import export_embeddings as run
    from pipeline.commands.export_embeddings import parse_options
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    form, chosen = parse_options(layout_format, captions)
    folder = out or project.layout.root / "exports" / f"embeddings-{split}"
    made = run(split, folder, form, project.layout, project.runtime, captions=chosen, unit=unit)
    typer.echo("\n".join(made.lines))


@app.command(rich_help_panel=SHIP, name="import")
def import_embeddings(
    source: Annotated[Path, typer.Argument(help="clip-retrieval's folder, a folder of .npy files, or one file.")],
    split: Annotated[str, typer.Option("--split", help="The split to create.")] = "train",
    text: Annotated[Path | None, typer.Option("--text", help="With one .npy of images: the text embeddings.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of the teacher model.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace other embeddings of the split.")] = False,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Import embeddings made by another tool, and list the metadata they lack.

    Beside the packed images where the split is packed, so that students can learn from them.
    """
    from pipeline.commands.import_embeddings import import_embeddings as run
    from pipeline.project.project import Project

    project = Project.open(params, settings or (), root)
    made = run(source, split, project.layout, text=text, model=model, force=force)
    typer.echo("\n".join(made.lines))


def _arms(students: list[str], student: str | None, targets: list[str]) -> list[tuple[str, str]]:
    """Return (student, target) pairs; a student by hand need not stand in the params."""
    from pipeline.project.layout import require_name

    if student is not None:
        require_name(student, "--student")
    return [(s, t) for s in ([student] if student else students) for t in targets]


def _check_export_kind(web: bool, hub: str | None, push: bool, plain: bool) -> None:
    from pipeline.project.errors import UsageError

    if web and hub:
        raise UsageError("export: --web and --hub are two exports; give one of them")
    if push and not hub:
        raise UsageError("--push: only with --hub NAME")
    if not plain:
        raise UsageError(f"{'--web' if web else '--hub'}: has a format and a space of its own; leave out --format, "
                         f"--space{'' if web else ' and --int8'}")  # fmt: skip


def _one_arm(name: str | None, arms: Sequence[object], option: str = "--name") -> None:
    from pipeline.project.errors import UsageError

    if name and len(arms) != 1:
        raise UsageError(f"{option} {name}: one run is one arm, found {len(arms)}. Pass --student and --target.")


UNUSABLE_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)


def main() -> None:
    """Run a command; a user error ends in one line and an exit code, not in a traceback."""
    from cache.errors import CacheError, LockedError
    from pipeline.project.errors import ProjectError
    from pipeline.project.terminal import prepare_streams

    prepare_streams()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.TyperException as error:
        _fail(f"{error.format_message()} See `python cli.py {' '.join(sys.argv[1:2])} --help`.", error.exit_code)
    except ProjectError as error:
        _fail(str(error), error.exit_code)
    except LockedError as error:
        _fail(str(error), 3)
    except CacheError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        _fail(f"{sys.executable}: no module named '{error.name}'. {ACTIVATE}", 2)
    except OSError as error:  # a path that cannot be used, and nobody nearer to it could say more
        where = f"{os.fsdecode(error.filename)[:200]}: " if isinstance(error.filename, str | bytes) else ""
        _fail(f"{where}{error.strerror or error}", 2 if error.errno in UNUSABLE_PATH else 1)
    except MemoryError:
        _fail("out of memory: give it more, or less to do at once (runtime.batch, runtime.workers)", 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one need not wait for threads to end
        _fail("stopped; what is finished is kept, and the same command goes on from there", INTERRUPTED)
    sys.exit(code if len(sys.argv) > 1 else 2)


def _fail(message: str, code: int) -> None:
    from pipeline.project.terminal import one_line

    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
