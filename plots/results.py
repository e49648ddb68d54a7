"""What figures of evaluations share: rows of one suite, grouped as their lines are, and bands of intervals."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ropesearch.core.checks import is_number
from ropesearch.core.errors import InputError, shown
from ropesearch.evaluation.results import Results
from ropesearch.evaluation.table import labels_of

from .style import line_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
FARTHEST = 10**15
"""In tokens: what a file may say of a place."""


def read_rows(results: Results | Sequence[Results], suite: str) -> list[Row]:
    """Rows of all results.

    Raises
    ------
    ValueError
        If there are none, or some are of another suite.
    """
    several = [results] if isinstance(results, Results) else list(results)
    rows = [row for each in several for row in each.rows if row["n"]]
    if not rows:
        raise InputError("the results have no rows to draw")
    others = sorted({row["suite"] for row in rows} - {suite})
    if others:
        msg = f"the results must be of the suite {suite}, not {', '.join(others)}"
        raise InputError(msg)
    for row in rows:
        _check(row)
    return rows


def _check(row: Row) -> None:
    """Raise InputError unless what is drawn of a row are numbers."""
    places = [row["length"], *([row["depth"]] if "depth" in row else [])]
    if not all(map(is_number, places)):
        msg = f"length and depth of a row must be numbers, not {shown(places)}"
        raise InputError(msg)
    for bands in (row[key] for key in ("by_position", "by_distance") if key in row):
        figures = [name for name in ("perplexity", "accuracy", "nats") if name in bands]
        pairs = [pair for name in bands if name.endswith("interval") for pair in bands[name] if pair is not None]
        paired = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
        ends = [end for pair in pairs for end in pair] if paired else []
        places = [place for name in ("from", "to") for place in bands[name]]
        values = [*ends, *places, *(value for name in figures for value in bands[name])]
        numbers = bool(figures) and paired and all(map(is_number, values))
        if not numbers or not all(0 <= place <= FARTHEST for place in places):
            msg = f"bands of {row['suite']} at {row['length']} must hold a figure, and numbers alone"
            raise InputError(msg)


def labelled(rows: Sequence[Row], what: str) -> dict[str, list[Row]]:
    """Rows by model and scheme, under labels that tell these apart.

    Raises
    ------
    ValueError
        If there are no rows: they lack `what`.
    """
    if not rows:
        msg = f"the results have no rows with {what}"
        raise InputError(msg)
    labels = labels_of(rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(labels[row["model"], row["scheme"]], []).append(row)
    return groups


def panels_width(n: int) -> float:
    """Inches of a figure of `n` panels side by side."""
    return max(6.5, 1.2 + (3.6 if n < 4 else 2.7) * n)


def draw_band(axes: "Axes", x: Sequence[float], intervals: Sequence[Any], colour: str) -> None:
    """Shade the intervals of a line; where one is None there is none."""
    low = [interval[0] if interval else float("nan") for interval in intervals]
    high = [interval[1] if interval else float("nan") for interval in intervals]
    if any(intervals):
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def name_lines(figure: "Figure", labels: Sequence[str], font: float) -> None:
    """Put the names of the lines below the panels, as many side by side as fit; `font` is the size of the text."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **line_style(i)) for i, label in enumerate(labels)]
    columns = int(figure.get_figwidth() / text_width(max(map(len, labels)) + 7, font))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(columns, 1), len(labels)))


def text_width(n: int, font: float) -> float:
    """About how many inches a text of `n` characters takes, with the size of its letters in points."""
    return 0.62 * font * n / 72
