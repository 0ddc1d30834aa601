"""Put everything on one page that needs nothing else: report/index.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from pydantic import Field

from cache.atomic import write_text
from pipeline.data.packing.samples_by_key import read_samples
from pipeline.evaluation.csv_tables import column
from pipeline.evaluation.scoring_rules import Rule
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import ParamsSection
from pipeline.reporting.album import Album
from pipeline.reporting.headline import headline, overview_blocks, ranking
from pipeline.reporting.page import Links, render
from pipeline.reporting.palette import palette
from pipeline.reporting.results import ArmResults, ProjectResults, read_findings
from pipeline.reporting.sections.cost import cost
from pipeline.reporting.sections.data import classes, data, neighbours
from pipeline.reporting.sections.distribution import likelihood, normality
from pipeline.reporting.sections.geometry import geometry
from pipeline.reporting.sections.leakage import leakage
from pipeline.reporting.sections.provenance import provenance
from pipeline.reporting.sections.relations import relations
from pipeline.reporting.sections.scores import agreement, ceilings, probes, retrieval
from pipeline.reporting.sections.training import learning, spectra


class ReportParams(ParamsSection):
    """The `report:` section."""

    headline: Rule | None = None
    """The scoring rule that the first screen is about; default: `clip`."""
    samples: int = Field(default=16, ge=0)
    """Images shown with their captions."""
    thumbnail: int = Field(default=112, ge=16, le=512)
    """Side of an image in the page, in pixels; smaller ones stay as they are."""


def report(
    arms: Sequence[tuple[str, str]],
    splits: Sequence[str],
    targets: Sequence[str],
    params: ReportParams,
    layout: Layout,
    *,
    rules: Sequence[str] = (),
) -> Path:
    """Write the report of what is there, saying what is not.

    Raises:
        CacheError: a file is there and damaged, or the page cannot be written.
        UsageError: the headline's rule is none of those that students are scored by.
    """
    found = read_findings(arms, splits, targets, layout, rules=rules, headline=_headline(params, rules))
    methods = {name: found.target_spaces[name].method if name in found.target_spaces else name for name in targets}
    colours = palette(methods, found.students)
    best, split = next(iter(ranking(found)), None), next(iter(found.sets), "")
    keys = _evenly_spaced_keys(found, params.samples)
    shown = [
        *keys,
        *(key for name in ("val-neighbours", "val-likelihood", "val-twins") for key in _keys_in_table(best, name)),
    ]
    val = _album(found, "val", shown, params)
    labelled = _album(found, split, _keys_in_table(best, f"{split}-predictions"), params)
    train = _album(found, "train", _keys_in_table(best, "val-twins", ("train",)), params)
    page = render(
        *headline(found),
        [*overview_blocks(found, colours), *_demo_links(found.arms, layout)],
        [
            data(found, val, keys),
            ceilings(found),
            retrieval(found, colours),
            learning(found, colours),
            spectra(found, colours),
            agreement(found, colours),
            classes(best, split, labelled),
            neighbours(best, val),
            probes(found, colours),
            geometry(found, best, colours),
            normality(best),
            likelihood(best, val),
            leakage(best, val, train),
            *relations(found),
            cost(found),
            provenance(found),
        ],
    )
    write_text(layout.report, page)
    return layout.report


def _demo_links(arms: Sequence[ArmResults], layout: Layout) -> list[Links]:
    """Return links to the pages that `export --web` wrote of these arms."""
    names = {arm.name for arm in arms}
    pages = [path for path in sorted(layout.exports.glob("*.html")) if set(path.stem.split("+")) <= names]
    links = tuple((page.stem.replace("+", " and "), f"../{layout.exports.name}/{quote(page.name)}") for page in pages)
    return [Links("Try it in a browser:", links)] if links else []


def _headline(params: ReportParams, rules: Sequence[str]) -> str:
    """Return the rule of the first screen: the one named, else `clip`, else the first of the params."""
    if params.headline and rules and params.headline not in rules:
        raise UsageError(
            f"params: 'report.headline': '{params.headline}' is not among evaluate.rules [{', '.join(rules)}]"
        )
    return params.headline or ("clip" if "clip" in rules else next(iter(rules), "clip"))


def _evenly_spaced_keys(found: ProjectResults, count: int) -> list[str]:
    """Return keys spread evenly over the validation split."""
    keys = found.stores["val"].keys if "val" in found.stores else []
    return [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, min(count, len(keys))).astype(int))]


def _keys_in_table(
    arm: ArmResults | None, name: str, columns: Sequence[str] = ("key", "student", "teacher")
) -> list[str]:
    """Return every key that some columns of a table of an arm name."""
    table = arm.table(name) if arm else None
    if table is None:
        return []
    return [key for part in columns if part in table.columns for key in column(table, part)]


def _album(found: ProjectResults, split: str, keys: Sequence[str], params: ReportParams) -> Album | None:
    if split not in found.packed:
        return None
    packed, store = found.packed[split], found.stores.get(split)
    embedded = store is not None and store.manifest.source.get("packed") == packed.digest
    return Album(read_samples(packed, keys, store.keys if store and embedded else None), params.thumbnail)
