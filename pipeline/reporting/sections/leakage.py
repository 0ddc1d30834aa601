"""What of the evaluation splits training has seen."""

from __future__ import annotations

from pipeline.reporting.cells import dig, nothing, source
from pipeline.reporting.findings import Arm
from pipeline.reporting.images import Album
from pipeline.reporting.page import Block, Cell, Grid, Section, Tiles

SHOWN = 6


def leakage(arm: Arm | None, val: Album | None, train: Album | None) -> Section:
    """Count near-duplicates and shared files, and show the most similar pairs."""
    found = dig((arm.metrics if arm else None) or {}, "leakage")
    if arm is None or not found:
        return Section("Leakage", [nothing("search for leaks", "python cli.py evaluate")])
    rows = []
    for split, numbers in found.items():
        origin = source(arm, f"leakage/{split}")
        same = "–" if numbers["same_files"] is None else f"{numbers['same_files']:,}"
        texts = [f"{numbers['n']:,}", f"{numbers['near_duplicates']:,}", same]
        rows.append((Cell(split, heading=True), *(Cell(text, origin) for text in texts)))
    threshold = next(iter(found.values()))["cosine"]
    columns = ("split", "images", f"nearest training image at cosine ≥ {threshold}", "same file name and size")
    blocks: list[Block] = [Grid("leakage", columns, tuple(rows), "By the teacher’s embeddings.")]
    table = arm.table("val-twins")
    if table and val and train:
        pairs = [(val.tile(key, f"val {key}"), train.tile(twin, f"train {twin}", f"cosine {float(cosine):.3f}"))
                 for key, twin, cosine in table.rows[:SHOWN]]  # fmt: skip
        tiles = tuple(tile for pair in pairs for tile in pair if tile)
        blocks.append(Tiles(tiles, "The most similar pairs", wrap=True))
    return Section("Leakage", blocks, "Images of the evaluation splits that look like images of the training split.")
