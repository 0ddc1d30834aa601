"""Images of the data: samples, confused classes, nearest neighbors."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pipeline.evaluation.csv_tables import CsvTable, column
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import empty_state, percent
from pipeline.reporting.page import Block, Cell, ImageBlock, ReportSection, TableBlock
from pipeline.reporting.results import ArmResults

QUERIES_SHOWN = 3
NEIGHBORS_SHOWN = 6
CLASSES_SHOWN = 6
"""Worst, and as many best, where there are more than twice as many."""


def data_section(inputs: ReportInputs) -> ReportSection:
    """Show evenly spaced images of the validation split with their first captions."""
    store = inputs.results.stores.get("val")
    keys = store.keys if store else []
    sample = np.unique(np.linspace(0, len(keys) - 1, min(inputs.sample_count, len(keys))).astype(int))
    shown = [keys[i] for i in sample]
    album = inputs.album("val", shown)
    if album is None or not (tiles := album.tiles(shown)):
        return ReportSection("Data", [empty_state("packed images", "python cli.py pack")])
    counts = ", ".join(f"{split} {packed.rows:,}" for split, packed in inputs.results.packed.items())
    return ReportSection("Data", [ImageBlock(tiles, wrap=True)], f"Images: {counts}. Some of the validation split:")


def class_section(inputs: ReportInputs) -> ReportSection:
    """Show the worst and best classes of the best arm, and its most frequent confusions with images."""
    arm, split = inputs.best, inputs.first_set
    table = arm.table(f"{split}-classes") if arm else None
    predictions = arm.table(f"{split}-predictions") if arm else None
    if arm is None or table is None or predictions is None:
        return ReportSection("Classes", [empty_state("classes", "python cli.py evaluate")])
    blocks: list[Block] = [_by_class(arm, split, table)]
    album = inputs.album(split, column(predictions, "key"))
    for (actual, predicted), count in confusions(predictions)[:4]:
        keys = [row[0] for row in predictions.rows if (row[1], row[2]) == (actual, predicted)]
        tiles = [album.tile(key, "", note=key) for key in keys[:8]] if album else []
        blocks.append(ImageBlock(tuple(filter(None, tiles)), f"{actual} taken for {predicted}, {count} times"))
    return ReportSection("Classes", blocks)


def _by_class(arm: ArmResults, split: str, table: CsvTable) -> TableBlock:
    rule = table.rows[0][1]
    rows = sorted((row for row in table.rows if row[1] == rule and row[3]), key=lambda row: float(row[3]))
    shown = rows if len(rows) <= 2 * CLASSES_SHOWN else [*rows[:CLASSES_SHOWN], *rows[-CLASSES_SHOWN:]]
    origin = f"{arm.folder.name}/tables/{split}-classes.csv\n{arm.commands}"
    body = tuple(
        (Cell(name, heading=True), *(Cell(text, origin) for text in (percent(student), percent(ceiling), n)))
        for name, _, n, student, ceiling in shown
    )
    caption = f"{arm.name} on {split}, worst classes first, rule {rule}."
    return TableBlock(f"{split}-classes", ("class", "student %", "ceiling %", "n"), body, caption)


def confusions(predictions: CsvTable) -> list[tuple[tuple[str, str], int]]:
    """Return wrong (actual, predicted) pairs of classes with counts, most frequent first."""
    pairs = zip(column(predictions, "actual"), column(predictions, "predicted"), strict=True)
    return sorted(Counter(pair for pair in pairs if pair[0] != pair[1]).items(), key=lambda item: (-item[1], item[0]))


def neighbor_section(inputs: ReportInputs) -> ReportSection:
    """Show the nearest images of a few by the student and by its teacher, one row each."""
    arm = inputs.best
    table = arm.table("val-neighbours") if arm else None
    keys = [key for name in ("key", "student", "teacher") for key in column(table, name)] if table else []
    album = inputs.album("val", keys)
    if arm is None or table is None or album is None:
        return ReportSection("Neighbours", [empty_state("neighbours", "python cli.py evaluate")])
    blocks: list[Block] = []
    for key in list(dict.fromkeys(column(table, "key")))[:QUERIES_SHOWN]:
        rows = [row for row in table.rows if row[0] == key][:NEIGHBORS_SHOWN]
        query = album.tile(key)
        blocks.append(ImageBlock((query,) if query else (), f"Nearest to {key}", label="image"))
        for who in ("student", "teacher"):
            at = table.columns.index(who)
            blocks.append(ImageBlock(album.tiles(row[at] for row in rows), label=who))
    return ReportSection("Neighbours", blocks, f"The nearest validation images, by {arm.name} and by its teacher.")
