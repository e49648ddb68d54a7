"""Where the searches of a sweep run, beside the processes of this machine: a Dask cluster."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from ropesearch.core.errors import ClusterError, ParameterError, require_extra

CONNECT_WITHIN = 10.0  # seconds


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
