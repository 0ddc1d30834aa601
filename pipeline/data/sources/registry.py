"""Every kind of source, by its name in `source:`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pipeline.data.sources.base import Source
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.params import parse

# Imported by name: `dvc repro` starts `index` once per split, and each split needs only one source.
SOURCES = {
    "sample": "synthetic:SyntheticSource",
    "coco": "coco:Coco",
    "karpathy": "karpathy:Karpathy",
    "tars": "webdataset:WebDatasetSource",
    "table": "folders:CaptionTableSource",
    "images": "folders:ImageFolderSource",
    "class-folder": "folders:LabeledImageFolder",
    "cifar": "cifar:Cifar",
    "several": "composite:CompositeSource",
    "choices": "choice_table:ChoiceTable",
    "swaps": "caption_swaps:CaptionSwaps",
}


def parse_source(value: Any, key: str) -> Source:
    """Return a split's source as an instance of its class.

    Raises:
        UsageError: no such kind of source, or invalid keys or values.
    """
    kind = value.get("source") if isinstance(value, dict) else None
    kinds = ", ".join(SOURCES)
    if not isinstance(kind, str):
        raise UsageError(f"params: '{key}': expected {{source: …, …}} with one of {kinds}, found {value!r}")
    if kind not in SOURCES:
        raise UsageError(f"params: '{key}.source': no source '{kind}'{did_you_mean(kind, SOURCES)} (known: {kinds})")
    if kind == "several" and isinstance(value.get("sources"), dict):
        parts = {str(name): parse_source(part, f"{key}.sources.{name}") for name, part in value["sources"].items()}
        _refuse_nested(parts, key)
        value = {**value, "sources": parts}
    if kind == "swaps" and isinstance(value.get("of"), dict):
        value = {**value, "of": parse_source(value["of"], f"{key}.of")}
    return parse(value, key, _source_class(kind))


def _refuse_nested(parts: Mapping[str, Source], key: str) -> None:
    """Refuse caption files inside one of several sources, because keys are those of the whole split."""
    if name := next((name for name, part in parts.items() if part.caption_files), None):
        raise UsageError(
            f"params: '{key}.sources.{name}.caption_files': expected at '{key}.caption_files', with images named by "
            f"their keys, which begin with '{name}/'"
        )


def _source_class(kind: str) -> type[Source]:
    module, _, name = SOURCES[kind].partition(":")
    source: type[Source] = getattr(import_module(f"pipeline.data.sources.{module}"), name)
    return source
