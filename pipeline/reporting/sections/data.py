"""The data and where it came from: samples, classes, neighbors, images that are also in train, provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from cache.manifest import read_manifest
from cache.teachers import teacher_folders
from pipeline.evaluation.csv_tables import CsvTable, column
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import empty_state, get_path, percent, provenance
from pipeline.reporting.page import Block, Cell, ImageBlock, ReportSection, TableBlock
from pipeline.reporting.results import ArmResults

QUERIES_SHOWN = 3
NEIGHBORS_SHOWN = 6
CLASSES_SHOWN = 6
"""Number of worst and of best classes shown, if there are more than twice as many."""


def data_section(inputs: ReportInputs) -> ReportSection:
    """Show evenly spaced images of the validation split with their first captions."""
    store = inputs.results.stores.get("val")
    keys = store.keys if store else []
    sample = np.unique(np.linspace(0, len(keys) - 1, min(inputs.sample_count, len(keys))).astype(int))
    sample_keys = [keys[i] for i in sample]
    album = inputs.album("val", sample_keys)
    if album is None or not (tiles := album.tiles(sample_keys)):
        return ReportSection("Data", [empty_state("packed images", "python cli.py pack")])
    counts = ", ".join(f"{split} {packed.rows:,}" for split, packed in inputs.results.packed.items())
    return ReportSection("Data", [ImageBlock(tiles, wrap=True)], f"Images: {counts}. Examples of val:")


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
        blocks.append(ImageBlock(tuple(filter(None, tiles)), f"{actual} classified as {predicted}, {count} times"))
    return ReportSection("Classes", blocks)


def _by_class(arm: ArmResults, split: str, table: CsvTable) -> TableBlock:
    rule = table.rows[0][1]
    rows = sorted((row for row in table.rows if row[1] == rule and row[3]), key=lambda row: float(row[3]))
    shown_rows = rows if len(rows) <= 2 * CLASSES_SHOWN else [*rows[:CLASSES_SHOWN], *rows[-CLASSES_SHOWN:]]
    origin = f"{arm.folder.name}/tables/{split}-classes.csv\n{arm.commands}"
    body = tuple(
        (Cell(name, heading=True), *(Cell(text, origin) for text in (percent(student), percent(ceiling), n)))
        for name, _, n, student, ceiling in shown_rows
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
    table = arm.table("val-neighbors") if arm else None
    keys = [key for name in ("key", "student", "teacher") for key in column(table, name)] if table else []
    album = inputs.album("val", keys)
    if arm is None or table is None or album is None:
        return ReportSection("Neighbors", [empty_state("neighbors", "python cli.py evaluate")])
    blocks: list[Block] = []
    for key in list(dict.fromkeys(column(table, "key")))[:QUERIES_SHOWN]:
        rows = [row for row in table.rows if row[0] == key][:NEIGHBORS_SHOWN]
        query = album.tile(key)
        blocks.append(ImageBlock((query,) if query else (), f"Nearest images to {key}", label="image"))
        for who in ("student", "teacher"):
            at = table.columns.index(who)
            blocks.append(ImageBlock(album.tiles(row[at] for row in rows), label=who))
    return ReportSection("Neighbors", blocks, f"The nearest validation images, for {arm.name} and its teacher.")


SHOWN = 6


def leakage_section(inputs: ReportInputs) -> ReportSection:
    """Count near-duplicates and shared files, and show the most similar pairs."""
    arm = inputs.best
    metrics = get_path((arm.metrics if arm else None) or {}, "leakage")
    if arm is None or not metrics:
        return ReportSection("Leakage", [empty_state("leakage", "python cli.py evaluate")])
    rows = []
    for split, numbers in metrics.items():
        origin = provenance(arm, f"leakage/{split}")
        same = "–" if numbers["same_files"] is None else f"{numbers['same_files']:,}"
        texts = [f"{numbers['n']:,}", f"{numbers['near_duplicates']:,}", same]
        rows.append((Cell(split, heading=True), *(Cell(text, origin) for text in texts)))
    threshold = next(iter(metrics.values()))["cosine"]
    columns = ("split", "images", f"nearest training image at cosine ≥ {threshold}", "same file name and size")
    model = (arm.card or {}).get("teacher", {}).get("model")
    caption = f"By the embeddings of {model}." if model else "By the teacher’s embeddings."
    caption += "".join(_same_captions(split, numbers) for split, numbers in metrics.items())
    blocks: list[Block] = [TableBlock("leakage", columns, tuple(rows), caption)]
    table = arm.table("val-twins")
    val = inputs.album("val", column(table, "key")) if table else None
    train = inputs.album("train", column(table, "train")) if table else None
    if table and val and train:
        pairs = [
            (val.tile(key, f"val {key}"), train.tile(twin, f"train {twin}", f"cosine {float(cosine):.3f}"))
            for key, twin, cosine in table.rows[:SHOWN]
        ]
        tiles = tuple(tile for pair in pairs for tile in pair if tile)
        blocks.append(ImageBlock(tiles, "The most similar pairs", wrap=True))
    return ReportSection(
        "Leakage",
        blocks,
        "Images of the evaluation splits that are in train, or similar to one of its images.",
    )


def _same_captions(split: str, numbers: Mapping[str, Any]) -> str:
    """Say how many captions of a split the training split has word for word, where that was counted."""
    if not (repeated := numbers.get("same_captions")):
        return ""
    among = [f"{repeated['own']:,} among its own captions"]
    among += [f"{count:,} among '{name}'" for name, count in repeated["files"].items()]
    return f" Of {repeated['n']:,} captions of {split}, train has word for word {', '.join(among)}."


def _caption_files(inputs: ReportInputs) -> list[Block]:
    """Say which further captions there are of train, what was left out of them, and in which share an arm sees them."""
    packed = inputs.results.packed.get("train")
    if packed is None or not packed.caption_files:
        return []
    arms = {arm.name: (arm.card or {}).get("caption_files", {}) for arm in inputs.results.arms}
    rows = []
    for name, file in packed.caption_files.items():
        counts = file.counts
        shares = [f"{arm} {100 * own[name]['share']:g} %" for arm, own in arms.items() if name in own]
        left_out = f"{counts['unknown']:,} / {counts['empty']:,} / {counts['duplicates']:,}"
        numbers = (f"{counts[what]:,}" for what in ("images", "missing", "captions"))
        texts = [*numbers, left_out, ", ".join(shares) or "–"]
        rows.append((Cell(name, heading=True), *map(Cell, texts)))
    left = "left out: unknown images / empty / twice"
    columns = ("further captions of train", "images", "without any", "captions", left, "share of the steps")
    return [TableBlock("caption-files", columns, tuple(rows))]


def provenance_section(inputs: ReportInputs) -> ReportSection:
    """Show the teacher, the versions and the commands behind the numbers."""
    results = inputs.results
    store = next(iter(results.stores.values()), None)
    blocks: list[Block] = []
    for name, folder in (teacher_folders(store.folder) if store else {}).items():
        manifest = read_manifest(folder)
        facts = {**manifest.teacher, **{f"version of {k}": v for k, v in manifest.versions.items()}}
        rows = [(Cell(key, heading=True), Cell(str(value))) for key, value in sorted(facts.items())]
        title = f"of the embeddings by {name}" if name else "of the embeddings"
        blocks.append(TableBlock(f"teacher-{name}" if name else "teacher", (title, ""), tuple(rows)))
    blocks += _caption_files(inputs)
    commands = [(Cell(arm.name, heading=True), Cell(arm.commands)) for arm in results.arms]
    blocks.append(TableBlock("commands", ("arm", "command"), tuple(commands)))
    return ReportSection(
        "Provenance",
        blocks,
        "Teacher, versions and commands. Hover over or tap a number to see its file.",
    )
