"""The bases of several sets, head by head."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ParameterError

from .style import MARKERS, Width, line_style, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
WIDE = 20
"""From this ratio of the largest base to the smallest on, bases have a log scale."""


def plot_bases(
    sets: Mapping[str, BaseSet], *, ax: "Axes | None" = None, width: Width = None, title: str | None = None
) -> "Figure":
    """Draw the base of every KV head, for one or several sets.

    A set of one base, which stands for every head, is a level line; one whose layers differ has a thin line for each.

    Parameters
    ----------
    sets : mapping of str to BaseSet
        What each set is called, and the set: at most 12.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default, a new figure.
    width : float or {'single', 'double'}, optional
        Of the new figure: inches, or one or two columns of a paper.
    title : str, optional
        In place of the figure's own; "" for none.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no set, or there are too many.
    """
    if not isinstance(sets, Mapping) or not 1 <= len(sets) <= MOST:
        raise ParameterError("sets", sets, f"a mapping of 1 to {MOST} names to base sets")
    for name, base_set in sets.items():
        checks.instance(f"sets[{name!r}]", base_set, BaseSet, "a BaseSet")
    with sheet(width, title) as page:
        from matplotlib.ticker import EngFormatter, MaxNLocator

        axes = page.axes(8, 4.6, ax)
        most = max(base_set.kv_heads for base_set in sets.values())
        for i, (name, base_set) in enumerate(sets.items()):
            look = {**line_style(i), "lw": page.lw(1.3), "label": name}
            if base_set.kv_heads == 1 < most:
                for base in np.unique(base_set.bases):
                    axes.axhline(base, **look)
                    look["label"] = None
                continue
            size = page.lw(5 if most <= 40 else 3)
            if base_set.layers is not None:
                look |= {"lw": page.lw(0.6), "alpha": 0.6, "label": f"{name}, {base_set.layers} layers"}
                size /= 2
            for row in np.atleast_2d(base_set.bases):
                axes.plot(range(base_set.kv_heads), row, marker=MARKERS[i % len(MARKERS)], ms=size, **look)
                look["label"] = None
        values = np.concatenate([np.ravel(base_set.bases) for base_set in sets.values()])
        if values.max() > WIDE * values.min():
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_minor_formatter("")
        axes.xaxis.set_major_locator(MaxNLocator(max(int(page.inches), 4), integer=True))
        axes.set(xlabel="KV head", ylabel="base")
        page.write_title(axes, "Bases by head")
        page.write_legend(axes)
    return page.figure_of(axes)
