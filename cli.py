"""Distill CLIP into small students against cached, whitened teacher embeddings."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # built in: it needs no import that Ctrl-C could interrupt

if __name__ == "__main__":  # until `main` can report it in one line, Ctrl-C ends the program silently
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import errno
import os
import signal
import sys
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

ACTIVATE = "Activate the environment (`. .venv/bin/activate`), or let `make repro` do it."
try:
    import typer
except ModuleNotFoundError as missing:
    # `.venv/bin/dvc repro` runs `python` from the path, which may be another one.
    print(f"error: {sys.executable}: no module named '{missing.name}'. {ACTIVATE}", file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    from pipeline.project.project import Project

PROGRAM = Path(sys.argv[0]).name.replace("cli.py", "python cli.py")
app = typer.Typer(
    name="cli.py",
    help=__doc__,
    add_completion=PROGRAM == "wclip-kd",  # shells complete programs by name; `python` is not this program
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)


INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended: 128 + SIGINT, as in shells."""
PARAMS = Path("params.yaml")
ROOT = Path()


def _complete(key: str) -> Callable[[typer.Context, str], list[str]]:
    """Return a shell completion function for the names that the parameters file lists under a key."""

    def names(context: typer.Context, incomplete: str) -> list[str]:
        from pipeline.project.errors import UsageError
        from pipeline.project.project import Project

        try:
            project = Project.open(context.params.get("params") or PARAMS, (), ROOT)
            return [name for name in project.name_list(key) if name.startswith(incomplete)]
        except UsageError:
            return []

    return names


ParamsFile = Annotated[Path, typer.Option("--params", help="Parameters file, one section per stage.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Override a parameter: section.key=value; repeatable.")]
Root = Annotated[Path, typer.Option("--root", help="Folder that contains data/, models/ and report/.")]
SPLITS, TARGETS, STUDENTS = (_complete(key) for key in ("index.splits", "distill.targets", "distill.students"))
Split = Annotated[
    str | None,
    typer.Option("--split", help="train, val or a zero-shot set; default: all of them.", autocompletion=SPLITS),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Name of a target space; default: all.", autocompletion=TARGETS)
]
Student = Annotated[
    str | None, typer.Option("--student", help="Student or timm model name; default: all.", autocompletion=STUDENTS)
]
Students = Annotated[
    list[str] | None, typer.Option("--student", help="A student; repeatable with --web.", autocompletion=STUDENTS)
]
Name = Annotated[str | None, typer.Option("--name", help="Use runs/NAME instead of models/STUDENT-TARGET.")]
Model = Annotated[Path | None, typer.Option("--model", help="Folder of a run or an export, or an ONNX file.")]

STAGES, STUDY, SHIP, CARE = "Pipeline stages, in order", "Inspect and compare", "Deploy", "Cache maintenance"


def command(panel: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command that receives the opened project and has the options --params, --set and --root."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(*, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT, **own: Any) -> None:
            from pipeline.project.project import Project, refuse_urls

            refuse_urls({"params": params, "root": root, **own})
            function(Project.open(params, settings or (), root), **own)

        own = [*signature(function, eval_str=True, locals={"Project": object}).parameters.values()][1:]
        shared = [p for p in signature(run, eval_str=True).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
        merged = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in [*own, *shared]]
        run.__signature__ = Signature(merged)  # type: ignore[attr-defined]  # read by typer, as are the two below
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(name, rich_help_panel=panel)(run)
        return function

    return register


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


@command(STAGES)
def index(project: Project, split: Split = None) -> None:
    """List the file names and sizes of a split as they are on disk now.

    `dvc repro` runs this stage every time (about a second). If the list is unchanged, later stages do not run again.
    """
    from pipeline.data.sources.registry import parse_source
    from pipeline.index import index as run
    from pipeline.project.code_versions import record_code

    train = parse_source(project.get("index.train"), "index.train")
    for name in project.select("index.splits", split):
        # A scorer may be fitted on the students' training images; only evaluation splits must be disjoint from them.
        apart = None if name == project.get("relate.train", default="") else train
        run(name, parse_source(project.get(f"index.{name}"), f"index.{name}"), project.layout, apart)
        project.check_unchanged(f"index.{name}")
    record_code(project.layout)


@command(STAGES)
def pack(project: Project, split: Split = None) -> None:
    """Pack images and captions into byte-reproducible tar shards.

    Original files are kept byte for byte; `pack.resize` re-encodes them at a smaller size, `pack.limit` packs only
    the first N. Unreadable files are listed in skipped.json with the reason; too many of them are an error.
    """
    import pipeline.pack as stage
    from pipeline.data.sources.registry import parse_source

    for name in project.steps("pack", project.select("index.splits", split), "index.{}", "pack"):
        source = parse_source(project.get(f"index.{name}"), f"index.{name}")
        stage.pack(name, source, project.section("pack", stage.PackParams, default={}), project.layout, project.runtime)


@command(STAGES)
def embed(
    project: Project,
    split: Split = None,
    rank: Annotated[int, typer.Option("--rank", help="Rank of this process, from 0 to --world - 1.")] = 0,
    world: Annotated[int, typer.Option("--world", help="Number of processes that share the shards, one per GPU.")] = 1,
) -> None:
    """Embed a split with the teacher and store the embeddings as unnormalized float32.

    Finished shards are kept in data/.store, so an interrupted command resumes when it is run again. With --rank
    and --world, the process that finishes last publishes the split. Later stages do not need the teacher.
    """
    import pipeline.embed as stage

    for name in project.steps("embed", project.select("index.splits", split), "embed"):
        stage.embed(name, project.section("embed", stage.EmbedParams), project.layout, project.runtime, rank, world)


@command(STAGES)
def moments(project: Project) -> None:
    """Compute means and co-moments of the training embeddings in one streaming pass."""
    import pipeline.moments as stage

    for _ in project.steps("moments", ["train"], "moments"):
        stage.moments(project.section("moments", stage.MomentsParams, default={}), project.layout, project.runtime)


@command(STAGES)
def whiten(project: Project, target: Target = None) -> None:
    """Fit a target space y = (x − μ)W to the moments, with one eigendecomposition (about a second)."""
    import pipeline.whiten as stage

    for name in project.steps("whiten", project.select("whiten.targets", target), "whiten.{}"):
        stage.whiten(name, project.section(f"whiten.{name}", stage.TargetParams), project.layout)


@command(STAGES)
def distill(
    project: Project,
    student: Student = None,
    target: Target = None,
    name: Name = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a different experiment in the folder.")] = False,
) -> None:
    """Train a student against the cached targets; the teacher is not needed.

    Without --student or --target, all students and target spaces of the parameters in turn. An interrupted run
    resumes from its last checkpoint.
    """
    import pipeline.distill as stage
    from pipeline.project.project import require_one_arm

    arms = project.select_arms(student, target)
    require_one_arm("--name", name, arms)
    for student_name, space in project.steps("distill", arms, "distill.training", "distill.loss", "distill.{}"):
        out = project.layout.run(name) if name else project.layout.model(student_name, space)
        stage.distill(
            student_name, space, stage.read_params(project, student_name), project.layout, project.runtime, out, force
        )


@command(STAGES)
def relate(
    project: Project,
    scorer: Annotated[str | None, typer.Option("--scorer", help="Name of a scorer; default: all.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="Score the tokens of this student instead.")] = None,
    target: Target = None,
) -> None:
    """Fit a scorer of image-caption pairs on cached tokens, and evaluate it on choice sets next to plain cosine.

    For questions that one vector per image cannot answer: attributes, positions, negation, numbers. The teacher is
    not needed. With --student, evaluates the scorer, and one fitted to the student, on the student's tokens.
    """
    import pipeline.relate as stage

    splits, layout, scorers = stage.read_splits(project), project.layout, project.select("relate.scorers", scorer)
    if student:
        for name in scorers:
            for arm in project.select_arms(student, target):
                typer.echo(stage.relate_student(name, splits, layout.model(*arm), layout, project.runtime))
        return
    for name in project.steps("relate", scorers, "relate.train", "relate.sets", "relate.{}"):
        typer.echo(stage.relate(name, stage.read_scorer(project, name), splits, layout, project.runtime))


@command(STAGES)
def evaluate(project: Project, student: Student = None, target: Target = None, name: Name = None) -> None:
    """Evaluate a student under each scoring rule, next to the teacher's score and chance."""
    import pipeline.evaluate as stage

    section = project.section("evaluate", stage.EvaluateParams, default={})
    for folder in project.steps("evaluate", project.select_folders(student, target, name), "evaluate"):
        sets, layout = project.zero_shot_splits, project.layout
        stage.evaluate(folder, sets, section, layout, project.runtime, project.choice_sets[1:])


@command(STAGES)
def report(project: Project) -> None:
    """Write the report: report/index.html, one self-contained file."""
    import pipeline.report as stage
    from pipeline.evaluate import EvaluateParams

    splits, targets = project.name_list("index.splits"), project.name_list("whiten.targets")
    section = project.section("report", stage.ReportParams, default={})
    rules = project.section("evaluate", EvaluateParams, default={}).rules
    for arms in project.steps("report", [project.arms], "report", "evaluate.rules"):
        typer.echo(stage.report(arms, splits, targets, section, project.layout, rules=rules))


@command(STUDY)
def plan(
    project: Project,
    budget: Annotated[str, typer.Option("--budget", help="Time budget, such as 60m or 2h.")] = "12h",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Estimate every stage before it runs: finished work, images, disk, memory and hours on this machine.

    Counts the sources and times a few batches, in at most a minute, and writes nothing. If the estimate exceeds
    --budget, the free disk or the free memory, prints parameters that would fit.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when its client is first imported: a plan fetches nothing
    import json

    import pipeline.commands.plan as module
    from pipeline.commands.compare import parse_duration
    from pipeline.embed import EmbedParams
    from pipeline.evaluate import EvaluateParams
    from pipeline.moments import MomentsParams
    from pipeline.planning.table import plan_json, print_plan
    from pipeline.project.terminal import PlainConsole
    from pipeline.report import ReportParams

    teachers = project.section("embed", EmbedParams).by_name
    for name, model in (("moments", MomentsParams), ("evaluate", EvaluateParams), ("report", ReportParams)):
        project.section(name, model, default={})  # report errors in the sections of later stages now
    project_plan = module.plan(project, teachers, parse_duration(budget))
    if as_json:
        typer.echo(json.dumps(plan_json(project_plan), indent=2))
    else:
        print_plan(project_plan, PlainConsole())


@command(STUDY)
def results(
    project: Project,
    names: Annotated[list[str] | None, typer.Option("--name", help="Compare this run of runs/; repeatable.")] = None,
) -> None:
    """Print the table of results and the path of the report.

    With --name a --name b: the results of runs/a and runs/b side by side, and their learning curves in one plot.
    """
    import pipeline.commands.results as module
    from pipeline.evaluate import EvaluateParams

    rules = project.section("evaluate", EvaluateParams, default={}).rules
    if names:
        module.run_results(names, project.zero_shot_splits, project.layout, rules)
    else:
        module.results(project.arms, project.zero_shot_splits, project.layout, rules)


@command(STUDY)
def audit(project: Project) -> None:
    """Score the teacher in every target space under every rule, before any training.

    Warns if a target space limits the accuracy that its students can reach, and names a scoring rule without that
    limit. Plots and tables go to report/audit/.
    """
    import pipeline.commands.audit as module
    from pipeline.evaluate import EvaluateParams
    from pipeline.project.terminal import PlainConsole
    from pipeline.whiten import TargetParams

    targets = {name: project.section(f"whiten.{name}", TargetParams) for name in project.name_list("whiten.targets")}
    floor = project.section("evaluate", EvaluateParams, default={}).floor
    result = module.audit(targets, project.zero_shot_splits, floor, project.layout, project.runtime)
    module.print_audit(result, project.layout)
    comparison = module.audit_teachers(project.zero_shot_splits, floor, project.layout, project.runtime)
    if comparison:
        module.print_teachers(comparison, PlainConsole())
    if project.choice_sets:
        from pipeline.commands.audit_choices import audit_choices, print_choices

        print_choices(audit_choices(project.choice_sets, project.layout, project.runtime), PlainConsole())


@command(STUDY)
def compare(
    project: Project,
    student: Student = None,
    targets: Annotated[str | None, typer.Option("--targets", help="Target spaces, such as raw,scale,zca.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Paired seeds per arm.", min=2, max=1000)] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Time budget, such as 60m or 2h.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Number of parallel runs.", min=1, max=1000)] = 1,
    out: Annotated[Path | None, typer.Option("--out", help="Output folder of plots and verdict.")] = None,
) -> None:
    """Compare target spaces fairly on your data, over paired seeds and tuned learning rates.

    All target spaces share their seeds, each has its own tuned learning rate, and the scoring rule is fixed
    beforehand. A difference is reported only if its confidence interval supports it. Finished runs are kept, so
    an interrupted command resumes.
    """
    from pipeline.commands.compare import compare as run

    arms = [name.strip() for name in targets.split(",")] if targets else None
    verdict = run(project, student=student, targets=arms, seeds=seeds, budget=budget, jobs=jobs, out=out)
    typer.echo(verdict.read_text(encoding="utf-8"))


@command(CARE)
def verify(
    project: Project,
    split: Split = None,
    recompute: Annotated[int, typer.Option("--recompute", help="Re-embed N random rows and compare.", min=0)] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Random seed for --recompute.")] = 0,
) -> None:
    """Verify every file: structure, counts, checksums and provenance.

    --recompute 64 also embeds 64 random rows again with the teacher and compares them with the cache. Use it to
    check a cache that was made on another machine.
    """
    import pipeline.commands.verify as module
    from pipeline.project.terminal import PlainConsole

    splits = project.select("index.splits", split)
    result = module.verify(project.layout, [split] if split else None)
    module.print_verify(result, PlainConsole())
    result.raise_if_faulty()
    if recompute:
        from pipeline.commands.recompute import check_rows

        check_rows(project, splits, recompute, seed)


@command(CARE)
def info(
    project: Project,
    split: Split = None,
    card: Annotated[Path | None, typer.Option("--card", help="Write a dataset card to this file instead.")] = None,
    teacher_license: Annotated[str, typer.Option("--license", help="The teacher's license, for the card.")] = "",
) -> None:
    """Show what the cache holds, what produced it, and its size.

    --card README.md writes the dataset card of a cache to publish: teacher, source, counts, hashes, licenses.
    """
    import pipeline.commands.info as module
    from pipeline.commands.cache_card import write_cache_card
    from pipeline.project.terminal import PlainConsole

    splits = project.select("index.splits", split)
    if card:
        sources = {name: project.get(f"index.{name}") for name in splits}
        typer.echo(write_cache_card(card, splits, sources, project.layout, teacher_license))
    else:
        module.print_info(module.info(project.layout, splits), PlainConsole())


@app.command(rich_help_panel=CARE)
def accept(
    code: Annotated[list[str] | None, typer.Argument(help="Stages, pixels, synthetic, compare; default: all.")] = None,
    root: Root = ROOT,
) -> None:
    """Keep existing results after a change of the code that does not change results.

    Records in pipeline/versions.json that the new code counts as the code that made the results, so that `dvc repro`
    does not run the stages again. See docs/reproducibility.md.
    """
    from pipeline.project.code_versions import accept_code
    from pipeline.project.layout import Layout

    accepted = accept_code(code or (), Layout(root))
    typer.echo("\n".join(one.line for one in accepted) or "nothing to accept: no code changed")


@command(CARE)
def gc(
    project: Project,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; remove nothing.")] = False,
) -> None:
    """Remove from data/.store everything that the current parameters do not use."""
    import pipeline.commands.gc as module
    from pipeline.project.terminal import PlainConsole

    result = module.gc(project.layout, project.name_list("index.splits"), project.arms, dry_run)
    module.print_result(result, PlainConsole())


@command(SHIP)
def export(
    project: Project,
    student: Students = None,
    target: Target = None,
    name: Name = None,
    model_format: Annotated[str, typer.Option("--format", help="onnx, safetensors, openvino or executorch.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Quantize; sensitive layers stay in float.")] = False,
    space: Annotated[str, typer.Option("--space", help="Output space: clip or whitened.")] = "clip",
    labels: Annotated[str | None, typer.Option("--labels", help="A zero-shot set, or names such as cat,dog.")] = None,
    web: Annotated[bool, typer.Option("--web", help="Write one HTML page that runs offline in a browser.")] = False,
    hub: Annotated[str | None, typer.Option("--hub", help="Write a Hugging Face Hub folder of this name.")] = None,
    push: Annotated[bool, typer.Option("--push", help="With --hub: upload it as a private repository.")] = False,
    scorer: Annotated[str | None, typer.Option("--scorer", help="Also export a scorer, for predict --choose.")] = None,
    gallery: Annotated[int, typer.Option("--gallery", help="With --web: number of searchable images.", min=0)] = 120,
    head: Annotated[str | None, typer.Option("--head", help="Of several teachers, whose head to export.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Path or URL; default: exports/STUDENT-TARGET.")] = None,
) -> None:
    """Export a student: model, labels, preprocessing, an example script and a model card.

    The model takes the uint8 pixels of an image and returns its CLIP embedding, and with --labels also the label
    probabilities; preprocessing and un-whitening are part of the graph. The export is compared with the student
    and not written if they differ.
    """
    import pipeline.commands.export as module
    from pipeline.commands.export_head import folder_to_export
    from pipeline.commands.export_hub import export_hub
    from pipeline.commands.export_web import export_web
    from pipeline.project.project import require_one_arm
    from pipeline.project.remote.store import parse_out, put_export

    layout, (local, remote) = project.layout, parse_out(out)
    folders = [folder_to_export(folder, head, layout) for folder in project.select_folders(student, target, name)]
    if web or hub or push:
        module.check_export_kind(web, hub, push, plain=model_format == "onnx" and space == "clip" and (web or not int8))
    sets, runtime = project.zero_shot_splits, project.runtime
    if web:
        page = export_web(folders, local, layout, runtime, labels=labels, zero_shot=sets, int8=int8, gallery=gallery)
        typer.echo(page.line)
        if remote:
            typer.echo(put_export(page.path, remote))
    elif hub:
        require_one_arm("--hub", hub, folders)
        exported_to = export_hub(folders[0], hub, local, layout, runtime, labels=labels, zero_shot=sets, push=push)
        typer.echo(exported_to.line)
        if remote:
            typer.echo(put_export(exported_to.folder, remote))
    else:
        for folder in folders:
            form = module.parse_export_options(folder, model_format, int8, space, labels, sets, layout, scorer)
            result = module.export(folder, local or layout.exports / folder.name, form, layout, runtime)
            typer.echo(result.line)
            if remote:
                typer.echo(put_export(result.folder, remote if len(folders) == 1 else remote / folder.name))


@command(SHIP)
def predict(
    project: Project,
    pictures: Annotated[list[str], typer.Argument(help="Images, folders or glob patterns.")],
    labels: Annotated[str | None, typer.Option("--labels", help="A zero-shot set, cat,dog or names.txt.")] = None,
    choose: Annotated[str | None, typer.Option("--choose", help="Captions separated by |; needs an export.")] = None,
    student: Student = None,
    target: Target = None,
    model: Model = None,
    top: Annotated[int, typer.Option("--top", help="Number of labels per image.", min=1)] = 5,
    teacher: Annotated[bool, typer.Option("--teacher", help="Embed uncached labels with the teacher.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write an HTML page with the images.")] = None,
) -> None:
    """Predict the most probable labels of images, with a student or an exported file."""
    from pipeline.commands import predict as predicting
    from pipeline.data.user_images import find_images
    from pipeline.deployment.predictor import open_chosen
    from pipeline.project.errors import UsageError
    from pipeline.teacher.params import first_teacher

    if (labels is None) == (choose is None):
        raise UsageError("predict: give either --labels or --choose")
    if labels is None:
        from pipeline.commands.choose import choices_as_json, choose_exported

        if html or teacher:
            raise UsageError("predict: --html and --teacher are for --labels: leave them out beside --choose")
        folder = model or project.layout.exports / "-".join(project.select_arms(student, target)[0])
        texts, sets = [caption.strip() for caption in (choose or "").split("|")], project.choice_sets
        answers = choose_exported(find_images(pictures), texts, folder, splits=sets, layout=project.layout)
        typer.echo(choices_as_json(answers) if as_json else "\n".join(answer.line for answer in answers))
        return
    opened = open_chosen(project, model, student, target)
    reader = first_teacher(project) if teacher else None
    label_set = predicting.labels_for(labels, project.zero_shot_splits, project.layout, opened, reader)
    predictions = predicting.predict(opened, find_images(pictures), label_set, top)
    typer.echo(predicting.as_json(predictions) if as_json else "\n".join(p.line for p in predictions))
    if html:
        predicting.write_page(html, opened.name, predictions)


@command(STUDY)
def choose(
    project: Project,
    pictures: Annotated[list[str], typer.Argument(help="Images, folders or glob patterns.")],
    captions: Annotated[str, typer.Option("--choose", help="Captions to choose from, separated by |.")],
    scorer: Annotated[str, typer.Option("--scorer", help="Name of a scorer fitted by `relate`.")] = "dcsm",
    student: Student = None,
    target: Target = None,
) -> None:
    """Choose the caption that is true of an image, with a student's tokens and a fitted scorer."""
    from pipeline.commands.choose import choose as run
    from pipeline.data.user_images import find_images

    folder, texts = project.select_folders(student, target)[0], [text.strip() for text in captions.split("|")]
    for choice in run(find_images(pictures), texts, scorer, folder, splits=project.choice_sets, layout=project.layout):
        typer.echo(choice.line)


@command(STUDY)
def search(
    project: Project,
    text: Annotated[str | None, typer.Argument(help="Query text, embedded by the teacher.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="Query image, embedded by the student.")] = None,
    split: Annotated[str, typer.Option("--split", help="The split to search in.")] = "val",
    student: Student = None,
    target: Target = None,
    model: Model = None,
    top: Annotated[int, typer.Option("--top", help="Number of images.", min=1)] = 12,
    html: Annotated[Path | None, typer.Option("--html", help="Also write an HTML page with the images.")] = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact/--approximate", help="Compare every image; an index. Default: exact up to 500,000."),
    ] = None,
) -> None:
    """Search a split by text or image over the cached embeddings."""
    from pipeline.commands import search as searching

    query = searching.embed_query(project, text, image, model=model, student=student, target=target)
    verify = project.runtime.verify
    found = searching.search(query, split, project.layout, top, exact=exact, verify=verify)
    typer.echo("\n".join(f"{hit.score:.4f}  {hit.key}" for hit in found.hits))
    if found.recall:
        typer.echo(searching.describe_recall(found.recall), err=True)
    if html:
        searching.write_contact_sheet(html, text or str(image), found.hits, split, project.layout)


@command(SHIP)
def profile(
    project: Project,
    student: Student = None,
    target: Target = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Also measure the teacher's image tower.")] = False,
    bottleneck: Annotated[bool, typer.Option("--bottleneck", help="Measure what limits embed and distill.")] = False,
) -> None:
    """Measure the cost of students: parameters, MACs, file size and latency, in float and int8.

    --bottleneck instead times a few batches of `embed` and `distill`, and reports what limits them and what to change.
    """
    import pipeline.commands.profile as module
    from pipeline.commands.bottleneck import print_bottlenecks
    from pipeline.teacher.params import first_teacher

    arms = project.select_arms(student, target)
    if bottleneck:
        print_bottlenecks(project, arms)
    else:
        measured = first_teacher(project) if teacher else None
        module.print_costs(module.profile(arms, project.layout, measured))


@command(SHIP, "export-embeddings")
def export_embeddings(
    project: Project,
    split: Annotated[str, typer.Option("--split", help="The split to export.")] = "train",
    layout_format: Annotated[str, typer.Option("--format", help="clip-retrieval or npy.")] = "clip-retrieval",
    captions: Annotated[str, typer.Option("--captions", help="all, or first: one caption per image.")] = "all",
    unit: Annotated[bool, typer.Option("--unit", help="Write unit-length float16, as clip-retrieval does.")] = False,
    out: Annotated[str | None, typer.Option("--out", help="Folder or URL; default: exports/embeddings-SPLIT.")] = None,
) -> None:
    """Export embeddings for other tools: clip-retrieval's npy and parquet, or plain .npy files."""
    import pipeline.commands.export_embeddings as module
    from pipeline.project.remote.store import parse_out, put_export

    local, remote = parse_out(out)
    form, selected = module.parse_embedding_export_options(layout_format, captions)
    folder = local or project.layout.root / "exports" / f"embeddings-{split}"
    result = module.export_embeddings(
        split, folder, form, project.layout, project.runtime, captions=selected, unit=unit
    )
    typer.echo("\n".join(result.lines))
    if remote:
        typer.echo(put_export(folder, remote))


@command(SHIP, "import")
def import_embeddings(
    project: Project,
    source: Annotated[Path, typer.Argument(help="Folder of clip-retrieval or of .npy files, or one .npy file.")],
    split: Annotated[str, typer.Option("--split", help="The split to create.")] = "train",
    text: Annotated[Path | None, typer.Option("--text", help="Text embeddings, if the source is one .npy.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of the teacher model.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace other embeddings of the split.")] = False,
) -> None:
    """Import embeddings made by another tool, and list the metadata they lack.

    If the split is packed, the rows are aligned with the packed images, so that students can be trained on them.
    """
    from pipeline.commands.import_embeddings import import_embeddings as run

    typer.echo("\n".join(run(source, split, project.layout, text=text, model=model, force=force).lines))


UNUSABLE_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)


def main() -> None:
    """Run a command; print user errors as one line and exit with their code, without a traceback."""
    from cache.errors import CacheError, LockedError
    from pipeline.project.errors import ProjectError
    from pipeline.project.terminal import prepare_streams

    prepare_streams()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.TyperException as error:
        _fail(f"{error.format_message()} See `{PROGRAM} {' '.join(sys.argv[1:2])} --help`.", error.exit_code)
    except ProjectError as error:
        _fail(str(error), error.exit_code)
    except CacheError as error:
        _fail(str(error), 3 if isinstance(error, LockedError) else 1)
    except ModuleNotFoundError as error:
        _fail(f"{sys.executable}: no module named '{error.name}'. {ACTIVATE}", 2)
    except OSError as error:  # an unusable path that no other code reports with more detail
        where = f"{os.fsdecode(error.filename)[:200]}: " if isinstance(error.filename, str | bytes) else ""
        _fail(f"{where}{error.strerror or error}", 2 if error.errno in UNUSABLE_PATH else 1)
    except MemoryError:
        _fail("out of memory: give it more, or less to do at once (runtime.batch, runtime.workers)", 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the program without waiting for threads
        _fail("stopped; what is finished is kept, and the same command goes on from there", INTERRUPTED)
    sys.exit(code if len(sys.argv) > 1 else 2)


def _fail(message: str, code: int) -> None:
    from pipeline.project.terminal import one_line

    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
