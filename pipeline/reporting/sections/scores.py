"""Tables of scores: ceilings, retrieval, agreement, probes."""

from __future__ import annotations

from dataclasses import replace
from itertools import compress

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.metric_tables import MetricColumn, empty_state, get_path, metric_table, percent, provenance
from pipeline.reporting.page import Block, Cell, ReportSection, TableBlock
from pipeline.reporting.remarks import ceiling_note, remarks

RANKS = {"R@1": "%", "R@5": "%", "R@10": "%", "median_rank": ".1f"}
UNBROKEN = "\u2011"
"""A non-breaking hyphen, for titles of columns."""
CEILINGS = (
    "The teacher’s own accuracy under each rule. A rule that lowers the teacher’s accuracy lowers that "
    "of every student: compare students only under one rule, and each with its own ceiling."
)
RULE_CAPTION = "Rules: clip: CLIP’s own cosine; centered: minus the means; soft, whitened: after whitening too."
WAYS = {"image_to_text": "image → text", "text_to_image": "text → image"}


def ceiling_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate the teacher's own accuracy by scoring rule."""
    results = inputs.results
    rows = []
    for split in results.sets:
        for rule in results.rules:
            numbers = results.numbers(split, rule)
            if numbers:
                origin = provenance(results.measured[0], f"zero_shot/{split}/{rule}")
                values = numbers["ceiling"], get_path(numbers, "single_prompt/ceiling"), numbers["chance"]
                cells = [Cell(text, origin) for text in (*map(percent, values), f"{numbers['n']:,}")]
                cells[0] = replace(cells[0], note=ceiling_note(results, split, rule))
                rows.append((Cell(split, heading=True), Cell(rule, heading=True), *cells))
    if not rows:
        return ReportSection("Ceilings", [empty_state("ceilings", "python cli.py evaluate")])
    columns = ("set", "rule", "ceiling %", "with the first prompt only %", "chance %", "n")
    used = [any(row[i].text for row in rows) for i in range(len(columns))]
    body = tuple(tuple(compress(row, used)) for row in rows)
    blocks: list[Block] = [
        TableBlock("ceilings", tuple(compress(columns, used)), body, RULE_CAPTION),
        *remarks(results),
    ]
    return ReportSection("Ceilings", blocks, CEILINGS)


def retrieval_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate recalls and median ranks in both directions, one table per rule, with ceiling and chance below."""
    results, colors = inputs.results, inputs.colors
    lead = "Between validation images and all captions. Ties are in random order: a constant output scores chance."
    if counts := next(filter(None, (get_path(arm.metrics or {}, "captions/val") for arm in results.measured)), None):
        lead += f" Equal captions are one candidate: of {counts['n']:,} captions {counts['distinct']:,} differ."
    blocks = []
    for rule in results.rules:
        columns = [
            MetricColumn(f"{title} {name.replace('_', ' ')}", f"retrieval/val/{rule}/{{who}}/{way}/{name}", form)
            for way, title in WAYS.items()
            for name, form in RANKS.items()
        ]
        caption = f"Rule {rule}; recalls in per cent."
        grid = metric_table(f"retrieval-{rule}", results, colors, columns, caption, teacher=False)
        if isinstance(grid, TableBlock):
            below = tuple(
                (Cell(name, heading=True), Cell("", heading=True), *(c.cell(results.measured[0], who) for c in columns))
                for name, who in (("ceiling: the teacher", "ceiling"), ("chance", "chance"))
            )
            blocks.append(TableBlock(grid.name, grid.columns, grid.rows + below, grid.caption, reference_rows=2))
    return ReportSection("Retrieval", blocks or [empty_state("retrieval", "python cli.py evaluate")], lead)


def agreement_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate how closely each student reproduces its teacher's embeddings."""
    results, colors = inputs.results, inputs.colors
    all_bands = (get_path(arm.metrics or {}, "agreement/val/r2_bands") for arm in results.measured)
    bands = sorted(next(filter(None, all_bands), {}), key=lambda band: int(band.partition("-")[0]))
    rule = next(iter(results.rules), "")
    columns = [
        MetricColumn("R² raw", "agreement/val/r2_raw"),
        MetricColumn("R² whitened", "agreement/val/r2_whitened"),
        MetricColumn("cosine", "agreement/val/cosine"),
        MetricColumn("CKA", "agreement/val/cka"),
        MetricColumn("shared neighbors %", "agreement/val/neighbor_overlap/share", "%"),
        *(MetricColumn(f"same class, {split} %", f"zero_shot/{split}/{rule}/agreement", "%") for split in results.sets),
        *(MetricColumn(f"R² axes {band.replace('-', UNBROKEN)}", f"agreement/val/r2_bands/{band}") for band in bands),
    ]
    caption = (
        "On the validation images. R² whitened gives equal weight to all axes above the floor; "
        "the last columns are R² by band of axes, largest variance first."
    )
    lead = "How closely students reproduce their teacher’s embeddings."
    return ReportSection(
        "Agreement", [metric_table("agreement", results, colors, columns, caption, teacher=False)], lead
    )


def probe_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate probe accuracies, which need no text, and calibration errors."""
    results, colors = inputs.results, inputs.colors
    columns = [
        MetricColumn(f"{split} {title}", f"probes/{split}/{{who}}/{name}", form)
        for split in results.sets
        for name, title, form in (
            ("knn", "kNN %", "%"),
            ("linear", "linear probe %", "%"),
            ("calibration_error", "calibration error", ".3f"),
        )
    ]
    caption = (
        "Half of each class’s images train the probe, the others test it; features are standardized. "
        "Calibration: expected calibration error of the zero-shot softmax at the teacher’s temperature."
    )
    lead = "Classification from image embeddings alone, without text."
    return ReportSection("Probes", [metric_table("probes", results, colors, columns, caption)], lead)
