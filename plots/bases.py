"""The bases of several sets, head by head."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ParameterError

from .style import MARKERS, Sheet, Width, base_colours, line_style, sheet

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

    A set of one base, which stands for every head, is a level line. A set whose layers differ is drawn alone, as a map:
    a cell for each layer and KV head, coloured by its base.

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
        If there is no set, or there are too many, or layers differ in one of several.
    """
    if not isinstance(sets, Mapping) or not 1 <= len(sets) <= MOST:
        raise ParameterError("sets", sets, f"a mapping of 1 to {MOST} names to base sets")
    for name, base_set in sets.items():
        checks.instance(f"sets[{name!r}]", base_set, BaseSet, "a BaseSet")
        if len(sets) > 1:
            base_set.of_all_layers("each line of a figure of several sets")
    with sheet(width, title) as page:
        if base_set.layers is not None:
            return _draw_map(page, base_set, base_set.layers, ax)
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
            axes.plot(range(base_set.kv_heads), base_set.bases, marker=MARKERS[i % len(MARKERS)], ms=size, **look)
        values = np.concatenate([base_set.bases for base_set in sets.values()])
        if values.max() > WIDE * values.min():
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_minor_formatter("")
        axes.xaxis.set_major_locator(MaxNLocator(max(int(page.inches), 4), integer=True))
        axes.set(xlabel="KV head", ylabel="base")
        page.write_title(axes, "Bases by head")
        page.write_legend(axes)
    return page.figure_of(axes)


def _draw_map(page: Sheet, base_set: BaseSet, layers: int, ax: "Axes | None") -> "Figure":
    """Draw a cell for each layer and KV head, coloured by its base."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

    axes = page.axes(8, 1.8 + min(max(0.22 * layers, 1.2), 8), ax)
    bases = np.array(base_set.bases)
    colours, norm = base_colours(bases.ravel().tolist())
    image = axes.imshow(bases, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(max(int(page.inches), 4), integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set(xlabel="KV head", ylabel="layer")
    figure = page.figure_of(axes)
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.02)
    bar.set_label("base")
    bar.ax.yaxis.set_major_formatter(EngFormatter(sep=""))
    bar.ax.yaxis.set_minor_formatter("")
    if WIDE < bases.max() / bases.min() < 1000:  # too few powers of ten
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.outline.set_visible(False)
    page.write_title(axes, "Bases by layer and head")
    return figure
