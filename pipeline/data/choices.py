"""A choice: a caption that is true of an image, and captions that are not."""

from __future__ import annotations

from typing import NamedTuple


class Choice(NamedTuple):
    """One caption of an image with its foils."""

    caption: str
    foils: tuple[str, ...]
    task: str
    """What has to be understood: choices are counted by it."""
    group: str = ""
    """Images of one group and task are counterparts, each other's wrong answers; empty: there is none."""
