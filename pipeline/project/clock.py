"""Where the time goes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Add the time spent inside to `what`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    def each(self, items: Iterable[T], waiting: str = "data", using: str = "step") -> Iterator[T]:
        """Yield items; waiting for one is added to `waiting`, what is done with it until the next to `using`."""
        iterator = iter(items)
        while True:
            with self.on(waiting):
                item = next(iterator, None)
            if item is None:
                return
            with self.on(using):
                yield item

    def shares(self) -> str:
        """Return `forward 81 %, data 17 %, write 2 %`, the largest first."""
        total = sum(self.seconds.values()) or 1.0
        largest = sorted(self.seconds.items(), key=lambda item: -item[1])
        return ", ".join(f"{what} {100 * seconds / total:.0f} %" for what, seconds in largest)
