"""Paths in object storage, without credentials.

A URL is stored in parameters, in `data/index/` and in messages, so it must not contain a secret: a URL with a user, a
password or a query (a signed URL) is refused. Credentials come from the environment, as each client library reads them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer
from pydantic_core import PydanticCustomError

PROTOCOLS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "https": "aiohttp",
    "http": "aiohttp",
}
"""Schemes of URLs, and the packages with which fsspec opens them."""
WEB = ("https", "http")
"""Web servers, which list folders as pages of links."""
READ_ONLY = (*WEB, "hf")
"""What nothing is put to: the Hub has no put on a condition, and each of its puts is a commit."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s'\"?]*)\?[^\s'\"]+")
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY|ACCOUNT_KEY|CONNECTION_STRING")
_SECRET_PART = re.compile(r"(?:AccountKey|SharedAccessSignature)=([^;]+)", re.IGNORECASE)
"""Secrets within a connection string of Azure."""
_SHORTEST_SECRET = 8
"""Minimum characters of a secret; a shorter value in the environment is more likely a word than a key."""


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder in object storage; `/`, `name`, `stem`, `suffix` and `parent` work as for a path."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def protocol(self) -> str:
        """Return the scheme."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """Return the last component."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Return the name without its extension."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """Return the extension of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """Return the parent folder."""
        return RemotePath(self.url.rpartition("/")[0])


def is_url(value: object) -> bool:
    """Return whether a text has a URL scheme."""
    return isinstance(value, str) and _SCHEME.match(value) is not None


def parse_url(value: str) -> RemotePath:
    """Return a URL as a path of object storage.

    Raises:
        ValueError: an unsupported scheme, no bucket or host, or a user, a password or a query.
    """
    scheme, _, rest = value.partition("://")
    if scheme not in PROTOCOLS:
        raise ValueError(f"a URL of {', '.join(PROTOCOLS)}")
    if "?" in value or "#" in value or "@" in rest.partition("/")[0]:
        raise ValueError("a URL without user, password or query: credentials come from the environment")
    if not rest.strip("/"):
        raise ValueError(f"a bucket or a host after {scheme}://")
    return RemotePath(f"{scheme}://{rest.strip('/')}")


def _parse_location(value: Any) -> Any:
    if not is_url(value):
        return value
    try:
        return parse_url(value)
    except ValueError as error:
        raise PydanticCustomError("bad_url", "expected {what}", {"what": str(error)}) from None


def _parse_remote(value: Any) -> Any:
    if not isinstance(value, RemotePath) and not is_url(value):
        raise PydanticCustomError("no_url", "expected a URL such as s3://bucket/folder")
    return _parse_location(value)


Location = Annotated[Path | RemotePath, BeforeValidator(_parse_location), PlainSerializer(str, return_type=str)]
"""A parameter that is a path of a file system, or a URL."""
RemoteLocation = Annotated[RemotePath, BeforeValidator(_parse_remote), PlainSerializer(str, return_type=str)]
"""A parameter that must be a URL."""


def redact(text: str) -> str:
    """Return a text without users, passwords and queries of URLs, and without secrets of the environment."""
    text = _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text))
    for secret in _secrets(os.environ):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield secrets of the environment or of a client's options, which may be nested: FSSPEC_S3='{"secret": …}'."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and _SECRET_NAME.search(name.upper()):
            yield from (value, *_SECRET_PART.findall(value))
        elif name.startswith("FSSPEC_"):
            with contextlib.suppress(json.JSONDecodeError):
                yield from _secrets({"options": json.loads(value)})
