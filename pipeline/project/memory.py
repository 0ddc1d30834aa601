"""Peak memory of a piece of work, as reported by the operating system."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Value that makes Linux reset the peak of resident pages."""


@dataclass
class Peak:
    """Bytes in memory before, and the maximum during the work."""

    before: int
    highest: int

    @property
    def grown(self) -> int:
        """Return the maximum in excess of the memory before."""
        return max(0, self.highest - self.before)


@contextmanager
def measure_peak() -> Iterator[Peak]:
    """Measure the enclosed work; underestimates if the system keeps one peak for the whole process."""
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)
    peak = Peak(resident_bytes(), 0)
    try:
        yield peak
    finally:
        peak.highest = _peak_bytes()


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    return _status("VmRSS") or _peak_bytes()


def available_bytes() -> int | None:
    """Return the available main memory, if the system reports it."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        return None
    return 1024 * int(match[1]) if match else None


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(name: str) -> int | None:
    try:
        match = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
    except OSError:
        return None
    return 1024 * int(match[1]) if match else None
