"""Clients of object storage, one for each protocol and process, opened by fsspec. The only module that imports fsspec.

Each client has its own ways to wait, to repeat a request and to remember what it has seen. Here they are set to one:
timeouts of the policy, repetition by `retry` alone (but for listings, whose pages are repeated one by one), and nothing
remembered between two requests, because what another process has replaced must be seen.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any, TypeVar

from pipeline.project.errors import RemoteError, UsageError
from pipeline.project.remote.paths import PROTOCOLS, WEB, redact
from pipeline.project.remote.retries import CREDENTIALS, RetryPolicy, client_errors, is_transient

T = TypeVar("T")
_LOGGERS = ("gcsfs", "azure", "adlfs")
"""Clients that print a traceback or a page of advice for each failed request; the error of `retry` is one line."""
_PAGE_PAUSES_SECONDS = (1, 3)
"""Pauses before a page of a listing is asked for again; clients of Azure and Google have up to 40 s by default."""


@cache
def open_client(protocol: str, _process: int, policy: RetryPolicy, listing: bool) -> Any:
    """Return the client of a protocol, one per process, because a fork must not use its parent's connections.

    The client for listings retries failed pages; for others `retry` does, which also covers bodies.

    Raises:
        UsageError: its package is not installed.
        RemoteError: the environment does not say how to connect.
    """
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Otherwise gcsfs asks for the type of a bucket before each request, with credentials that public buckets lack.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    package = PROTOCOLS[protocol]
    try:
        import fsspec

        system = fsspec.filesystem(protocol, **_options(protocol, policy, listing))
    except ImportError:
        raise UsageError(
            f"{protocol}://: needs the package {package}, which is not installed: pip install {package}"
        ) from None
    except ValueError as error:  # adlfs: neither an account nor a connection string, or a malformed one
        reason = " ".join(redact(str(error)).split())
        raise RemoteError(f"{protocol}://: no credentials: {reason}. {CREDENTIALS[protocol]}") from None
    _adjust(protocol, system, listing)
    return system


def info_options(protocol: str) -> dict[str, Any]:
    """Return how to ask for the state of an object: the Hub's client leaves out its version otherwise."""
    return {"refresh": True, "expand_info": True} if protocol == "hf" else {}


def range_options(protocol: str, end: int) -> dict[str, Any]:
    """Return how to read up to an end: the Hub's client lists the whole folder of a file to find out its size."""
    return {"size": end, "cache_type": "none"} if protocol == "hf" else {}


def forget(protocol: str, system: Any) -> None:
    """Drop what a client remembers of folders; of the clients used here only the Hub's does."""
    if protocol == "hf":
        system.dircache.clear()


def _options(protocol: str, policy: RetryPolicy, listing: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol == "s3":
        timeouts = {"connect_timeout": policy.connect_seconds, "read_timeout": policy.read_seconds}
        attempts = policy.attempts if listing else 1
        options["config_kwargs"] = {**timeouts, "retries": {"total_max_attempts": attempts, "mode": "standard"}}
    elif protocol == "az":
        options |= {"connection_timeout": policy.connect_seconds, "read_timeout": policy.read_seconds}
    elif protocol == "gs":
        options["requests_timeout"] = _aiohttp_timeout(policy)
    elif protocol in WEB:
        options["client_kwargs"] = {"timeout": _aiohttp_timeout(policy)}
    return options


def _aiohttp_timeout(policy: RetryPolicy) -> Any:
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=policy.connect_seconds, sock_read=policy.read_seconds)


def _adjust(protocol: str, system: Any, listing: bool) -> None:
    """Set what clients have attributes for, but no parameters: repetition is left to `retry`."""
    if protocol == "hf":
        system.isdir = lambda _: False  # otherwise it lists the whole folder before each read, to choose an address
    elif protocol == "s3":
        system.retries = 1
    elif protocol == "gs":
        once = getattr(type(system)._request, "__wrapped__", None)
        if once is not None:
            system._request = partial(_repeat_page, once, system) if listing else partial(once, system)
    elif protocol == "az":
        for policy in system.service_client._pipeline._impl_policies:
            if hasattr(policy, "total_retries"):
                policy.total_retries = 1 if listing else 0  # a listing of adlfs is three requests
                policy.initial_backoff = _PAGE_PAUSES_SECONDS[0]


async def _repeat_page(once: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
    """Send a request of a listing, and again after a failure that may pass."""
    for pause in _PAGE_PAUSES_SECONDS:
        try:
            return await once(*arguments, **options)
        except client_errors() as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(pause)
    return await once(*arguments, **options)
