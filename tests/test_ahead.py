"""Work done ahead comes in order, is bounded, and fails where it would have."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.data.ahead import map_ahead


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_order(workers: int) -> None:
    assert list(map_ahead(lambda x: x * x, range(50), workers, 8)) == [x * x for x in range(50)]


def test_no_more_than_so_many_are_taken_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(lambda x: x, items(), 2, 5)
    assert next(results) == 0
    assert len(taken) == 6
    results.close()


def test_an_error_comes_out_where_its_item_would_have() -> None:
    results = map_ahead(lambda x: 1 // x, [2, 1, 0, 3], 2, 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_end_when_the_reader_stops_early() -> None:
    results = map_ahead(lambda x: x, range(1000), 3, 8)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
