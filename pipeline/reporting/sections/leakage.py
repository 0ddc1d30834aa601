"""Evaluation images that are also in train."""

from __future__ import annotations

from pipeline.evaluation.csv_tables import column
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import empty_state, get_path, provenance
from pipeline.reporting.page import Block, Cell, ImageBlock, ReportSection, TableBlock

SHOWN = 6


def leakage_section(inputs: ReportInputs) -> ReportSection:
    """Count near-duplicates and shared files, and show the most similar pairs."""
    arm = inputs.best
    metrics = get_path((arm.metrics if arm else None) or {}, "leakage")
    if arm is None or not metrics:
        return ReportSection("Leakage", [empty_state("search for leaks", "python cli.py evaluate")])
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
        "Leakage", blocks, "Images of the evaluation splits that look like images of the training split."
    )
