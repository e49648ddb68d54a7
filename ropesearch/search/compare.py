"""Sets of bases and position schemes side by side, by what they cover."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.errors import InputError
from ropesearch.core.presets import PRESETS
from ropesearch.core.progress import Progress, counter
from ropesearch.core.spec import COVERED_TO
from ropesearch.curves.coverage import Coverage
from ropesearch.schemes.grammar import SCHEMES, parse_scheme
from ropesearch.schemes.rules import Scheme

from .run import search_bases

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Compared:
    """One line of a comparison.

    Attributes
    ----------
    name : str
        As it was asked for.
    bases : int
        How many different heads there are.
    coverage : Coverage
        What they cover.
    """

    name: str
    bases: int
    coverage: Coverage

    def to_dict(self) -> dict[str, Any]:
        """The line as JSON holds it."""
        return {"name": self.name, "bases": self.bases, **self.coverage.to_dict()}


def named_scheme(text: str) -> Scheme:
    """Scheme by the name of a preset, by a base-set file, or by the grammar of `parse_scheme`.

    Parameters
    ----------
    text : str
        `table2`, `attention-buckets`, a path to a base-set file, or a text such as `yarn:32`.

    Returns
    -------
    Scheme

    Raises
    ------
    OSError
        If a file that the text names cannot be read.
    ValueError
        If it is none of these; the message says what there is.
    """
    name = re.split("[:,]", text, maxsplit=1)[0]
    if name in SCHEMES:
        return parse_scheme(text)
    if text in PRESETS:
        base_set = search_bases(**PRESETS[text])
        return Scheme(text, base_set.head_dim, 4096, base_set.bases)
    if os.path.exists(text):
        return parse_scheme(f"harpe:{text}")
    known = list(dict.fromkeys([*PRESETS, *SCHEMES]))
    hint = checks.nearest(name, known)
    msg = f"{text!r} is no file that is there, no preset and no position scheme ({', '.join(known)}){hint}"
    raise InputError(msg)


def compare(
    names: Sequence[str], max_distance: int = COVERED_TO, *, progress: Progress | None = None
) -> list[Compared]:
    """Coverage of several sets and schemes over the same distances, by the same rule for peaks and valleys.

    Parameters
    ----------
    names : sequence of str
        Each as for `named_scheme`.
    max_distance : int
        The last distance, in tokens, included.
    progress : callable, optional
        Called as progress("sets and schemes", done, total).

    Returns
    -------
    list of Compared
        In the order of `names`.

    Raises
    ------
    OSError, ValueError
        As `named_scheme`; ValueError also if they differ in head_dim, or `max_distance` is out of range.
    MemoryError
        If it does not fit in memory; the message says how much it needs.
    """
    schemes = [named_scheme(name) for name in names]
    sizes = {scheme.head_dim for scheme in schemes}
    if len(sizes) > 1:
        each = ", ".join(f"{name}: {scheme.head_dim}" for name, scheme in zip(names, schemes, strict=True))
        msg = f"only sets of one head_dim can be compared, not {each}"
        raise InputError(msg)
    report = counter(progress, "sets and schemes", len(names))
    lines = []
    for name, scheme in zip(names, schemes, strict=True):
        lines.append(Compared(name, len(scheme.bases), scheme.coverage(max_distance)))
        report()
    return lines


@dataclass(frozen=True)
class _Column:
    """A figure of the table: its name, how it is read off and written, and which is the best."""

    key: str
    name: str
    value: Callable[[Coverage], float | None]
    digits: int
    best: Callable[[Iterable[float]], float]


def _valleys(coverage: Coverage) -> float | None:
    shares = [share for share in coverage.valleys_on_peaks if share is not None]
    return float(np.mean(shares)) if shares else None


COLUMNS = (
    _Column("floor", "floor", lambda c: c.floor, 4, max),
    _Column("mean", "mean", lambda c: c.mean, 4, max),
    _Column("quantile_01", "1 %", lambda c: c.quantile_01, 4, max),
    _Column("ripple", "ripple", lambda c: c.ripple, 5, min),
    _Column("valleys_on_peaks", "valleys", _valleys, 3, max),
)


def to_rich(lines: Sequence[Compared]) -> "Table":
    """Return the comparison for a rich console, the best of each column marked with a star."""
    from rich.table import Table

    first, last = lines[0].coverage.distances
    table = Table(
        title=f"coverage, distances {first} to {last}; * best",
        box=None,
        padding=(0, 1),
        caption="floor, mean, 1 %: of the best head; valleys: share on a peak of another",
    )
    table.add_column("set or scheme", overflow="fold")
    for name in ("bases", *(column.name for column in COLUMNS)):
        table.add_column(name, justify="right")
    columns = [_marked(column, lines) for column in COLUMNS]
    for i, line in enumerate(lines):
        table.add_row(line.name, str(line.bases), *(column[i] for column in columns))
    return table


def _marked(column: _Column, lines: Sequence[Compared]) -> list[str]:
    """Cells of one column; equal to the digits shown is equal."""
    values = [column.value(line.coverage) for line in lines]
    texts = ["–" if value is None else f"{value:.{column.digits}f}" for value in values]
    known = [value for value in values if value is not None]
    best = f"{column.best(known):.{column.digits}f}" if known else None
    return [f"{text}*" if text == best else f"{text} " for text in texts]


def to_csv(lines: Sequence[Compared]) -> str:
    """Return the comparison as CSV, with a header line; an empty cell is a figure that there is not."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "bases", "floor_distance", *(column.key for column in COLUMNS)])
    for line in lines:
        figures = [column.value(line.coverage) for column in COLUMNS]
        writer.writerow([line.name, line.bases, line.coverage.floor_distance, *figures])
    return text.getvalue()


def to_json(lines: Sequence[Compared]) -> str:
    """Return the comparison as a JSON list of objects."""
    return json.dumps([line.to_dict() for line in lines], allow_nan=False) + "\n"
