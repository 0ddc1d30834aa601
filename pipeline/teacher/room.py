"""What to do when a batch does not fit into a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.project.errors import PipelineError


class NoRoomError(PipelineError):
    """The device has too little memory for a batch."""


@contextmanager
def room_on(device: torch.device) -> Iterator[None]:
    """Turn the device's refusal of a batch into one line with what to do about it.

    Raises:
        NoRoomError: a batch does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoRoomError(
            f"embed: {device} has no room for this batch. A new store takes runtime.teacher_batch: auto, or a smaller "
            "number; one that was begun keeps its batch size (`info` says which): free memory on the device, or "
            "remove the store and embed again."
        ) from error
