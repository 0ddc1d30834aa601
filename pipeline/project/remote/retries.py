"""Retries of failed requests to object storage: which errors, how often, after which pauses."""

from __future__ import annotations

import errno
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline.project.errors import RemoteError
from pipeline.project.remote.paths import RemotePath, redact

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Number of attempts, timeouts and pauses."""

    attempts: int = 6
    first_pause_seconds: float = 0.2
    """Pause before the second attempt; each later pause is twice as long, up to the longest."""
    longest_pause_seconds: float = 10.0
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    """Timeout without data."""

    def pauses(self) -> Iterator[float]:
        """Yield the pauses between attempts, each shortened randomly by up to a half, to spread the load of clients."""
        for number in range(self.attempts - 1):
            pause = min(self.first_pause_seconds * 2**number, self.longest_pause_seconds)
            yield pause * (0.5 + secrets.randbelow(512) / 1024)


def truncated_body(what: str) -> OSError:
    """Return the transient error for a response of the wrong length."""
    return OSError(errno.EIO, what)


_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("botocore.parsers", "ResponseParserError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("huggingface_hub.errors", "HfHubHTTPError"),
    ("httpx", "HTTPError"),
)
"""Exceptions of client libraries that are not OSError; only those of imported libraries can be raised."""
_PASSING = {
    "HTTPClientError",
    "ConnectionError",
    "IncompleteReadError",
    "FlexibleChecksumError",
    "ResponseParserError",
    "ClientConnectionError",
    "ClientPayloadError",
    "TransportError",
    "ServiceRequestError",
    "ServiceResponseError",
}
"""Transient exceptions of these libraries."""
_FINAL_ERRNO = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOENT, errno.EMSGSIZE}
_TRY_AGAIN = {408, 425, 429, *range(500, 600)}
"""Transient HTTP status codes."""


def client_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that the imported client libraries can raise."""
    loaded = ((sys.modules.get(module), name) for module, name in _CLIENTS)
    return (OSError, *(getattr(module, name) for module, name in loaded if hasattr(module, name)))


def is_transient(error: BaseException) -> bool:
    """Return whether an attempt that failed with this error may succeed later."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | NotADirectoryError):
        return False
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(status, int):
        return status in _TRY_AGAIN
    if isinstance(error, OSError):
        return error.errno not in _FINAL_ERRNO
    return bool(_PASSING & {kind.__name__ for kind in type(error).__mro__})


def retry(path: RemotePath, attempt: Callable[[], T], policy: RetryPolicy) -> T:
    """Return the result of an attempt, repeated while its errors are transient.

    Raises:
        FileNotFoundError: no such object.
        FileExistsError: it was to be created, and exists.
        RemoteError: access is denied, the error is not transient, or the last attempt failed.
    """
    begin, pauses = time.monotonic(), policy.pauses()
    while True:
        try:
            return attempt()
        except client_errors() as raised:
            error = _failure(raised)
            pause = next(pauses, None) if is_transient(error) else None
            if pause is None:
                raise _final(path, error, policy.attempts, time.monotonic() - begin) from None
        time.sleep(pause)


def _failure(error: BaseException) -> BaseException:
    """Return what failed: fsspec reports a web server that cannot answer now as a missing file, with the cause."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    return cause if cause is not None and is_transient(cause) else error


def _final(path: RemotePath, error: BaseException, attempts: int, seconds: float) -> Exception:
    """Return the final error: one line, without text of the server, which may contain a credential."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return FileNotFoundError(errno.ENOENT, "no such object", str(path))
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "is there already", str(path))
    if isinstance(error, PermissionError) or type(error).__name__ in ("NoCredentialsError", "GoogleAuthError"):
        what = "access denied" if isinstance(error, PermissionError) else "no credentials"
        return RemoteError(f"{path}: {what}: {_reason(error)}. Credentials come from the environment: docs/data.md.")
    if is_transient(error):
        return RemoteError(
            f"{path}: gave up after {attempts} attempts in {seconds:.1f} s, the last: {_reason(error)}. "
            "Run the same command again: what is finished is kept."
        )
    return RemoteError(f"{path}: refused: {_reason(error)}.")


def _reason(error: BaseException) -> str:
    text = " ".join(redact(getattr(error, "strerror", None) or str(error)).split())
    return f"{type(error).__name__} ({text[:160]})" if text else type(error).__name__
