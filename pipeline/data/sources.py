"""Every kind of source, by the name that stands in `source:`."""

from __future__ import annotations

from typing import Any

from pipeline.data.class_folders import ClassFolder
from pipeline.data.coco import Coco
from pipeline.data.drawn import Drawn
from pipeline.data.reading import Source
from pipeline.project.errors import UsageError, nearest
from pipeline.project.params import parse

SOURCES: dict[str, type[Source]] = {
    "sample": Drawn,
    "coco": Coco,
    "class-folder": ClassFolder,
}


def parse_source(value: Any, key: str) -> Source:
    """Return a split's source as its params class.

    Raises:
        UsageError: no such kind of source, or keys and values that do not fit it.
    """
    kind = value.get("source") if isinstance(value, dict) else None
    known = ", ".join(SOURCES)
    if not isinstance(kind, str):
        raise UsageError(f"params: '{key}': expected {{source: …, …}} with one of {known}, found {value!r}")
    if kind not in SOURCES:
        raise UsageError(f"params: '{key}.source': no source '{kind}'{nearest(kind, SOURCES)} (known: {known})")
    return parse(value, key, SOURCES[kind])
