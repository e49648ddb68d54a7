"""Executors for the searches of a sweep: worker processes on this machine, or a Dask cluster."""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from ropesearch.core import checks
from ropesearch.core.errors import ClusterError, ParameterError, require_extra
from ropesearch.core.machine import processors

CONNECT_WITHIN = 10.0  # seconds
ASK_EVERY = 30.0
"""Seconds without a row after which a cluster is asked whether it is still there."""
SILENT_FOR = 600.0
"""Seconds for which neither the scheduler nor a worker may give a sign of life; a busy worker gives one."""


@contextmanager
def process_pool(workers: int | None = None) -> Iterator[Executor]:
    """Start worker processes on this machine; they end with the process that started them, however it ends.

    Parameters
    ----------
    workers : int, optional
        How many: at most, and by default, one per available processor.

    Yields
    ------
    concurrent.futures.Executor
        Closed at the end; after an error or an interrupt, without waiting for running tasks.

    Raises
    ------
    ValueError
        If `workers` is not a positive integer.
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
    """Make a worker process ignore Ctrl-C and exit when the other end of `watched` is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        watched.poll(None)  # nothing is ever sent: returns when the other end is closed, even by a kill
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C, also in a process started meanwhile, which then never prints a traceback about it."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    # A new process inherits the mask; in this one another thread may take the signal, hence the handler.
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, handler or signal.default_int_handler)
    if came and callable(handler):
        handler(signal.SIGINT, None)


@contextmanager
def dask_cluster(scheduler: str, *, note: Callable[[str], None] | None = None) -> Iterator[Executor]:
    """Connect to a Dask cluster.

    Parameters
    ----------
    scheduler : str
        Address of its scheduler, such as host:8786.
    note : callable, optional
        Called with a line of text if the cluster has no workers yet, or has fallen silent.

    Yields
    ------
    concurrent.futures.Executor
        Closing it leaves the cluster running.

    Raises
    ------
    ValueError
        If `scheduler` is not an address.
    ClusterError
        If no scheduler answers in time, or the cluster cannot run a search, or falls silent for ten minutes.
    ImportError
        If distributed is not installed; the message names the extra that brings it.
    """
    require_extra("`scheduler`", "cluster", "distributed")
    import distributed
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, location = parse_address(scheduler)
        get_backend(scheme)
        parse_host_port(location)
    except ValueError:
        raise ParameterError("scheduler", scheduler, "the address of a Dask scheduler, such as host:8786") from None
    for name in ("distributed", "distributed.client", "tornado.application"):  # their errors become one of ours
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A client waits forever for a listener that stays silent, and logs tracebacks when interrupted.
    workers = asyncio.run(_workers(scheduler))
    if workers is None:
        msg = f"no Dask scheduler answered at {scheduler} within {CONNECT_WITHIN:g} s"
        raise ClusterError(msg)
    with distributed.Client(scheduler, timeout=CONNECT_WITHIN, set_as_default=False) as client:
        if note is not None and not workers:
            note("the cluster has no workers yet; the sweep waits for them")
        try:
            yield DaskExecutor(client, scheduler, workers, note or (lambda _: None))
        except distributed.KilledWorker as error:
            msg = f"a point killed its workers repeatedly: {error}"
            raise ClusterError(msg) from None
        except (ImportError, RuntimeError) as error:
            if not isinstance(error, ImportError) and "deserialization" not in str(error):
                raise
            msg = f"the cluster at {scheduler} cannot run a search: its workers need the same version of ropesearch"
            raise ClusterError(msg) from None


class DaskExecutor(Executor):
    """Runs calls on a Dask cluster, and notices when the cluster falls silent."""

    def __init__(self, client: Any, address: str, workers: dict[str, Any], note: Callable[[str], None]) -> None:
        # Not pure: never reuse a result that another sweep left in the cluster's memory.
        self._executor = client.get_executor(pure=False)
        self._address = address
        self._note = note
        self._seen = _last_seen(workers)
        self._heard = time.monotonic()
        self._noted = False

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Any:
        """Submit a call."""
        future = self._executor.submit(function, *args, **options)
        future.add_done_callback(lambda _: self._hear())
        return future

    def _hear(self) -> None:
        self._heard, self._noted = time.monotonic(), False

    def check_alive(self) -> None:
        """Ask for signs of life; called while no result comes.

        Raises
        ------
        ClusterError
            If there have been none for too long.
        """
        workers = asyncio.run(_workers(self._address))
        seen = _last_seen(workers or {})
        never_had_one = workers == {} and not self._seen  # it waits for its first, however long that takes
        if never_had_one or any(self._seen.get(name) != when for name, when in seen.items()):
            self._hear()
        self._seen |= seen
        silent = time.monotonic() - self._heard
        who = "the scheduler does not answer" if workers is None else "no worker gives a sign of life"
        if silent > SILENT_FOR:
            msg = (
                f"the cluster at {self._address} has been silent for {silent:.0f} s: {who}; the finished rows are kept,"
            )
            msg += " and `resume` continues from there"
            raise ClusterError(msg)
        if silent > ASK_EVERY / 2 and not self._noted:
            self._noted = True
            self._note(f"{who}; the sweep ends if the cluster stays silent for {SILENT_FOR:.0f} s")


def _last_seen(workers: dict[str, Any]) -> dict[str, Any]:
    """When the scheduler last heard of each worker, by its own clock."""
    return {name: worker.get("last_seen") for name, worker in workers.items()}


async def _workers(address: str) -> dict[str, Any] | None:
    """What a Dask scheduler knows of its workers; None if none answers."""
    from distributed.core import connect, send_recv

    async def ask() -> dict[str, Any] | None:
        comm = await connect(address, timeout=CONNECT_WITHIN)
        try:
            reply = await send_recv(comm, op="identity")
        finally:
            comm.abort()
        return dict(reply["workers"]) if reply["type"] == "Scheduler" else None

    try:
        return await asyncio.wait_for(ask(), CONNECT_WITHIN)
    except Exception:  # something else may listen there and answer anything
        return None
