"""Columns of fixed-length UTF-8 strings that are decoded on access, to avoid millions of Python objects."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, overload

import numpy as np


class StringColumn(Sequence[str]):
    """The strings of an array of fixed-length UTF-8; compares equal to any sequence of the same strings.

    Raises:
        UnicodeDecodeError: a string is not UTF-8.
    """

    def __init__(self, array: np.ndarray) -> None:
        if array.size and array.itemsize and (array.view(np.uint8) > 127).any():
            for text in array.tolist():
                text.decode()
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(text.decode() for text in self._array[index].tolist())
        return str(self._array[index].decode())

    def __iter__(self) -> Iterator[str]:
        return (text.decode() for text in self._array.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StringColumn):
            return np.array_equal(self._array, other._array)
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(self._array.tobytes())

    def __repr__(self) -> str:
        return f"StringColumn({list(self[:3])} …, {len(self)})" if len(self) > 3 else f"StringColumn({list(self)})"


class ChainedStrings(Sequence[str]):
    """The concatenation of several sequences of strings."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts, self._ends = parts, list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: Any) -> str | list[str]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = bisect_right(self._ends, row)
        return self._parts[part][row - (self._ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self._ends))
