"""What runs the searches of a sweep: worker processes on this machine, or a Dask cluster."""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

from ropesearch.core import checks
from ropesearch.core.errors import ClusterError, ParameterError, require_extra
from ropesearch.core.machine import processors

CONNECT_WITHIN = 10.0  # seconds


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


@contextmanager
def dask_cluster(scheduler: str, *, note: Callable[[str], None] | None = None) -> Iterator[Executor]:
    """Executor of a Dask cluster.

    Parameters
    ----------
    scheduler : str
        Address of its scheduler, such as host:8786.
    note : callable, optional
        Called with a line of text if the cluster has no workers yet.

    Yields
    ------
    concurrent.futures.Executor
        The cluster outlives it.

    Raises
    ------
    ValueError
        If `scheduler` is not an address.
    ClusterError
        If no scheduler answers in time, or the cluster cannot run what it is given.
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
    for name in ("distributed", "distributed.client"):  # what they have to say ends as an error of ours
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A client waits without end for a listener that stays silent, and makes noise when it is given up.
    if not asyncio.run(_answers(scheduler)):
        msg = f"no Dask scheduler answers at {scheduler} within {CONNECT_WITHIN:g} s"
        raise ClusterError(msg)
    with distributed.Client(scheduler, timeout=CONNECT_WITHIN, set_as_default=False) as client:
        if note is not None and not client.nthreads():
            note("the cluster has no workers yet; the sweep waits for them")
        try:
            # Not pure: a result that another sweep left in the cluster's memory is not taken for this one's.
            yield client.get_executor(pure=False)
        except distributed.KilledWorker as error:
            msg = f"a point killed its workers again and again: {error}"
            raise ClusterError(msg) from None
        except (ImportError, RuntimeError) as error:
            if not isinstance(error, ImportError) and "deserialization" not in str(error):
                raise
            msg = f"the cluster at {scheduler} cannot run a search: its workers need the same version of ropesearch"
            raise ClusterError(msg) from None


async def _answers(address: str) -> bool:
    """Whether a Dask scheduler answers."""
    from distributed.core import connect, send_recv

    async def ask() -> bool:
        comm = await connect(address, timeout=CONNECT_WITHIN)
        try:
            reply = await send_recv(comm, op="identity")
        finally:
            comm.abort()
        return bool(reply["type"] == "Scheduler")

    try:
        return await asyncio.wait_for(ask(), CONNECT_WITHIN)
    except Exception:  # whatever else listens there may answer anything
        return False
