"""Sets of bases and position schemes side by side, by what they cover."""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

FIGURES = ("floor", "mean", "quantile_01", "ripple", "valleys_on_peaks")


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

    @property
    def figures(self) -> dict[str, float | None]:
        """One number for each of `FIGURES`, if there is one; for `valleys_on_peaks`, the mean over the heads."""
        shares = [share for share in self.coverage.valleys_on_peaks if share is not None]
        figures = {key: getattr(self.coverage, key) for key in FIGURES}
        return figures | {"valleys_on_peaks": float(np.mean(shares)) if shares else None}

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
    msg = f"{text!r} is not a file, a preset or a position scheme ({', '.join(known)}){hint}"
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
        msg = f"all sets and schemes must have the same head_dim, not {each}"
        raise InputError(msg)
    report = counter(progress, "sets and schemes", len(names))
    lines = []
    for name, scheme in zip(names, schemes, strict=True):
        lines.append(Compared(name, len(scheme.bases), scheme.coverage(max_distance)))
        report()
    return lines


def to_csv(lines: Sequence[Compared]) -> str:
    """Return the comparison as CSV, with a header line; a figure that a line lacks leaves an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "bases", "floor_distance", *FIGURES])
    for line in lines:
        writer.writerow([line.name, line.bases, line.coverage.floor_distance, *line.figures.values()])
    return text.getvalue()


def to_json(lines: Sequence[Compared]) -> str:
    """Return the comparison as a JSON list of objects."""
    return json.dumps([line.to_dict() for line in lines], allow_nan=False) + "\n"
