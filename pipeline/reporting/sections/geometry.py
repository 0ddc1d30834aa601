"""Geometry: modality gap with its control, effective ranks, projections, eigenvalues, correlations."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.csv_tables import CsvTable, column
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.map_plots import MapPoint, correlations, flat_map
from pipeline.reporting.metric_tables import MetricColumn, empty_state, get_path, metric_table
from pipeline.reporting.page import Block, FigureBlock, ReportSection
from pipeline.reporting.palette import INK, Palette
from pipeline.reporting.plots import Line, variance_shares
from pipeline.reporting.results import ArmResults, ProjectResults
from pipeline.reporting.svg import SvgFigure

PAIRS = (
    MetricColumn("gap", "geometry/val/pairs/clip/{who}/modality_gap"),
    MetricColumn("gap, centered", "geometry/val/pairs/centered/{who}/modality_gap"),
    MetricColumn("probe AUC", "geometry/val/pairs/clip/{who}/probe_auc"),
    MetricColumn("probe AUC, centered", "geometry/val/pairs/centered/{who}/probe_auc"),
    MetricColumn("neighbors of the other modality %", "geometry/val/pairs/clip/{who}/cross_neighbors", "%"),
    MetricColumn("the same, centered %", "geometry/val/pairs/centered/{who}/cross_neighbors", "%"),
    MetricColumn("alignment", "geometry/val/pairs/clip/{who}/alignment"),
    MetricColumn("pairs’ d′", "geometry/val/pairs/clip/{who}/matched_dprime", ".2f"),
)
IMAGES = (
    MetricColumn("mean cosine", "geometry/val/images/{who}/mean_cosine"),
    MetricColumn("conformity sd", "geometry/val/images/{who}/conformity_sd"),
    MetricColumn("its rank correlation", "geometry/val/images/{who}/conformity_spearman"),
    MetricColumn("uniformity", "geometry/val/images/{who}/uniformity", ".2f"),
    MetricColumn("entropy rank", "geometry/val/images/{who}/entropy_rank", ".1f"),
    MetricColumn("participation ratio", "geometry/val/images/{who}/participation_ratio", ".1f"),
    MetricColumn("RankMe", "geometry/val/images/{who}/rankme", ".1f"),
    MetricColumn("RankMe, centered", "geometry/val/images/{who}/rankme_centered", ".1f"),
    MetricColumn("axes for 95 %", "geometry/val/images/{who}/dims_95", ".0f"),
    MetricColumn("IsoScore", "geometry/val/images/{who}/isoscore"),
    MetricColumn("partition ratio", "geometry/val/images/{who}/partition_ratio"),
    MetricColumn("relative sd of norms", "geometry/val/images/{who}/relative_spread"),
)


def geometry_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate and draw the positions of images and texts."""
    results, arm, colors = inputs.results, inputs.best, inputs.colors
    gaps = "Centered: after subtracting each modality’s training mean, which closes any gap by construction."
    ranks = "Of unit image vectors. The ranks are different measures: compare only within a column."
    if any(_is_constant(arm) for arm in results.measured):
        ranks += " No rank correlation: the student’s conformity is the same for every image."
    blocks: list[Block] = [
        metric_table("pairs", results, colors, PAIRS, gaps),
        metric_table("images", results, colors, IMAGES, ranks),
    ]
    caption = "Filled: images; hollow: their captions; the same pairs in all maps. Distances are not reliable."
    rows = [([*_collapse(results, colors), *_correlations(results)], "")]
    rows += [(_maps(results, arm, "tsne", colors), ""), (_maps(results, arm, "pca", colors), caption)]
    blocks += [FigureBlock(tuple(panels), caption) for panels, caption in rows if panels]
    if not any(panels for panels, _ in rows):
        blocks.append(empty_state("maps", "python cli.py evaluate"))
    return ReportSection("Geometry", blocks, "Positions of images and texts on the unit sphere.")


def _is_constant(arm: ArmResults) -> bool:
    """Return whether a student's conformity is constant, so that its rank correlation is undefined."""
    images = get_path(arm.metrics or {}, "geometry/val/images/student")
    return bool(images) and images.get("conformity_spearman", 0.0) is None


def _collapse(results: ProjectResults, colors: Palette) -> list[SvgFigure]:
    panels = []
    for student in results.students:
        tables = [(a, t) for a in results.measured if a.student == student and (t := a.table("val-collapse"))]
        lines = [Line(arm.target, _numbers(table, "student"), colors.color(arm.target)) for arm, table in tables]
        if tables:
            lines.append(Line("teacher", _numbers(tables[0][1], "teacher"), INK))
            panels.append(variance_shares(f"{student}: share of variance by axis", lines))
    return panels


def _correlations(results: ProjectResults) -> list[SvgFigure]:
    if "val" not in results.stores:
        return []
    rows = results.stores["val"].image(0).load()
    whitened = next((name for name, space in results.target_spaces.items() if space.method == "zca"), None)
    panels = [correlations("correlations of CLIP’s coordinates", rows)]
    if whitened:
        panels.append(correlations(f"the same in {whitened}", results.target_spaces[whitened].to_target(rows)))
    return panels


def _maps(results: ProjectResults, arm: ArmResults | None, kind: str, colors: Palette) -> list[SvgFigure]:
    arms = [a for a in results.measured if arm and a.student == arm.student]
    tables = [(a, t) for a in arms if (t := a.table("val-map")) and t.rows]
    if not tables:
        return []
    title = {"tsne": "t-SNE", "pca": "PCA"}[kind]
    panels = [flat_map(f"{title}: teacher", _places(tables[0][1], "teacher", kind), INK)]
    for draw, table in tables:
        name = draw.target if len(tables) > 1 else draw.name
        panels.append(flat_map(f"{title}: {name}", _places(table, "student", kind), colors.color(draw.target)))
    return panels


def _places(table: CsvTable, who: str, kind: str) -> list[MapPoint]:
    x, y = table.columns.index(f"{kind}_x"), table.columns.index(f"{kind}_y")
    return [MapPoint(row[1] == "image", float(row[x]), float(row[y])) for row in table.rows if row[0] == who]


def _numbers(table: CsvTable, name: str) -> np.ndarray:
    return np.array([float(text) for text in column(table, name)])
