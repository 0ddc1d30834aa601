"""One color per target space and one marker per student, the same on the whole page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INK = "#000001"
MUTED = "#808081"
"""Placeholders that the page replaces by its colors of light and dark mode."""


@dataclass(frozen=True)
class Hue:
    """A color in light and in dark mode."""

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
"""Colors by method, distinguishable with the common color vision deficiencies; after Okabe & Ito, 2008."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Palette:
    """Color slot of each target space, and marker of each student."""

    slots: Mapping[str, str]
    markers: Mapping[str, str]

    def color(self, target: str) -> str:
        """Return the light-mode color of a target space, which the page replaces by its variable."""
        return HUES[self.slots[target]].light

    def css(self, target: str) -> str:
        """Return the page's variable for a target space."""
        return f"var(--{self.slots[target]})"


def palette(methods: Mapping[str, str], students: Sequence[str]) -> Palette:
    """Assign to each target space the color of its method; another space of the same method gets a free one."""
    slots: dict[str, str] = {}
    for target, method in methods.items():
        hue = next((name for name in (target, method) if name in HUES), "raw")
        free = [name for name in HUES if name not in slots.values()]
        slots[target] = hue if hue in free or not free else free[-1]
    return Palette(slots, {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(students)})


def stylesheet() -> str:
    """Return the colors as CSS variables, for light and dark mode."""
    light, dark = ("".join(f"--{name}:{getattr(hue, way)};" for name, hue in HUES.items()) for way in ("light", "dark"))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
