from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from rich.console import Console

from pipeline.evaluation.audit import AuditResult, SpaceAudit
from pipeline.reporting.audit.text import audit_headline, render_audit, warnings
from pipeline.whitening.diagnostics import StorageNoise

QUIET = StorageNoise("float16", 1e-6, 1e-5, 0, 16)
CEILING = {"clip": 0.95, "centered": 0.94, "whitened": 0.61, "soft": 0.9}
RAW = SpaceAudit("raw", "raw", {"cifar10": {"own": 0.95, **CEILING}}, 80.0, 1.0, (0, 0), 1e-14, 0.0)
ZCA = SpaceAudit("zca", "zca", {"cifar10": {"own": 0.61, **CEILING}}, 37.0, 1e4, (90, 120), 1e-13, 0.01)


def found(*spaces: SpaceAudit) -> AuditResult:
    return AuditResult(
        teacher={"model": "made-up"},
        counts={"dimensions": 512},
        chance={"cifar10": 0.1},
        ceiling={"cifar10": CEILING},
        spaces=spaces,
        targets=tuple(space.name for space in spaces),
        refused={},
        noise={"image": (QUIET, QUIET)},
        spectra={"image": np.ones(3)},
        correlation=np.zeros(0),
    )


def test_the_first_sentence_is_what_the_rule_costs_the_teacher() -> None:
    assert audit_headline(found(RAW)) == (
        "The teacher scores 95.0 % on cifar10 by `clip` and 61.0 % by `whitened`: the rule alone costs 34.0 points."
    )


def test_a_space_that_caps_its_students_is_named_with_the_rule_that_does_not() -> None:
    (line,) = warnings(found(RAW, ZCA))
    assert line.startswith("zca: scored in the space itself, the teacher gets 61.0 % on cifar10 instead of 95.0 %")
    assert line.endswith("Score by `clip`, which un-whitens first.")


def test_a_space_that_costs_nothing_is_not_warned_of() -> None:
    assert warnings(found(RAW)) == []


def test_ceilings_fitted_to_too_few_rows_are_marked_beside_the_figure_and_explained() -> None:
    few = replace(found(RAW), counts={"dimensions": 512, "train image rows": 5119, "train text rows": 25_000})
    assert "61.0 % by `whitened` †" in audit_headline(few)
    (line,) = warnings(few)
    assert line.startswith("† `whitened` and `soft` were fitted to 5119 image rows, below 10 a dimension (5120)")
    assert all(f"{rule} †" in printed(few) for rule in ("in the space", "whitened", "soft"))
    # Negative control: one row more is enough, and `clip` needs no fit.
    enough = replace(few, counts={**few.counts, "train image rows": 5120})
    assert warnings(enough) == []
    assert "†" not in printed(enough)
    assert "clip †" not in printed(few)


def printed(result: AuditResult) -> str:
    shown = io.StringIO()
    console = Console(width=120, file=shown)
    console.print(render_audit(result))
    return shown.getvalue()


def test_each_other_defect_has_its_own_sentence() -> None:
    scores = {"cifar10": {"own": 0.95, **CEILING, "clip": 0.8}}
    for space, words in (
        (replace(RAW, method="pca"), "rotates images and texts differently"),
        (replace(RAW, scores=scores), "an exact copy of the teacher gets 80.0 % on cifar10 instead of 95.0 %"),
        (replace(RAW, round_trip_error=0.02), "loses 2.0 % of the variance"),
        (replace(RAW, split_half_distance=0.4), "0.40 apart"),
    ):
        assert any(words in line for line in warnings(found(space))), words
    noisy = replace(found(RAW), noise={"text": (QUIET, StorageNoise("bfloat16", 0.4, 136.0, 52, 768))})
    assert any("52 of the 768 axes of the texts, at worst 1.4e+02 times" in line for line in warnings(noisy))
    refused = replace(found(RAW), refused={"wclip": "whiten.wclip: 14 rows"}, advice=("few rows",))
    assert warnings(refused) == ["few rows", "Not fitted: whiten.wclip: 14 rows"]


def test_the_tables_show_every_rule_and_a_dash_where_there_is_no_score() -> None:
    narrow = replace(ZCA, name="narrow", scores={"cifar10": {"clip": 0.5}}, logit_scale=None)
    text = printed(found(RAW, narrow))
    assert all(word in text for word in ("in the space", "clip", "centered", "whitened", "soft", "chance 10.0 %"))
    row = next(line for line in text.splitlines() if "narrow" in line)
    assert row.count("–") == 4
    assert "50.0" in row
