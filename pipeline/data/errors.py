"""Why a sample cannot be packed.

    BadSampleError        one sample cannot be used; the message is the reason that skipped.json gives
    └── BadImageError     its bytes are no image that can be used

What concerns a whole source is a UsageError (it was never right) or a PipelineError (it has changed, or is damaged).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.project.errors import PipelineError, ProjectError


class BadSampleError(ProjectError):
    """One sample cannot be used; the message is the reason."""


class BadImageError(BadSampleError):
    """These bytes are no image that can be used."""


@contextmanager
def bad_image_as_failure(key: str, source: str) -> Iterator[None]:
    """Turn the refusal of a packed image into the end of a run, by its name and with what to do about it.

    Raises:
        PipelineError: the image cannot be decoded.
    """
    try:
        yield
    except BadImageError as error:
        raise PipelineError(
            f"image '{key}' ({source}) cannot be decoded: {error}. "
            "Remove it from its source, or set pack.check: decode, and pack again."
        ) from None
