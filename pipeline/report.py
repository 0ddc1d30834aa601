"""Write the report as one self-contained page: report/index.html."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import Field

from pipeline.evaluation.scoring_rules import Rule
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection
from pipeline.reporting.headline import headline, overview_blocks
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.page import Links, ReportSection, render
from pipeline.reporting.page_files import save_page
from pipeline.reporting.results import ArmResults, read_findings
from pipeline.reporting.sections import (
    cost,
    data,
    distribution,
    domains,
    geometry,
    relations,
    scores,
    teachers,
    training,
)

SECTIONS: dict[str, Callable[[ReportInputs], ReportSection | None]] = {
    "data": data.data_section,
    "ceilings": scores.ceiling_section,
    "teachers": teachers.teacher_section,
    "domains": domains.domain_section,
    "retrieval": scores.retrieval_section,
    "learning": training.learning_section,
    "spectrum": training.spectrum_section,
    "agreement": scores.agreement_section,
    "classes": data.class_section,
    "neighbors": data.neighbor_section,
    "probes": scores.probe_section,
    "geometry": geometry.geometry_section,
    "normality": distribution.normality_section,
    "likelihood": distribution.likelihood_section,
    "leakage": data.leakage_section,
    "relations": relations.relation_section,
    "cost": cost.cost_section,
    "provenance": data.provenance_section,
}
"""Sections in the order of the page; one that returns None is omitted."""


class ReportParams(ParamsSection):
    """The `report:` section."""

    headline: Rule | None = None
    """Scoring rule of the first screen; default: `clip`."""
    samples: int = Field(default=16, ge=0)
    """Number of images shown with captions."""
    thumbnail: int = Field(default=112, ge=16, le=512)
    """Side of an image in the page, in pixels; smaller ones are not enlarged."""


def report(
    arms: Sequence[tuple[str, str]],
    splits: Sequence[str],
    targets: Sequence[str],
    params: ReportParams,
    layout: Layout,
    *,
    rules: Sequence[str] = (),
) -> Path:
    """Write the report of all results; sections without data name the command that makes them.

    Raises:
        CacheError: a file is damaged, or the page cannot be written.
        UsageError: the headline's rule is not among the scoring rules of `evaluate`.
    """
    results = read_findings(arms, splits, targets, layout, rules=rules, headline=_headline(params, rules))
    inputs = ReportInputs(results, params.samples, params.thumbnail)
    overview = [*overview_blocks(results, inputs.colors), *_demo_links(results.arms, layout)]
    sections = [section for build in SECTIONS.values() if (section := build(inputs)) is not None]
    save_page(layout.report, render(*headline(results), overview, sections))
    return layout.report


def _demo_links(arms: Sequence[ArmResults], layout: Layout) -> list[Links]:
    """Return links to the pages that `export --web` wrote for these arms."""
    names = {arm.name for arm in arms}
    pages = [path for path in sorted(layout.exports.glob("*.html")) if set(path.stem.split("+")) <= names]
    links = tuple((page.stem.replace("+", " and "), f"../{layout.exports.name}/{quote(page.name)}") for page in pages)
    return [Links("Try it in a browser:", links)] if links else []


def _headline(params: ReportParams, rules: Sequence[str]) -> str:
    """Return the rule of the first screen: the configured one, else `clip`, else the first of the parameters."""
    if params.headline and rules and params.headline not in rules:
        raise UsageError(
            f"params: 'report.headline': '{params.headline}' is not among evaluate.rules [{', '.join(rules)}]"
        )
    return params.headline or ("clip" if "clip" in rules else next(iter(rules), "clip"))
