"""What an evaluation found: one row per model, scheme, task and length, in a versioned file."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropesearch.core.checks import is_number, is_whole
from ropesearch.core.errors import InputError, ParameterError, shown
from ropesearch.core.files import read_file, read_versioned, write_whole

FORMAT, VERSION = "ropesearch.evaluation", 1
ROW_KEYS = ("model", "scheme", "suite", "task", "length", "n", "interval")
"""Keys of every row; beside them stands the figure, by its own name."""
FIGURES = ("perplexity", "accuracy")
"""The figure of a row is the one of these that it has."""


@dataclass(frozen=True)
class Results:
    """What an evaluation found; `save` and `load` keep it, and `rows` is what tables and plots are made of.

    Attributes
    ----------
    spec : mapping
        Every option that shaped the figures, as of `EvaluationSpec.to_dict`.
    rows : tuple of mapping
        Of each: `model` (its name), `scheme` (a text, or None for the model's own), `suite`, `task`, `length` (tokens,
        or None where a task has no length), the figure by its name (`perplexity` or `accuracy`), `n` (documents or
        questions) and `interval` (95 %, two numbers, or None where there is only one document). `by_position` and
        `by_distance` hold figures in bands: `from` and `to` (tokens, both included), the figure, `n` and `interval`,
        one list each. Needles have their `depth`, from 0 to 1.
    notes : tuple of str
        What was left out, or turned out otherwise than asked, each in one line.
    made_by : mapping
        Versions, and what the samples were made of.
    """

    spec: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Content of the results file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "spec": dict(self.spec),
            "rows": [dict(row) for row in self.rows],
            "notes": list(self.notes),
            "made_by": dict(self.made_by),
        }

    def to_json(self) -> str:
        """Content of the results file, as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the results file, whole or not at all.

        Raises
        ------
        OSError
            If it exists and `overwrite` is false, or it cannot be written.
        """
        write_whole(path, self.to_json(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Results":
        """Read a results file.

        Raises
        ------
        OSError
            If it cannot be read.
        ValueError
            If it is not a results file, is cut off, or a row lacks something; the message names the file.
        """
        try:
            text = read_file(path).decode()
        except UnicodeDecodeError:
            msg = f"{path} is not a results file: it is not text in UTF-8"
            raise InputError(msg) from None
        try:
            content = read_versioned(text, FORMAT, VERSION, ("spec", "rows"))
            if not isinstance(content["spec"], dict):
                raise ParameterError("spec", content["spec"], "a mapping")
            if not isinstance(content["rows"], list):
                raise ParameterError("rows", content["rows"], "a list")
            rows = tuple(_checked_row(i, row) for i, row in enumerate(content["rows"]))
        except InputError as error:
            msg = f"{path} is not a results file: {error}"
            raise InputError(msg) from None
        notes = content.get("notes")
        made_by = content.get("made_by")
        return cls(
            content["spec"],
            rows,
            tuple(map(str, notes)) if isinstance(notes, list) else (),
            made_by if isinstance(made_by, dict) else {},
        )


def figure_of(row: Mapping[str, Any]) -> tuple[str, float]:
    """Name and value of the figure of a row."""
    name = next(name for name in FIGURES if name in row)
    return name, float(row[name])


def _checked_row(index: int, row: Any) -> Mapping[str, Any]:
    try:
        _check_row(row)
    except InputError as error:
        msg = f"row {index}: {error}"
        raise InputError(msg) from None
    return dict(row)


def _check_row(row: Any) -> None:
    if not isinstance(row, dict):
        raise ParameterError("it", row, "a mapping")
    for key in ROW_KEYS:
        if key not in row:
            msg = f"it has no key {key!r}"
            raise InputError(msg)
    for key in ("model", "suite", "task"):
        if not isinstance(row[key], str):
            raise ParameterError(key, row[key], "a text")
    if row["scheme"] is not None and not isinstance(row["scheme"], str):
        raise ParameterError("scheme", row["scheme"], "a text or null")
    if row["length"] is not None and not is_whole(row["length"]):
        raise ParameterError("length", row["length"], "a whole number or null")
    if not is_whole(row["n"]):
        raise ParameterError("n", row["n"], "a whole number")
    figures = [figure for figure in FIGURES if figure in row]
    if len(figures) != 1 or not is_number(row[figures[0]]):
        msg = f"it must have one figure, {' or '.join(FIGURES)}, not {shown(figures)}"
        raise InputError(msg)
    if row[figures[0]] < 0 or row.get("accuracy", 0) > 1:
        raise ParameterError(figures[0], row[figures[0]], "from 0 to 1" if figures == ["accuracy"] else "0 or greater")
    interval = row["interval"]
    if interval is not None and not (
        isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval))
    ):
        raise ParameterError("interval", interval, "two numbers or null")
    for key in ("by_position", "by_distance"):
        if key in row:
            _check_bands(key, row[key])


def _check_bands(name: str, bands: Any) -> None:
    if not isinstance(bands, dict) or not all(isinstance(values, list) for values in bands.values()):
        raise ParameterError(name, bands, "a mapping of lists")
    missing = {"from", "to", "n", "interval"} - bands.keys()
    if missing or len({len(values) for values in bands.values()}) != 1:
        raise ParameterError(name, bands, "lists of one length, of from, to, n, interval and figures")
