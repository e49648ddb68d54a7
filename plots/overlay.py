"""Several base sets and schemes on shared axes: their best heads and their means."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ParameterError
from ropesearch.core.progress import Progress, counter
from ropesearch.schemes.rules import Scheme, common_head_dim

from .bins import Bins
from .coverage import COARSER, mean_cosines
from .style import INK, Width, format_number, line_style, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 12
"""Sets that one figure can show."""


def plot_overlay(
    sets: Mapping[str, BaseSet | Scheme],
    max_distance: int = 131072,
    *,
    logx: bool = False,
    width: Width = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> "Figure":
    """Draw the best head and the mean of the heads of several sets and schemes.

    The upper panel has the lowest value that the best head (the largest of all heads at each distance) takes in each
    bin of distances, and a dot at each set's floor. The lower panel has the mean of the heads, as its mean in each bin.
    Unit: mean cosine, the waveform scaled to 1 at distance 0.

    Parameters
    ----------
    sets : mapping of str to BaseSet or Scheme
        What each is called, and what it is: at most 12.
    max_distance : int
        Last distance drawn, in tokens; the first is 1.
    logx : bool
        Whether distances have a log scale.
    width : float or {'single', 'double'}, optional
        Of the figure: inches, or one or two columns of a paper.
    title : str, optional
        In place of the figure's own; "" for none.
    progress : callable, optional
        Called as progress("sets and schemes", done, total).

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no set, there are too many, or they differ in head_dim; or `max_distance` is less than 2.
    """
    last = checks.integer("max_distance", max_distance, 2)
    if not isinstance(sets, Mapping) or not 1 <= len(sets) <= MOST:
        raise ParameterError("sets", sets, f"a mapping of 1 to {MOST} names to base sets and schemes")
    for name, one in sets.items():
        checks.instance(f"sets[{name!r}]", one, (BaseSet, Scheme), "a BaseSet or a Scheme")
    schemes = {name: Scheme.of(one) if isinstance(one, BaseSet) else one for name, one in sets.items()}
    head_dim = common_head_dim(schemes.items())
    report = counter(progress, "sets and schemes", len(schemes))
    bins = Bins(last, log=logx, coarser=COARSER)

    with sheet(width, title) as page:
        figure = page.figure(10, 7.2)
        upper, lower = figure.subplots(2, 1, sharex=True)
        tops = []
        for i, (name, scheme) in enumerate(schemes.items()):
            best, mean = _best_and_mean(scheme, last)
            floor = int(best[1:].argmin()) + 1
            look = line_style(i)
            n = len(scheme.bases)
            label = f"{name}: {n} head{'s' * (n > 1)}, floor {format_number(best[floor], 3)} at {floor:,}"
            low, middle = bins.lowest(best), bins.means(mean)
            upper.plot(bins.at, low, lw=page.lw(1.6), label=label, **look)
            dot = {"ls": "none", "markeredgecolor": look["color"], "markeredgewidth": page.lw(1.5), "ms": page.lw(6)}
            upper.plot(floor, best[floor], "o", color="white", zorder=5, **dot)
            lower.plot(bins.at, middle, lw=page.lw(1.6), **look)
            tops.append([low[1:].max(), middle[1:].max()])
            report()
        for axes, name, top in zip(
            (upper, lower), ("best head", "mean of the heads"), np.max(tops, axis=0), strict=True
        ):
            axes.set_ylabel("mean cosine")
            what = f"{name}, {'lowest' if axes is upper else 'mean'} value in each bin" if bins.wide else name
            axes.set_title(what, loc="left", fontsize=page.font)
            axes.margins(x=0.01)
            if logx:
                axes.set_xscale("log")
            elif bins.wide:  # the first tokens' rise to 1 is a line along the left edge
                axes.set_ylim(top=top + 0.05 * (top - axes.get_ylim()[0]))
            axes.axhline(0, color=INK, lw=page.lw(0.6), zorder=0.5)
        lower.xaxis.set_major_formatter("{x:,.0f}")
        if not logx:
            lower.locator_params(axis="x", nbins=max(int(page.inches * 0.9), 3), integer=True)
        lower.set_xlabel(f"distance (tokens){f', in bins of up to {bins.widest:,}' if bins.wide else ''}")
        page.write_title(figure, f"Coverage of {len(schemes)} sets and schemes, head_dim {head_dim}")
        page.write_legend_below(figure, upper)
    return figure


def _best_and_mean(scheme: Scheme, last: int) -> tuple[Floats, Floats]:
    """Return the best head and the mean of the heads at distances 0 … last."""
    best, mean = np.full(last + 1, -np.inf), np.zeros(last + 1)
    mean_cosine = mean_cosines(scheme, 0, last)
    for row in range(len(scheme.bases)):
        curve = mean_cosine(row)
        np.maximum(best, curve, out=best)
        mean += curve / len(scheme.bases)
    return best, mean
