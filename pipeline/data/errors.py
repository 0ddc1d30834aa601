"""Why a sample cannot be packed.

    BadSampleError        one sample cannot be used; the message is the reason that skipped.json gives
    └── BadImageError     its bytes are no image that can be used

What concerns a whole source is a UsageError (it was never right) or a PipelineError (it has changed, or is damaged).
"""

from __future__ import annotations


class BadSampleError(Exception):
    """One sample cannot be used; the message is the reason."""


class BadImageError(BadSampleError):
    """These bytes are no image that can be used."""
