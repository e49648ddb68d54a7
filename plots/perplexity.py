"""Perplexity by position in the document, and by length of the window."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ropesearch.evaluation.results import Results

from .results import Row, draw_band, labelled, name_lines, panels_width, read_rows
from .style import Width, line_style, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 8
"""Perplexities that lie further apart than by this factor have a log axis."""


def plot_perplexity(
    results: Results | Sequence[Results],
    *,
    by_length: bool = False,
    width: Width = None,
    title: str | None = None,
) -> "Figure":
    """Draw perplexity by position in the document, one line for each model and scheme, one panel for each length.

    A point stands in the middle of its band of positions, on a log axis. Shaded are 95 % intervals. Results that have
    no figures by position are drawn by length.

    Parameters
    ----------
    results : Results or sequence of Results
        Of the suite `perplexity`.
    by_length : bool
        Whether to draw the perplexity of each length alone.
    width : float or str, optional
        Inches, or "single" or "double", as a paper's columns.
    title : str, optional
        In place of the figure's own; "" for none.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If they are of another suite.
    """
    rows = read_rows(results, "perplexity")
    placed = [row for row in rows if "by_position" in row]
    by_length = by_length or not placed
    groups = labelled(rows if by_length else placed, "a perplexity")
    shown = rows if by_length else placed
    several = len({row["task"] for row in shown}) > 1
    panels = sorted({_panel(row, by_length) for row in shown})
    with sheet(width, title) as page:
        from matplotlib.ticker import LogLocator, NullFormatter

        figure = page.figure(panels_width(len(panels)), 4.4)
        all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for i, own in enumerate(groups.values()):
            for panel, axes in zip(panels, all_axes, strict=True):
                lines = [row for row in own if _panel(row, by_length) == panel]
                if lines:
                    _draw(axes, _along_lengths(lines) if by_length else along_positions(lines[0]), i, page.lw(1.5))
        for (task, length), axes in zip(panels, all_axes, strict=True):
            names = [*([task] if several else []), *([] if by_length else [f"windows of {length:,} tokens"])]
            axes.set_title(", ".join(names), fontsize=page.font)
            axes.set_xscale("log", base=2)
            if by_length:
                axes.set_xticks(sorted({row["length"] for row in shown}))
                axes.minorticks_off()
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.tick_params(axis="x", rotation=35)
        values = [value for axes in all_axes for line in axes.lines for value in line.get_ydata()]
        if max(values) > WIDE * min(values):
            all_axes[0].set_yscale("log")
            all_axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            all_axes[0].yaxis.set_major_formatter("{x:g}")
            all_axes[0].yaxis.set_minor_formatter(NullFormatter())
        all_axes[0].set_ylabel("perplexity")
        for axes in all_axes:  # a label of the whole figure would lie on its legend
            axes.set_xlabel("length (tokens)" if by_length else "position in the document (tokens)")
        name_lines(figure, list(groups), page.font)
        page.write_title(figure, "Perplexity by length" if by_length else "Perplexity by position in the document")
    return figure


Points = tuple[list[float], list[float], list[Sequence[float] | None]]
"""Places, perplexities and intervals."""


def _panel(row: Row, by_length: bool) -> tuple[str, int]:
    return row["task"], 0 if by_length else row["length"]


def along_positions(row: Row) -> Points:
    """Return the perplexity of each band of positions, at its middle."""
    bands = row["by_position"]
    middles = [math.sqrt(max(first, 1) * last) for first, last in zip(bands["from"], bands["to"], strict=True)]
    return middles, bands["perplexity"], bands["interval"]


def _along_lengths(rows: Sequence[Row]) -> Points:
    """Return the perplexity at each length."""
    ordered = sorted(rows, key=lambda row: row["length"])
    return (
        [row["length"] for row in ordered],
        [row["perplexity"] for row in ordered],
        [row["interval"] for row in ordered],
    )


def _draw(axes: "Axes", points: Points, i: int, lw: float) -> None:
    places, values, intervals = points
    style = line_style(i)
    axes.plot(places, values, lw=lw, marker="o", ms=2 * lw, **style)
    draw_band(axes, places, intervals, style["color"])
