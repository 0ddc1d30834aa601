"""Named runs side by side in one picture: how each learned."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.evaluation.csv_tables import column
from pipeline.reporting.comparison.plots import standalone_svg
from pipeline.reporting.palette import palette
from pipeline.reporting.plots import Curve, curves
from pipeline.reporting.results import ArmResults

CURVES = {
    "zero_shot": "zero-shot top-1 while learning",
    "val_nmse": "NMSE on val while learning, each run in its own target space",
}
"""What histories hold that runs can be held against each other by, the better first."""


def draw_runs(runs: Mapping[str, ArmResults]) -> str | None:
    """Return an SVG of its own with a line for each run, by the first of `CURVES` that all runs have.

    A run has its target space's color, a second one of the same space a free color. The ceiling and chance are drawn
    where all runs were watched on one set. None where no such column is in all histories.
    """
    name = next((name for name in CURVES if all(_curve(key, run, name) for key, run in runs.items())), None)
    if name is None or not runs:
        return None
    drawn = [curve for key, run in runs.items() if (curve := _curve(key, run, name))]
    colors = palette({key: run.target for key, run in runs.items()}, ())
    watched = {((run.card or {}).get("training") or {}).get("watch") for run in runs.values()}
    numbers = (run.zero_shot(str(split), "clip") for split in watched for run in runs.values() if len(watched) == 1)
    limits = next(filter(None, numbers), None) if name == "zero_shot" else None
    ends = {key: limits[key] for key in ("ceiling", "chance")} if limits else {}
    on = f" on {watched.pop()}" if limits else ""
    return standalone_svg(curves(f"{CURVES[name]}{on}", drawn, colors, marker="o", percent=name == "zero_shot", **ends))


def _curve(key: str, run: ArmResults, name: str) -> Curve | None:
    history = run.history
    if history is None or name not in history.columns:
        return None
    pairs = zip(column(history, "epoch"), column(history, name), strict=True)
    points = [(float(epoch), float(value)) for epoch, value in pairs if epoch and value]
    return Curve(key, *map(list, zip(*points, strict=True))) if points else None
