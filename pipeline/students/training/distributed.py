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
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from pipeline.project.errors import UsageError


@dataclass(frozen=True)
class DistributedContext:
    """One of the processes that train a student together; the batch size is a multiple of their number."""

    rank: int = 0
    world: int = 1

    def check(self, batch: int, parts: int) -> None:
        """Refuse a batch size that cannot be divided evenly.

        Raises:
            UsageError: it is not a multiple of the processes, or gradient accumulation is also requested.
        """
        if self.world > 1 and (batch % self.world or parts > 1):
            raise UsageError(
                f"distill.training: {self.world} processes cannot share a batch of {batch} in {parts} parts: make "
                "batch a multiple of them, and accumulation_steps 1"
            )

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files."""
        return self.rank == 0

    def local_slice(self, count: int) -> slice:
        """Return the rows of a batch for this process: contiguous, in rank order."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def all_gather(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "c k"]:
        """Return the rows of all processes in rank order, with gradients.

        Every process then computes the same loss L over the whole batch. The backward pass of the gathering sums the
        equal gradients of all processes, and the averaging of parameters divides by their number, which gives ∂L.
        """
        if self.world == 1:
            return rows
        gathered: Tensor = _AllGather.apply(rows.contiguous(), self.rank)
        return gathered

    def broadcast(self, decision: bool, device: torch.device) -> bool:
        """Return the decision of the first process."""
        if self.world == 1:
            return decision
        flag = torch.tensor(float(decision), device=device)
        distributed.broadcast(flag, 0)
        return bool(flag.item())

    def wrap_ddp(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over the processes."""
        return module if self.world == 1 else DistributedDataParallel(module)

    def convert_batchnorm(self, backbone: nn.Module, device: torch.device) -> tuple[nn.Module, str]:
        """Return the backbone with batch norms for several processes, and their description for the card.

        On GPUs they use statistics of the whole batch, as one process would; torch has no such layer for CPUs, where
        each process uses its own share.
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


class _AllGather(torch.autograd.Function):
    """Rows of all processes; the gradient of a process's own rows is the sum of what all processes have for them."""

    @staticmethod
    def forward(context: FunctionCtx, rows: Tensor, rank: int) -> Tensor:
        """Gather (b, k) rows from each process, in rank order."""
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows)
        context.own = slice(rank * len(rows), (rank + 1) * len(rows))  # type: ignore[attr-defined]
        return torch.cat(parts)

    @staticmethod
    def backward(context: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        """Sum the gradients of all processes, and return those of the own rows."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[context.own], None  # type: ignore[attr-defined]


@contextmanager
def distributed_context(device: torch.device) -> Iterator[DistributedContext]:
    """Join the process group of torchrun, or run as a single process."""
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
