"""Compute the next items while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

CHUNKS_PER_WORKER = 4
"""Chunks of a burst per worker: handing over single thumbnails would cost as much as decoding them."""
T = TypeVar("T")
R = TypeVar("R")


def prefetch_map(function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int) -> Generator[R, None, None]:
    """Yield function(item) in order, computed by threads at most `ahead` items in advance.

    Threads are sufficient, because Pillow releases the interpreter lock while it decodes and resamples. Without
    workers, items are computed on demand. An error is raised at the position of its item.
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
    """Yield function(item) in order, in bursts of `burst` items, by threads that idle between bursts.

    For work that alternates with computation on the same cores: concurrent decoding would take a core from one thread
    of the computation, and the other threads would wait for it. The next burst is computed when it is requested. An
    error is raised at the position of its item.
    """
    if not workers:
        yield from map(function, items)
        return
    iterator = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="burst") as pool:
        while chunk := list(islice(iterator, burst)):
            size = -(-len(chunk) // (CHUNKS_PER_WORKER * workers))
            begun: list[tuple[list[R], Future[None]]] = []
            for at in range(0, len(chunk), size):
                done: list[R] = []
                begun.append((done, pool.submit(done.extend, map(function, chunk[at : at + size]))))
            for done, part in begun:
                wait([part])
                yield from done
                part.result()  # an error is raised after the results before it
