"""Geometry: gap and control, ranks by name, maps, collapse, correlations."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.tables import Table, column
from pipeline.reporting.cells import Measure, dig, measured, nothing
from pipeline.reporting.findings import Arm, Findings
from pipeline.reporting.flat import Place, correlations, flat_map
from pipeline.reporting.page import Block, Pictures, Section
from pipeline.reporting.palette import INK, Palette
from pipeline.reporting.plots import Line, shares
from pipeline.reporting.svg import Picture

PAIRS = (
    Measure("gap", "geometry/val/pairs/clip/{who}/modality_gap"),
    Measure("gap, centred", "geometry/val/pairs/centered/{who}/modality_gap"),
    Measure("probe AUC", "geometry/val/pairs/clip/{who}/probe_auc"),
    Measure("probe AUC, centred", "geometry/val/pairs/centered/{who}/probe_auc"),
    Measure("other kind among neighbours %", "geometry/val/pairs/clip/{who}/cross_neighbours", "%"),
    Measure("the same, centred %", "geometry/val/pairs/centered/{who}/cross_neighbours", "%"),
    Measure("alignment", "geometry/val/pairs/clip/{who}/alignment"),
    Measure("pairs’ d′", "geometry/val/pairs/clip/{who}/matched_dprime", ".2f"),
)
IMAGES = (
    Measure("mean cosine", "geometry/val/images/{who}/mean_cosine"),
    Measure("conformity sd", "geometry/val/images/{who}/conformity_sd"),
    Measure("its rank correlation", "geometry/val/images/{who}/conformity_spearman"),
    Measure("uniformity", "geometry/val/images/{who}/uniformity", ".2f"),
    Measure("entropy rank", "geometry/val/images/{who}/entropy_rank", ".1f"),
    Measure("participation ratio", "geometry/val/images/{who}/participation_ratio", ".1f"),
    Measure("RankMe", "geometry/val/images/{who}/rankme", ".1f"),
    Measure("RankMe, centred", "geometry/val/images/{who}/rankme_centred", ".1f"),
    Measure("axes for 95 %", "geometry/val/images/{who}/dims_95", ".0f"),
    Measure("IsoScore", "geometry/val/images/{who}/isoscore"),
    Measure("partition ratio", "geometry/val/images/{who}/partition_ratio"),
    Measure("shell’s spread", "geometry/val/images/{who}/relative_spread"),
)


def geometry(found: Findings, arm: Arm | None, colours: Palette) -> Section:
    """Tabulate and draw where images and texts lie."""
    gaps = "Centred: each modality’s training mean taken away, which closes any gap by construction. Read what remains."
    ranks = "Of unit image vectors. The ranks are different measures: compare within a column only."
    if any(_is_constant(arm) for arm in found.measured):
        ranks += " No rank correlation: that student’s conformity is the same for every image."
    blocks: list[Block] = [
        measured("pairs", found, colours, PAIRS, gaps),
        measured("images", found, colours, IMAGES, ranks),
    ]
    caption = "Filled: images, hollow: their captions; the same pairs everywhere. Illustrations: distances mean little."
    rows = [([*_collapse(found, colours), *_correlations(found)], "")]
    rows += [(_maps(found, arm, "tsne", colours), ""), (_maps(found, arm, "pca", colours), caption)]
    blocks += [Pictures(tuple(panels), caption) for panels, caption in rows if panels]
    if not any(panels for panels, _ in rows):
        blocks.append(nothing("maps", "python cli.py evaluate"))
    return Section("Geometry", blocks, "Where images and texts lie on the sphere, by student and by teacher.")


def _is_constant(arm: Arm) -> bool:
    """Return whether a student's conformity has no order, so that nothing correlates with it."""
    images = dig(arm.metrics or {}, "geometry/val/images/student")
    return bool(images) and images.get("conformity_spearman", 0.0) is None


def _collapse(found: Findings, colours: Palette) -> list[Picture]:
    panels = []
    for student in found.students:
        tables = [(a, t) for a in found.measured if a.student == student and (t := a.table("val-collapse"))]
        lines = [Line(arm.target, _numbers(table, "student"), colours.colour(arm.target)) for arm, table in tables]
        if tables:
            lines.append(Line("teacher", _numbers(tables[0][1], "teacher"), INK))
            panels.append(shares(f"{student}: share of variance by axis", lines))
    return panels


def _correlations(found: Findings) -> list[Picture]:
    if "val" not in found.stores:
        return []
    rows = found.stores["val"].image(0).load()
    whitened = next((name for name, space in found.spaces.items() if space.method == "zca"), None)
    panels = [correlations("correlations of CLIP’s coordinates", rows)]
    if whitened:
        panels.append(correlations(f"the same in {whitened}", found.spaces[whitened].to_target(rows)))
    return panels


def _maps(found: Findings, arm: Arm | None, kind: str, colours: Palette) -> list[Picture]:
    arms = [a for a in found.measured if arm and a.student == arm.student]
    tables = [(a, t) for a in arms if (t := a.table("val-map")) and t.rows]
    if not tables:
        return []
    title = {"tsne": "t-SNE", "pca": "PCA"}[kind]
    panels = [flat_map(f"{title}: teacher", _places(tables[0][1], "teacher", kind), INK)]
    for drawn, table in tables:
        name = drawn.target if len(tables) > 1 else drawn.name
        panels.append(flat_map(f"{title}: {name}", _places(table, "student", kind), colours.colour(drawn.target)))
    return panels


def _places(table: Table, who: str, kind: str) -> list[Place]:
    x, y = table.columns.index(f"{kind}_x"), table.columns.index(f"{kind}_y")
    return [Place(row[1] == "image", float(row[x]), float(row[y])) for row in table.rows if row[0] == who]


def _numbers(table: Table, name: str) -> np.ndarray:
    return np.array([float(text) for text in column(table, name)])
