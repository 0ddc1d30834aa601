"""Do the next pieces of work while the present one is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

CHUNKS_PER_WORKER = 4
"""Of a burst, for each worker: handing over every single thumbnail costs as much as decoding some."""
T = TypeVar("T")
R = TypeVar("R")


def prefetch_map(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Generator[R, None, None]:
    """Yield function(item) in order, computed by threads at most `ahead` items before it is asked for.

    Pillow gives the interpreter up while it decodes and resamples, so threads do. Without workers the
    work is done when it is asked for. An error comes out where its item would have.
    """
    if not workers:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def chunked_map(function: Callable[[T], R], items: Iterable[T], workers: int, burst: int) -> Generator[R, None, None]:
    """Yield function(item) in order, `burst` items at a time, by threads that rest until the next burst is asked for.

    For work that is followed by computing on the same cores: decoding beside it would take a core from one of its
    threads, and the others would wait for that one. An error comes out where its item would have.
    """
    if not workers:
        yield from map(function, items)
        return
    iterator = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="burst") as pool:
        while taken := list(islice(iterator, burst)):
            size = -(-len(taken) // (CHUNKS_PER_WORKER * workers))
            begun: list[tuple[list[R], Future[None]]] = []
            for at in range(0, len(taken), size):
                done: list[R] = []
                begun.append((done, pool.submit(done.extend, map(function, taken[at : at + size]))))
            for done, part in begun:
                wait([part])
                yield from done
                part.result()  # an error comes after what was done before it
