"""The file of moments: what was measured, of which embeddings, and how its rows were weighted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cache.arrays import ArrayFile, read_arrays, write_arrays
from cache.errors import DamagedError
from cache.fingerprint import fingerprint
from cache.manifest import Manifest
from pipeline.project.errors import UsageError
from pipeline.whitening.comoments import CoMoments, CrossMoments, Moments
from pipeline.whitening.norms import NormMode

FORMAT = 1
_MOMENTS = ("mean", "scatter", "cubic")
_CROSS = ("image_mean", "text_mean", "scatter")


@dataclass(frozen=True)
class StoredMoments:
    """Co-moments by pre-normalisation, and where they come from."""

    path: Path
    by_pre_norm: dict[NormMode, CoMoments]
    teacher: dict[str, Any]
    embeddings_digest: str
    captions: str

    def for_norm(self, pre_norm: NormMode) -> CoMoments:
        """Return the co-moments under a pre-normalisation.

        Raises:
            UsageError: they were not measured.
        """
        if pre_norm not in self.by_pre_norm:
            found = ", ".join(self.by_pre_norm)
            raise UsageError(
                f"{self.path}: holds moments for pre_norm [{found}], not '{pre_norm}'. "
                f"Add '{pre_norm}' to moments.pre_norm and run `moments` again."
            )
        return self.by_pre_norm[pre_norm]


def embeddings_digest(manifest: Manifest) -> str:
    """Return twelve hex digits that change when any image or text shard of a split changes."""
    parts = {name: part for name, part in manifest.parts.items() if name != "prompts"}
    return fingerprint({name: [shard.sha256 for shard in part.shards] for name, part in parts.items()})


def save_moments(
    path: Path, measured: Mapping[NormMode, CoMoments], teacher: Mapping[str, Any], embeddings: str, captions: str
) -> None:
    """Write moments to one file, atomically, in float64."""
    arrays: dict[str, np.ndarray] = {}
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "teacher": json.dumps(teacher, sort_keys=True),
        "embeddings": embeddings,
        "captions": captions,
    }
    for pre_norm, both in measured.items():
        sides = {"image": both.image, "text": both.text, "cross": both.cross}
        for side, found in sides.items():
            if found is None:
                continue
            names = _CROSS if isinstance(found, CrossMoments) else _MOMENTS
            arrays |= {f"{pre_norm}/{side}/{name}": getattr(found, name) for name in names}
            attributes[f"{pre_norm}_{side}_count"] = found.count
            if isinstance(found, Moments):
                attributes[f"{pre_norm}_{side}_quartic"] = found.quartic
    write_arrays(path, arrays, attributes)


def load_moments(path: Path) -> StoredMoments:
    """Read a file of moments.

    Raises:
        MissingError: there is no such file.
        DamagedError: it is no file of moments, or one of another format.
    """
    file = read_arrays(path)
    try:
        if file.attributes["format"] != FORMAT:
            raise DamagedError(
                f"{path}: format {file.attributes['format']}, this program reads {FORMAT}. Run `moments` again."
            )
        norms = cast("list[NormMode]", sorted({name.split("/")[0] for name in file.arrays}))
        teacher = json.loads(file.attributes["teacher"])
        moments = {norm: _both(file, norm) for norm in norms}
        return StoredMoments(path, moments, teacher, file.attributes["embeddings"], file.attributes["captions"])
    except KeyError as error:
        raise DamagedError(f"{path}: no file of moments: {error} is missing. Run `moments` again.") from None


def _both(file: ArrayFile, norm: NormMode) -> CoMoments:
    if f"{norm}/text/mean" not in file.arrays:
        return CoMoments(norm, _side(file, norm, "image"), None, None)
    cross = CrossMoments(int(file.attributes[f"{norm}_cross_count"]), **_arrays(file, f"{norm}/cross", _CROSS))
    return CoMoments(norm, _side(file, norm, "image"), _side(file, norm, "text"), cross)


def _side(file: ArrayFile, norm: NormMode, side: str) -> Moments:
    count, quartic = (file.attributes[f"{norm}_{side}_{name}"] for name in ("count", "quartic"))
    return Moments(int(count), **_arrays(file, f"{norm}/{side}", _MOMENTS), quartic=float(quartic))


def _arrays(file: ArrayFile, group: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: np.array(file.arrays[f"{group}/{name}"]) for name in names}
