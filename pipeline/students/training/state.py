"""An interrupted run on disk: everything that decides the next step, as safetensors and never as a pickle."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from cache.atomic import write_bytes

_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_ZEROS = 64 * b"0"
"""What stands in place of the digest while it is computed."""


@dataclass(frozen=True)
class TrainState:
    """What changes while a student is trained."""

    modules: Mapping[str, nn.Module]
    """What is trained, and what is kept of it."""
    optimizer: Optimizer
    scaler: torch.amp.GradScaler


def save_state(path: Path, training: TrainState, facts: Mapping[str, Any]) -> None:
    """Write weights, buffers and the optimiser's memory, with facts such as the step, in one atomic file."""
    tensors = {f"{part}/{name}": t for part, m in training.modules.items() for name, t in m.state_dict().items()}
    numbers: dict[str, float] = {}
    for index, memory in training.optimizer.state_dict()["state"].items():
        for name, value in memory.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            elif value is not None:
                numbers[f"{index}/{name}"] = value
    for number, group in enumerate(training.optimizer.param_groups):
        tensors |= {f"group/{number}/{name}": value for name, value in group.items() if isinstance(value, Tensor)}
    groups = [_counters(group) for group in training.optimizer.param_groups]
    whole = {name: to_contiguous_cpu(tensor) for name, tensor in tensors.items()}
    rest = {**facts, "numbers": numbers, "groups": groups, "scaler": training.scaler.state_dict(), "run": _run(path)}
    # Keys as they come: the order of a history's columns is the order in which the first row was made.
    write_bytes(path, _with_digest(save(whole, {"facts": json.dumps(rest), "sha256": _ZEROS.decode()})))


def load_state(path: Path, training: TrainState) -> dict[str, Any] | None:
    """Put a saved run back and return its facts; nothing where there is no file, or not the one that was saved here.

    A file that was damaged, or moved here from another run, is named on standard error: training begins anew.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    facts = _read_facts(data)
    if facts is None or facts.pop("run", None) != _run(path):
        reason = "damaged" if facts is None else "of another run"
        print(f"{path}: {reason}, so training begins from its first step", file=sys.stderr, flush=True)
        return None
    tensors = load(data)
    for part, module in training.modules.items():
        module.load_state_dict(_below(part, tensors))
    _restore_optimizer(training.optimizer, _below("optimizer", tensors), facts.pop("numbers"))
    for number, counters in enumerate(facts.pop("groups")):
        training.optimizer.param_groups[number].update({**counters, **_below(f"group/{number}", tensors)})
    training.scaler.load_state_dict(facts.pop("scaler"))
    return facts


def _run(path: Path) -> str:
    """Return the names that a state is found by: those of its run, wherever the project lies."""
    return f"{path.parent.name}/{path.name}"


def _with_digest(data: bytes) -> bytes:
    """Put the SHA-256 of a file, computed with zeros in its place, where the zeros stand."""
    return data.replace(_ZEROS, hashlib.sha256(data).hexdigest().encode(), 1)


def _read_facts(data: bytes) -> dict[str, Any] | None:
    """Return the facts of a file that hashes to its own digest, else nothing."""
    match = _DIGEST.search(data)
    if match is None:
        return None
    start, end = match.span(1)
    digest = hashlib.sha256(data[:start] + _ZEROS)
    digest.update(memoryview(data)[end:])
    if digest.hexdigest().encode() != match[1]:
        return None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts: dict[str, Any] = json.loads(header["__metadata__"]["facts"])
    return facts


def is_whole(path: Path) -> bool:
    """Return whether a file is a saved run that hashes to its own digest and lies where it was saved."""
    facts = _read_facts(path.read_bytes())
    return facts is not None and facts.get("run") == _run(path)


def to_contiguous_cpu(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, in the order of its shape: the only order that safetensors keeps."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    memory: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        index, name = key.split("/", 1)
        memory.setdefault(int(index), {})[name] = _match_memory_format(value, parameters[int(index)])
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})


def _counters(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what some optimisers count in their groups, among plain settings."""
    return {name: value for name, value in group.items() if isinstance(value, (bool, int, float, str))}


def _match_memory_format(value: Any, parameter: Tensor) -> Any:
    """Give a moment its parameter's memory order: fused kernels walk both as they lie."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
