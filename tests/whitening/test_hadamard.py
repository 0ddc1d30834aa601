from __future__ import annotations

import numpy as np
import pytest

from pipeline.project.errors import UsageError
from pipeline.whitening.hadamard import hadamard


@pytest.mark.parametrize("order", [1, 2, 4, 12, 16, 20, 28, 36, 64, 128, 384, 512, 640, 768, 896, 1024, 1152, 1280])
def test_rows_are_orthogonal_and_entries_are_one_or_minus_one(order: int) -> None:
    h = hadamard(order)
    np.testing.assert_array_equal(np.abs(h), 1)
    np.testing.assert_array_equal(h @ h.T, order * np.eye(order))


@pytest.mark.parametrize("order", [3, 6, 30, 92])
def test_an_order_that_is_not_reached_says_what_to_use_instead(order: int) -> None:
    with pytest.raises(UsageError, match="method: scale"):
        hadamard(order)
