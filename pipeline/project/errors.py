"""What a person can have got wrong, and the exit code that says so.

    PipelineError         exit 1: a run that failed for a reason we can name
    └── UsageError        exit 2: a parameter, a flag or a path is wrong

cache.errors.LockedError exits with 3, any other CacheError with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """A run that failed; the message says what, where, and what to do next."""

    exit_code = 1


class UsageError(PipelineError):
    """A parameter, a flag or a path is wrong: nothing was started."""

    exit_code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'a' or 'b'?`, or nothing when no known name is near."""
    names = difflib.get_close_matches(name, list(known), n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(n) for n in names)}?" if names else ""
