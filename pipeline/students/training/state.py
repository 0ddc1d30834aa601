"""State of an interrupted run on disk: everything that decides the next step, as safetensors, never as a pickle."""

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
"""Placeholder of the digest while it is computed."""


@dataclass(frozen=True)
class TrainState:
    """Everything that changes during training."""

    modules: Mapping[str, nn.Module]
    """The trained modules, and the student to keep."""
    optimizer: Optimizer
    scaler: torch.amp.GradScaler


def save_state(path: Path, training: TrainState, facts: Mapping[str, Any]) -> None:
    """Write weights, buffers and optimizer state, with facts such as the step, in one atomic file."""
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
    # Keys are not sorted: the columns of a history have the order of its first row.
    write_bytes(path, _with_digest(save(whole, {"facts": json.dumps(rest), "sha256": _ZEROS.decode()})))


def load_state(path: Path, training: TrainState) -> dict[str, Any] | None:
    """Restore a saved run and return its facts; None if there is no file, or it is damaged or of another run.

    A damaged file, or one moved here from another run, is reported on standard error, and training starts anew.
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
    """Return the identifiers of a state: those of its run, independent of the project's path."""
    return f"{path.parent.name}/{path.name}"


def _with_digest(data: bytes) -> bytes:
    """Insert the SHA-256 of a file, computed with zeros in its place."""
    return data.replace(_ZEROS, hashlib.sha256(data).hexdigest().encode(), 1)


def _read_facts(data: bytes) -> dict[str, Any] | None:
    """Return the facts of a file that matches its own digest, else None."""
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
    """Return whether a file is a saved run that matches its own digest and was not moved."""
    facts = _read_facts(path.read_bytes())
    return facts is not None and facts.get("run") == _run(path)


def to_contiguous_cpu(tensor: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU, as safetensors requires."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    memory: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        index, name = key.split("/", 1)
        memory.setdefault(int(index), {})[name] = _match_memory_format(value, parameters[int(index)])
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})


def _counters(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counters that some optimizers store among the settings of their groups."""
    return {name: value for name, value in group.items() if isinstance(value, (bool, int, float, str))}


def _match_memory_format(value: Any, parameter: Tensor) -> Any:
    """Convert an optimizer moment to its parameter's memory format, which fused kernels require."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}
