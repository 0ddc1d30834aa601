"""What made these numbers."""

from __future__ import annotations

from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.page import Block, Cell, ReportSection, TableBlock


def provenance_section(inputs: ReportInputs) -> ReportSection:
    """Say which teacher, which versions and which commands made these numbers."""
    results = inputs.results
    store = next(iter(results.stores.values()), None)
    rows = []
    if store is not None:
        facts = {**store.manifest.teacher, **{f"version of {k}": v for k, v in store.manifest.versions.items()}}
        rows = [(Cell(name, heading=True), Cell(str(value))) for name, value in sorted(facts.items())]
    commands = [(Cell(arm.name, heading=True), Cell(arm.commands)) for arm in results.arms]
    blocks: list[Block] = [TableBlock("teacher", ("of the embeddings", ""), tuple(rows))] if rows else []
    blocks.append(TableBlock("commands", ("arm", "command"), tuple(commands)))
    return ReportSection(
        "Provenance", blocks, "What made these numbers: hover or tap a number for its file and its command."
    )
