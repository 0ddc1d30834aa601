"""Reasons for which a sample cannot be packed.

    BadSampleError        one sample is skipped; the message is the reason in skipped.json
    └── BadImageError     its bytes are not a usable image

Problems of a whole source are a UsageError (wrong from the start) or a PipelineError (changed or damaged).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.project.errors import PipelineError, ProjectError


class BadSampleError(ProjectError):
    """One sample is skipped; the message is the reason."""


class BadImageError(BadSampleError):
    """The bytes are not a usable image."""


@contextmanager
def bad_image_as_failure(key: str, source: str) -> Iterator[None]:
    """Convert a BadImageError of a packed image to an error that names the image and says what to do.

    Raises:
        PipelineError: the image cannot be decoded.
    """
    try:
        yield
    except BadImageError as error:
        raise PipelineError(
            f"image '{key}' ({source}) cannot be decoded: {error}. "
            "Remove it from its source, or set pack.image_check: decode, and pack again."
        ) from None
