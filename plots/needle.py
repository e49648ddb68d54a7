"""How often needles are found, by their depth and the length of the text."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core.arrays import Floats
from ropesearch.evaluation.results import Results

from .results import labelled, read_rows, text_width
from .style import FAINT, INK, Width, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_ACROSS = 3
COLOURS = "YlGnBu"
"""From pale, where nothing is found, to dark: also in grey."""
DARK = 0.65
"""Share from which numbers are white."""
NUMBER_WIDTH = 2.6
"""Width of a number in a cell, in sizes of its text."""


def plot_needle(results: Results | Sequence[Results], *, width: Width = None, title: str | None = None) -> "Figure":
    """Draw the share of needles found, by depth and by length, one panel for each model and scheme.

    Where there is room, each cell shows its share in percent. Crossed cells were not measured.

    Parameters
    ----------
    results : Results or sequence of Results
        Of the suite `needle`.
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
    rows = [row for row in read_rows(results, "needle") if "depth" in row]
    groups = labelled(rows, "a depth")
    lengths = sorted({row["length"] for row in rows})
    depths = sorted({float(row["depth"]) for row in rows})
    across = min(len(groups), PANELS_ACROSS)
    down = -(-len(groups) // across)
    with sheet(width, title) as page:
        size = (max(1.6 + across * max(0.55 * len(lengths), 2.4), 5), 1.2 + down * max(0.24 * len(depths) + 0.9, 2.2))
        figure = page.figure(*size)
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        names = [f"{n:,}" for n in lengths]
        room = 0.8 * figure.get_figwidth() / across
        crowded = text_width(max(map(len, names)), page.font) > room / len(lengths)
        for axes, (label, own) in zip(panels.flat, groups.items(), strict=False):
            shares = share_grid(own, lengths, depths)
            image = _draw(axes, shares)
            # A label without a space, such as a path, may be longer than its panel is wide.
            axes.set_title(fill(label, max(int(1.15 * room / text_width(1, page.font)), 8)), fontsize=page.font)
            axes.set_xticks(range(len(lengths)), names, rotation=90 if crowded else 0)
            axes.set_yticks(*_ticks(depths))
        for axes in panels.flat[len(groups) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("depth of the needle")
        for axes in panels.flat[max(len(groups) - across, 0) : len(groups)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("length (tokens)", fontsize=page.font)
        bar = figure.colorbar(image, ax=panels, aspect=30, shrink=0.9)
        bar.set_label("needles found")
        bar.ax.yaxis.set_major_formatter("{x:.0%}")
        page.write_title(figure, "Needles found, by depth and length")
        figure.draw_without_rendering()  # sizes of cells are known only then
        for axes, own in zip(panels.flat, groups.values(), strict=False):
            _write_numbers(axes, share_grid(own, lengths, depths), page.font)
    return figure


def share_grid(rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], depths: Sequence[float]) -> Floats:
    """Shares by depth and length; NaN where there is none."""
    grid = np.full((len(depths), len(lengths)), np.nan)
    for row in rows:
        grid[depths.index(float(row["depth"])), lengths.index(row["length"])] = row["accuracy"]
    return grid


def _draw(axes: "Axes", shares: Floats) -> Any:
    axes.set_facecolor("white")
    image = axes.imshow(shares, cmap=COLOURS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for y, x in np.argwhere(np.isnan(shares)):
        axes.plot(x, y, "x", color=FAINT, ms=4)
    for i in range(1, shares.shape[1]):
        axes.axvline(i - 0.5, color="white", lw=1)
    for i in range(1, shares.shape[0]):
        axes.axhline(i - 0.5, color="white", lw=1)
    return image


def _ticks(depths: Sequence[float]) -> tuple[list[int], list[str]]:
    """At most eleven depths are named."""
    step = -(-len(depths) // 11)
    named = list(range(0, len(depths), step))
    return named, [f"{depths[i]:.0%}" for i in named]


def _write_numbers(axes: "Axes", shares: Floats, font: float) -> None:
    """Write each cell's share in percent, where the numbers fit."""
    box = axes.get_window_extent()
    points = 72 / axes.figure.dpi
    size = min(
        0.8 * font, box.width * points / shares.shape[1] / NUMBER_WIDTH, box.height * points / shares.shape[0] / 1.4
    )
    if size < 0.55 * font:
        return
    for (y, x), share in np.ndenumerate(shares):
        if not np.isnan(share):
            colour = "white" if share > DARK else INK
            axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=size)
