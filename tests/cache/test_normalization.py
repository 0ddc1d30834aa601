"""L2 normalization: unit rows at any scale, zero rows that stay zero, and no second implementation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.normalization import BLOCK_ROWS, l2_normalize
from pipeline.project.errors import PipelineError
from pipeline.whitening.comoments import normalize_rows

ROOT = Path(__file__).parent.parent.parent
OF_OTHER_THINGS = {
    "cache/normalization.py",
    "cache/ensemble.py",  # blocks of a row that share its length
    "pipeline/data/synthetic/shapes.py",  # directions of drawn curves
    "pipeline/evaluation/metrics/normality.py",  # columns: random directions to project on
}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-30, 1e30))
def test_rows_have_length_one_and_keep_their_direction_at_any_scale(seed: int, scale: float) -> None:
    rows = (np.random.default_rng(seed).normal(size=(7, 5)) * scale).astype(np.float32)
    unit = l2_normalize(rows)
    expected = [[float(x) / sum(float(y) ** 2 for y in row) ** 0.5 for x in row] for row in rows]
    np.testing.assert_allclose(unit, expected, rtol=2e-7)  # one rounding to float32
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(l2_normalize(rows, np.float64), axis=1), 1, rtol=1e-15)


def test_a_row_of_zeros_stays_zero_and_one_that_is_not_finite_becomes_nan() -> None:
    rows = np.array([[0, 0], [3, 4], [np.inf, 1], [np.nan, 1]], np.float32)
    unit = l2_normalize(rows)
    assert unit[:2].tolist() == [[0, 0], [np.float32(0.6), np.float32(0.8)]]
    assert np.isnan(unit[2:]).any(axis=1).all()
    assert rows[1].tolist() == [3, 4]  # the rows that were given are not changed


def test_blocks_do_not_change_a_bit() -> None:
    rows = np.random.default_rng(0).normal(size=(BLOCK_ROWS + 3, 4))
    whole = l2_normalize(rows, np.float64)
    for row in (0, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 2):
        assert l2_normalize(rows[row : row + 1], np.float64).tobytes() == whole[row].tobytes()
    assert l2_normalize(rows[:0]).shape == (0, 4)


def test_moments_and_targets_refuse_rows_without_a_direction() -> None:
    """A zero row has no place in a mean of directions: there it is an error, not a zero."""
    for bad in (0.0, np.inf, np.nan):
        with pytest.raises(PipelineError, match=r"row 1 of 2 has length .* no direction to normalize"):
            normalize_rows(np.array([[1, 2], [bad, 0]], np.float32), "l2")
    assert normalize_rows(np.zeros((1, 2), np.float32), "none").tolist() == [[0, 0]]


def test_nothing_else_normalizes_rows_by_itself() -> None:
    """torch's own `functional.normalize` treats a zero row the same way."""
    own = re.compile(r"/ np\.where\(length|/=? *(np\.maximum\()?np\.linalg\.norm\(|/ np\.sqrt\(np\.(einsum|square)")
    sources = [path for package in ("cache", "pipeline") for path in (ROOT / package).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in sources if own.search(path.read_text(encoding="utf-8"))}
    assert found - OF_OTHER_THINGS == {"pipeline/evaluation/metrics/effective_rank.py"}  # a vector of eigenvalues
