"""Many searches at once, spread over processes or a cluster, into one file that a kill does not harm."""

import errno
import functools
import hashlib
import inspect
import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from io import FileIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.errors import InputError, ParameterError, shown
from ropesearch.core.files import check_output
from ropesearch.core.grid import candidate_grid, search_range
from ropesearch.core.machine import processors
from ropesearch.core.progress import Progress
from ropesearch.curves.extrema import extrema_rule

from .matching import matching_rule
from .run import LEAST_DISTANCES, ORDERS, STRATEGIES, search_bases

FORMAT = "ropesearch.sweep"
VERSION = 1

Point = dict[str, Any]
Row = dict[str, Any]

# What a point says: every argument of a search but those that do not shape its result.
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(search_bases).parameters.items()
    if name not in ("threads", "progress")
} | {"stride": None}


def sweep_points(
    *,
    strides: Iterable[float | None] = (None,),
    bmins: Iterable[float],
    bmaxs: Iterable[float],
    heads: Iterable[int],
    max_distances: Iterable[int] = (131072,),
    strategies: Iterable[str] = ("peak-valley",),
    **fixed: Any,
) -> list[Point]:
    """Every combination of some options of a search, checked.

    Parameters
    ----------
    strides, bmins, bmaxs, heads, max_distances, strategies : iterable
        The values of `stride`, `bmin`, `bmax`, `heads`, `max_distance` and `strategy` of `search_bases`; `uniform`
        takes no stride, and needs none, and `refine` holds for `floor` and `ripple` alone.
    **fixed
        Other arguments of `search_bases`, the same for every point.

    Returns
    -------
    list of dict
        All arguments of `search_bases` but `threads` and `progress`, point by point, in the order of the lists:
        the first stride with everything else, then the next, the strategy changing fastest. Points that are the
        same search are there once.

    Raises
    ------
    ValueError
        If a list is none or is empty, or if a search would refuse a point before its first waveform; the message
        names what is wrong and shows its value.
    """
    lists = {
        "stride": _listed("strides", strides),
        "bmin": _listed("bmins", bmins),
        "bmax": _listed("bmaxs", bmaxs),
        "heads": _listed("heads", heads),
        "max_distance": _listed("max_distances", max_distances),
        "strategy": _listed("strategies", strategies),
    }
    combinations = itertools.product(*lists.values())
    return list(_distinct(fixed | dict(zip(lists, values, strict=True)) for values in combinations).values())


def sweep(
    points: Iterable[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    resume: bool = False,
    overwrite: bool = False,
    coverage: bool = True,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Row]:
    """Search every point and write a row to a file as each one ends.

    The file is JSON Lines. The first line is a header,
    `{"format": "ropesearch.sweep", "version": 1, "sweep": {...}}`, in which `sweep` says which points there are;
    each line after it is a row: `{"point": {...}, "base_set": {...}, "coverage": {...}, "seconds": s}`, with the
    arguments of `search_bases`, the content of the base-set file and the figures of its coverage up to the point's
    `max_distance`, or `{"point": {...}, "error": "..."}` for a point that could not be searched. Rows stand in the
    order in which they ended. A row is on the disk before the next one is written, so that a kill at any moment costs
    the points that were under way and, at most, half a line.

    Parameters
    ----------
    points : iterable of mapping
        Arguments of `search_bases`, as `sweep_points` gives them; the same search counts once.
    path : path
        The file.
    executor : concurrent.futures.Executor, optional
        What runs the searches, one thread each; it is left open. A `process_pool` if left out.
    resume : bool
        Go on with the file of the same points: those that stand there, with an error too, are not searched again, and
        half a line at its end is dropped. Without a file it starts one.
    overwrite : bool
        Replace a file that exists.
    coverage : bool
        Whether to compute the coverage of every set; `{}` otherwise.
    progress : callable, optional
        Called as progress("points", done, total) when a point ends; total counts those that were left to do.
    note : callable, optional
        Called with a line of text about what was found in a file that is resumed.

    Returns
    -------
    list of dict
        The rows of all points, in the order of the points.

    Raises
    ------
    ValueError
        If a point is refused as by `sweep_points`, before anything is written, or if the file to go on with was
        written by another sweep, by a newer version, or is no sweep file.
    FileExistsError
        If the file exists and neither `resume` nor `overwrite` is true.
    OSError
        If the file cannot be written, if another sweep is writing it, or if the executor breaks down; what ended
        before is in the file.

    Notes
    -----
    Worker processes import the main module: in a script, call this under `if __name__ == "__main__":`.
    """
    if resume and overwrite:
        raise InputError("`resume` goes on with a file and `overwrite` replaces it: give one of the two")
    wanted = _distinct(points)
    if not wanted:
        raise InputError("a sweep needs at least one point")
    header = {"format": FORMAT, "version": VERSION, "sweep": _identity(wanted, coverage)}
    with ExitStack() as stack:
        file = stack.enter_context(_opened(path, resume=resume, overwrite=overwrite))
        rows = _begun(file, path, header, wanted, note or (lambda _: None))
        left = {key: point for key, point in wanted.items() if key not in rows}
        if left:
            workers = executor or stack.enter_context(process_pool())
            for key, row in _ended(workers, left, coverage, path):
                _append(file, row)
                rows[key] = row
                if progress is not None:
                    progress("points", len(rows) - (len(wanted) - len(left)), len(left))
    return [rows[key] for key in wanted]


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


def _row(point: Point, coverage: bool) -> Row:
    """Search one point."""
    start = time.perf_counter()
    try:
        base_set = search_bases(**point, threads=1)
        figures = base_set.coverage(point["max_distance"]).to_dict() if coverage else {}
    except (InputError, MemoryError) as error:
        return {"point": point, "error": str(error) or "not enough memory"}
    seconds = round(time.perf_counter() - start, 3)
    return {"point": point, "base_set": json.loads(base_set.to_json()), "coverage": figures, "seconds": seconds}


def _ended(
    executor: Executor, points: Mapping[str, Point], coverage: bool, path: str | os.PathLike[str]
) -> Iterator[tuple[str, Row]]:
    """Run points and give their rows as they end."""
    futures: dict[Future[Row], str] = {}
    try:
        for key, point in points.items():
            with _interrupts_held():
                futures[executor.submit(_row, point, coverage)] = key
        for future in as_completed(futures):
            yield futures[future], future.result()
    except (BrokenExecutor, CancelledError) as error:
        why = f": {error}" if str(error) else ""
        msg = f"the workers of the sweep are gone{why}; {path} keeps what ended, and `resume` goes on from there"
        raise OSError(msg) from None
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _interrupts_held() -> Iterator[None]:
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


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise ParameterError(name, values, "a list of values")
    found = list(values)
    if not found:
        raise ParameterError(name, found, "a list of at least one value")
    return found


def _distinct(points: Iterable[Mapping[str, Any]]) -> dict[str, Point]:
    """Check points and give them by their text, which is the same for the same search."""
    checked = map(_checked, points)
    return {json.dumps(point): point for point in checked}


def _checked(point: Mapping[str, Any]) -> Point:
    """Return all arguments of a point in one order and of one type, checked as the search checks them."""
    for name in point:
        if name not in _DEFAULTS:
            msg = f"a point holds arguments of search_bases, and {name!r} is none that it may hold"
            raise InputError(msg)
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in point.items()}
    options = _DEFAULTS | given
    for name, value in options.items():
        if value is inspect.Parameter.empty:
            msg = f"every point must have {name}"
            raise InputError(msg)
    options["strategy"] = checks.choice("strategy", options["strategy"], STRATEGIES)
    options["bmin"], options["bmax"] = search_range(options["bmin"], options["bmax"])
    options["heads"] = checks.integer("heads", options["heads"], 1)
    options["kv_heads"] = checks.kv_heads(options["kv_heads"], options["heads"])
    options["head_dim"] = checks.head_dim(options["head_dim"])
    least = LEAST_DISTANCES.get(options["strategy"])
    if least is None:
        window = checks.distances(options["min_distance"], options["max_distance"])
        options["min_distance"], options["max_distance"] = window
    else:
        options["max_distance"] = checks.integer("max_distance", options["max_distance"], least)
    rule_names = ("count", "gap", "valley_gap", "look_ahead", "level_tolerance", "prominence", "min_separation")
    rule = extrema_rule(options["extrema"], **{name: options[name] for name in rule_names})
    matching = matching_rule(options["matching"], tolerance=options["tolerance"], normalize=options["normalize"])
    options |= rule.options() | matching.options()
    checks.choice("order", options["order"], ORDERS)
    options["refine"] = checks.truth("refine", options["refine"]) and least is not None
    options["stride"] = None if options["strategy"] == "uniform" else _checked_stride(options)
    return options


def _checked_stride(options: Point) -> float:
    """Return the stride of a point, if its grid has enough bases."""
    name = "heads" if options["kv_heads"] == options["heads"] else "kv_heads"
    _check_grid(options["bmin"], options["bmax"], options["stride"], options["kv_heads"], name)
    return float(options["stride"])


# The points of a sweep share few grids.
_check_grid = functools.lru_cache(1024)(candidate_grid)


def _identity(wanted: Mapping[str, Point], coverage: bool) -> dict[str, Any]:
    """What tells a sweep from others: its points in any order, and whether coverage is computed."""
    values = {name: list(dict.fromkeys(point[name] for point in wanted.values())) for name in _DEFAULTS}
    text = "\n".join([*sorted(wanted), json.dumps(coverage)])
    return {
        "points": len(wanted),
        "coverage": coverage,
        "fixed": {name: found[0] for name, found in values.items() if len(found) == 1},
        "varied": {name: found for name, found in values.items() if len(found) > 1},
        "digest": hashlib.sha256(text.encode()).hexdigest(),
    }


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Names of the options in which two sweeps differ."""

    def options(sweep: Mapping[str, Any]) -> dict[str, set[str]]:
        groups = [sweep.get(group) for group in ("fixed", "varied")]
        fixed, varied = (group if isinstance(group, dict) else {} for group in groups)
        lists = {name: [value] for name, value in fixed.items()} | varied
        return {name: {json.dumps(value) for value in values} for name, values in lists.items()}

    theirs, ours = options(found), options(wanted)
    names = [name for name in ours if theirs.get(name) != ours[name]]
    if found.get("coverage") != wanted["coverage"]:
        names.append("coverage")
    return ", ".join(names) or "its points"


@contextmanager
def _opened(path: str | os.PathLike[str], *, resume: bool, overwrite: bool) -> Iterator[FileIO]:
    """Open the file for this sweep alone; one to be replaced is emptied."""
    check_output(path, overwrite=resume or overwrite)
    with open(path, "r+b" if os.path.exists(path) else "x+b", buffering=0) as file:
        _lock(file, path)
        if overwrite:
            file.truncate(0)
        yield file


def _lock(file: FileIO, path: str | os.PathLike[str]) -> None:
    """Take the file for this process, or say that another has it; the system gives it back when the process ends."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        msg = f"another sweep is writing {path}"
        raise BlockingIOError(msg) from None
    except OSError:  # a file system without locks
        return


def _begun(
    file: FileIO, path: str | os.PathLike[str], header: Row, wanted: Mapping[str, Point], note: Callable[[str], None]
) -> dict[str, Row]:
    """Return the rows that an opened file has, by the text of their points; write the header if it has none."""
    data = Path(path).read_bytes() if os.fstat(file.fileno()).st_size else b""
    whole = data.rfind(b"\n") + 1
    if not whole and not _line(header).startswith(data):
        raise _unusable(path, "its first line is not the header of a sweep")
    rows = _read_rows(path, data[:whole].split(b"\n")[:-1], header, wanted)
    if whole < len(data):
        note(f"{path} ended in half a line, which is dropped")
        file.truncate(whole)
    if not whole:
        _append(file, header)
    return rows


def _read_rows(
    path: str | os.PathLike[str], lines: Sequence[bytes], header: Row, wanted: Mapping[str, Point]
) -> dict[str, Row]:
    """Check the whole lines of a file and return its rows by the text of their points."""
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if number == 1:
            _check_header(path, content, header)
            continue
        key = json.dumps(content.get("point")) if isinstance(content, dict) else ""
        if key not in wanted or not content.keys() & {"base_set", "error"}:
            raise _unusable(path, f"line {number} is no row of it")
        rows[key] = content
    return rows


def _check_header(path: str | os.PathLike[str], found: Any, header: Row) -> None:
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("sweep"), dict):
        raise _unusable(path, "its first line is not the header of a sweep")
    version = found.get("version")
    if version != VERSION:
        reads = f"it is of version {shown(version)}, and this ropesearch goes on with version {VERSION}"
        raise _unusable(path, reads)
    if found["sweep"].get("digest") != header["sweep"]["digest"]:
        raise _unusable(
            path, f"another sweep wrote it, which differs in {_difference(found['sweep'], header['sweep'])}"
        )


def _unusable(path: str | os.PathLike[str], why: str) -> InputError:
    return InputError(f"{path} is not a file that this sweep can go on with: {why}")


def _line(content: Row) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()


def _append(file: FileIO, content: Row) -> None:
    """Write one line in one go and wait until it is on the disk; if it does not fit, leave none of it."""
    line = _line(content)
    end = file.seek(0, os.SEEK_END)
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError as error:
        file.truncate(end)
        msg = f"{file.name!s} cannot be written: {error.strerror or error}; the rows before are whole"
        raise type(error)(msg) from None
