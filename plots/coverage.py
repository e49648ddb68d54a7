"""The coverage figure: how the waveforms of a base set's heads cover the distances together."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.progress import Progress, counter
from ropesearch.schemes.rules import Scheme

from .style import BEST, INK, MEAN, plain, project_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLUMNS = 900  # bins of distance across the figure: about one per two pixels
DETAIL = 300  # distances in the lower panel


def plot_coverage(
    heads_of: BaseSet | Scheme, max_distance: int = 131072, *, progress: Progress | None = None
) -> "Figure":
    """Draw every head's waveform, the best head and the mean of the heads, over distance.

    The upper panel spans all distances. A waveform swings faster there than a line can show, so each thin line is
    one head's mean over a bin of distances. The best head (the largest of all heads at each distance) is a band from
    its lowest to its highest value in the bin, with its mean as a bold line; so is the mean of the heads. The lower
    panel shows every distance around the set's floor, where the best head is lowest. Unit: mean cosine, the waveform
    scaled to 1 at distance 0. For `self-extend`, where the model sees one of two distances, the space between the two
    waveforms is shaded, and lines show the smaller distance.

    Parameters
    ----------
    heads_of : BaseSet or Scheme
    max_distance : int
        Last distance drawn, in tokens; the first is 1.
    progress : callable, optional
        Called as progress("waveforms", done, total).

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If `max_distance` is less than 2.
    """
    last = checks.integer("max_distance", max_distance, 2)
    scheme, title = _scheme_and_title(heads_of)
    n = len(scheme.bases)
    edges = np.unique(np.linspace(0, last, min(COLUMNS, last) + 1).astype(int))
    bins = np.empty((n, edges.size - 1))
    best, mean = np.full(last, -np.inf), np.zeros(last)
    report = counter(progress, "waveforms", n)
    mean_cosine = _mean_cosines(scheme, 1, last)
    for row in range(n):
        curve = mean_cosine(row)
        bins[row] = _bin_means(curve, edges)
        np.maximum(best, curve, out=best)
        mean += curve / n
        report()
    floor = int(best.argmin()) + 1

    with project_style():
        import matplotlib as mpl
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 7.2), layout="constrained")
        whole, detail = figure.subplots(2, 1, height_ratios=(3, 2))
        colours = mpl.colormaps["viridis"](np.linspace(0.0, 0.9, n))
        middles = (edges[:-1] + edges[1:] + 1) / 2
        for values, colour in zip(bins, colours, strict=True):
            whole.plot(middles, values, color=colour, lw=0.4, alpha=0.45)
        shown = slice(*_window(floor, last))
        near = np.arange(1, last + 1)[shown]
        mean_cosine = _mean_cosines(scheme, int(near[0]), int(near[-1]))
        for row, colour in enumerate(colours):
            detail.plot(near, mean_cosine(row), color=colour, lw=0.5, alpha=0.6)
        bold = [(mean, MEAN, "mean of the heads"), (best, BEST, "best head")]
        for curve, colour, name in bold if n > 1 else bold[1:]:  # for one head the mean is the same line
            low, high = (f.reduceat(curve, edges[:-1]) for f in (np.minimum, np.maximum))
            whole.fill_between(middles, low, high, color=colour, alpha=0.18, lw=0)
            whole.plot(middles, _bin_means(curve, edges), color=colour, lw=2, label=name)
            detail.plot(near, curve[shown], color=colour, lw=1.6)
        if not np.array_equal(scheme.distances(near), scheme.distances(near, upper=True)):
            other = _mean_cosines(scheme, 1, last, upper=True)(0)
            name = "between the two distances seen"
            ends = (_bin_means(best, edges), _bin_means(other, edges))
            whole.fill_between(middles, *ends, color=MEAN, alpha=0.4, lw=0, label=name)
            detail.fill_between(near, best[shown], other[shown], color=MEAN, alpha=0.25, lw=0)
        for axes in (whole, detail):
            axes.plot(floor, best[floor - 1], "o", color=INK, ms=5, zorder=5)
        whole.set_ylim(bottom=min(bins.min(), best.min()) - 0.12)  # room for the line of text
        whole.annotate(
            f"floor of the best head: {best[floor - 1]:.3f} at distance {floor:,}",
            (floor, best[floor - 1]),
            xytext=(0.98, 0.03),
            textcoords="axes fraction",
            ha="right",
            arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.8},
        )
        whole.set_title(title, loc="left", weight="bold")
        _label(whole, detail, scheme, colours, edges)
    return figure


def _scheme_and_title(heads_of: BaseSet | Scheme) -> tuple[Scheme, str]:
    if isinstance(heads_of, Scheme):
        return heads_of, f"Waveform coverage of {plain(heads_of.name)}, head_dim {heads_of.head_dim}"
    n = heads_of.kv_heads
    title = f"Waveform coverage of {n} base{'s' * (n > 1)} ({plain(heads_of.strategy)}), head_dim {heads_of.head_dim}"
    return Scheme(heads_of.strategy, heads_of.head_dim, 4096, heads_of.bases), title


def _label(
    whole: "Axes", detail: "Axes", scheme: Scheme, colours: npt.NDArray[np.float64], edges: npt.NDArray[np.int_]
) -> None:
    """Label the axes and add the legend."""
    from matplotlib.lines import Line2D

    last = int(edges[-1])
    width = -(-last // (edges.size - 1))
    whole.set_xlabel(f"distance (tokens); lines: means over {width} tokens, bands: lowest to highest in them")
    detail.set_title("Every distance around the floor", loc="left", fontsize=10)
    detail.set_xlabel("distance (tokens)")
    for axes in (whole, detail):
        axes.set_ylabel("mean cosine")
        axes.margins(x=0.01)
        axes.xaxis.set_major_formatter("{x:,.0f}")
    heads = [
        Line2D([], [], color=colours[0], lw=1, label=f"head with base {scheme.bases[0]:,.12g}"),
        Line2D([], [], color=colours[-1], lw=1, label=f"head with base {scheme.bases[-1]:,.12g}"),
    ]
    handles, _ = whole.get_legend_handles_labels()
    whole.legend(handles=[*reversed(handles), *heads[: 2 if len(scheme.bases) > 1 else 1]], loc="upper right", ncols=2)


def _mean_cosines(scheme: Scheme, first: int, last: int, *, upper: bool = False) -> Callable[[int], Floats]:
    """Return a function that computes a row's waveform, scaled to 1 at distance 0."""
    at_zero = math.sqrt(scheme.head_dim) * scheme.attention_factor() ** 2
    logits = scheme.row_waveforms(last, min_distance=first, upper=upper)
    return lambda row: logits(row) / at_zero


def _bin_means(curve: Floats, edges: npt.NDArray[np.int_]) -> Floats:
    sums: Floats = np.add.reduceat(curve, edges[:-1])
    return sums / np.diff(edges)


def _window(floor: int, last: int) -> tuple[int, int]:
    """Return the range of indices, into distances from 1, shown around the floor."""
    start = max(min(floor - DETAIL // 2, last - DETAIL), 1)
    return start - 1, min(start + DETAIL, last)
