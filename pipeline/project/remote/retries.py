"""Retries of failed requests to object storage: which errors, how often, after which pauses."""

from __future__ import annotations

import errno
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline.project.errors import RemoteError
from pipeline.project.remote.paths import WEB, RemotePath, redact

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


_ADVICE = {
    "s3": "Credentials come from the environment (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    "gs": "Credentials come from the environment (GOOGLE_APPLICATION_CREDENTIALS=FILE)",
    "az": "Credentials come from the environment (AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY; for public containers the name and AZURE_STORAGE_ANON=true)",
    "hf": "Credentials come from the environment (HF_TOKEN)",
    "https": "Credentials for web servers are not supported: name a server that is public",
}
CREDENTIALS = {name: f"{text}: docs/data.md." for name, text in {**_ADVICE, "http": _ADVICE["https"]}.items()}
"""What to do where access is denied, by protocol."""

_CLIENTS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("botocore.parsers", "ResponseParserError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("huggingface_hub.errors", "HfHubHTTPError"),
    ("httpx2", "HTTPError"),
    ("builtins", "ValueError"),
    ("builtins", "NotImplementedError"),
)
"""Exceptions of client libraries that are not OSError; only those of imported libraries can be raised.

ValueError and NotImplementedError are how gcsfs and the Hub's client refuse a name.
"""
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
    "JSONDecodeError",
}
"""Transient exceptions of these libraries."""
_FINAL_ERRNO = {errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOENT, errno.EMSGSIZE}
_TRY_AGAIN = {408, 425, 429, *range(500, 600)}
"""Transient HTTP status codes."""
_DENIED, _MISSING = {401, 403, 407}, {404, 410}
_NO_CREDENTIALS = {"NoCredentialsError", "GoogleAuthError", "DefaultCredentialsError", "ClientAuthenticationError"}
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
"""OpenSSL's word, which every client repeats in its own exception."""
_NO_REPOSITORY = re.compile(r"\((repository not found|revision not found|invalid repository id)\)")
"""What the Hub's client says of a repository, public or not, that a token gives no access to."""


def client_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that the imported client libraries can raise."""
    loaded = ((sys.modules.get(module), name) for module, name in _CLIENTS)
    return (OSError, *(getattr(module, name) for module, name in loaded if hasattr(module, name)))


def is_transient(error: BaseException) -> bool:
    """Return whether an attempt that failed with this error may succeed later."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | NotADirectoryError):
        return False
    if _UNTRUSTED in str(error) or _is_denied(error):
        return False
    if (status := _status(error)) is not None:
        return status in _TRY_AGAIN
    if isinstance(error, OSError):
        return error.errno not in _FINAL_ERRNO
    return _is_passing(error)


def _is_passing(error: BaseException) -> bool:
    """Return whether a client's exception is transient by its class; Google's have an attribute that says it too."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(_PASSING & names) or getattr(error, "retryable", None) is True


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of a client's exception, if it has one."""
    places = (error, getattr(error, "response", None))
    found = (getattr(place, name, None) for place in places for name in ("status", "status_code", "code"))
    return next((status for status in found if isinstance(status, int) and status), None)


def _is_denied(error: BaseException) -> bool:
    """Return whether the server knows no credentials, or not enough; gcsfs has an OSError without a status for it.

    An interrupted request for a token is neither, although Google's exception for it is a GoogleAuthError.
    """
    if _is_passing(error):
        return False
    kinds = {kind.__name__ for kind in type(error).__mro__}
    forbidden = type(error) is OSError and str(error).startswith("Forbidden")
    return forbidden or bool(kinds & {"PermissionError", *_NO_CREDENTIALS}) or _status(error) in _DENIED


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
            error = _failure(path, raised)
            pause = next(pauses, None) if is_transient(error) else None
            if pause is None:
                raise _final(path, error, policy.attempts, time.monotonic() - begin) from None
        time.sleep(pause)


def _failure(path: RemotePath, error: BaseException) -> BaseException:
    """Return what failed: fsspec reports all that a web server answers as a missing file, with the cause."""
    cause = error.__cause__ if path.protocol in WEB and isinstance(error, FileNotFoundError) else None
    if cause is None or isinstance(cause, FileNotFoundError) or not isinstance(cause, client_errors()):
        return error
    return error if _status(cause) in _MISSING else cause


def _final(path: RemotePath, error: BaseException, attempts: int, seconds: float) -> Exception:
    """Return the final error: one line, without text of the server, which may contain a credential."""
    if (absent := _NO_REPOSITORY.search(str(error))) is not None:
        return RemoteError(f"{path}: {absent[1]}, or no access to it. {CREDENTIALS[path.protocol]}")
    if isinstance(error, FileNotFoundError | NotADirectoryError) or _status(error) in _MISSING:
        return FileNotFoundError(errno.ENOENT, "no such object", str(path))
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, "is there already", str(path))
    if is_transient(error):
        return RemoteError(
            f"{path}: gave up after {attempts} attempts in {seconds:.1f} s, the last: {_reason(error)}. "
            "Run the same command again: what is finished is kept."
        )
    return RemoteError(f"{path}: {_refusal(path, error)}")


def _refusal(path: RemotePath, error: BaseException) -> str:
    """Return what was refused, and what to do about it if that is known."""
    if _UNTRUSTED in str(error):
        advice = "SSL_CERT_FILE=FILE names the certificates to trust, for s3:// AWS_CA_BUNDLE=FILE."
        return f"the server's certificate is not trusted: {_reason(error)}. {advice}"
    if not _is_denied(error):
        return f"refused: {_reason(error)}."
    missing = _NO_CREDENTIALS & {kind.__name__ for kind in type(error).__mro__}
    return f"{'no credentials' if missing else 'access denied'}: {_reason(error)}. {CREDENTIALS[path.protocol]}"


def _reason(error: BaseException) -> str:
    """Return an exception's name and its first line, in which all clients say what failed."""
    lines = redact(getattr(error, "strerror", None) or str(error)).strip().splitlines()
    text = " ".join(lines[0].split()) if lines else ""
    return f"{type(error).__name__} ({text[:160]})" if text else type(error).__name__
