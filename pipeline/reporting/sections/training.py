"""Learning curves, and R² along the teacher's eigenvectors."""

from __future__ import annotations

from pipeline.evaluation.csv_tables import CsvTable, column
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import empty_state
from pipeline.reporting.page import Block, FigureBlock, ReportSection
from pipeline.reporting.palette import Palette
from pipeline.reporting.plots import LOWEST_R2, Curve, axis_fits, curves, spectrum
from pipeline.reporting.results import ArmResults, ProjectResults
from pipeline.reporting.svg import SvgFigure

WATCHED = {"zero_shot": "zero-shot top-1", "val_nmse": "NMSE on val", "loss": "training loss"}


LEAD = (
    "Learning curves. NMSE is the unexplained fraction of the targets’ variance, each in its own space: compare "
    "accuracies between spaces, not errors."
)


def learning_section(inputs: ReportInputs) -> ReportSection:
    """Draw accuracy and error over epochs, one panel per student."""
    results, colors = inputs.results, inputs.colors
    panels = [panel for student in results.students for panel in _panels(results, student, colors)]
    blocks: list[Block] = [FigureBlock(tuple(panels))] if panels else [empty_state("history", "python cli.py distill")]
    return ReportSection("Learning", blocks, LEAD)


def _panels(results: ProjectResults, student: str, colors: Palette) -> list[SvgFigure]:
    arms = [arm for arm in results.arms if arm.student == student]
    limits = results.numbers(next(iter(results.sets), ""), "clip")  # the rule of the watched zero-shot set
    panels = []
    for name, title in WATCHED.items():
        lines = [curve for arm in arms if (curve := _curve(arm, arm.history, "epoch", name))]
        if not lines:
            continue
        share = name == "zero_shot"
        ends = {key: limits[key] for key in ("ceiling", "chance")} if share and limits else {}
        marker = colors.markers[student]
        panels.append(curves(f"{student}: {title}", lines, colors, marker=marker, percent=share, **ends))
    return panels


def spectrum_section(inputs: ReportInputs) -> ReportSection:
    """Draw the eigenvalues of the teacher's covariance, and each student's R² along its eigenvectors."""
    results, colors = inputs.results, inputs.colors
    panels, caption = [], ""
    space = next(iter(results.target_spaces.values()), None)
    if space is not None:
        eigenvalues = {"images": space.image.eigenvalues} | ({"texts": space.text.eigenvalues} if space.text else {})
        floors = {
            f"floor {name}": float(s.image.eigenvalues[len(s.image.eigenvalues) - s.image.num_floored])
            for name, s in results.target_spaces.items()
            if s.image.num_floored
        }
        panels.append(spectrum("variance along the teacher’s axes", eigenvalues, floors))
    for student in results.students:
        arms = [arm for arm in results.measured if arm.student == student]
        lines = [c for arm in arms if (c := _curve(arm, arm.table("val-axes"), "axis", "r2"))]
        if lines:
            panels.append(axis_fits(f"{student}: R² along each axis", lines, colors))
            caption = f"R² below {LOWEST_R2}, an error of {1 - LOWEST_R2} times the variance, is drawn at this limit."
    blocks: list[Block] = [FigureBlock(tuple(panels), caption)] if panels else []
    blocks += [
        empty_state(f"target space `{name}`", f"python cli.py whiten --target {name}")
        for name in results.targets
        if name not in results.target_spaces
    ]
    if not blocks:
        blocks = [empty_state("target spaces", "python cli.py whiten")]
    lead = "Axes of large variance are on the left of each plot; whitening gives equal weight to all axes."
    return ReportSection("Spectrum", blocks, lead)


def _curve(arm: ArmResults, table: CsvTable | None, x: str, y: str) -> Curve | None:
    if table is None or y not in table.columns:
        return None
    points = [(float(a), float(b)) for a, b in zip(column(table, x), column(table, y), strict=True) if a and b]
    return Curve(arm.target, *map(list, zip(*points, strict=True))) if points else None
