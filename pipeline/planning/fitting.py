"""Parameters that fit into a limit of time, disk and memory: one at a time, then in combination."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.planning.estimate import Estimate, estimate
from pipeline.planning.workload import Workload

SIZES = (192, 160, 128, 112, 96, 64, 48, 32)
MIN_IMAGES = 1000
"""Smallest training set that is suggested."""
KEPT_TARGETS = ("scale", "raw")
"""Target spaces to keep if there can be only one, in order of preference."""


@dataclass(frozen=True)
class Limits:
    """Available time, disk and memory."""

    seconds: float
    disk_bytes: float
    memory_bytes: float | None

    def allow(self, estimate: Estimate) -> bool:
        """Return whether an estimate fits."""
        memory = self.memory_bytes is None or estimate.memory_bytes <= self.memory_bytes
        return estimate.seconds <= self.seconds and estimate.disk_bytes <= self.disk_bytes and memory


@dataclass(frozen=True)
class Suggestion:
    """Parameters that would fit, and their estimate."""

    settings: tuple[str, ...]
    """As options of `--set`."""
    seconds: float
    disk_bytes: float
    fits: bool


def suggestions(work: Workload, limits: Limits) -> list[Suggestion]:
    """Return suggestions that fit: each parameter reduced alone, then several together."""
    single = [
        suggestion
        for change in (_limit, _epochs, _size, _students, _batch, _streamed)
        if (suggestion := change(work, limits))
    ]
    return [*single, *_together(work, limits)]


def _limit(work: Workload, limits: Limits) -> Suggestion | None:
    """Return the largest pack.limit that fits, with two digits; None below a thousand images."""
    rows = work.splits["train"].rows
    limit = _largest(MIN_IMAGES, rows - 1, lambda n: limits.allow(estimate(work.with_limit(n))))
    return (
        None if limit is None else _suggestion(work.with_limit(n := _two_digits(limit)), (f"pack.limit={n}",), limits)
    )


def _epochs(work: Workload, limits: Limits) -> Suggestion | None:
    epochs = _largest(1, work.epochs - 1, lambda n: limits.allow(estimate(work.with_epochs(n)))) or 1
    if epochs >= work.epochs:
        return None
    return _suggestion(work.with_epochs(epochs), (f"distill.training.epochs={epochs}",), limits)


def _size(work: Workload, limits: Limits) -> Suggestion | None:
    smaller = [size for size in SIZES if size < work.image_size and size >= work.image_size / 2]
    if not smaller:
        return None
    fitting = next((size for size in smaller if limits.allow(estimate(work.with_size(size)))), smaller[-1])
    return _suggestion(work.with_size(fitting), (f"distill.training.image_size={fitting}",), limits)


def _students(work: Workload, limits: Limits) -> Suggestion | None:
    """Return the cheapest student with one target space."""
    if len(work.arms) < 2:
        return None
    student, target = work.students[0], _kept_target(work)
    settings = (f"distill.students=[{student}]", f"distill.targets=[{target}]")
    return _suggestion(work.with_arms([student], [target]), settings, limits)


def _batch(work: Workload, limits: Limits) -> Suggestion | None:
    """Return the largest half, quarter, … of the batch size that fits, if memory is the limit."""
    if limits.memory_bytes is None or estimate(work).memory_bytes <= limits.memory_bytes:
        return None
    batch = max(work.batches.values())
    while batch > 2:
        batch //= 2
        smaller = work.with_batch(batch)
        if estimate(smaller).memory_bytes <= limits.memory_bytes:
            return _suggestion(smaller, (f"distill.training.batch={batch}",), limits)
    return None


def _streamed(work: Workload, limits: Limits) -> Suggestion | None:
    """Return streamed pixels, if disk is the limit."""
    if work.streamed or estimate(work).disk_bytes <= limits.disk_bytes:
        return None
    return _suggestion(work.with_streamed_pixels(), ("distill.training.pixels=streamed",), limits)


def _together(work: Workload, limits: Limits) -> Iterator[Suggestion]:
    """Yield a combination: fewer arms, half the image size, and then as many images as fit."""
    if not work.arms:
        return
    student, target = work.students[0], _kept_target(work)
    small, settings = work, tuple[str, ...]()
    if len(work.arms) > 1:
        small = small.with_arms([student], [target])
        settings += (f"distill.students=[{student}]", f"distill.targets=[{target}]")
    if smaller := [size for size in SIZES if size < work.image_size and size >= work.image_size / 2]:
        small = small.with_size(smaller[-1])
        settings += (f"distill.training.image_size={smaller[-1]}",)
    if len(settings) == 0:
        return
    if not limits.allow(estimate(small)):
        fewer = _limit(small, limits)
        if fewer is None:
            return
        settings += fewer.settings
        small = small.with_limit(int(fewer.settings[0].split("=")[1]))
    yield _suggestion(small, settings, limits)


def _kept_target(work: Workload) -> str:
    targets = list(dict.fromkeys(arm.target for arm in work.arms))
    return next((name for name in KEPT_TARGETS if name in targets), targets[0])


def _suggestion(work: Workload, settings: tuple[str, ...], limits: Limits) -> Suggestion:
    estimated = estimate(work)
    return Suggestion(settings, estimated.seconds, estimated.disk_bytes, limits.allow(estimated))


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest n in low … high that fits, for a monotone condition; None if none does."""
    if low > high or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _two_digits(count: int) -> int:
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return int(count // unit * unit)
