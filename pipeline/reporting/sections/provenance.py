"""What made these numbers."""

from __future__ import annotations

from cache.manifest import read_manifest
from cache.teachers import teacher_folders
from pipeline.reporting.inputs import ReportInputs
from pipeline.reporting.page import Block, Cell, ReportSection, TableBlock


def provenance_section(inputs: ReportInputs) -> ReportSection:
    """Say which teacher, which versions and which commands made these numbers."""
    results = inputs.results
    store = next(iter(results.stores.values()), None)
    blocks: list[Block] = []
    for name, folder in (teacher_folders(store.folder) if store else {}).items():
        manifest = read_manifest(folder)
        facts = {**manifest.teacher, **{f"version of {k}": v for k, v in manifest.versions.items()}}
        rows = [(Cell(key, heading=True), Cell(str(value))) for key, value in sorted(facts.items())]
        title = f"of the embeddings by {name}" if name else "of the embeddings"
        blocks.append(TableBlock(f"teacher-{name}" if name else "teacher", (title, ""), tuple(rows)))
    commands = [(Cell(arm.name, heading=True), Cell(arm.commands)) for arm in results.arms]
    blocks.append(TableBlock("commands", ("arm", "command"), tuple(commands)))
    return ReportSection(
        "Provenance", blocks, "What made these numbers: hover or tap a number for its file and its command."
    )
