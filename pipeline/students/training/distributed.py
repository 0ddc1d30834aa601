"""Distributed training under torchrun: rank and world size, and gathering of all processes' outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel

from pipeline.project.errors import UsageError


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that train one student together; a batch is a multiple of them."""

    rank: int = 0
    world: int = 1

    def check(self, batch: int, parts: int) -> None:
        """Refuse a batch that cannot be shared out evenly.

        Raises:
            UsageError: no multiple of the processes, or to be computed in parts as well.
        """
        if self.world > 1 and (batch % self.world or parts > 1):
            raise UsageError(
                f"distill.training: {self.world} processes cannot share a batch of {batch} in {parts} parts: make "
                "batch a multiple of them, and accumulate 1"
            )

    @property
    def is_main(self) -> bool:
        """Return whether this process is the one that writes."""
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """Return the rows of a batch that this process embeds: contiguous, in the order of the ranks."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def all_gather(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "c k"]:
        """Return the rows of all processes, in the order of the ranks, open to gradients.

        Every process then has the same loss L over the whole batch. The gathering's backward pass adds up the
        processes' equal gradients and the averaging of parameters divides by as many: what is left is ∂L.
        """
        if self.world == 1:
            return rows
        return torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]

    def broadcast(self, decision: bool, device: torch.device) -> bool:
        """Return what the first process decided."""
        if self.world == 1:
            return decision
        told = torch.tensor(float(decision), device=device)
        distributed.broadcast(told, 0)
        return bool(told.item())

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the processes."""
        return module if self.world == 1 else DistributedDataParallel(module)

    def convert_batchnorm(self, backbone: nn.Module, device: torch.device) -> tuple[nn.Module, str]:
        """Return the backbone with batch norms for all processes, and what the card records about them.

        On GPUs they count the whole batch, as one process would; torch has no such layer for CPUs, where each process
        counts its own share.
        """
        if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in backbone.modules()):
            return backbone, "none over the batch"
        if self.world == 1:
            return backbone, "over the batch"
        if device.type != "cuda":
            return backbone, "over each process's share of the batch"
        synchronised: nn.Module = convert_sync_batchnorm(backbone)
        return synchronised, "over the batch of all processes"


SINGLE_PROCESS = DistributedContext()


@contextmanager
def distributed_context(device: torch.device) -> Iterator[DistributedContext]:
    """Join the other processes that torchrun started, or be alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield DistributedContext(distributed.get_rank(), world)
    finally:
        distributed.destroy_process_group()
