"""W-CLIP KD on the command line: it parses, calls and prints; the work is in pipeline/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="cli.py",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters: one section per stage.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="section.key=value, repeatable; beats the file.")]
Root = Annotated[Path, typer.Option("--root", help="Where data/, models/ and report/ lie.")]
Split = Annotated[str | None, typer.Option("--split", help="train, val or a zero-shot set; default: all in turn.")]
Target = Annotated[str | None, typer.Option("--target", help="A target space of the params; default: all in turn.")]
Student = Annotated[str | None, typer.Option("--student", help="A short name or any timm model; default: all.")]
Name = Annotated[str | None, typer.Option("--name", help="Work in runs/NAME instead of models/STUDENT-TARGET.")]

PARAMS = Path("params.yaml")
ROOT = Path()
STAGES, STUDY, SHIP, CARE = "Stages, in order", "Look", "Ship", "Care for the cache"


@app.command(rich_help_panel=STAGES)
def index(split: Split = None, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """List the names and sizes of a split: what is on disk now.

    Runs each time and costs a second or so; an equal list stops everything that hangs on it.
    """
    from pipeline.data.sources import parse_source
    from pipeline.index import index as run
    from pipeline.project.opened import Project

    project = Project.open(params, settings or (), root)
    for name in project.chosen("index.splits", split):
        run(name, parse_source(project.value(f"index.{name}"), f"index.{name}"), project.layout)
        project.check_unchanged(f"index.{name}")


@app.command(rich_help_panel=STAGES)
def pack(split: Split = None, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Pack images and captions into tar shards that are the same bytes each time.

    Files pass through as they are; `pack.resize` re-encodes them smaller, `pack.limit` takes the first N.
    What cannot be read is listed in skipped.json with the reason; too much of it is an error.
    """
    from pipeline.data.sources import parse_source
    from pipeline.pack import PackParams
    from pipeline.pack import pack as run
    from pipeline.project.opened import Project

    project = Project.open(params, settings or (), root)
    for name in project.chosen("index.splits", split):
        source = parse_source(project.value(f"index.{name}"), f"index.{name}")
        run(name, source, project.section("pack", PackParams, default={}), project.layout, project.runtime)
        project.check_unchanged(f"index.{name}", "pack")


@app.command(rich_help_panel=STAGES)
def embed(split: Split = None, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Run the teacher once over a split and keep what it said, as float32, not normalised.

    Finished shards are kept in data/.store whatever happens: stop it and run it again. This is the last
    command that needs the teacher.
    """
    from pipeline.embed import EmbedParams
    from pipeline.embed import embed as run
    from pipeline.project.opened import Project

    project = Project.open(params, settings or (), root)
    for name in project.chosen("index.splits", split):
        run(name, project.section("embed", EmbedParams), project.layout, project.runtime)
        project.check_unchanged("embed")


@app.command(rich_help_panel=STAGES)
def moments(params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Add up means and co-moments of the training embeddings in one streaming pass."""
    from pipeline.moments import MomentsParams
    from pipeline.moments import moments as run
    from pipeline.project.opened import Project

    project = Project.open(params, settings or (), root)
    run(project.section("moments", MomentsParams, default={}), project.layout, project.runtime)
    project.check_unchanged("moments")


@app.command(rich_help_panel=STAGES)
def whiten(target: Target = None, params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Fit a target space y = (x − μ)W from the moments: one eigendecomposition, a second or so."""
    from pipeline.project.opened import Project
    from pipeline.whiten import TargetParams
    from pipeline.whiten import whiten as run

    project = Project.open(params, settings or (), root)
    for name in project.chosen("whiten.targets", target):
        run(name, project.section(f"whiten.{name}", TargetParams), project.layout)
        project.check_unchanged(f"whiten.{name}")


@app.command(rich_help_panel=STAGES)
def distill(
    student: Student = None,
    target: Target = None,
    name: Name = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another experiment that is in the way.")] = False,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Train a student against the cached targets; the teacher is not needed.

    Without --student or --target, all of the params in turn. A run that was stopped goes on where it was.
    """
    from pipeline.distill import distill as run
    from pipeline.distill import read_params
    from pipeline.project.opened import Project

    project = Project.open(params, settings or (), root)
    arms = _arms(project.names("distill.students"), student, project.chosen("distill.targets", target))
    _one_arm(name, arms)
    for chosen, space in arms:
        out = project.layout.run(name) if name else project.layout.model(chosen, space)
        run(chosen, space, read_params(project, chosen), project.layout, project.runtime, out, force)
        project.check_unchanged("distill.training", "distill.loss", f"distill.{chosen}")


@app.command(rich_help_panel=STAGES)
def evaluate(
    student: Student = None,
    target: Target = None,
    name: Name = None,
    params: ParamsFile = PARAMS,
    settings: Sets = None,
    root: Root = ROOT,
) -> None:
    """Score a student under each scoring rule, beside its teacher under the same rule and chance."""
    from pipeline.evaluate import EvaluateParams
    from pipeline.evaluate import evaluate as run
    from pipeline.project.opened import Project

    project = Project.open(params, settings or (), root)
    section = project.section("evaluate", EvaluateParams, default={})
    arms = _arms(project.names("distill.students"), student, project.chosen("distill.targets", target))
    folders = [project.layout.run(name)] if name else [project.layout.model(*arm) for arm in arms]
    for folder in folders:
        run(folder, project.zero_shot, section, project.layout, project.runtime)
        project.check_unchanged("evaluate")


@app.command(rich_help_panel=STAGES)
def report(params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Put everything on one page: report/index.html, a single file that needs nothing else."""
    from pipeline.project.opened import Project
    from pipeline.report import ReportParams
    from pipeline.report import report as run

    project = Project.open(params, settings or (), root)
    splits, targets = project.names("index.splits"), project.names("whiten.targets")
    section = project.section("report", ReportParams, default={})
    typer.echo(run(project.arms, splits, targets, section, project.layout))
    project.check_unchanged("report")


@app.command(rich_help_panel=STUDY)
def results(params: ParamsFile = PARAMS, settings: Sets = None, root: Root = ROOT) -> None:
    """Print the table of results, and where the report lies."""
    from pipeline.commands.results import results as run
    from pipeline.project.opened import Project

    project = Project.open(params, settings or (), root)
    run(project.arms, project.zero_shot, project.layout)


def _arms(students: list[str], student: str | None, targets: list[str]) -> list[tuple[str, str]]:
    """Return (student, target) pairs; a student by hand need not stand in the params."""
    return [(s, t) for s in ([student] if student else students) for t in targets]


def _one_arm(name: str | None, arms: list[tuple[str, str]]) -> None:
    from pipeline.project.errors import UsageError

    if name and len(arms) != 1:
        raise UsageError(f"--name {name}: one run is one arm, found {len(arms)}. Pass --student and --target.")


def main() -> None:
    """Run a command; what a person can have caused ends in one line and an exit code, not in a traceback."""
    from cache.errors import CacheError, LockedError
    from pipeline.project.errors import PipelineError

    try:
        app()
    except PipelineError as error:
        _fail(str(error), error.exit_code)
    except LockedError as error:
        _fail(str(error), 3)
    except CacheError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped; what is finished is kept, and the same command goes on from there", 130)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
