"""The file of moments, with the embeddings from which they were computed, and the weights of the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from cache.arrays import ArrayFile, read_arrays, write_arrays
from cache.errors import DamagedError, StaleError
from cache.fingerprint import fingerprint
from cache.manifest import Manifest
from cache.teachers import JOINT
from pipeline.project.errors import UsageError, did_you_mean
from pipeline.whitening.comoments import CoMoments, CrossMoments, Moments, NormMode

FORMAT = 1
NAMED = "@"
"""Prefix of array names for a teacher other than the first."""
_MOMENTS = ("mean", "scatter", "cubic")
_CROSS = ("image_mean", "text_mean", "scatter")


@dataclass(frozen=True)
class MeasuredTeacher:
    """Moments of one teacher, or of an ensemble."""

    by_pre_norm: Mapping[NormMode, CoMoments]
    teacher: Mapping[str, Any]
    embeddings_digest: str


@dataclass(frozen=True)
class StoredMoments:
    """Co-moments by pre-normalization, their provenance, and those of other teachers by name."""

    path: Path
    by_pre_norm: dict[NormMode, CoMoments]
    teacher: dict[str, Any]
    embeddings_digest: str
    captions: str
    name: str = ""
    """Name of the teacher, if there may be several."""
    others: Mapping[str, StoredMoments] = field(default_factory=dict)

    def named(self, *names: str) -> StoredMoments:
        """Return the moments of a teacher by name, or of an ensemble; without a name, of the first teacher.

        Raises:
            UsageError: there is no such teacher, or its ensemble was not measured.
        """
        by_name = {**({self.name: self} if self.name else {}), **self.others}
        if not names:
            return self
        if (joint := JOINT.join(names)) not in by_name:
            remedy = "Add it to moments.ensembles" if len(names) > 1 else "Name one of embed.teachers"
            raise UsageError(
                f"{self.path}: holds moments of [{', '.join(by_name) or 'one teacher without a name'}], "
                f"not of '{joint}'{did_you_mean(joint, by_name)} {remedy}, and run `moments` again."
            )
        return by_name[joint]

    def of_teacher(self, teacher: Mapping[str, Any], learner: Path | None = None) -> StoredMoments:
        """Return the moments of the teacher, or ensemble, with these facts; `learner` is used in the error message.

        Raises:
            StaleError: they were not measured.
        """
        measured = (self, *self.others.values())
        match = next((each for each in measured if each.teacher == teacher), None)
        if match is None:
            names = ", ".join(_short(each.teacher) for each in measured)
            subject = f"{learner} learnt from {_short(teacher)}" if learner else f"{_short(teacher)} is at hand"
            raise StaleError(f"{self.path}: of {names}, but {subject}. Run `dvc repro`.")
        return match

    def for_norm(self, pre_norm: NormMode) -> CoMoments:
        """Return the co-moments with a pre-normalization.

        Raises:
            UsageError: they were not measured.
        """
        if pre_norm not in self.by_pre_norm:
            norms = ", ".join(self.by_pre_norm)
            raise UsageError(
                f"{self.path}: holds moments for pre_norm [{norms}], not '{pre_norm}'. "
                f"Add '{pre_norm}' to moments.pre_norm and run `moments` again."
            )
        return self.by_pre_norm[pre_norm]


def embeddings_digest(manifest: Manifest) -> str:
    """Return twelve hex digits that change when any image or text shard of a split changes."""
    parts = {name: manifest.parts[name] for name in manifest.sharded_parts if name in manifest.pooled_parts}
    return fingerprint({name: [shard.sha256 for shard in part.shards] for name, part in parts.items()})


def save_moments(  # noqa: PLR0917  what the file holds, in its order
    path: Path,
    measured: Mapping[NormMode, CoMoments],
    teacher: Mapping[str, Any],
    embeddings: str,
    captions: str,
    name: str = "",
    others: Mapping[str, MeasuredTeacher] | None = None,
) -> None:
    """Write moments to one file, atomically, in float64: those of the first teacher, and of others by name."""
    arrays, attributes = _flattened("", MeasuredTeacher(measured, teacher, embeddings))
    for other, member in (others or {}).items():
        own_arrays, own_attributes = _flattened(f"{NAMED}{other}/", member)
        arrays |= own_arrays
        attributes |= own_attributes
    names = {"names": json.dumps([name, *(others or {})])} if name else {}
    write_arrays(path, arrays, {"format": FORMAT, **attributes, "captions": captions, **names})


def _flattened(prefix: str, measured: MeasuredTeacher) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and attributes of one teacher by their names in the file."""
    arrays: dict[str, np.ndarray] = {}
    attributes: dict[str, Any] = {
        f"{prefix}teacher": json.dumps(measured.teacher, sort_keys=True),
        f"{prefix}embeddings": measured.embeddings_digest,
    }
    for pre_norm, both in measured.by_pre_norm.items():
        sides = {"image": both.image, "text": both.text, "cross": both.cross}
        for side, moments in sides.items():
            if moments is None:
                continue
            names = _CROSS if isinstance(moments, CrossMoments) else _MOMENTS
            arrays |= {f"{prefix}{pre_norm}/{side}/{name}": getattr(moments, name) for name in names}
            attributes[f"{prefix}{pre_norm}_{side}_count"] = moments.count
            if isinstance(moments, Moments):
                attributes[f"{prefix}{pre_norm}_{side}_quartic"] = moments.quartic
    return arrays, attributes


def load_moments(path: Path) -> StoredMoments:
    """Read a file of moments.

    Raises:
        MissingError: there is no such file.
        DamagedError: it is not a file of moments, or has another format.
    """
    file = read_arrays(path)
    try:
        if file.attributes["format"] != FORMAT:
            raise DamagedError(
                f"{path}: format {file.attributes['format']}, this program reads {FORMAT}. Run `moments` again."
            )
        name, *others = json.loads(file.attributes.get("names", '[""]'))
        first = _stored(file, "")
        return replace(first, name=name, others={each: _stored(file, f"{NAMED}{each}/") for each in others})
    except KeyError as error:
        raise DamagedError(f"{path}: no file of moments: {error} is missing. Run `moments` again.") from None


def _stored(file: ArrayFile, prefix: str) -> StoredMoments:
    """Return the moments whose names in the file have this prefix."""
    own = {name.removeprefix(prefix) for name in file.arrays if name.startswith(prefix)}
    norms = cast("list[NormMode]", sorted({name.split("/")[0] for name in own if not name.startswith(NAMED)}))
    return StoredMoments(
        file.path,
        {norm: _both(file, prefix, norm) for norm in norms},
        json.loads(file.attributes[f"{prefix}teacher"]),
        file.attributes[f"{prefix}embeddings"],
        file.attributes["captions"],
    )


def _short(teacher: Mapping[str, Any]) -> str:
    return f"{fingerprint(dict(teacher))} ({teacher.get('model')})"


def _both(file: ArrayFile, prefix: str, norm: NormMode) -> CoMoments:
    own = f"{prefix}{norm}"
    if f"{own}/text/mean" not in file.arrays:
        return CoMoments(norm, _side(file, own, "image"), None, None)
    cross = CrossMoments(int(file.attributes[f"{own}_cross_count"]), **_arrays(file, f"{own}/cross", _CROSS))
    return CoMoments(norm, _side(file, own, "image"), _side(file, own, "text"), cross)


def _side(file: ArrayFile, own: str, side: str) -> Moments:
    count, quartic = (file.attributes[f"{own}_{side}_{name}"] for name in ("count", "quartic"))
    return Moments(int(count), **_arrays(file, f"{own}/{side}", _MOMENTS), quartic=float(quartic))


def _arrays(file: ArrayFile, group: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: np.array(file.arrays[f"{group}/{name}"]) for name in names}
