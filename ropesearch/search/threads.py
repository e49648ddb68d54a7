"""Run tasks in threads and keep their results in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def run_size(n: int, threads: int) -> int:
    """Return how many of `n` items one task should take, few enough to keep all threads busy."""
    return max(1, min(16, n // (4 * threads)))


def run_in_threads(tasks: Iterator[Callable[[], list[T]]], threads: int, report: Callable[[], None]) -> Iterator[T]:
    """Yield the results of all tasks in order; call `report` after each result.

    Tasks are taken from the iterator in the calling thread, shortly before a thread is free for them.
    """
    waiting: deque[Future[list[T]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for task in islice(tasks, 4 * threads - len(waiting)):
                    waiting.append(pool.submit(task))
                if not waiting:
                    return
                for result in waiting.popleft().result():
                    yield result
                    report()
        except BaseException:  # an interrupt must not wait for every task that is still queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise
