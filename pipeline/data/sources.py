"""Every kind of source, by the name that stands in `source:`."""

from __future__ import annotations

from typing import Any

from pipeline.data.cifar import Cifar
from pipeline.data.class_folders import ClassFolder
from pipeline.data.coco import Coco
from pipeline.data.drawn import Drawn
from pipeline.data.karpathy import Karpathy
from pipeline.data.reading import Source
from pipeline.data.several import Several
from pipeline.data.tables import Images, Table
from pipeline.data.tars import Tars
from pipeline.project.errors import UsageError, nearest
from pipeline.project.params import parse

SOURCES: dict[str, type[Source]] = {
    "sample": Drawn,
    "coco": Coco,
    "karpathy": Karpathy,
    "tars": Tars,
    "table": Table,
    "images": Images,
    "class-folder": ClassFolder,
    "cifar": Cifar,
    "several": Several,
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
    if kind == "several" and isinstance(value.get("sources"), dict):
        parts = {str(name): parse_source(part, f"{key}.sources.{name}") for name, part in value["sources"].items()}
        value = {**value, "sources": parts}
    return parse(value, key, SOURCES[kind])
