"""Scoring rules: their identities, invariances, and what each must not be."""

from __future__ import annotations

import re
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.normalization import l2_normalize
from cache.shard import PromptShard
from pipeline.evaluation import audit
from pipeline.evaluation.scoring_rules import (
    COVARIANCE_RULES,
    RULES,
    Rule,
    ScoringRule,
    available_rules,
    first_template,
    image_vectors,
    prompt_vectors,
    reference_spaces,
    score_factors,
    score_vectors,
)
from pipeline.project.errors import UsageError
from pipeline.reporting.sections.scores import RULE_CAPTION
from pipeline.whitening.comoments import CoMoments
from pipeline.whitening.estimate import estimate_comoments
from tests import ROOT

D = 12


def clip_like(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return paired images and texts with a decaying spectrum and far means, as CLIP's are."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, D + 1) ** -0.6
    meaning = rng.normal(size=(n, D))
    image = meaning * spread + 0.3 * rng.normal(size=(n, D)) * spread + np.linspace(1, -1, D)
    text = meaning * spread + 0.3 * rng.normal(size=(n, D)) * spread - np.linspace(-0.5, 1, D)
    return image.astype(np.float32), text.astype(np.float32)


def moments(seed: int = 0) -> CoMoments:
    image, text = clip_like(seed)
    return estimate_comoments("l2", [image], text, np.arange(len(image) + 1))


def prompts(classes: int = 4, templates: int = 3) -> PromptShard:
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(classes * templates, D)).astype(np.float32) + 1
    return PromptShard(rows, tuple("abcd"[:classes]), tuple(f"{{c}} {i}" for i in range(templates)))


def test_clip_rule_is_the_cosine_of_the_embeddings_themselves() -> None:
    image, text = clip_like(1)
    rows, columns = score_vectors("clip", image, text, {})
    direct = (image @ text.T) / np.outer(np.linalg.norm(image, axis=1), np.linalg.norm(text, axis=1))
    np.testing.assert_allclose(rows @ columns.T, direct, atol=1e-5)  # float32 on both sides


def test_centered_rule_takes_each_modality_s_own_mean_away() -> None:
    image, text = clip_like(1)
    rows, columns = score_vectors("centered", image, text, reference_spaces(moments(1), 0.01))
    for found, given_rows in ((rows, image), (columns, text)):
        sphere = given_rows / np.linalg.norm(given_rows, axis=1, keepdims=True)
        centered = sphere - sphere.mean(axis=0)
        np.testing.assert_allclose(found, centered / np.linalg.norm(centered, axis=1, keepdims=True), atol=1e-5)


def test_whitened_rule_sees_the_identity_covariance_where_no_floor_is_set() -> None:
    image, _ = clip_like(2)
    sphere = image / np.linalg.norm(image, axis=1, keepdims=True)
    spaces = reference_spaces(moments(2), 0.0)
    white = spaces["whitened"].to_target(sphere)
    # On the unit sphere one direction is nearly empty: float32 rows leave 1e-3 of noise there.
    np.testing.assert_allclose(np.cov(white.T), np.eye(D), atol=5e-3)
    # Negative control: half the exponent does not whiten.
    soft = np.cov(spaces["soft"].to_target(sphere).T)
    assert np.abs(soft - np.eye(D)).max() > 0.1


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100.0))
def test_no_rule_depends_on_the_length_of_an_embedding(rule: str, seed: int, length: float) -> None:
    image, _ = clip_like(seed, n=5)
    spaces = reference_spaces(moments(), 0.01)
    # 1e-4: rounding of the rescaled float32 rows, stretched by the whitening of the floored axes.
    np.testing.assert_allclose(
        image_vectors(rule, image * np.float32(length), spaces), image_vectors(rule, image, spaces), atol=1e-4
    )


PLAIN_RULES = [name for name, rule in RULES.items() if rule.method is None]
"""Those that need no moments."""
COSINE_RULES = [name for name, rule in RULES.items() if rule.factors is None]


def test_the_type_of_params_names_the_rules_of_the_table() -> None:
    assert get_args(Rule) == tuple(RULES)
    assert COVARIANCE_RULES == ("whitened", "soft")


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_explained_in_the_report_and_in_the_docs(rule: str) -> None:
    assert re.search(rf"\b{rule}\b", RULE_CAPTION)
    docs = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert f"\n| `{rule}` |" in docs
    (parameter,) = (line for line in docs.splitlines() if line.startswith("| `evaluate.rules` |"))
    assert f"`{rule}`" in parameter.rpartition("any of")[2]


def test_a_rule_that_is_no_cosine_scores_by_its_own_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative squared distance of unit vectors, 2 cos − 2, as a dot product with one more coordinate."""

    def distance(image: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.c_[2 * image, np.full(len(image), -2)], np.c_[text, np.ones(len(text))]

    monkeypatch.setitem(RULES, "distance", ScoringRule(factors=distance))
    image, text = clip_like(3, n=7)
    rows, columns = score_vectors("distance", image, text, {})
    units = l2_normalize(image), l2_normalize(text)
    np.testing.assert_allclose(rows @ columns.T, -((units[0][:, None] - units[1][None]) ** 2).sum(axis=2), atol=1e-5)
    plain, _ = score_factors("clip", *units)
    assert plain is units[0]  # negative control: a cosine's vectors stay as they are


def test_an_audit_scores_a_new_rule_without_a_space_too(monkeypatch: pytest.MonkeyPatch) -> None:
    image, spaces = clip_like(3)[0], reference_spaces(moments(3), 0.01)
    space = spaces["whitened"]
    before = audit._rows_by_rule(space, image, spaces)
    monkeypatch.setitem(RULES, "hubs", ScoringRule(factors=lambda image, text: (image, text)))
    assert [*audit._rows_by_rule(space, image, spaces)] == [*before, "hubs"]


@pytest.mark.parametrize("rule", COSINE_RULES)
def test_scores_are_cosines(rule: str) -> None:
    rows, columns = score_vectors(rule, *clip_like(3), reference_spaces(moments(3), 0.01))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(columns, axis=1), 1, atol=1e-5)


def test_rules_do_rank_differently() -> None:
    spaces = reference_spaces(moments(3), 0.01)
    best = {}
    for rule in RULES:
        rows, columns = score_vectors(rule, *clip_like(3), spaces)
        best[rule] = np.argmax(rows @ columns.T, axis=1)
    for rule in set(RULES) - {"clip"}:
        assert not np.array_equal(best["clip"], best[rule])


def test_a_class_is_the_normalized_mean_of_its_normalized_prompts() -> None:
    given_prompts = prompts()
    found = prompt_vectors("clip", given_prompts, {})
    for c in range(4):
        each = given_prompts.embedding[3 * c : 3 * c + 3]
        mean = np.mean([row / np.linalg.norm(row) for row in each], axis=0)
        np.testing.assert_allclose(found[c], mean / np.linalg.norm(mean), atol=1e-6)
    # Negative control: averaging before normalising is another rule.
    plain = l2_normalize(given_prompts.embedding.reshape(4, 3, D).mean(axis=1))
    assert np.abs(found - plain).max() > 1e-3


def test_a_single_prompt_is_the_first_template_of_every_class() -> None:
    alone = first_template(prompts())
    assert alone.templates == ("{c} 0",)
    np.testing.assert_array_equal(alone.embedding, prompts().embedding[[0, 3, 6, 9]])


def test_a_wrong_rule_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="'whitend'; did you mean 'whitened'"):
        image_vectors("whitend", clip_like(0)[0], reference_spaces(moments(), 0.01))


def test_without_captions_only_rules_without_a_transform_can_be_scored() -> None:
    assert "clip" in PLAIN_RULES
    assert "centered" not in PLAIN_RULES
    image, _ = clip_like(0)
    assert available_rules(list(RULES), estimate_comoments("l2", [image])) == PLAIN_RULES
    assert available_rules(list(RULES), None) == PLAIN_RULES
    assert available_rules(("whitened", "clip"), moments()) == ["whitened", "clip"]


def test_a_row_of_zeros_scores_zero() -> None:
    assert l2_normalize(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]
