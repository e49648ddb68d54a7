"""Run many searches over processes or a cluster, into one file that survives a kill."""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import ExitStack
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.device import find_device
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.progress import Progress
from ropesearch.core.spec import SearchSpec

from .run import check_device, run_search
from .sweep_file import Row, open_sweep_file
from .workers import ASK_EVERY, DaskExecutor, interrupts_held, process_pool

Point = dict[str, Any]

AHEAD = 2000
"""How many points are with the executor at a time: enough for any cluster, and the first row does not wait for all."""

_LISTS = {
    "strides": "stride",
    "bmins": "bmin",
    "bmaxs": "bmax",
    "heads": "heads",
    "max_distances": "max_distance",
    "strategies": "strategy",
}
"""What the lists of values are called, and the option of a search that each is for."""


def sweep_points(
    *,
    strides: Iterable[float | None] = (None,),
    bmins: Iterable[float],
    bmaxs: Iterable[float],
    heads: Iterable[int],
    max_distances: Iterable[int] = (SearchSpec.max_distance,),
    strategies: Iterable[str] = (SearchSpec.strategy,),
    **fixed: Any,
) -> list[Point]:
    """List every combination of some options of a search, checked.

    Parameters
    ----------
    strides, bmins, bmaxs, heads, max_distances, strategies : iterable
        The values of `stride`, `bmin`, `bmax`, `heads`, `max_distance` and `strategy` of `search_bases`; `uniform`
        ignores the stride, and `refine` applies to `floor` and `ripple` only.
    **fixed
        Other options of `SearchSpec`, the same for every point.

    Returns
    -------
    list of dict
        The options of `SearchSpec` for each point, in the order of the lists: the stride changes slowest, the
        strategy fastest. Points that describe the same search appear once.

    Raises
    ------
    ValueError
        If an argument is not a list or is empty, or a point is invalid; the message names what is wrong and shows its
        value.
    """
    lists = {
        "strides": strides,
        "bmins": bmins,
        "bmaxs": bmaxs,
        "heads": heads,
        "max_distances": max_distances,
        "strategies": strategies,
    }
    return [spec.to_dict() for spec in sweep_specs({**fixed, **lists})]


def sweep_specs(options: Mapping[str, Any]) -> list[SearchSpec]:
    """Return the points of `sweep_points`, whose arguments `options` holds, as specs."""
    lists = {option: _check_list(name, options[name]) for name, option in _LISTS.items()}
    fixed = {name: value for name, value in options.items() if name not in _LISTS}
    points = (fixed | dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return list(_check_points(points).values())


def sweep(
    points: Iterable[Mapping[str, Any] | SearchSpec],
    path: str | os.PathLike[str],
    *,
    executor: Executor | None = None,
    resume: bool = False,
    overwrite: bool = False,
    coverage: bool = True,
    device: str = "cpu",
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Row]:
    """Search every point, and write a row to a file as each search ends.

    The file is JSON Lines. The first line is a header,
    `{"format": "ropesearch.sweep", "version": 1, "sweep": {...}}`, in which `sweep` identifies the points;
    each line after it is a row: `{"point": {...}, "base_set": {...}, "coverage": {...}, "seconds": s}`, with the
    options of `SearchSpec`, the content of the base-set file and the figures of its coverage up to the point's
    `max_distance`, or `{"point": {...}, "error": "..."}` for a point that could not be searched. Rows are in the
    order in which the searches ended. Each row is on the disk before the next is written, so that a kill at any moment
    loses only the points in progress and leaves at most half a line.

    Parameters
    ----------
    points : iterable of mapping or SearchSpec
        Options of `SearchSpec`, as `sweep_points` gives them; equal points are searched once.
    path : path
        The file.
    executor : concurrent.futures.Executor, optional
        What runs the searches, one thread each; it is not closed. A `process_pool` by default.
    resume : bool
        Continue a file of the same points. Points with a row, even one with an error, are not searched again, and half
        a line at the end is dropped. If there is no file, start one.
    overwrite : bool
        Replace an existing file.
    coverage : bool
        Whether to compute the coverage of every set; `{}` otherwise.
    device : str
        What computes waveforms, as for `search_bases`. It does not change results and is not written. With an
        `executor` it is a device of the workers' machines.
    progress : callable, optional
        Called as progress("points", done, total) when a point ends; total counts the points without a row at the start.
    note : callable, optional
        Called with a line of text about repairs to a resumed file.

    Returns
    -------
    list of dict
        The rows of all points, in the order of the points.

    Raises
    ------
    ValueError
        If a point is invalid, before anything is written; or if the file to resume was written by another sweep or a
        newer version, or is not a sweep file.
    FileExistsError
        If the file exists and neither `resume` nor `overwrite` is true.
    OSError
        If the file cannot be written, another sweep is writing it, the device is not available, or the executor fails;
        rows written before remain in the file.

    Notes
    -----
    Worker processes import the main module: in a script, call this under `if __name__ == "__main__":`.
    """
    if resume and overwrite:
        raise InputError("`resume` continues a file and `overwrite` replaces it: give only one")
    wanted = _check_points(points)
    if not wanted:
        raise InputError("a sweep needs at least one point")
    if device != "cpu":
        for spec in wanted.values():
            check_device(spec, device)
        if executor is None:
            find_device(device)
    with ExitStack() as stack:
        texts = {key: spec.to_dict() for key, spec in wanted.items()}
        file = stack.enter_context(open_sweep_file(path, texts, coverage, resume=resume, overwrite=overwrite))
        rows = file.read_or_start(note or (lambda _: None))
        left = {key: spec for key, spec in wanted.items() if key not in rows}
        if left:
            workers = executor or stack.enter_context(process_pool())
            for key, row in run_points(workers, left, path, coverage=coverage, device=device):
                file.append(row)
                rows[key] = row
                if progress is not None:
                    progress("points", len(rows) - (len(wanted) - len(left)), len(left))
    return [rows[key] for key in wanted]


def search_point(spec: SearchSpec, coverage: bool, device: str) -> Row:
    """Search one point; an invalid search, or one that does not fit in memory, gives a row with its error."""
    start = time.perf_counter()
    point = spec.to_dict()
    try:
        base_set = run_search(spec, threads=1, device=device)
        figures = base_set.coverage(spec.max_distance - 1).to_dict() if coverage else {}
    except (InputError, MemoryError) as error:
        return {"point": point, "error": str(error) or "not enough memory"}
    seconds = round(time.perf_counter() - start, 3)
    return {"point": point, "base_set": json.loads(base_set.to_json()), "coverage": figures, "seconds": seconds}


def run_points(
    executor: Executor,
    specs: Mapping[str, SearchSpec],
    path: str | os.PathLike[str],
    *,
    coverage: bool,
    device: str,
) -> Iterator[tuple[str, Row]]:
    """Submit the search of every point, and yield the rows as the searches end."""
    futures: dict[Future[Row], str] = {}
    done: SimpleQueue[Future[Row]] = SimpleQueue()
    left = iter(specs.items())

    def submit(n: int) -> None:
        for key, spec in itertools.islice(left, n):
            with interrupts_held():
                future = executor.submit(search_point, spec, coverage, device)
                futures[future] = key
            future.add_done_callback(done.put)

    try:
        submit(AHEAD)
        while futures:
            future = next_done(done, executor)
            key = futures.pop(future)
            submit(1)
            yield key, future.result()
    except (BrokenExecutor, CancelledError) as error:
        why = f": {str(error).rstrip('.')}" if str(error) else ""
        msg = f"the sweep lost its workers{why}; {path} keeps the finished rows, and `resume` continues from there"
        raise OSError(msg) from None
    finally:
        for future in futures:
            future.cancel()


def next_done(done: "SimpleQueue[Future[Row]]", executor: Executor) -> Future[Row]:
    """Wait for a search to end; a cluster is asked from time to time whether it is still there."""
    if not isinstance(executor, DaskExecutor):
        return done.get()
    while True:
        try:
            return done.get(timeout=ASK_EVERY)
        except Empty:
            executor.check_alive()


def _check_list(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise ParameterError(name, values, "a list of values")
    found = list(values)
    if not found:
        raise ParameterError(name, found, "a list of at least one value")
    return found


def _check_points(points: Iterable[Mapping[str, Any] | SearchSpec]) -> dict[str, SearchSpec]:
    """Check points and key them by their text, which is equal for equal searches."""
    specs = map(_check_point, points)
    return {json.dumps(spec.to_dict()): spec for spec in specs}


def _check_point(point: Mapping[str, Any] | SearchSpec) -> SearchSpec:
    """Check a point; `refine`, common to all points of a sweep, is dropped for `peak-valley`."""
    if isinstance(point, SearchSpec):
        return point
    for name in point:
        if name not in SearchSpec.__dataclass_fields__:
            msg = f"every key of a point must be an option of SearchSpec, not {name!r}"
            raise InputError(msg)
    for name in ("bmin", "bmax", "heads"):
        if name not in point:
            msg = f"every point must have the option {name}"
            raise InputError(msg)
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in point.items()}
    if checks.truth("refine", given.get("refine", False)) and given.get("strategy") == "peak-valley":
        given["refine"] = False
    return SearchSpec(**given)
