"""Read params.yaml: the file, then `--set`, then one validated section at a time; the section `runtime:`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator
from pydantic_core import PydanticCustomError

from pipeline.project.errors import UsageError, did_you_mean
from pipeline.project.input_files import MAX_DOCUMENT_BYTES, is_number, read_input, read_yaml
from pipeline.project.remote.paths import RemoteLocation, redact

ParamsDict = dict[str, Any]


class ParamsSection(BaseModel):
    """A section of params.yaml: frozen; refuses unknown keys, infinite numbers, and text or `true` as numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_kind(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Refuse values that pydantic would convert to a number or boolean from another type."""
        parsed = handler(value)
        _refuse_converted(value, parsed)
        return parsed


def renamed(former: str, **options: Any) -> Any:
    """Return a pydantic field for a renamed key.

    The former name is an error that names the new one. Fingerprints and cards use the former name, so that existing
    results are found.
    """
    return Field(serialization_alias=former, **options)


S = TypeVar("S", bound=ParamsSection)
MAX_DEPTH = 20
"""Maximum number of names in a dotted key."""
MAX_WHOLE = 1 << 53
"""Largest integer: beyond it, floats are not exact, and counters overflow."""
MAX_SHOWN = 120
"""Characters of a wrong value in a message."""


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
    """Return the value of a dotted key; without a default, a missing key is an error.

    Raises:
        UsageError: the key is missing; the message names the nearest one.
    """
    value: Any = document
    for name in key.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif default is not None:
            return default
        else:
            names = value.keys() if isinstance(value, Mapping) else ()
            raise UsageError(f"params: no key '{key}'{did_you_mean(name, map(str, names))}")
    return value


def parse(value: Any, key: str, model: type[S]) -> S:
    """Return a value as an instance of a params class, or raise UsageError with one line about the mismatch."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UsageError(_format_validation_error(error, key, model)) from None


def _load(path: Path) -> ParamsDict:
    try:
        text = read_input(path, MAX_DOCUMENT_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}. Pass --params FILE.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}. Pass --params FILE.") from None
    document = read_yaml(text, str(path))
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected sections (`embed:`, `distill:`, …), found {type(document).__name__}")
    return document


def _override(document: ParamsDict, override: str) -> ParamsDict:
    key, equals, text = override.partition("=")
    names = key.split(".")
    if not equals or not all(names) or len(names) > MAX_DEPTH:
        raise UsageError(f"--set {override[:80]}: expected section.key=value")
    return _with(document, names, read_yaml(text, f"--set {override[:80]}"))


def _with(node: Any, names: list[str], value: Any) -> ParamsDict:
    """Return a copy of a mapping with one leaf replaced; intermediate mappings are created."""
    node = node if isinstance(node, dict) else {}
    if len(names) == 1:
        return {**node, names[0]: value}
    return {**node, names[0]: _with(node.get(names[0]), names[1:], value)}


def _format_validation_error(error: ValidationError, key: str, model: type[BaseModel]) -> str:
    # A mistyped key is both unknown and missing; the message about the unknown key is more useful.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    place = ".".join([key, *map(str, first["loc"])])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden" and (now := _new_name(model, first["loc"])):
        return f"params: '{place}' is called '{now}' now{more}"
    if first["type"] == "extra_forbidden":
        return f"params: unknown key '{place}'{did_you_mean(str(first['loc'][-1]), _fields(model))}{more}"
    if first["type"] == "missing":
        return f"params: '{place}' is required{more}"
    return f"params: '{place}': {first['msg'][:1].lower()}{first['msg'][1:]}, found {shown(first['input'])}{more}"


def shown(value: Any) -> str:
    """Return a value for a message: its repr without credentials of a URL, truncated."""
    text = redact(repr(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _refuse_converted(value: Any, parsed: Any) -> None:
    if isinstance(value, list | tuple) and isinstance(parsed, list | tuple):
        for one, other in zip(value, parsed, strict=False):
            _refuse_converted(one, other)
    elif isinstance(parsed, bool):
        if not isinstance(value, bool):
            raise PydanticCustomError("not_a_bool", "expected true or false")
    elif isinstance(parsed, int | float) and not is_number(value):
        raise PydanticCustomError("not_a_number", "expected a number")
    elif isinstance(parsed, int) and abs(parsed) > MAX_WHOLE:
        raise PydanticCustomError("too_large", "expected a number that a computer counts to")


def _new_name(model: type[BaseModel], location: Sequence[int | str]) -> str | None:
    """Return the present name of a renamed key, if it was renamed."""
    for name in location[:-1]:
        inner = model.model_fields[name].annotation if name in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    aliases = {field.serialization_alias: name for name, field in model.model_fields.items()}
    return aliases.get(str(location[-1]))


def _fields(model: type[BaseModel]) -> list[str]:
    """Return the field names of a params class and of the classes nested in it."""
    names = list(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _fields(field.annotation)
    return names


Verify = Literal["hash", "size"]


class Runtime(ParamsSection):
    """The `runtime:` section."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, …"""
    workers: int = Field(default=2, ge=0)
    """Processes or threads that decode images; 0: decode in the main one."""
    batch: int = Field(default=256, ge=1)
    """Batch size of inference. Recorded in the manifests."""
    teacher_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Batch size of the teacher in a new store; `auto`: found by measurement. Default: `batch`."""
    verify: Verify = "hash"
    """Check of a shard before its first row is used."""
    scheduler: str | None = None
    """Address of a Dask scheduler (`tcp://host:8786`) for pack, embed and moments."""
    remote: RemoteLocation | None = None
    """URL of a folder in object storage through which machines share finished shards of embeddings."""

    @property
    def requested_teacher_batch(self) -> int | None:
        """Return the teacher's batch size, or None if it is to be measured."""
        return None if self.teacher_batch == "auto" else self.teacher_batch or self.batch
