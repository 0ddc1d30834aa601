"""Re-embed random rows with the teacher, and compare them with the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from rich.table import Table

from cache.manifest import CAPTIONS, TEXT, is_view
from cache.manifest import NAME as MANIFEST
from cache.reader import EmbeddingStore
from cache.teachers import find_folders
from pipeline.data.errors import bad_image_as_failure
from pipeline.data.images import decode
from pipeline.data.packing.packed import PackedSplit, Sample, open_packed
from pipeline.data.views import View, apply_view
from pipeline.project.errors import PipelineError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.project import Project
from pipeline.project.terminal import PlainConsole
from pipeline.teacher.model import Teacher, load_teacher
from pipeline.teacher.params import TeacherParams, named_teachers
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.moments_file import load_moments
from pipeline.whitening.spaces import Modality, TargetParams, TargetSpace, fit_space

COSINE = 0.9999
NOISE_MEAN, NOISE_WORST = 1e-3, 1e-2
"""Limits of the variance of the differences in the floored ZCA space, where the embeddings have variance 1.

The first is for the mean, the second for the worst eigenvector. A cosine alone would not detect noise in directions
that whitening amplifies.
"""
FLOOR = 0.01
SHARDS_READ = 8
"""Number of random shards from which the random rows are taken; each shard is read from its beginning."""
WORST_ROWS = 5


@dataclass(frozen=True)
class RecomputeResult:
    """Comparison of one part of a split."""

    split: str
    part: str
    rows: int
    noise_mean: float
    noise_worst: float
    worst: tuple[tuple[str, float], ...]
    """Keys and cosines of the rows with the largest differences."""
    teacher: str = ""
    """Name of the teacher, if there are several."""

    @property
    def label(self) -> str:
        """Return the name of the part for a table or a message."""
        return f"{self.split}/{self.part}" + (f" by {self.teacher}" if self.teacher else "")

    @property
    def within_tolerance(self) -> bool:
        """Whether the differences are within the limits."""
        cosine = self.worst[0][1] if self.worst else 1.0
        return cosine >= COSINE and self.noise_mean <= NOISE_MEAN and self.noise_worst <= NOISE_WORST


def recompute(  # noqa: PLR0917  the contract of the command
    layout: Layout,
    splits: Sequence[str],
    params: TeacherParams,
    rows: int,
    runtime: Runtime,
    seed: int = 0,
    name: str = "",
) -> list[RecomputeResult]:
    """Embed random rows of each view and of the captions of some splits again, with a teacher of this name.

    Raises:
        StaleError: the embeddings or the moments are of another teacher, or of another packed split.
        CacheError, UsageError: something is missing, damaged or cannot be loaded.
    """
    teacher = load_teacher(params, runtime.device)
    facts = teacher.identity.facts()
    results = []
    for split in splits:
        packed = open_packed(layout.packed(split))
        (folder,) = find_folders(layout.embeddings(split), facts)
        store = EmbeddingStore.open(folder).require_source(packed.digest, facts)
        measured = load_moments(layout.moments).of_teacher(facts).by_pre_norm
        moments = measured.get("l2") or next(iter(measured.values()))
        picked = list(_pick(packed, rows, np.random.default_rng(seed)))
        for part in sorted(part for part in store.manifest.parts if is_view(part) or part.startswith((TEXT, CAPTIONS))):
            modality: Modality = "image" if is_view(part) else "text"
            shown = _with_captions(packed, part, picked)
            if not is_view(part) and not any(sample.captions for _, _, sample in shown):
                continue
            keys, stored, recomputed = (_view if is_view(part) else _text)(store, part, shown, teacher)
            noise = _noise(_space(moments, modality), stored, recomputed, modality)
            results.append(replace(_compared(split, part, keys, noise, stored, recomputed), teacher=name))
    return results


def _with_captions(packed: PackedSplit, part: str, picked: Sequence[Picked]) -> list[Picked]:
    """Return samples with the captions that a part is of: their own, or those of a further file."""
    if not part.startswith(CAPTIONS):
        return list(picked)
    file = part.removeprefix(CAPTIONS)
    further = {number: packed.read_captions(file, number)[1] for number in sorted({number for number, _, _ in picked})}
    return [(number, row, replace(sample, captions=further[number][row])) for number, row, sample in picked]


def check_rows(project: Project, splits: Sequence[str], rows: int, seed: int) -> None:
    """Recompute rows of the embedded splits, print the differences, and raise if they are too large."""
    embedded = [name for name in splits if (project.layout.embeddings(name) / MANIFEST).exists()]
    results = [
        result
        for name, params in named_teachers(project).items()
        for result in recompute(project.layout, embedded, params, rows, project.runtime, seed, name)
    ]
    print_recompute(results, PlainConsole())
    require_within_tolerance(results)


def require_within_tolerance(results: Sequence[RecomputeResult]) -> None:
    """Raise PipelineError if a difference exceeds its limit."""
    for one in results:
        if not one.within_tolerance:
            raise PipelineError(
                f"{one.label}: the teacher says something else than what is kept: cosine "
                f"{one.worst[0][1]:.6f} of '{one.worst[0][0]}' (at least {COSINE}), noise {one.noise_mean:.1e} on "
                f"average (at most {NOISE_MEAN:.0e}) and {one.noise_worst:.1e} in the worst direction (at most "
                f"{NOISE_WORST:.0e}). Other library versions, precision or hardware do that: embed the split again."
            )


def print_recompute(results: Sequence[RecomputeResult], console: PlainConsole) -> None:
    """Print one line per part, and the rows with the largest differences."""
    table = Table(box=None, pad_edge=False, title="embedded again", title_justify="left")
    for name in ("part", "rows", "noise, mean", "noise, worst", "worst rows by cosine"):
        table.add_column(name)
    for one in results:
        worst = ", ".join(f"{key} {cosine:.7f}" for key, cosine in one.worst)
        numbers = str(one.rows), f"{one.noise_mean:.1e}", f"{one.noise_worst:.1e}"
        table.add_row(one.label, *numbers, worst, style=None if one.within_tolerance else "red")
    console.print(table)


Picked = tuple[int, int, Sample]
Compared = tuple[list[str], Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]


def _pick(packed: PackedSplit, rows: int, generator: np.random.Generator) -> Iterator[Picked]:
    """Yield random samples with their shard and row."""
    shards = sorted(generator.permutation(len(packed.shards))[:SHARDS_READ].tolist())
    places = [(number, row) for number in shards for row in range(packed.shards[number].rows)]
    picked = {places[i] for i in generator.permutation(len(places))[:rows]}
    for number in shards:
        for row, sample in enumerate(packed.read(number)):
            if (number, row) in picked:
                yield number, row, sample


def _view(store: EmbeddingStore, part: str, picked: Sequence[Picked], teacher: Teacher) -> Compared:
    """Return keys, cached embeddings and new embeddings of the recorded boxes."""
    shards, stored, pixels = store.shards(part), [], []
    for number, row, sample in picked:
        shard = shards[number]
        view = View(tuple(shard.box[row].tolist()), bool(shard.flip[row]))
        how = teacher.identity.preprocess["interpolation"]
        with bad_image_as_failure(sample.key, sample.source):
            image = decode(sample.image)
        pixels.append(apply_view(image, view, teacher.identity.image_size, how))
        stored.append(shard.embedding[row])
    return [sample.key for _, _, sample in picked], np.array(stored), teacher.embed_images(np.stack(pixels))


def _text(store: EmbeddingStore, part: str, picked: Sequence[Picked], teacher: Teacher) -> Compared:
    """Return the same of the captions of a part."""
    shards, keys, stored, captions = store.shards(part), [], [], []
    for number, row, sample in picked:
        shard = shards[number]
        for place, caption in zip(range(shard.offsets[row], shard.offsets[row + 1]), sample.captions, strict=True):
            keys.append(f"{sample.key}#{place - shard.offsets[row]}")
            stored.append(shard.embedding[place])
            captions.append(caption)
    return keys, np.array(stored), teacher.embed_tokens(teacher.tokenize(captions))


def _space(moments: CoMoments, modality: Modality) -> TargetSpace | None:
    """Return the floored whitening in eigenvector coordinates (ZCA up to a rotation), to separate bands."""
    if modality == "text" and moments.text is None:
        return None
    return fit_space("verify", TargetParams(method="pca", floor=FLOOR, pre_norm=moments.pre_norm), moments)


def _noise(
    space: TargetSpace | None,
    stored: Float[np.ndarray, "n d"],
    recomputed: Float[np.ndarray, "n d"],
    modality: Modality,
) -> Float[np.ndarray, " d"]:
    """Return the mean squared difference along each eigenvector, largest eigenvalue first."""
    if space is None or not len(stored):
        return np.zeros(1)
    differences = space.to_target(recomputed, modality).astype(np.float64) - space.to_target(stored, modality)
    squares: Float[np.ndarray, " d"] = np.mean(differences**2, axis=0)
    return squares


def _compared(  # noqa: PLR0917  private
    split: str,
    part: str,
    keys: Sequence[str],
    noise: Float[np.ndarray, " d"],
    stored: Float[np.ndarray, "n d"],
    recomputed: Float[np.ndarray, "n d"],
) -> RecomputeResult:
    a, b = stored.astype(np.float64), recomputed.astype(np.float64)
    cosines = np.sum(a * b, axis=-1) / np.sqrt(np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1))
    worst = tuple((keys[i], float(cosines[i])) for i in np.argsort(cosines)[:WORST_ROWS])
    return RecomputeResult(split, part, len(keys), float(noise.mean()), float(noise.max()), worst)
