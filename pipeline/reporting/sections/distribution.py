"""Normality and likelihood, with the images of the highest and the lowest likelihood."""

from __future__ import annotations

from pipeline.evaluation.csv_tables import CsvTable, column
from pipeline.reporting.inputs import Album, ReportInputs
from pipeline.reporting.metric_tables import empty_state, format_number, get_path, percent, provenance
from pipeline.reporting.page import Block, Cell, FigureBlock, ImageBlock, ReportSection, TableBlock
from pipeline.reporting.plots import quantiles

TESTED = {
    "teacher": "images, teacher",
    "texts": "captions, teacher",
    "student": "images, student",
    "gaussian": "Gaussian rows, same transform",
}
RATES = {
    "ad_rejected": "Anderson–Darling rejects %",
    "k2_rejected": "D’Agostino–Pearson rejects %",
    "fdr_rejected": "rejected at FDR 5 %",
    "ad_rejected_projections": "random directions rejected %",
    "group_means_pass": "group means pass %",
}
LIKELIHOOD = {
    "axes": ("axes", ".0f"),
    "mean": ("mean ln p(x)", ".1f"),
    "mean_over_k": ("E‖y‖²/k", ".3f"),
    "expected_over_k": ("if Gaussian", ".3f"),
    "radius_sd": ("sd of ‖y‖, Gaussian 0.71", ".2f"),
    "mardia": ("Mardia, Gaussian 1", ".2f"),
    "ks": ("KS distance", ".3f"),
}


def normality_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate rejection rates, next to the nominal five per cent and a Gaussian null."""
    arm = inputs.best
    metrics = get_path((arm.metrics if arm else None) or {}, "normality/val")
    if arm is None or not metrics:
        return ReportSection("Normality", [empty_state("tests of normality", "python cli.py evaluate")])
    rows = []
    for who, title in TESTED.items():
        if who in metrics:
            origin, numbers = provenance(arm, f"normality/val/{who}"), metrics[who]
            effects = [format_number(numbers[name]["q50"], ".2f") for name in ("skew", "excess_kurtosis")]
            texts = [*(percent(numbers[rate]) for rate in RATES), *effects]
            rows.append((Cell(title, heading=True), *(Cell(text, origin) for text in texts)))
    first = next(iter(metrics.values()))
    caption = (
        f"Whitened held-out rows, groups of {first['group_rows']} rows ({first['groups']}) and every dimension; "
        "nominal rate 5 %. “Group means pass” is the published rule, which t-distributed rows pass too."
    )
    columns = ("rows", *RATES.values(), "median |skew|", "median excess kurtosis")
    blocks: list[Block] = [
        TableBlock("normality", columns, tuple(rows), caption, reference_rows=int("gaussian" in metrics))
    ]
    lead = "Are whitened embeddings Gaussian? Rejection rates of tests, next to those for Gaussian rows."
    return ReportSection("Normality", blocks, lead)


def likelihood_section(inputs: ReportInputs) -> ReportSection:
    """Tabulate held-out likelihood and the distribution of norms; show the most and the least likely images."""
    arm = inputs.best
    metrics = get_path((arm.metrics if arm else None) or {}, "likelihood/val")
    if arm is None or not metrics:
        return ReportSection("Likelihood", [empty_state("likelihood", "python cli.py evaluate")])
    rows = []
    for kind, title in (("images", "images"), ("texts", "captions")):
        numbers = metrics.get(kind, {})
        if numbers:
            origin = provenance(arm, f"likelihood/val/{kind}")
            texts = [
                format_number(numbers[name], form) if name in numbers else "" for name, (_, form) in LIKELIHOOD.items()
            ]
            rows.append((Cell(title, heading=True), *(Cell(text, origin) for text in texts)))
    apart = ", ".join(f"{name} {value:.2f}" for name, value in metrics.get("auroc", {}).items())
    caption = f"AUROC of val against another set, by likelihood: {apart or 'no other set'}."
    columns = ("held-out", *(title for title, _ in LIKELIHOOD.values()))
    blocks: list[Block] = [TableBlock("likelihood", columns, tuple(rows), caption)]
    panels = [
        quantiles(f"norm of whitened {kind}", *_columns(table), "expected if Gaussian", "observed")
        for kind, name in (("images", "val-radius"), ("captions", "val-radius-texts"))
        if (table := arm.table(name)) and all(column(table, "expected"))
    ]
    if panels:
        blocks.append(FigureBlock(tuple(panels)))
    extremes = arm.table("val-likelihood")
    album = inputs.album("val", column(extremes, "key")) if extremes else None
    if extremes and album:
        blocks += _extremes(extremes, album)
    lead = "Log-likelihood of held-out rows under the Gaussian of train: whitened norm and log-determinant."
    return ReportSection("Likelihood", blocks, lead)


def _extremes(table: CsvTable, album: Album) -> list[Block]:
    """Show both ends of each kind's list; each list is sorted, most likely first."""
    blocks: list[Block] = []
    for kind, named in (("image", "images"), ("text", "captions")):
        rows = [row for row in table.rows if row[0] == kind]
        half = len(rows) // 2
        for end, half_rows in (("Most", rows[:half]), ("Least", rows[half:][::-1])):
            tiles = [
                album.tile(row[1], album.caption(row[1], row[2]), f"ln p {float(row[3]):.0f}") for row in half_rows
            ]
            blocks.append(ImageBlock(tuple(tile for tile in tiles if tile), f"{end} likely {named}"))
    return blocks


def _columns(table: CsvTable) -> tuple[list[float], list[float]]:
    expected, observed = ([float(text) for text in column(table, name)] for name in ("expected", "observed"))
    return expected, observed
