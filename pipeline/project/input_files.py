"""Read input files: only regular files of a bounded size, read whole; YAML.

A pipe would block, /dev/zero never ends, and some files of /proc wait for the next event.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from pipeline.project.errors import UsageError
from pipeline.project.remote.objects import read_object
from pipeline.project.remote.paths import RemotePath

MAX_DOCUMENT_BYTES = 8 << 20
"""Limit for parameters, label lists and cards: ten times the longest known."""
MAX_CAPTIONS_BYTES = 4 << 30
"""Limit for captions and metadata tables: CC12M's have 2.5 GB."""
MAX_IMAGE_BYTES = 512 << 20
"""Limit for an image: the uncompressed size of the largest image that is decoded."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read_input(path: Path | RemotePath, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes, never more than it had when it was opened.

    Raises:
        OSError: no such file, no right to read it, no regular file, or a longer one; `strerror` says which.
        RemoteError: object storage denies access, or does not answer.
    """
    if isinstance(path, RemotePath):
        return read_object(path, limit)
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        _require_regular(status, path)
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes, more than the {limit} that are read of it", str(path))
        data = file.read(status.st_size)
        while len(data) < status.st_size and (more := file.read(status.st_size - len(data))):
            data += more  # Linux reads at most 2 GB at once
        return data


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for a writer of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def require_regular(path: Path) -> None:
    """Refuse a path that a library will open itself, unless it is a regular file.

    Raises:
        OSError: no such file, or not a regular one; `strerror` says which.
    """
    _require_regular(path.stat(), path)


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"{what}, expected a regular file", str(path))


MAX_NODES = 100_000
"""Values in a document with expanded aliases: ten times the longest list of class names."""
_BOOL, _INT, _FLOAT, _NULL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null", "merge"))
_SURROGATES = re.compile("[\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without tags, dates, octal and sexagesimal numbers, and with `1e-3` as a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  a class's own table, filled below

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse tags such as `!!int`."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _refusal(event, f"a tag ({event.tag}): write the value alone")
        return super().compose_node(parent, index)


_WHOLE = r"[-+]?(?:0|[1-9][0-9_]{0,30})"
_REAL = r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
for _tag, _form, _first in (
    (_BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (_INT, _WHOLE, "-+0123456789"),
    (_FLOAT, _REAL, "-+.0123456789"),
    (_FLOAT, r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_MERGE, r"<<", "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_form})$"), list(_first))


def is_number(value: Any) -> bool:
    """Return whether a value is a number, or text that is read as a number here: other tools write `'1e-05'`."""
    if isinstance(value, str):
        return re.fullmatch(f"{_WHOLE}|{_REAL}", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML document; `where` begins each message.

    Raises:
        UsageError: not YAML, a tag, a key that stands twice, a character that no name can have, or too much of it.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _measure(node, {})
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: not YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise UsageError(f"{where}: lists or mappings are nested too deeply") from None


def _measure(node: Any, counts: dict[int, int | None]) -> int:
    """Return the number of values in a node, with expanded aliases.

    Raises:
        MarkedYAMLError: more than MAX_NODES, a node within itself, a duplicate key, NUL or a surrogate.
    """
    if node is None:
        return 0
    if isinstance(node, yaml.ScalarNode):
        if "\0" in node.value or _SURROGATES.search(node.value):
            raise _refusal(node, "text with a NUL or half a surrogate pair")
        return 1
    if id(node) in counts:
        if (size := counts[id(node)]) is None:
            raise _refusal(node, "an alias of what it stands in")
        return size
    counts[id(node)] = None
    children = node.value
    if isinstance(node, yaml.MappingNode):
        _refuse_twice(node)
        children = [child for pair in node.value for child in pair]
    size = 1 + sum(_measure(child, counts) for child in children)
    if size > MAX_NODES:
        raise _refusal(node, f"more than {MAX_NODES} values, aliases written out")
    counts[id(node)] = size
    return size


def _refuse_twice(node: yaml.MappingNode) -> None:
    keys: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal(key, "a key that is a list or a mapping")
        if key.value in keys and key.tag != _MERGE:
            raise _refusal(key, f"the key '{key.value[:80]}' stands twice")
        keys.add(key.value)


def _refusal(node: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, what, node.start_mark)
