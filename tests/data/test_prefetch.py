"""Work done ahead comes in order, is bounded, and fails where it would have."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.data.prefetch import chunked_map, prefetch_map


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_results_come_in_order(workers: int) -> None:
    assert list(prefetch_map(lambda x: x * x, range(50), workers, 8)) == [x * x for x in range(50)]


def test_no_more_than_so_many_are_taken_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = prefetch_map(lambda x: x, items(), 2, 5)
    assert next(results) == 0
    assert len(taken) == 6
    results.close()


def test_an_error_comes_out_where_its_item_would_have() -> None:
    results = prefetch_map(lambda x: 1 // x, [2, 1, 0, 3], 2, 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_end_when_the_reader_stops_early() -> None:
    results = prefetch_map(lambda x: x, range(1000), 3, 8)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_bursts_come_in_order_and_nothing_is_done_while_a_burst_is_used() -> None:
    done: list[int] = []

    def doing(item: int) -> int:
        done.append(item)
        return 10 * item

    found = chunked_map(doing, range(50), 2, 23)
    assert [next(found) for _ in range(23)] == [10 * item for item in range(23)]
    time.sleep(0.05)
    assert sorted(done) == list(range(23))
    assert list(found) == [10 * item for item in range(23, 50)]
    assert list(chunked_map(doing, range(3), 0, 2)) == [0, 10, 20]


@pytest.mark.parametrize("burst", [4, 40])
def test_an_error_in_a_burst_comes_out_in_its_place_and_leaves_no_thread(burst: int) -> None:
    def fails(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        return item

    before, found = threading.active_count(), chunked_map(fails, range(60), 2, burst)
    assert [next(found) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(found)
    assert threading.active_count() == before
