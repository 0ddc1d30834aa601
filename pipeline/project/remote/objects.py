"""Access to object storage: list, read and put objects, with bounded retries.

fsspec and its clients are imported on first use (`clients`). Objects are read in ranges whose lengths are checked here,
because s3fs joins the ranges of a large object without a check, and a short response would leave zeros in it. An object
is put whole, under its final name, and never renamed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline.project.errors import RemoteError, UsageError
from pipeline.project.remote.clients import forget, info_options, open_client, range_options
from pipeline.project.remote.paths import READ_ONLY, WEB, RemotePath
from pipeline.project.remote.retries import RetryPolicy, retry, truncated_body
from pipeline.project.remote.web_pages import escape, list_pages

T = TypeVar("T")
PART_BYTES = 16 << 20
"""Size of a request; a larger object is read in parts."""
_REQUESTS = 16
"""Number of files of a web server that are asked for at once."""
_VERSIONS = (
    "generation",
    "ETag",
    "etag",
    "blob_id",
    "xet_hash",
    "Last-Modified",
    "LastModified",
    "mtime",
    "last_modified",
)
"""Keys in which servers report the version of an object, in order of preference.

`generation` is Google's number of an object's content, `blob_id` the Hub's hash of a file.
"""


class ObjectState(NamedTuple):
    """State of an object in a listing."""

    size: int
    version: str
    """ETag or modification time; '' if the server gives neither."""


class ObjectBytes(int):
    """Size of an object in object storage, or of a part of one, with its version."""

    version: str
    """ETag or modification time in the listing."""
    whole: int
    """Size of the whole object."""

    def __new__(cls, size: int, version: str = "", whole: int | None = None) -> ObjectBytes:
        """Return a number of bytes; of a whole object, unless `whole` is given."""
        made = super().__new__(cls, size)
        made.version, made.whole = version, size if whole is None else whole
        return made

    @property
    def state(self) -> ObjectState:
        """Return the listed state of the object."""
        return ObjectState(self.whole, self.version)


def part_of(listed: int, size: int) -> int:
    """Return the size of a part of a file; for an object, with its version."""
    return ObjectBytes(size, listed.version, listed.whole) if isinstance(listed, ObjectBytes) else size


@dataclass
class StorageSettings:
    """Timeouts and retries of this process."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)


SETTINGS = StorageSettings()


def object_state(path: RemotePath) -> ObjectState:
    """Return size and version of an object; raises FileNotFoundError, RemoteError."""
    return _state(_call(path, lambda system, name: system.info(name, **info_options(path.protocol))), path)


def list_objects(folder: RemotePath) -> dict[str, ObjectState]:
    """Return the objects below a folder by their names in it, sorted; empty if there is no such folder.

    Raises:
        NotADirectoryError: it is an object.
        RemoteError: it cannot be listed.
    """
    if folder.protocol in WEB:
        names = list_pages(folder, lambda page: _call(page, lambda system, name: system.ls(name, detail=False)))
        with ThreadPoolExecutor(_REQUESTS) as pool:  # pages have no sizes: each file is asked for
            return dict(zip(names, pool.map(_state_of_listed, (folder / name for name in names)), strict=True))
    try:
        listing, root = _call(
            folder, lambda system, name: (system.find(name, detail=True, refresh=True), name), listing=True
        )
    except FileNotFoundError:
        return {}
    root = root.rstrip("/")
    if root in listing:
        raise NotADirectoryError(errno.ENOTDIR, "is an object, expected a folder", str(folder))
    below = {name[len(root) + 1 :]: info for name, info in listing.items() if info.get("type") != "directory"}
    return {name: _state(info, folder / name) for name, info in sorted(below.items()) if name and name[-1] != "/"}


def read_range(path: RemotePath, offset: int, size: int) -> bytes:
    """Return exactly `size` bytes of an object; raises FileNotFoundError, RemoteError."""
    if not size:
        return b""

    def attempt(system: Any, name: str) -> bytes:
        data: bytes = system.cat_file(
            name, start=offset, end=offset + size, **range_options(path.protocol, offset + size)
        )
        if len(data) > size and path.protocol in READ_ONLY:
            raise RemoteError(
                f"{path}: the server answers with {len(data)} bytes where {size} from byte {offset} were asked for. "
                "Name a server that answers requests for ranges (`Accept-Ranges: bytes`), or download the files."
            )
        if len(data) != size:
            raise truncated_body(f"{len(data)} bytes instead of {size} from byte {offset}")
        return data

    return _call(path, attempt)


def read_parts(path: RemotePath, size: int) -> Iterator[bytes]:
    """Yield an object of this size in parts; raises FileNotFoundError, RemoteError."""
    for start in range(0, size, PART_BYTES):
        yield read_range(path, start, min(PART_BYTES, size - start))


def read_object(path: RemotePath, limit: int) -> bytes:
    """Return a whole object; raises FileNotFoundError, RemoteError, and OSError if it is longer than `limit`."""
    if (size := object_state(path).size) > limit:
        raise OSError(errno.EFBIG, f"{size} bytes, more than the {limit} that are read of it", str(path))
    return b"".join(read_parts(path, size))


def read_listed(path: RemotePath, size: int) -> bytes:
    """Return a whole object of the listed size in one request, or with its present size if that changed.

    One byte more than expected is requested. Raises FileNotFoundError, RemoteError.
    """
    if size > PART_BYTES or not size:
        return b"".join(read_parts(path, object_state(path).size))

    def attempt(system: Any, name: str) -> bytes:
        data: bytes = system.cat_file(name, start=0, end=size + 1, **range_options(path.protocol, size + 1))
        if len(data) != size and (there := system.info(name, **info_options(path.protocol))["size"]) == size:
            raise truncated_body(f"{len(data)} bytes instead of {there}")
        return data

    return _call(path, attempt)


def put_object(path: RemotePath, data: bytes) -> None:
    """Put an object, replacing an existing one; raises RemoteError."""
    _put(path, lambda system, name: system.pipe_file(name, data))


def put_file(source: Path, path: RemotePath) -> None:
    """Put a file as an object, in parts if it is large, and compare its size; raises RemoteError, OSError."""
    size = source.stat().st_size

    def attempt(system: Any, name: str) -> None:
        system.put_file(os.fspath(source), name)
        if (put := system.info(name)["size"]) != size:
            raise truncated_body(f"{put} bytes there after {size} were put")

    _put(path, attempt)


def create_object(path: RemotePath, data: bytes) -> bool:
    """Put an object if none of its name exists (`If-None-Match: *`); return whether it was put.

    If a response is lost after the object was put, the next attempt finds its own object. The existing content is
    therefore compared: `data` must be unique. Raises RemoteError.
    """
    try:
        _put(path, lambda system, name: system.pipe_file(name, data, mode="create"))
    except FileExistsError:
        return read_object(path, len(data) + PART_BYTES) == data
    return True


def delete_object(path: RemotePath) -> None:
    """Delete an object if it exists; raises RemoteError."""
    try:
        _call(path, lambda system, name: system.rm_file(name))
    except FileNotFoundError:
        return


def _put(path: RemotePath, attempt: Callable[[Any, str], object]) -> None:
    if path.protocol in READ_ONLY:
        raise UsageError(f"{path}: {path.protocol}:// is read only. Name a folder of object storage, such as s3://.")
    try:
        _call(path, attempt)
    except FileNotFoundError:
        raise RemoteError(f"{path}: no such bucket or container. Make it first.") from None


def _call(path: RemotePath, attempt: Callable[[Any, str], T], *, listing: bool = False) -> T:
    system = open_client(path.protocol, os.getpid(), SETTINGS.policy, listing)
    forget(path.protocol, system)
    name = escape(path.url) if path.protocol in WEB else system._strip_protocol(path.url)
    return retry(path, lambda: attempt(system, name), SETTINGS.policy)


def _state_of_listed(path: RemotePath) -> ObjectState:
    try:
        return object_state(path)
    except FileNotFoundError:
        raise RemoteError(f"{path}: its folder lists it, and the server does not have it. Remove it there.") from None


def _state(info: dict[str, Any], path: RemotePath) -> ObjectState:
    if info.get("type") == "directory":
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path))
    if not isinstance(size := info.get("size"), int):
        raise RemoteError(f"{path}: the server does not say how long it is. Name a server that does.")
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return ObjectState(size, version.strip('"'))
