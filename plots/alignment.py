"""Whose valleys lie on whose peaks, in the order of choice, and the scores of Algorithm 1."""

from typing import TYPE_CHECKING

import numpy as np

from ropesearch.core.base_set import BaseSet
from ropesearch.search.alignment import align

from .style import BEST, INK, Width, sheet, short_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERS = 16  # bases, beyond which cells have no numbers


def plot_alignment(base_set: BaseSet, *, width: Width = None, title: str | None = None) -> "Figure":
    """Draw how the bases of a set fit each other, in the order in which the search chose them.

    The upper panel has what Algorithm 1 scored each base by when it chose it, against all bases chosen before. In the
    lower panel, a row is a base with its valleys and a column one with its peaks; a cell is the number of valleys of
    the one that lie on a peak of the other. The lower left half is so what a base found when it was chosen, and the
    upper right half what later bases brought.

    Parameters
    ----------
    base_set : BaseSet
        Its options say which peaks and valleys count; see `align`.
    width : float or {'single', 'double'}, optional
        Of the figure: inches, or one or two columns of a paper.
    title : str, optional
        In place of the figure's own; "" for none.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If an option in the set's `parameters` is out of range.
    """
    found = align(base_set)
    n = len(found.bases)
    with sheet(width, title) as page:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.ticker import MaxNLocator

        figure = page.figure(8, 8.6)
        above, cells = figure.subplots(2, 1, height_ratios=(1, 3.6), sharex=True)
        order = np.arange(1, n + 1)
        above.bar(order, np.where(np.isfinite(found.scores), found.scores, 0), color=BEST, width=0.75)
        above.set_ylim(0, max(above.get_ylim()[1], 1))
        pairs = found.matching == "coincidence"
        above.set_ylabel("pairs" if pairs else "tokens")
        above.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        above.grid(visible=False, axis="x")
        above.set_axisbelow(True)
        what = "pairs of a peak and a valley" if pairs else "sum of distances to the nearest"
        page.write_above(above, f"score when chosen: {what}, with all bases chosen before")
        above.tick_params(labelbottom=False)

        colours = LinearSegmentedColormap.from_list("counts", ["white", "#9db7e0", BEST, "#061a40"])
        counts = found.valleys_on_peaks
        most = max(int(counts.max()), 1)
        image = cells.imshow(
            counts, cmap=colours, vmin=0, vmax=most, extent=(0.5, n + 0.5, n + 0.5, 0.5), aspect="auto"
        )
        cells.grid(visible=False)
        cells.plot([0.5, n + 0.5], [0.5, n + 0.5], color=INK, lw=page.lw(0.6), ls=":")
        if n <= MOST_NUMBERS and page.inches / n > 0.25:
            for (row, column), count in np.ndenumerate(counts):
                dark = count > 0.6 * most
                look = {"color": "white" if dark else INK, "fontsize": 0.85 * page.font, "ha": "center", "va": "center"}
                cells.text(column + 1, row + 1, str(count), **look)
        across, down = (order[:: -(-n // max(int(each * page.inches), 1))] for each in (1.8 if n > 99 else 3.2, 3.2))
        cells.set_xticks(across)
        cells.set_yticks(down, [short_number(found.bases[i - 1]) for i in down])
        cells.tick_params(labelsize=0.85 * page.font)
        cells.set_xlabel("peaks of: place in the order of choice")
        cells.set_ylabel("valleys of: base, in the order of choice")
        bar = figure.colorbar(image, ax=[above, cells], aspect=45, pad=0.015)
        bar.set_label(f"valleys at most {found.tolerance} tokens from a peak")
        bar.ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        bar.outline.set_visible(False)
        page.write_title(
            figure, f"Alignment of {n} base{'s' * (n > 1)} ({base_set.strategy}), head_dim {base_set.head_dim}"
        )
    return figure
