"""Every sample that was scored, one JSON line each, written as soon as its batch is done."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ropesearch.core.errors import InputError, shown
from ropesearch.core.files import check_output, check_versioned, naming, read_file, write_whole

FORMAT, VERSION = "ropesearch.samples", 1
KEY = ("model", "scheme", "task", "length", "sample")
"""What tells a record from all others of a run."""
Record = dict[str, Any]


def samples_path(results: str | os.PathLike[str]) -> Path:
    """Where the samples of a results file are: results.samples.jsonl beside results.json."""
    path = Path(results)
    return path.with_name(f"{path.stem}.samples.jsonl")


class SampleLog:
    """Records of samples: kept in memory, and in a file if there is one.

    A record says of one sample `model`, `scheme`, `suite`, `task`, `length`, `sample` (its number, the same for all
    models and schemes), `prompt` (digest of its tokens), and what came of it.

    Attributes
    ----------
    records : dict
        Records by their KEY values.
    path : Path or None
    """

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> None:
        """Start a log, or go on with the one at `path`.

        Raises
        ------
        OSError
            If the file exists and neither `resume` nor `overwrite` is true, or it cannot be written.
        ValueError
            If what is there is no log, or one of other settings.
        """
        self.path = path
        self.records: dict[tuple[Any, ...], Record] = {}
        self._first, self._overwrite = "", False
        if path is None:
            return
        header = json.dumps({"format": FORMAT, "version": VERSION, "settings": settings}, allow_nan=False)
        kept: list[Record] = []
        if resume and os.path.lexists(path):
            kept = _read(path, json.loads(header)["settings"])
            overwrite = True
        if os.path.lexists(path) and not overwrite:
            msg = f"{path} already exists: `resume=True` goes on with it, `overwrite=True` replaces it"
            raise FileExistsError(msg)
        check_output(path, overwrite=overwrite)
        for record in kept:
            self.records[_key(record)] = record
        text = "\n".join([header, *map(_line, kept)]) + "\n"
        if kept:  # anew, without a line that was cut off
            write_whole(path, text, overwrite=True)
        else:  # with the first batch: a run that fails before it leaves nothing
            self._first, self._overwrite = text, overwrite

    def add(self, records: Iterable[Record]) -> None:
        """Keep the records of a batch; they are on disk when this returns."""
        new = list(records)
        if self.path is not None:
            if self._first:
                write_whole(self.path, self._first, overwrite=self._overwrite)
                self._first = ""
            with naming(self.path), self.path.open("a", encoding="utf-8") as file:
                file.writelines(_line(record) + "\n" for record in new)
                file.flush()
                os.fsync(file.fileno())
        for record in new:
            self.records[_key(record)] = record

    def find(self, model: str, scheme: str | None, task: str, length: int | None, sample: int) -> Record | None:
        """Return the record of a sample, or None."""
        return self.records.get((model, scheme, task, length, sample))


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in KEY)


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False)


def read_samples(path: Path) -> tuple[Mapping[str, Any], list[Record]]:
    """Read a log: its settings and its records; a last line that a crash cut off is left out.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no log.
    """
    try:
        first, *lines = read_file(path, None).decode().split("\n")
        found = check_versioned(json.loads(first), FORMAT, VERSION, ("settings",))["settings"]
        if not isinstance(found, dict):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        msg = f"{path} does not hold the samples of an evaluation"
        raise InputError(msg) from None
    records = []
    for line in lines:
        try:
            record = json.loads(line)
            hash(_key(record)), record["prompt"]
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        records.append(record)
    return found, records


def _read(path: Path, settings: Mapping[str, Any]) -> list[Record]:
    """Read the records of a log with these settings."""
    found, records = read_samples(path)
    differing = [key for key in settings if found.get(key) != settings[key]]
    if differing:
        each = "; ".join(f"{key} was {shown(found.get(key))} and is {shown(settings[key])}" for key in differing)
        msg = f"{path} holds samples of other settings: {each}"
        raise InputError(msg)
    return records
