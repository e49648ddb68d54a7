"""The sweep file: JSON Lines that stay usable after a kill at any moment."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import FileIO
from typing import Any

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError, shown
from ropesearch.core.files import check_output, lock_or_refuse, naming, read_file, read_json

FORMAT = "ropesearch.sweep"
VERSION = 1
MOST_BYTES = 32_000_000
"""How long a line may be; a row of 128 heads has 0.01 MB, and a header 20 bytes for each value of a list."""
COVERAGE = ("floor", "floor_distance", "mean", "quantile_01", "ripple")
"""The figures of a row that are numbers."""

ORDER = ("stride", "bmin", "bmax", "heads", "max_distance", "strategy")
"""The options that a sweep can vary, from the one that changes slowest to the one that changes fastest."""

Row = dict[str, Any]


@contextmanager
def open_sweep_file(
    path: str | os.PathLike[str],
    points: Mapping[str, Mapping[str, Any]],
    coverage: bool,
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator["SweepFile"]:
    """Open the file for one sweep exclusively; with `overwrite`, empty it.

    `points` are keyed by their text, `json.dumps` of each.
    """
    check_output(path, overwrite=resume or overwrite)
    with ExitStack() as stack:
        with naming(path):
            file = stack.enter_context(open(path, "r+b" if os.path.exists(path) else "x+b", buffering=0))
        lock_or_refuse(file.fileno(), path, "sweep")
        if overwrite:
            file.truncate(0)
        yield SweepFile(path, file, points, coverage)


def is_sweep_file(path: str | os.PathLike[str]) -> bool:
    """Whether the first line of a file is the header of a sweep."""
    with open(path, "rb") as file:
        return _header_of(file.readline(MOST_BYTES)) is not None


def read_sweep(path: str | os.PathLike[str]) -> list[Row]:
    """Read the rows of a sweep file, also of one that was stopped.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of dict
        As `sweep` returns them, sorted by stride, bmin, bmax, heads, max_distance and strategy, each in the order in
        which the sweep had them.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a sweep file, or a line of it is no row.
    """
    header, *lines = read_file(path, None).split(b"\n")
    found = _header_of(header)
    if found is None:
        msg = f"{path} is not a sweep file: its first line is not the header of a sweep"
        raise InputError(msg)
    if found.get("version") != VERSION:
        msg = f"{path} has version {shown(found.get('version'))}, but this ropesearch reads only version {VERSION}"
        raise InputError(msg)
    rows = []
    for number, line in enumerate(lines[:-1], start=2):  # what follows the last line end was cut off
        try:
            row = _parse(line)
            if not isinstance(row, dict) or not isinstance(row.get("point"), dict):
                raise InputError("it is no row")
            _forget_device(row["point"])
            _check_result(row, row["point"])
        except (InputError, KeyError):
            msg = f"{path} is not a usable sweep file: line {number} is not a row"
            raise InputError(msg) from None
        rows.append(row)
    place_of = _places(found["sweep"].get("varied"))
    return sorted(rows, key=lambda row: place_of(row["point"]))


def _header_of(line: bytes) -> Row | None:
    """Return the header, if the first line of a file is that of a sweep."""
    if FORMAT.encode() not in line:  # which takes no time to see of a large file of another kind
        return None
    try:
        found = _parse(line)
    except InputError:
        return None
    ours = isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("sweep"), dict)
    return found if ours else None


def _forget_device(point: Row) -> None:
    """Drop what older versions wrote."""
    if point.get("device") == "cpu":
        del point["device"]


def _places(varied: Any) -> Callable[[Mapping[str, Any]], list[int]]:
    """Return a key that sorts points: for each option that varied, the place of the point's value in its list."""
    lists = {name: values for name, values in (varied if isinstance(varied, dict) else {}).items() if values}
    lists = {name: list(map(json.dumps, values)) for name, values in lists.items() if isinstance(values, list)}
    names = [*(name for name in ORDER if name in lists), *(name for name in lists if name not in ORDER)]
    places = {name: {text: place for place, text in enumerate(lists[name])} for name in names}
    return lambda point: [places[name].get(json.dumps(point.get(name)), len(places[name])) for name in names]


class SweepFile:
    """An open file, and the sweep whose rows it holds."""

    def __init__(
        self, path: str | os.PathLike[str], file: FileIO, points: Mapping[str, Mapping[str, Any]], coverage: bool
    ) -> None:
        self._path = path
        self._file = file
        self._points = points
        self._coverage = coverage
        self._header: Row = {"format": FORMAT, "version": VERSION, "sweep": _identity(points, coverage)}

    def read_or_start(self, note: Callable[[str], None]) -> dict[str, Row]:
        """Return the rows in the file, keyed by the text of their points; write the header to an empty file."""
        rows: dict[str, Row] = {}
        whole = 0  # bytes of whole lines
        with open(self._path, "rb") as lines:
            number = 0
            while line := lines.readline(MOST_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    self._check_torn(line, number)
                    note(f"{self._path} ended in half a line, which was dropped")
                    self._file.truncate(whole)
                    break
                whole += len(line)
                if number == 1:
                    self._check_header(line)
                else:
                    key, row = self._check_row(line, number)
                    rows[key] = row
        if not whole:
            self.append(self._header)
        return rows

    def _check_torn(self, line: bytes, number: int) -> None:
        """Raise unless the last line, which has no end, may be the beginning of one of this sweep."""
        if number == 1 and not _to_line(self._header).startswith(line):
            raise self._unusable("its first line is not the header of a sweep")
        if len(line) == MOST_BYTES:
            why = f"line {number} is not one of its rows"
            raise self._unusable(why)

    def append(self, content: Row) -> None:
        """Write one line and wait until it is on the disk; if it does not fit, write nothing."""
        line = _to_line(content)
        end = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            msg = f"{self._path} cannot be written: {error.strerror or error}; all earlier rows are complete"
            raise type(error)(msg) from None

    def _check_row(self, line: bytes, number: int) -> tuple[str, Row]:
        """Return a row of the file, and the text of its point."""
        try:
            content = _parse(line)
            point = content.get("point") if isinstance(content, dict) else None
            if isinstance(point, dict):
                _forget_device(point)
            key = json.dumps(point)
            if key not in self._points:
                raise InputError("it is of no point of this sweep")
            _check_result(content, self._points[key])
        except (InputError, KeyError) as error:
            why = f"line {number} is not one of its rows: {error}"
            raise self._unusable(why) from None
        return key, content

    def _check_header(self, line: bytes) -> None:
        found = _header_of(line)
        if found is None:
            raise self._unusable("its first line is not the header of a sweep")
        version = found.get("version")
        if version != VERSION:
            why = f"it has version {shown(version)}, but this ropesearch resumes only version {VERSION}"
            raise self._unusable(why)
        with_device = [json.dumps({**point, "device": "cpu"}) for point in self._points.values()]  # likewise
        digests = [_digest(texts, self._coverage) for texts in (self._points, with_device)]
        if found["sweep"].get("digest") not in digests:
            names = _differing_options(found["sweep"], self._header["sweep"])
            why = f"it was written by another sweep, which differs in {names}"
            raise self._unusable(why)

    def _unusable(self, why: str) -> InputError:
        msg = f"{self._path} cannot be resumed by this sweep: {why}"
        return InputError(msg)


def _parse(line: bytes) -> Any:
    """Parse a line; raise InputError if it is not JSON."""
    try:
        return read_json(line.decode())
    except UnicodeDecodeError as error:
        raise InputError(str(error)) from None


def _check_result(row: Row, point: Mapping[str, Any]) -> None:
    """Raise InputError or KeyError unless a row holds what a search of the point gives."""
    if "error" in row:
        if not isinstance(row["error"], str):
            raise ParameterError("error", row["error"], "a text")
        if "coverage" in row or "base_set" in row:
            raise InputError("it has both an error and a result")
        return
    base_set = BaseSet.from_content(row["base_set"])
    base_set.of_all_layers("a search")
    for name in ("heads", "kv_heads", "head_dim", "strategy"):
        if getattr(base_set, name) != point[name]:
            raise ParameterError(name, getattr(base_set, name), f"{shown(point[name])}, as in its point")
    checks.number("seconds", row["seconds"], "a number of at least 0", least=0.0)
    figures = row["coverage"]
    if not isinstance(figures, dict):
        raise ParameterError("coverage", figures, "an object")
    for name in COVERAGE if figures else ():
        if name != "ripple" or figures[name] is not None:
            checks.number(name, figures[name], "a finite number")


def _identity(points: Mapping[str, Mapping[str, Any]], coverage: bool) -> dict[str, Any]:
    """Return what identifies a sweep: its points in any order, and whether coverage is computed."""
    names = next(iter(points.values()))
    values = {name: list(dict.fromkeys(point[name] for point in points.values())) for name in names}
    return {
        "points": len(points),
        "coverage": coverage,
        "fixed": {name: found[0] for name, found in values.items() if len(found) == 1},
        "varied": {name: found for name, found in values.items() if len(found) > 1},
        "digest": _digest(points, coverage),
    }


def _digest(texts: Iterable[str], coverage: bool) -> str:
    return hashlib.sha256("\n".join([*sorted(texts), json.dumps(coverage)]).encode()).hexdigest()


def _differing_options(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the names of the options in which two sweeps differ."""

    def options(sweep: Mapping[str, Any]) -> dict[str, set[str]]:
        groups = [sweep.get(group) for group in ("fixed", "varied")]
        fixed, varied = (group if isinstance(group, dict) else {} for group in groups)
        lists = {name: [value] for name, value in fixed.items()} | varied
        return {
            name: {json.dumps(value) for value in (values if isinstance(values, list) else [values])}
            for name, values in lists.items()
        }

    theirs, ours = options(found), options(wanted)
    names = [name for name in ours if theirs.get(name) != ours[name]]
    if found.get("coverage") != wanted["coverage"]:
        names.append("coverage")
    return ", ".join(names) or "its points"


def _to_line(content: Row) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()
