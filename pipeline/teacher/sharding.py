"""Assignment of shards to several processes, one per GPU, and their locks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from cache.atomic import read_checksummed_json, write_checksummed_json
from cache.work_store import WorkStore
from pipeline.project.errors import UsageError
from pipeline.teacher.parts import PartBuild

WORLD_INFO = "shared.json"
"""World size of the running job. Two jobs with different world sizes would assign the same shard twice."""
PLAN_SECONDS = 600.0
"""Time that a process waits for another that searches the batch size or reuses shards."""


@dataclass(frozen=True)
class ShardAssignment:
    """Process `rank` of `world`; it makes the shards whose number modulo `world` is `rank`."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise UsageError(
                f"--rank {self.rank} --world {self.world}: expected a rank from 0 to {max(self.world - 1, 0)}"
            )

    @property
    def is_single(self) -> bool:
        """Return whether this is the only process."""
        return self.world == 1

    @property
    def label(self) -> str:
        """Return ` 0 of 2`, or an empty string for a single process."""
        return "" if self.is_single else f" {self.rank} of {self.world}"

    def device(self, name: str) -> str:
        """Return the device of this process; each rank has its own GPU if there are several."""
        count = torch.cuda.device_count() if not self.is_single and name in ("auto", "cuda") else 0
        return f"cuda:{self.rank % count}" if count else name

    def assigned(self, missing: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
        """Return the missing shards that this process makes."""
        return {number: parts for number, parts in missing.items() if number % self.world == self.rank}


SINGLE_PROCESS = ShardAssignment()


@contextmanager
def lock_parts(
    works: Sequence[PartBuild], store: WorkStore, share: ShardAssignment, wait_seconds: float = 0
) -> Iterator[None]:
    """Lock the parts against other jobs: exclusively, or shared with the other ranks.

    Raises:
        LockedError: another job makes the same, or runs with the same rank.
        UsageError: it was begun with another number of processes.
    """
    with ExitStack() as locks:
        if not share.is_single:
            locks.enter_context(store.lock("embed", f"{works[0].fingerprint}-rank-{share.rank}"))
        for work in works:
            locks.enter_context(store.lock("embed", work.fingerprint, wait_seconds, shared=not share.is_single))
        yield


@contextmanager
def planning_lock(works: Sequence[PartBuild], store: WorkStore, share: ShardAssignment) -> Iterator[None]:
    """Hold the lock for planning, after checking that all processes have the same world size."""
    with store.lock("embed", f"{works[0].fingerprint}-plan", PLAN_SECONDS):
        path = works[0].folder / WORLD_INFO
        if share.is_single:
            path.unlink(missing_ok=True)
        elif not path.exists():
            write_checksummed_json(path, {"world": share.world})
        elif (world := read_checksummed_json(path)["world"]) != share.world:
            raise UsageError(
                f"--world {share.world}: this split was begun with --world {world}: use that again, or finish it "
                "in one process, without --rank and --world"
            )
        yield
