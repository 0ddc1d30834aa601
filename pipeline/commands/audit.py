"""What the teacher itself scores in every target space, from the cache alone, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console

from cache.atomic import write_json
from cache.reader import EmbeddingStore
from pipeline.evaluation.audited import (
    AuditResult,
    HeldOut,
    SpaceAudit,
    own_logit_scale,
    read_gallery,
    read_labelled,
    score_space,
)
from pipeline.evaluation.rules import reference_spaces
from pipeline.project.errors import UsageError
from pipeline.project.layout import Layout
from pipeline.project.runtime import Runtime
from pipeline.reporting.audit_text import report
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.halves import Halves, measure_halves
from pipeline.whitening.methods import TargetParams
from pipeline.whitening.norms import Norm
from pipeline.whitening.recipes import EVERY
from pipeline.whitening.soundness import (
    Noise,
    axis_correlation,
    condition,
    identity_error,
    instability,
    storage_noise,
)
from pipeline.whitening.spaces import advice, fit_space
from pipeline.whitening.spectrum import spectrum

NORMS: tuple[Norm, ...] = ("l2", "none")
GALLERY_IMAGES = 1000
"""Images of val among which captions are found: recall at 1 depends on their number, so it is always the same."""


def audit(
    targets: Mapping[str, TargetParams], zero_shot: Sequence[str], floor: float, layout: Layout, runtime: Runtime
) -> AuditResult:
    """Fit the params' target spaces, and one of each method, to train; score the teacher in all of them.

    Args:
        targets: The target spaces of the params, by name.
        zero_shot: Splits with classes and prompts.
        floor: Of the reference spaces that the rules score in, as `evaluate` uses it.
        layout: Where the embeddings lie.
        runtime: How shards are checked.

    Raises:
        CacheError: embeddings of train, val or a zero-shot set are missing or damaged.
    """
    train, val, *labelled = (
        EmbeddingStore.open(layout.embeddings(name), runtime.verify) for name in ("train", "val", *zero_shot)
    )
    for store in (val, *labelled):
        store.require(teacher=train.manifest.teacher)
    wanted = {**targets, **{name: params for name, params in EVERY.items() if name not in targets}}
    halves: dict[Norm, Halves] = {norm: measure_halves(train, norm) for norm in NORMS}
    held = _held_out(val, labelled, halves["l2"], floor)
    spaces, refused = _audit_spaces(wanted, halves, held)
    moments = CoMoments.merge(*halves["l2"])
    return AuditResult(
        teacher=train.manifest.teacher,
        counts={
            "dimensions": train.dim,
            **{f"train {side} rows": found.count for side, found in moments.sides.items()},
            **{f"{store.manifest.split} images": store.rows for store in (val, *labelled)},
        },
        chance=held.chance,
        ceiling=score_space(fit_space("raw", TargetParams(method="raw"), moments), held),
        spaces=spaces,
        targets=tuple(targets),
        refused=refused,
        noise=_noise(halves["none"], held),
        spectra={side: spectrum(found.covariance).values for side, found in moments.sides.items()},
        correlation=axis_correlation(moments),
        advice=_advice(targets, halves),
    )


def _held_out(val: EmbeddingStore, labelled: Sequence[EmbeddingStore], halves: Halves, floor: float) -> HeldOut:
    moments = CoMoments.merge(*halves)
    reference = reference_spaces(moments, floor) if moments.text else {}
    sets = [read_labelled(store) for store in labelled]
    return HeldOut(val.image()[:GALLERY_IMAGES], read_gallery(val, GALLERY_IMAGES), sets, reference)


def _audit_spaces(
    wanted: Mapping[str, TargetParams], halves: Mapping[Norm, Halves], held: HeldOut
) -> tuple[tuple[SpaceAudit, ...], dict[str, str]]:
    """Return what was found of each space, and why the others could not be fitted."""
    spaces, refused = [], {}
    for name, params in wanted.items():
        try:
            spaces.append(_audit_space(name, params, halves[params.pre_norm], held))
        except UsageError as error:
            refused[name] = str(error)
    return tuple(spaces), refused


def _audit_space(name: str, params: TargetParams, halves: Halves, held: HeldOut) -> SpaceAudit:
    space = fit_space(name, params, CoMoments.merge(*halves))
    parts = [fit_space(name, params, half) for half in halves]
    return SpaceAudit(
        name=name,
        method=params.method,
        scores=score_space(space, held),
        logit_scale=own_logit_scale(space, held.gallery) if held.gallery and space.text else None,
        condition=condition(space),
        floored=tuple(side.floored for side in (space.image, space.text) if side),
        identity_error=identity_error(space, held.image),
        instability=instability(parts[0], parts[1], held.image),
    )


def _noise(halves: Halves, held: HeldOut) -> dict[str, tuple[Noise, Noise]]:
    """Return what half-precision storage would add, to image rows and to text rows of the held-out split."""
    moments = CoMoments.merge(*halves)
    found = {"image": storage_noise(held.image, moments.image.covariance, moments.pre_norm)}
    if held.gallery and moments.text:
        found["text"] = storage_noise(held.gallery.text, moments.text.covariance, moments.pre_norm)
    return found


def _advice(targets: Mapping[str, TargetParams], halves: Mapping[Norm, Halves]) -> tuple[str, ...]:
    return tuple(
        line
        for name, params in targets.items()
        for line in advice(name, params, CoMoments.merge(*halves[params.pre_norm]))
    )


def show(found: AuditResult, layout: Layout) -> None:
    """Print an audit, and write its numbers and pictures to report/audit/."""
    from pipeline.reporting.audit_plots import write_pictures

    folder = layout.report.parent / "audit"
    console = Console(width=None if Console().is_terminal else 120)
    console.print(report(found))
    write_json(folder / "audit.json", _plain(asdict(found)))
    write_pictures(found, folder)
    console.print(f"numbers and pictures: {folder.resolve()}", soft_wrap=True)


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value
