"""One color per target space and one marker per student, the same on the whole page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INK = "#000001"
MUTED = "#808081"
"""Placeholders that the page replaces by its own colors for light and dark mode."""


@dataclass(frozen=True)
class Hue:
    """A colour on a light and on a dark page."""

    light: str
    dark: str


HUES: dict[str, Hue] = {
    "raw": Hue("#6e6e6e", "#a9a9a9"),
    "scale": Hue("#0072b2", "#59b0ea"),
    "zca": Hue("#d55e00", "#ff8a3d"),
    "soft-zca": Hue("#00835f", "#2fcb9e"),
    "center": Hue("#b4558c", "#e79ac6"),
    "standardize": Hue("#6a51a3", "#ab97e8"),
    "phi-s": Hue("#8f6c00", "#e0b83f"),
    "pca": Hue("#8c510a", "#cf955a"),
    "zca-cor": Hue("#0b7c8c", "#55cfe0"),
    "cholesky": Hue("#a3305c", "#f084ac"),
    "shared-zca": Hue("#4b6a1a", "#a9cf5f"),
}
"""By method, told apart by eyes with any of the common colour deficiencies; after Okabe & Ito, 2008."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Palette:
    """Which slot of HUES each target space has, and which marker each student."""

    slots: Mapping[str, str]
    markers: Mapping[str, str]

    def color(self, target: str) -> str:
        """Return the light colour of a target space, which the page replaces by its variable."""
        return HUES[self.slots[target]].light

    def css(self, target: str) -> str:
        """Return the page's variable for a target space."""
        return f"var(--{self.slots[target]})"


def palette(methods: Mapping[str, str], students: Sequence[str]) -> Palette:
    """Give each target space its method's colour; a second space of the same method takes a free one."""
    slots: dict[str, str] = {}
    for target, method in methods.items():
        wanted = next((name for name in (target, method) if name in HUES), "raw")
        free = [name for name in HUES if name not in slots.values()]
        slots[target] = wanted if wanted in free or not free else free[-1]
    return Palette(slots, {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(students)})


def stylesheet() -> str:
    """Return the colours as CSS variables, for light and for dark."""
    light, dark = ("".join(f"--{name}:{getattr(hue, way)};" for name, hue in HUES.items()) for way in ("light", "dark"))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
