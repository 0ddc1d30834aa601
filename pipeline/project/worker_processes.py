"""Worker processes that end when their parent does, and of which Ctrl-C shows no traceback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def holding_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back while worker processes are started, which inherit the blocked signal.

    A worker that still imports its modules would answer Ctrl-C with a traceback; `start_worker` lets it through.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker() -> None:
    """Prepare a worker process: Ctrl-C ends it at once and in silence, and it ends as soon as its parent has.

    A parent that was killed can tell its workers nothing, so each watches it from a thread of its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()

    def exit_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
