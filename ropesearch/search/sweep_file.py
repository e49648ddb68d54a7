"""The sweep file: JSON Lines that stay usable after a kill at any moment."""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from ropesearch.core.errors import InputError, shown
from ropesearch.core.files import check_output

FORMAT = "ropesearch.sweep"
VERSION = 1

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
    with open(path, "r+b" if os.path.exists(path) else "x+b", buffering=0) as file:
        _lock(file, path)
        if overwrite:
            file.truncate(0)
        yield SweepFile(path, file, points, coverage)


def is_sweep_file(path: str | os.PathLike[str]) -> bool:
    """Whether the first line of a file is the header of a sweep."""
    with open(path, "rb") as file:
        return _header_of(file.readline(1_000_000)) is not None


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
    header, *lines = Path(path).read_bytes().split(b"\n") or [b""]
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
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("point"), dict)
            or not row.keys() & {"base_set", "error"}
        ):
            msg = f"{path} is not a usable sweep file: line {number} is not a row"
            raise InputError(msg)
        _forget_device(row["point"])
        rows.append(row)
    varied = found["sweep"].get("varied")
    return sorted(rows, key=lambda row: _place(row["point"], varied if isinstance(varied, dict) else {}))


def _header_of(line: bytes) -> Row | None:
    """Return the header, if the first line of a file is that of a sweep."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("sweep"), dict)
    return found if ours else None


def _forget_device(point: Row) -> None:
    """Drop what older versions wrote."""
    if point.get("device") == "cpu":
        del point["device"]


def _place(point: Mapping[str, Any], varied: Mapping[str, Any]) -> list[int]:
    """Return a key that sorts points."""
    names = [*(name for name in ORDER if name in varied), *(name for name in varied if name not in ORDER)]
    values = [(varied[name], point.get(name)) for name in names]
    return [found.index(value) if value in found else len(found) for found, value in values]


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
        data = Path(self._path).read_bytes() if os.fstat(self._file.fileno()).st_size else b""
        whole = data.rfind(b"\n") + 1
        if not whole and not _to_line(self._header).startswith(data):
            raise self._unusable("its first line is not the header of a sweep")
        rows = self._read_rows(data[:whole].split(b"\n")[:-1])
        if whole < len(data):
            note(f"{self._path} ended in half a line, which was dropped")
            self._file.truncate(whole)
        if not whole:
            self.append(self._header)
        return rows

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

    def _read_rows(self, lines: Sequence[bytes]) -> dict[str, Row]:
        """Check the whole lines of the file and return its rows."""
        rows: dict[str, Row] = {}
        for number, line in enumerate(lines, start=1):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                content = None
            if number == 1:
                self._check_header(content)
                continue
            point = content.get("point") if isinstance(content, dict) else None
            if isinstance(point, dict):
                _forget_device(point)
            key = json.dumps(point)
            if key not in self._points or not content.keys() & {"base_set", "error"}:
                why = f"line {number} is not one of its rows"
                raise self._unusable(why)
            rows[key] = content
        return rows

    def _check_header(self, found: Any) -> None:
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("sweep"), dict):
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
        return {name: {json.dumps(value) for value in values} for name, values in lists.items()}

    theirs, ours = options(found), options(wanted)
    names = [name for name in ours if theirs.get(name) != ours[name]]
    if found.get("coverage") != wanted["coverage"]:
        names.append("coverage")
    return ", ".join(names) or "its points"


def _lock(file: FileIO, path: str | os.PathLike[str]) -> None:
    """Lock the file, or raise if another process holds it; the system frees the lock when this process ends."""
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


def _to_line(content: Row) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()
