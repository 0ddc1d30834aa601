"""What a person can have got wrong, and the exit code that says so.

    ProjectError              the root: only cli.py catches it
    ├── UsageError            exit 2: a parameter, a flag or a path is wrong
    ├── PipelineError         exit 1: a run that failed for a reason we can name
    │   ├── BadTarError           a tar that is damaged, or was made to do harm
    │   ├── DivergedError         training has left the numbers
    │   ├── RemoteError           object storage denies access, or did not answer in time
    │   └── NoRoomError           the device has too little memory for a batch
    └── BadSampleError        exit 1: one sample cannot be used; who reads many leaves it out
        └── BadImageError         its bytes are no image that can be used

Siblings, so that whoever carries on after a failed run cannot swallow a wrong parameter.
cache.errors.LockedError exits with 3, any other CacheError with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProjectError(Exception):
    """Anything that ends a command: the message says what, where, and what to do next."""

    exit_code = 1


class PipelineError(ProjectError):
    """A run that failed."""


class DivergedError(PipelineError):
    """Training has left the numbers: the loss or what the student says is infinite, or none."""


class RemoteError(PipelineError):
    """Object storage denies access, refuses, or failed more often than it is asked; the message holds no credential."""


class UsageError(ProjectError):
    """A parameter, a flag or a path is wrong: nothing was started."""

    exit_code = 2


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean 'a' or 'b'?`, or nothing when no known name is near."""
    names = difflib.get_close_matches(name, list(candidates), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(n) for n in names)}?" if names else ""
