"""Extract one head of a student of several teachers as a student of one teacher."""

from __future__ import annotations

import copy
from math import sqrt

import torch
from torch import nn

from cache.teachers import members, widths
from pipeline.students.model import Student
from pipeline.students.towers import last_layer, make_linear


@torch.no_grad()
def select_head(student: Student, number: int) -> Student:
    """Return a student with one head, that of teacher `number` (from 0), in that teacher's own space.

    A row of several teachers has unit vectors divided by √T, so the head's part times √T is near the unit sphere. With
    mlp heads, the hidden units of the other heads are removed.
    """
    teacher: dict[str, object] = student.card["teacher"]  # type: ignore[assignment]  # a card is JSON
    sizes, count = widths(teacher), len(members(teacher))
    first = sum(sizes[:number])
    block = slice(first, first + sizes[number])
    single = copy.deepcopy(student)
    if single.unwhiten is not None:
        single.unwhiten = _rows(single.unwhiten, block, sqrt(count))
    else:
        last = last_layer(single.head)
        single.head[len(single.head) - 1] = _rows(last, block, sqrt(count))
        if single.heads and len(single.head) > 1:
            _keep_hidden(single.head, number, single.params.head.hidden)
    single.heads = ()
    names = [name for name in single.card if name not in ("heads", "dim", "target_dim", "weights_sha256", "parameters")]
    single.card = {**{name: single.card[name] for name in names}, "teacher": members(teacher)[number]}
    return single


def _rows(layer: nn.Linear, block: slice, factor: float) -> nn.Linear:
    return make_linear(layer.weight[block] * factor, layer.bias[block] * factor)


def _keep_hidden(head: nn.Sequential, number: int, width: int) -> None:
    """Keep only a head's own hidden units."""
    own = slice(number * width, (number + 1) * width)
    inner, last = head[0], last_layer(head)
    if not isinstance(inner, nn.Linear):
        raise TypeError(f"an mlp head begins with a linear layer, not with {type(inner).__name__}")
    head[0] = make_linear(inner.weight[own], inner.bias[own])
    head[len(head) - 1] = make_linear(last.weight[:, own], last.bias)
