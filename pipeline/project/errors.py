"""Errors that a user can cause, and their exit codes.

    ProjectError                    the base class: only cli.py catches it
    ├── UsageError                  exit 2: a parameter, a flag or a path is wrong
    ├── PipelineError               exit 1: a run failed for a known reason
    │   ├── BadTarError             a damaged or malicious tar
    │   ├── DivergedError           training diverged
    │   ├── RemoteError             object storage denies access, or did not answer in time
    │   ├── OutOfDeviceMemoryError  the device has too little memory for a batch
    │   └── WorkerMismatchError     a worker of a cluster has other code, libraries, weights or data than its driver
    └── BadSampleError              exit 1: one sample is unusable; readers of many samples skip it
        └── BadImageError           its bytes are not a usable image

They are siblings, so that code that handles failed runs cannot catch a wrong parameter.
cache.errors.LockedError exits with 3, any other CacheError with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProjectError(Exception):
    """Base of all errors that end a command: the message says what, where, and what to do next."""

    exit_code = 1


class PipelineError(ProjectError):
    """A run that failed."""


class DivergedError(PipelineError):
    """Training diverged: the loss or the student's output is NaN or infinite."""


class RemoteError(PipelineError):
    """Object storage denies access, refuses, or failed in all attempts; the message contains no credentials."""


class WorkerMismatchError(PipelineError):
    """A worker of a cluster is not set up as its driver is; the message names it, with both values."""


class UsageError(ProjectError):
    """A parameter, a flag or a path is wrong; nothing was started."""

    exit_code = 2


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean 'a' or 'b'?`, or an empty string if no known name is similar."""
    names = difflib.get_close_matches(name, list(candidates), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(n) for n in names)}?" if names else ""
