"""Score the teacher itself in every target space, from the cache alone, before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.table import Table

from cache.atomic import write_json
from cache.checksums import CHECKSUMS, write_checksums
from cache.reader import EmbeddingStore
from cache.teachers import teacher_folders
from pipeline.evaluation.audit import (
    AuditInputs,
    AuditResult,
    SpaceAudit,
    fit_space_logit_scale,
    read_gallery,
    read_labeled,
    score_space,
)
from pipeline.evaluation.scoring_rules import reference_spaces
from pipeline.evaluation.teacher_comparison import TeacherComparison, compare_teachers
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.params import Runtime
from pipeline.project.terminal import PlainConsole
from pipeline.reporting.audit.text import render_audit
from pipeline.whitening.comoments import CoMoments, NormMode
from pipeline.whitening.diagnostics import (
    StorageNoise,
    axis_correlation,
    condition_number,
    round_trip_error,
    split_half_distance,
    storage_noise,
)
from pipeline.whitening.estimate import SplitHalves, split_half_moments
from pipeline.whitening.methods import AUDIT_SPACES, TargetParams
from pipeline.whitening.moments_file import load_moments
from pipeline.whitening.spaces import fit_space, fit_warnings
from pipeline.whitening.spectrum import eigendecompose

NORMS: tuple[NormMode, ...] = ("l2", "none")
GALLERY_IMAGES = 1000
"""Number of val images in retrieval; fixed, because recall at 1 depends on it."""


def audit(
    targets: Mapping[str, TargetParams], zero_shot: Sequence[str], floor: float, layout: Layout, runtime: Runtime
) -> AuditResult:
    """Fit the target spaces of the parameters, and one of each method, on train, and score the teacher in all of them.

    With several teachers, the first one and its own target spaces are audited.

    Args:
        targets: The target spaces of the parameters, by name.
        zero_shot: Splits with classes and prompts.
        floor: Relative eigenvalue floor of the reference spaces, as in `evaluate`.
        layout: Folders of the project.
        runtime: How shards are checked.

    Raises:
        CacheError: embeddings of train, val or a zero-shot set are missing or damaged.
    """
    train, val, *labeled = (
        EmbeddingStore.open(layout.embeddings(name), runtime.verify) for name in ("train", "val", *zero_shot)
    )
    for store in (val, *labeled):
        store.require_source(teacher=train.manifest.teacher)
    first = next(iter(teacher_folders(layout.embeddings("train"))))
    targets = {name: params for name, params in targets.items() if params.teachers in ((), (first,))}
    space_params = {**targets, **{name: params for name, params in AUDIT_SPACES.items() if name not in targets}}
    halves: dict[NormMode, SplitHalves] = {norm: split_half_moments(train, norm) for norm in NORMS}
    inputs = _held_out(val, labeled, halves["l2"], floor)
    spaces, refused = _audit_spaces(space_params, halves, inputs)
    moments = CoMoments.merge(*halves["l2"])
    return AuditResult(
        teacher=train.manifest.teacher,
        counts={
            "dimensions": train.dim,
            **{f"train {side} rows": side_moments.count for side, side_moments in moments.by_modality.items()},
            **{f"{store.manifest.split} images": store.rows for store in (val, *labeled)},
        },
        chance=inputs.chance,
        ceiling=score_space(fit_space("raw", TargetParams(method="raw"), moments), inputs),
        spaces=spaces,
        targets=tuple(targets),
        refused=refused,
        noise=_noise(halves["none"], inputs),
        spectra={
            side: eigendecompose(side_moments.covariance).values for side, side_moments in moments.by_modality.items()
        },
        correlation=axis_correlation(moments),
        advice=_advice(targets, halves),
    )


def _held_out(val: EmbeddingStore, labeled: Sequence[EmbeddingStore], halves: SplitHalves, floor: float) -> AuditInputs:
    moments = CoMoments.merge(*halves)
    reference = reference_spaces(moments, floor) if moments.text else {}
    sets = [read_labeled(store) for store in labeled]
    return AuditInputs(val.image()[:GALLERY_IMAGES], read_gallery(val, GALLERY_IMAGES), sets, reference)


def _audit_spaces(
    space_params: Mapping[str, TargetParams], halves: Mapping[NormMode, SplitHalves], inputs: AuditInputs
) -> tuple[tuple[SpaceAudit, ...], dict[str, str]]:
    """Return the result of each space, and the reasons for which other spaces could not be fitted."""
    spaces, refused = [], {}
    for name, params in space_params.items():
        try:
            spaces.append(_audit_space(name, params, halves[params.pre_norm], inputs))
        except UsageError as error:
            refused[name] = str(error)
    return tuple(spaces), refused


def _audit_space(name: str, params: TargetParams, halves: SplitHalves, inputs: AuditInputs) -> SpaceAudit:
    space = fit_space(name, params, CoMoments.merge(*halves))
    parts = [fit_space(name, params, half) for half in halves]
    return SpaceAudit(
        name=name,
        method=params.method,
        scores=score_space(space, inputs),
        logit_scale=fit_space_logit_scale(space, inputs.gallery) if inputs.gallery and space.text else None,
        condition=condition_number(space),
        floored=tuple(side.num_floored for side in (space.image, space.text) if side),
        round_trip_error=round_trip_error(space, inputs.image),
        split_half_distance=split_half_distance(parts[0], parts[1], inputs.image),
    )


def _noise(halves: SplitHalves, inputs: AuditInputs) -> dict[str, tuple[StorageNoise, StorageNoise]]:
    """Return the noise of half-precision storage, for image rows and text rows of the held-out split."""
    moments = CoMoments.merge(*halves)
    noise = {"image": storage_noise(inputs.image, moments.image.covariance, moments.pre_norm)}
    if inputs.gallery and moments.text:
        noise["text"] = storage_noise(inputs.gallery.text, moments.text.covariance, moments.pre_norm)
    return noise


def _advice(targets: Mapping[str, TargetParams], halves: Mapping[NormMode, SplitHalves]) -> tuple[str, ...]:
    return tuple(
        line
        for name, params in targets.items()
        for line in fit_warnings(name, params, CoMoments.merge(*halves[params.pre_norm]))
    )


def print_audit(result: AuditResult, layout: Layout) -> None:
    """Print an audit, and write its tables and plots to report/audit/."""
    from pipeline.reporting.audit.plots import write_pictures

    folder = layout.audit
    console = PlainConsole(width=None if PlainConsole().is_terminal else 120)
    console.print(render_audit(result))
    write_json(folder / "audit.json", _plain(asdict(result)))
    write_checksums(folder / CHECKSUMS, ["audit.json", *(path.name for path in write_pictures(result, folder))])
    console.print(f"tables and plots: {folder.resolve()}", soft_wrap=True)


def _plain(value: Any) -> Any:
    """Return a JSON-serializable value."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


def audit_teachers(
    zero_shot: Sequence[str], floor: float, layout: Layout, runtime: Runtime
) -> TeacherComparison | None:
    """Compare the teachers of a project; return None if there is only one.

    Raises:
        CacheError: embeddings or moments are missing, damaged or of other teachers.
    """
    if len(teacher_folders(layout.embeddings("train"))) < 2:
        return None
    return compare_teachers(load_moments(layout.moments), zero_shot, floor, layout, runtime)


def print_teachers(comparison: TeacherComparison, console: PlainConsole) -> None:
    """Print the ceilings of each teacher and ensemble, the variance each explains of the others, and conclusions."""
    columns = {
        (split, rule): None for each in comparison.ceilings for split in each.scores for rule in each.scores[split]
    }
    table = Table(box=None, pad_edge=False, title="ceilings of the teachers, in %", title_justify="left")
    table.add_column("teacher")
    for split, rule in columns:
        table.add_column(f"{split}, {rule}", justify="right")
    for each in comparison.ceilings:
        scores = (each.scores.get(split, {}).get(rule) for split, rule in columns)
        table.add_row(each.name, *("–" if score is None else f"{100 * score:.1f}" for score in scores))
    console.print(table)
    pairs = Table(
        box=None,
        pad_edge=False,
        title="image embeddings of one teacher from another's",
        title_justify="left",
    )
    for name in ("of", "by", "R²", "linear CKA"):
        pairs.add_column(name, justify="right" if name[0] in "Rl" else "left")
    for one in comparison.explained:
        pairs.add_row(one.target, one.source, f"{one.r2:.2f}", f"{one.cka:.2f}")
    console.print(pairs)
    for line in comparison.advice():
        console.print(line, soft_wrap=True)
