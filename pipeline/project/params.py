"""Read params.yaml: the file, then `--set`, then one section at a time, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.project.errors import UsageError, did_you_mean

ParamsDict = dict[str, Any]


class ParamsSection(BaseModel):
    """A section of params.yaml: frozen, and it refuses keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=ParamsSection)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as a string; this loader reads it as the number it is."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_params(path: Path, overrides: Sequence[str] = ()) -> ParamsDict:
    """Return the whole params file with `section.key=value` overrides applied.

    Raises:
        UsageError: no such file, not YAML, no mapping, or an override without `=`.
    """
    document = _load(path)
    for override in overrides:
        document = _override(document, override)
    return document


def parse_section(document: Mapping[str, Any], key: str, model: type[S], default: Any = None) -> S:
    """Return the section under a dotted key as its params class.

    Raises:
        UsageError: the section is missing and has no default, or does not fit its class.
    """
    return parse(lookup(document, key, default), key, model)


def lookup(document: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return what stands under a dotted key; without a default, a missing key is an error.

    Raises:
        UsageError: the key is missing; the message names the nearest one.
    """
    found: Any = document
    for name in key.split("."):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif default is not None:
            return default
        else:
            known = found.keys() if isinstance(found, Mapping) else ()
            raise UsageError(f"params: no key '{key}'{did_you_mean(name, map(str, known))}")
    return found


def parse(value: Any, key: str, model: type[S]) -> S:
    """Return a value as a params class, or say in one line what does not fit."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UsageError(_format_validation_error(error, key, model)) from None


def _load(path: Path) -> ParamsDict:
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  SafeLoader's child
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}. Pass --params FILE.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected sections (`embed:`, `distill:`, …), found {type(document).__name__}")
    return document


def _override(document: ParamsDict, override: str) -> ParamsDict:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {override}: expected section.key=value")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  SafeLoader's child
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: the value is not YAML") from None
    return _with(document, key.split("."), value)


def _with(node: Any, names: list[str], value: Any) -> ParamsDict:
    """Return a copy of a mapping with one leaf replaced; folders on the way are made."""
    node = node if isinstance(node, dict) else {}
    if len(names) == 1:
        return {**node, names[0]: value}
    return {**node, names[0]: _with(node.get(names[0]), names[1:], value)}


def _format_validation_error(error: ValidationError, key: str, model: type[BaseModel]) -> str:
    # A mistyped key is both unknown and missing: the unknown one says what to do about it.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    place = ".".join([key, *map(str, first["loc"])])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"params: unknown key '{place}'{did_you_mean(str(first['loc'][-1]), _fields(model))}{more}"
    if first["type"] == "missing":
        return f"params: '{place}' is required{more}"
    return f"params: '{place}': {first['msg'][:1].lower()}{first['msg'][1:]}, found {first['input']!r}{more}"


def _fields(model: type[BaseModel]) -> list[str]:
    """Return the field names of a params class and of the classes nested in it."""
    names = list(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _fields(field.annotation)
    return names
