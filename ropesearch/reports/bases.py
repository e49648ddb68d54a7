"""The section of a base set or a position scheme: its bases, and waveforms that the page computes from them."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ParameterError, printable, shown
from ropesearch.core.progress import Progress, counter
from ropesearch.core.rope import inv_freq
from ropesearch.core.spec import SearchSpec, extrema_options
from ropesearch.curves.extrema import find_extrema
from ropesearch.exporters.table import COLUMNS, coverage_lines, rows
from ropesearch.plots.bins import Bins
from ropesearch.plots.coverage import COARSER, heads_drawn
from ropesearch.plots.style import MEAN, THIRD, base_colours, short_number
from ropesearch.schemes.rules import Scheme, SelfExtend

from .html import Html, facts, folded, table, tag
from .section import Section, packed

MOST_VALUES = 2**25
"""Values of all heads together that a section keeps in the reader's memory, in 4 bytes each."""
ALL_LINES = 32
SOME_LINES = 8
"""Heads that have a line at first: all up to the one number, else the other."""
MOST_MARKS = 20_000
"""Peaks and valleys of all heads together that the file holds."""


def section_of_bases(
    name: str, heads_of: BaseSet | Scheme, max_distance: int, *, progress: Progress | None = None
) -> Section:
    """Make the section of a base set or a scheme; `progress` counts its heads."""
    if isinstance(heads_of, BaseSet):
        heads_of.of_all_layers("a section of a page")
    scheme = Scheme.of(heads_of) if isinstance(heads_of, BaseSet) else heads_of
    drawn = _Heads(scheme)
    if drawn.n * (max_distance + 1) > MOST_VALUES:
        most = MOST_VALUES // drawn.n - 1
        raise ParameterError(
            "max_distance", max_distance, f"at most {most} in a page, for the {drawn.n} heads of {name}"
        )
    about = _describe(heads_of)
    coverage = heads_of.coverage(max_distance, progress=progress)
    title, lines = coverage_lines(coverage.to_dict())
    figure = _figure(name, heads_of, drawn, max_distance, progress)
    figure["floor"] = {"distance": coverage.floor_distance, "value": coverage.floor}
    remarks = ["of the smaller of the two distances that the model sees"] if drawn.grouped else []
    kind = "base set" if isinstance(heads_of, BaseSet) else "position scheme"
    body: list[Html | dict[str, Any]] = [
        facts(about),
        figure,
        table(title.capitalize(), ["figure", "value"], list(lines.items()), labels=True, remarks=remarks),
    ]
    if isinstance(heads_of, BaseSet):
        bases = table("Bases by head", list(COLUMNS.values()), rows(heads_of, digits=12))
        body.append(folded(f"All {heads_of.kv_heads} bases", bases))
        options = {
            str(key).replace("_", " "): value if isinstance(value, str) else shown(value)
            for key, value in heads_of.parameters.items()
            if value is not None
        }
        if options:
            body.append(folded("Options that shaped the set", facts(options)))
        command = heads_of.made_by.get("command")
        if isinstance(command, str):
            body.append(tag("p", "Made by ", tag("code", command)))
    return Section(name, kind, body)


class _Heads:
    """The rows that the page draws: a row for each base, and two for a scheme of which the model sees two distances."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self.grouped = isinstance(scheme, SelfExtend)
        self.uppers = [False, True] if self.grouped else [False] * len(scheme.bases)
        self.n = len(self.uppers)
        self.to_logits = math.sqrt(scheme.head_dim) * scheme.attention_factor() ** 2

    def label(self, row: int) -> str:
        if self.grouped:
            return ("smaller distance seen", "greater distance seen")[row]
        base = short_number(self.scheme.bases[row])
        return f"{row}: {base}" if self.n > 1 else f"base {base}"

    def waveforms(self, last: int) -> Iterator[Floats]:
        """Compute one row after the other, in logits, at distances 0 … last."""
        if self.grouped:
            for upper in self.uppers:
                yield self.scheme.row_waveforms(last, upper=upper)(0)
        else:
            yield from map(self.scheme.row_waveforms(last), range(self.n))

    def frequencies(self) -> list[list[float]]:
        """Return the frequencies of each row where they are not those of its base."""
        theta = self.scheme.inv_freq()
        if np.array_equal(theta, inv_freq(self.scheme.bases, self.scheme.head_dim)):
            return []
        return [theta[0 if self.grouped else row].tolist() for row in range(self.n)]


def _describe(heads_of: BaseSet | Scheme) -> dict[str, str]:
    low, high = (short_number(end) for end in (min(heads_of.bases), max(heads_of.bases)))
    about = {"head_dim": str(heads_of.head_dim), "bases": low if low == high else f"{low} to {high}"}
    if isinstance(heads_of, Scheme):
        factor = heads_of.attention_factor()
        more = {} if factor == 1 else {"attention factor": f"{factor:.6g}"}
        return {"scheme": heads_of.name} | about | more
    heads = {"heads": str(heads_of.heads)}
    if heads_of.kv_heads != heads_of.heads:
        heads["KV heads"] = str(heads_of.kv_heads)
    return {"strategy": heads_of.strategy} | heads | about


def _figure(
    name: str, heads_of: BaseSet | Scheme, drawn: _Heads, last: int, progress: Progress | None
) -> dict[str, Any]:
    scheme = drawn.scheme
    bases = scheme.bases if not drawn.grouped else scheme.bases * 2
    colours, scale = base_colours(scheme.bases)
    lines = heads_drawn(bases, drawn.n if drawn.n <= ALL_LINES else SOME_LINES)
    from matplotlib.colors import to_hex

    of_rows = [THIRD, MEAN] if drawn.grouped else [to_hex(colours(scale(base))) for base in bases]
    # The envelope in the file, which is drawn before the page has computed anything.
    bins = Bins(last, first=0, coarser=COARSER)
    marks = _Marks(heads_of, drawn.n, last)
    best, lowest, mean = (np.full(last + 1, start) for start in (-np.inf, np.inf, 0.0))
    heads = []
    report = counter(progress, "waveforms", drawn.n)
    for row, logits in enumerate(drawn.waveforms(max(last, marks.last))):
        marks.add(logits)
        curve = logits[: last + 1] / drawn.to_logits
        if row in lines:
            heads.append(bins.means(curve))
        np.maximum(best, curve, out=best)
        np.minimum(lowest, curve, out=lowest)
        mean += curve / drawn.n
        report()
    pool = [
        bins.lowest(lowest),
        bins.lowest(best),
        bins.highest(best),
        bins.lowest(mean),
        bins.highest(mean),
        bins.means(mean),
    ]
    first = {
        "edges": [*bins.starts.tolist(), last + 1],
        "heads": packed(np.concatenate(heads), -1, 1),
        "pool": packed(np.concatenate(pool), -1, 1),
    }
    group = {"window": scheme.window, "group": scheme.group} if isinstance(scheme, SelfExtend) else None
    return {
        "kind": "waveforms",
        "name": printable(name),
        "headDim": scheme.head_dim,
        "logits": drawn.to_logits,
        "last": last,
        "rows": [
            {"label": drawn.label(row), "base": base, "upper": upper, "colour": colour}
            for row, (base, upper, colour) in enumerate(zip(bases, drawn.uppers, of_rows, strict=True))
        ],
        "theta": drawn.frequencies(),
        "map": group,
        "lines": lines,
        "extrema": marks.rows,
        "note": marks.note(),
        "first": first,
    }


class _Marks:
    """The peaks and valleys of each row, by the rule that shaped the set."""

    def __init__(self, heads_of: BaseSet | Scheme, n_rows: int, last: int) -> None:
        given = heads_of.parameters if isinstance(heads_of, BaseSet) else {}
        self.options = extrema_options(given)
        ends = (given.get(name, getattr(SearchSpec, name)) for name in ("min_distance", "max_distance"))
        self.first, self.last = checks.distances(*ends)
        # A file may say any number; no more is computed than a section could show.
        self.last = min(self.last, MOST_VALUES // n_rows - 1) if isinstance(heads_of, BaseSet) else last
        self.first = min(self.first, self.last)
        self.most = MOST_MARKS // (2 * n_rows)
        self.left_out = False
        self.rows: list[dict[str, list[int]]] = []

    def add(self, logits: Floats) -> None:
        """Find those of the next row, of which the waveform begins at distance 0."""
        found = find_extrema(logits[self.first : self.last + 1], min_distance=self.first, **self.options)
        self.left_out |= max(found.peaks.size, found.valleys.size) > self.most
        self.rows.append({"peaks": found.peaks[: self.most].tolist(), "valleys": found.valleys[: self.most].tolist()})

    def note(self) -> str:
        note = f"Peaks and valleys: the rule {self.options['extrema']}, distances {self.first:,} to {self.last:,}"
        return note + (f", the first {self.most:,} of each head." if self.left_out else ".")
