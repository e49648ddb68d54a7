"""The coverage figure: how the waveforms of a base set's heads cover the distances together."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.progress import Progress, counter
from ropesearch.schemes.rules import Scheme

from .bins import Bins
from .style import BEST, DASHES, INK, LIGHT, MEAN, Sheet, Width, base_colours, format_number, halo, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DETAIL = 300  # distances in the lower panel
COARSER = 3  # bins of a bold line are wider by this
MOST_LINES = 32  # heads with a line of their own; of more, only some can be told apart


def plot_coverage(
    heads_of: BaseSet | Scheme,
    max_distance: int = 131072,
    *,
    logx: bool = False,
    width: Width = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> "Figure":
    """Draw every head's waveform, the best head and the mean of the heads, over distance.

    The upper panel spans all distances. A waveform swings faster there than a line can show, so each thin line is
    one head's mean over a bin of distances; of more than 32 heads, 32 are drawn. The best head (the largest of all
    heads at each distance) is a bold line along its lowest value in each of
    some 300 bins, which is the value that the floor is
    about, and a band up to the highest; the mean of the heads is a dashed line along its mean in each bin, in a band
    from lowest to highest. The lower panel shows every distance around the set's floor, where the best head is lowest;
    a dot marks the floor in both. Unit: mean cosine, the waveform scaled to 1 at distance 0. For `self-extend`, where
    the model sees one of two distances, the space between the two waveforms is shaded, and lines show the smaller
    distance.

    Parameters
    ----------
    heads_of : BaseSet or Scheme
    max_distance : int
        Last distance drawn, in tokens; the first is 1.
    logx : bool
        Whether the upper panel has a log scale of distance.
    width : float or {'single', 'double'}, optional
        Of the figure: inches, or one or two columns of a paper.
    title : str, optional
        In place of the figure's own; "" for none.
    progress : callable, optional
        Called as progress("waveforms", done, total).

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If `max_distance` is less than 2, or `width` is no width.
    """
    last = checks.integer("max_distance", max_distance, 2)
    checks.instance("heads_of", heads_of, (BaseSet, Scheme), "a BaseSet or a Scheme")
    scheme, own_title = _scheme_and_title(heads_of)
    with sheet(width, title) as page:
        n = len(scheme.bases)
        bins, wide = Bins(last, log=logx), Bins(last, log=logx, coarser=COARSER)
        lines = heads_drawn(scheme.bases)
        thin = np.empty((len(lines), bins.at.size))
        best, mean = np.full(last + 1, -np.inf), np.zeros(last + 1)
        report = counter(progress, "waveforms", n)
        mean_cosine = mean_cosines(scheme, 0, last)
        for row in range(n):
            curve = mean_cosine(row)
            if row in lines:
                thin[lines.index(row)] = bins.means(curve)
            np.maximum(best, curve, out=best)
            mean += curve / n
            report()
        floor = int(best[1:].argmin()) + 1

        figure = page.figure(10, 7.2)
        whole, detail = figure.subplots(2, 1, height_ratios=(3, 2))
        colours, scale = base_colours(scheme.bases)
        head_colours = [colours(scale(scheme.bases[row])) for row in lines]
        for values, colour in zip(thin, head_colours, strict=True):
            whole.plot(bins.at, values, color=colour, lw=page.lw(0.5), alpha=0.8)
        first, end = _window(floor, last)
        near = np.arange(first, end + 1)
        mean_cosine = mean_cosines(scheme, first, end)
        for row, colour in zip(lines, head_colours, strict=True):
            detail.plot(near, mean_cosine(row), color=colour, lw=page.lw(0.7), alpha=0.8)
        bold = page.lw(2)
        if n > 1:  # for one head the mean is the same line
            ends = wide.lowest(mean), wide.highest(mean)
            _draw(whole, wide.at, wide.means(mean), MEAN, bold, "mean of the heads", ends)
            _draw(detail, near, mean[near], MEAN, bold)
        low, high = wide.lowest(best), wide.highest(best)
        name = "best head: line along its lowest values, band up to its highest" if wide.wide else "best head"
        _draw(whole, wide.at, low, BEST, bold, name, (low, high))
        _draw(detail, near, best[near], BEST, bold)
        if not np.array_equal(scheme.distances(near), scheme.distances(near, upper=True)):
            other = mean_cosines(scheme, 0, last, upper=True)(0)
            name = "between the two distances seen"
            whole.fill_between(wide.at, wide.means(best), wide.means(other), color=LIGHT, alpha=0.7, lw=0, label=name)
            detail.fill_between(near, best[near], other[near], color=LIGHT, alpha=0.5, lw=0)
        for axes in (whole, detail):
            label = f"floor of the best head: {format_number(best[floor], 3)} at distance {floor:,}"
            dot = {"color": "white", "markeredgecolor": INK, "markeredgewidth": page.lw(1.6), "ms": page.lw(7)}
            axes.plot(floor, best[floor], "o", **dot, zorder=5, ls="none", label=label)
        if logx:
            whole.set_xscale("log")
        elif wide.wide:  # the start, which would take up half the panel, is a line along its left edge
            whole.set_ylim(top=1.05 * max(high[1:].max(), thin[:, COARSER:].max()))
        page.write_title(figure, own_title)
        _label(page, whole, detail, wide)
        if len(lines) < n:
            detail.set_title(f"{len(lines)} of {n} heads have lines", loc="right", fontsize=0.9 * page.font)
        if len(set(scheme.bases)) > 1:
            from matplotlib.cm import ScalarMappable
            from matplotlib.ticker import EngFormatter

            bar = figure.colorbar(ScalarMappable(scale, colours), ax=[whole, detail], aspect=45, pad=0.015)
            bar.set_label("base of the head (thin lines)")
            bar.ax.yaxis.set_major_formatter(EngFormatter(sep=""))
            bar.outline.set_visible(False)
    return figure


def mean_cosines(scheme: Scheme, first: int, last: int, *, upper: bool = False) -> Callable[[int], Floats]:
    """Return a function that computes a row's waveform over first … last, scaled to 1 at distance 0."""
    at_zero = math.sqrt(scheme.head_dim) * scheme.attention_factor() ** 2
    logits = scheme.row_waveforms(last, min_distance=first, upper=upper)
    return lambda row: logits(row) / at_zero


def _scheme_and_title(heads_of: BaseSet | Scheme) -> tuple[Scheme, str]:
    if isinstance(heads_of, Scheme):
        return heads_of, f"Waveform coverage of {plain(heads_of.name)}, head_dim {heads_of.head_dim}"
    n = heads_of.kv_heads
    title = f"Waveform coverage of {n} base{'s' * (n > 1)} ({plain(heads_of.strategy)}), head_dim {heads_of.head_dim}"
    return Scheme.of(heads_of), title


def heads_drawn(bases: tuple[float, ...], most: int = MOST_LINES) -> list[int]:
    """Return the heads that get a line: all, or of more than `most`, so many that spread evenly over the bases."""
    if len(bases) <= most:
        return list(range(len(bases)))
    by_base = np.argsort(bases, kind="stable")
    return sorted(by_base[np.linspace(0, len(bases) - 1, most).round().astype(int)].tolist())


def _draw(
    axes: "Axes",
    x: npt.NDArray[Any],
    y: Floats,
    colour: str,
    lw: float,
    label: str | None = None,
    band: tuple[Floats, Floats] | None = None,
) -> None:
    """Draw a bold line over the heads, and its band."""
    if band is not None:
        axes.fill_between(x, *band, color=colour, alpha=0.25, lw=0)
    dashes = DASHES[1] if colour == MEAN else DASHES[0]
    axes.plot(x, y, color=colour, ls=dashes, lw=lw, label=label, path_effects=halo(lw))


def _label(page: Sheet, whole: "Axes", detail: "Axes", bins: Bins) -> None:
    """Label the axes and add the legend."""
    unit = f"distance (tokens){f', in bins of up to {bins.widest}' if bins.wide else ''}"
    whole.set_xlabel(unit)
    detail.set_title("Every distance around the floor", loc="left", fontsize=page.font)
    detail.set_xlabel("distance (tokens)")
    for axes in (whole, detail):
        axes.set_ylabel("mean cosine")
        axes.margins(x=0.01)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if axes.get_xscale() == "linear":
            axes.locator_params(axis="x", nbins=max(int(page.inches * 0.9), 3), integer=True)
    page.write_legend_below(page.figure_of(whole), whole)


def _window(floor: int, last: int) -> tuple[int, int]:
    """Return the first and last distance shown around the floor."""
    start = max(min(floor - DETAIL // 2, last - DETAIL), 1)
    return start, min(start + DETAIL, last)
