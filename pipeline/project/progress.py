"""Show the progress of long work: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.project.terminal import PlainConsole, printable

PLAIN_SECONDS = 10.0
"""Seconds between two plain lines, so that an overnight log stays readable."""
FORECAST_AFTER, LONG, VERY_LONG = 3.0, 60.0, 3600.0
"""Seconds after which the total time is estimated, and thresholds of long work."""


class ProgressCallback(Protocol):
    """Reports `n` more finished units, with a short text."""

    def __call__(self, n: int = 1, note: str = "") -> None:  # noqa: D102  the class says it
        ...


@contextmanager
def progress(title: str, total: int, unit: str = "rows") -> Iterator[ProgressCallback]:
    """Show the progress of `total` units of work on standard error; for long work, first a line with an estimate."""
    if sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        yield _lines(title, total, unit)


@dataclass
class _Forecast:
    """Estimate of the total time from the first units; printed once, and not for short work."""

    title: str
    total: int
    unit: str
    first: tuple[int, float] | None = None
    """Units and time of the first report, which includes warm-up and is excluded."""
    announced: bool = False

    def line(self, done: int, now: float) -> str | None:
        """Return the line to print now, if any."""
        if self.first is None:
            self.first = done, now
            return None
        count, seconds = done - self.first[0], now - self.first[1]
        if self.announced or seconds < FORECAST_AFTER or not count:
            return None
        self.announced, whole = True, (self.total - self.first[0]) * seconds / count
        if whole < LONG:
            return None
        text = f"{self.title}: about {format_seconds(whole)} for {self.total:,} {self.unit} ({_rate(count / seconds)})"
        return f"{text}; `plan` says what would make it shorter" if whole >= VERY_LONG else text


@contextmanager
def _bar(title: str, total: int, unit: str) -> Iterator[ProgressCallback]:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=PlainConsole(stderr=True)) as bar:
        task = bar.add_task(printable(title), total=total, note="")
        forecast = _Forecast(title, total, unit)

        def advance(n: int = 1, note: str = "") -> None:
            speed = bar.tasks[0].speed
            if line := forecast.line(int(bar.tasks[0].completed) + n, time.monotonic()):
                bar.console.print(printable(line), markup=False, highlight=False)
            bar.update(task, advance=n, note=", ".join(filter(None, [_rate(speed) if speed else "", printable(note)])))

        yield advance


def _lines(title: str, total: int, unit: str) -> ProgressCallback:
    started = last = time.monotonic()
    done, forecast = 0, _Forecast(title, total, unit)

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if line := forecast.line(done, now):
            print(printable(line), file=sys.stderr, flush=True)
        if done < total and now - last < PLAIN_SECONDS:
            return
        last = now
        seconds = now - started
        rate = done / seconds if seconds > 0 else 0.0
        left = (
            f", {format_seconds((total - done) / rate)} left" if rate > 0 and done < total else f" in {seconds:.1f} s"
        )
        parts = [f"{title}: {done}/{total} {unit}{left}", *([_rate(rate)] if rate else []), *([note] if note else [])]
        print(printable(", ".join(parts)), file=sys.stderr, flush=True)

    return advance


def format_seconds(seconds: float) -> str:
    """Return a readable duration: 8 s, 12 min, 3.4 h, 9.6 days."""
    for unit, size, least in (("days", 86400.0, 2), ("h", 3600.0, 1), ("min", 60.0, 1.5)):
        if seconds >= least * size:
            count = seconds / size
            return f"{count:.1f} {unit}" if count < 10 else f"{count:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _rate(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


T = TypeVar("T")


@dataclass
class PhaseTimer:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    def iterate(self, items: Iterable[T], waiting: str = "data", using: str = "step") -> Iterator[T]:
        """Yield items; the time to get one is added to `waiting`, the time until the next to `using`."""
        iterator = iter(items)
        while True:
            with self.phase(waiting):
                item = next(iterator, None)
            if item is None:
                return
            with self.phase(using):
                yield item

    def summary(self) -> str:
        """Return `forward 81 %, data 17 %, write 2 %`, largest first."""
        total = sum(self.seconds.values()) or 1.0
        largest = sorted(self.seconds.items(), key=lambda item: -item[1])
        return ", ".join(f"{what} {100 * seconds / total:.0f} %" for what, seconds in largest)
