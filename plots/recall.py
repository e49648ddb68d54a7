"""What is recalled, and how surely, by the distance between a value and the question for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ropesearch.evaluation.results import Results

from .results import Row, draw_band, labelled, name_lines, panels_width, read_rows
from .style import Width, line_style, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_recall(results: Results | Sequence[Results], *, width: Width = None, title: str | None = None) -> "Figure":
    """Draw accuracy and nats by distance, one line for each model and scheme, one column of panels for each length.

    Nats are −log p of the right value. A point stands in the middle of its band of distances. Shaded are 95 %
    intervals.

    Parameters
    ----------
    results : Results or sequence of Results
        Of the suite `recall`.
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
        If they are of another suite, or have no figures by distance.
    """
    groups = labelled([row for row in read_rows(results, "recall") if "by_distance" in row], "figures by distance")
    lengths = sorted({row["length"] for own in groups.values() for row in own})
    with sheet(width, title) as page:
        figure = page.figure(panels_width(len(lengths)), 6)
        panels = figure.subplots(2, len(lengths), squeeze=False, sharey="row", sharex="col")
        for i, own in enumerate(groups.values()):
            for row in own:
                upper, lower = panels[:, lengths.index(row["length"])]
                _draw(upper, row, "accuracy", "interval", i, page.lw(1.5))
                _draw(lower, row, "nats", "nats_interval", i, page.lw(1.5))
        for axes, length in zip(panels[0], lengths, strict=True):
            axes.set_title(f"{length:,} tokens", fontsize=page.font)
        for axes, length in zip(panels[1], lengths, strict=True):
            axes.set_xlabel("distance (tokens)")
            axes.set_xlim(0, length)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.xaxis.get_major_locator().set_params(nbins=5)
        panels[0, 0].set_ylim(-0.02, 1.02)
        panels[0, 0].set_ylabel("accuracy")
        panels[0, 0].yaxis.set_major_formatter("{x:.0%}")
        panels[1, 0].set_ylabel("−log p (nats)")
        name_lines(figure, list(groups), page.font)
        page.write_title(figure, "Recall by distance")
    return figure


def _draw(axes: "Axes", row: Row, figure: str, interval: str, i: int, lw: float) -> None:
    bands = row["by_distance"]
    if figure in bands:
        middles = middles_of(bands)
        style = line_style(i)
        axes.plot(middles, bands[figure], lw=lw, marker="o", ms=2 * lw, **style)
        draw_band(axes, middles, bands.get(interval, []), style["color"])


def middles_of(bands: Row) -> list[float]:
    """Return the middle of each band of distances."""
    return [(first + last) / 2 for first, last in zip(bands["from"], bands["to"], strict=True)]
