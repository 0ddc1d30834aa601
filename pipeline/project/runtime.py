"""Settings that decide how fast a result comes, never what it is: no stage tracks them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.project.params import ParamsSection

Verify = Literal["hash", "size"]


class Runtime(ParamsSection):
    """The `runtime:` section."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, …"""
    workers: int = Field(default=2, ge=0)
    """Processes or threads that decode images; 0 decodes in the main one."""
    batch: int = Field(default=256, ge=1)
    """Rows per forward pass where nothing is trained. Recorded in the manifests."""
    teacher_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Rows per forward pass of the teacher in a store that is new; `auto`: found by trying. Default: `batch`."""
    verify: Verify = "hash"
    """What is checked of a shard before its first row is served."""
    scheduler: str | None = None
    """Address of a Dask scheduler (`tcp://host:8786`) for embed and moments."""

    @property
    def requested_teacher_batch(self) -> int | None:
        """Return the teacher's batch size, or nothing where it is to be found."""
        return None if self.teacher_batch == "auto" else self.teacher_batch or self.batch
