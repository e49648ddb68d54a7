"""Compare base sets and position schemes by their coverage."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.frames import as_dataframe
from ropesearch.core.progress import Progress, counter
from ropesearch.core.spec import COVERED_TO
from ropesearch.curves.bounds import base_lower_bound
from ropesearch.curves.coverage import Coverage
from ropesearch.schemes.rules import Scheme, common_head_dim

from .named import as_base_set, find_bases

if TYPE_CHECKING:
    from pandas import DataFrame

FIGURES = ("floor", "mean", "quantile_01", "ripple", "valleys_on_peaks")


@dataclass(frozen=True)
class Compared:
    """One line of a comparison.

    Attributes
    ----------
    name : str
        What the set or scheme is called.
    bases : int
        Number of bases, one per different head.
    coverage : Coverage
        Their coverage.
    bounded : int or None
        How many of the bases reach the lower bound for the length; None for a scheme that is more than bases.
    """

    name: str
    bases: int
    coverage: Coverage
    bounded: int | None = None

    @property
    def figures(self) -> dict[str, float | None]:
        """One number, or None, for each of `FIGURES`; for `valleys_on_peaks` the mean over the heads.

        A single head has no other head's peak to lie on: None.
        """
        shares = [share for share in self.coverage.valleys_on_peaks if share is not None and self.bases > 1]
        figures = {key: getattr(self.coverage, key) for key in FIGURES}
        return figures | {"valleys_on_peaks": float(np.mean(shares)) if shares else None}

    def to_dict(self) -> dict[str, Any]:
        """Return the line as a JSON object."""
        return {"name": self.name, "bases": self.bases, **self.coverage.to_dict()}


@dataclass(frozen=True)
class Comparison(Sequence[Compared]):
    """The lines of a comparison, in the order given.

    Attributes
    ----------
    lines : tuple of Compared
    bound : float or None
        `base_lower_bound` for the distances compared; None if there is none.
    """

    lines: tuple[Compared, ...]
    bound: float | None = None

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.lines)

    def __iter__(self) -> Iterator[Compared]:
        """Iterate over the lines."""
        return iter(self.lines)

    @overload
    def __getitem__(self, index: int) -> Compared: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Compared]: ...
    def __getitem__(self, index: int | slice) -> Compared | Sequence[Compared]:
        """Return one line, or those of a slice."""
        return self.lines[index]

    def to_dataframe(self) -> "DataFrame":
        """Return the lines as a pandas data frame, one row each.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        rows = [(line.name, line.bases, line.coverage.floor_distance, *line.figures.values()) for line in self]
        return as_dataframe(["name", "bases", "floor_distance", *FIGURES], rows)


def compare(
    sets: Sequence[BaseSet | Scheme | str] | Mapping[str, BaseSet | Scheme | str],
    max_distance: int = COVERED_TO,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Compute the coverage of several sets and schemes over the same distances, by the same rule for extrema.

    Parameters
    ----------
    sets : sequence or mapping of str
        Base sets, schemes, or names as for `find_bases`: a preset, a file, a row of a sweep, a scheme such as yarn:32.
        The keys of a mapping are what the lines are called.
    max_distance : int
        The last distance, in tokens, included.
    progress : callable, optional
        Called as progress("sets and schemes", done, total).

    Returns
    -------
    Comparison
        A sequence of lines in the order of `sets`; `to_dataframe()` makes a table of them where pandas is installed.

    Raises
    ------
    OSError, ValueError
        As `find_bases`; ValueError also if they differ in head_dim or `max_distance` is out of range.
    MemoryError
        If it does not fit in memory; the message says how much it needs.

    Examples
    --------
    >>> from ropesearch import compare
    >>> [line.bases for line in compare(["table2", "abf:5e6"], 2000)]
    [32, 1]
    """
    if isinstance(sets, str | BaseSet | Scheme) or not isinstance(sets, Sequence | Mapping):
        raise ParameterError("sets", sets, "a list of base sets, schemes and names, or a mapping to such")
    named = dict(sets) if isinstance(sets, Mapping) else None
    given = list(named.values()) if named is not None else list(sets)
    if not given:
        raise ParameterError("sets", given, "a list with something in it")
    schemes = [_as_scheme(one) for one in given]
    names = list(named) if named is not None else [_name(one) for one in given]
    head_dim = common_head_dim(zip(names, schemes, strict=True))
    last = checks.integer("max_distance", max_distance, 1)
    report = counter(progress, "sets and schemes", len(names))
    bound = base_lower_bound(last + 1, head_dim)
    lines = []
    for name, scheme in zip(names, schemes, strict=True):
        coverage = scheme.coverage(last)
        lines.append(Compared(name, len(scheme.bases), coverage, _reaching(scheme, bound)))
        report()
    return Comparison(tuple(lines), bound)


def to_csv(lines: Sequence[Compared]) -> str:
    """Return the comparison as CSV, with a header line; a missing figure leaves an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "bases", "floor_distance", *FIGURES])
    for line in lines:
        writer.writerow([line.name, line.bases, line.coverage.floor_distance, *line.figures.values()])
    return text.getvalue()


def to_json(lines: Sequence[Compared]) -> str:
    """Return the comparison as a JSON list of objects."""
    return json.dumps([line.to_dict() for line in lines], allow_nan=False) + "\n"


def _as_scheme(given: BaseSet | Scheme | str) -> Scheme:
    found = find_bases(given) if isinstance(given, str) else given
    if isinstance(found, BaseSet):
        return Scheme.of(found, given if isinstance(given, str) else None)
    if isinstance(found, Scheme):
        return found
    raise ParameterError("sets", found, "a list of base sets, schemes and names, or a mapping to such")


def _name(given: BaseSet | Scheme | str) -> str:
    if isinstance(given, BaseSet):
        return f"{given.strategy}, {given.kv_heads} base{'s' * (given.kv_heads > 1)}"
    return given.name if isinstance(given, Scheme) else given


def _reaching(scheme: Scheme, bound: float | None) -> int | None:
    """Return how many bases of a scheme reach the bound; None if it is more than bases, or there is no bound."""
    try:
        bases = as_base_set(scheme).bases
    except InputError:
        return None
    return None if bound is None else sum(base >= bound for base in bases)
