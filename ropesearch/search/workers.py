"""What runs the searches of a sweep: worker processes on this machine."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

from ropesearch.core import checks
from ropesearch.core.machine import processors


@contextmanager
def process_pool(workers: int | None = None) -> Iterator[Executor]:
    """Worker processes on this machine, which end with the process that started them, however it ends.

    Parameters
    ----------
    workers : int, optional
        How many, at most one per processor that the machine lends this process; that many if left out.

    Yields
    ------
    concurrent.futures.Executor
        Closed at the end; after an error or an interrupt, without waiting for what is under way.

    Raises
    ------
    ValueError
        If `workers` is no positive integer.
    """
    lent = processors()
    n = lent if workers is None else min(checks.integer("workers", workers, 1), lent)
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(n, mp_context=context, initializer=_start_worker, initargs=(watched,))
    try:
        yield pool
    except BaseException:
        held.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        held.close()
        watched.close()


def _start_worker(watched: Connection) -> None:
    """Make a worker process leave Ctrl-C to its parent, and end when the other end of `watched` does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        watched.poll(None)  # nothing is ever sent: it returns when the other end is closed, by a kill too
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let a Ctrl-C wait, also in a process started meanwhile, which then never prints a traceback about it."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    # The mask is what a new process inherits; here it is not enough, for another thread may take the signal.
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler or signal.default_int_handler)
    if came and callable(handler):
        handler(signal.SIGINT, None)
