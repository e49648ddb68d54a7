"""One waveform with the peaks and valleys that count."""

from typing import TYPE_CHECKING, Any

from ropesearch.core import checks
from ropesearch.core.spec import SearchSpec
from ropesearch.curves.extrema import find_extrema
from ropesearch.curves.waveforms import waveform

from .bins import Bins
from .style import BEST, INK, MEAN, Width, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVERY = 4000
"""So many distances are drawn one by one, without bins."""


def plot_extrema(
    base: float,
    head_dim: int = SearchSpec.head_dim,
    max_distance: int = SearchSpec.max_distance,
    *,
    min_distance: int = SearchSpec.min_distance,
    logx: bool = True,
    ax: "Axes | None" = None,
    width: Width = None,
    title: str | None = None,
    **rule: Any,
) -> "Figure":
    """Draw the waveform of a base, and the peaks and valleys of it that a search takes into account.

    Where the waveform swings faster than a line can show, a band spans its lowest to highest value in each bin of
    distances. Peaks point up and are filled, valleys point down and are open.

    Parameters
    ----------
    base : float
        RoPE theta, dimensionless, above 1.
    head_dim : int
        Channels per head, even.
    max_distance, min_distance : int
        First and last distance, in tokens, both included.
    logx : bool
        Whether distances have a log scale.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default, a new figure.
    width : float or {'single', 'double'}, optional
        Of the new figure: inches, or one or two columns of a paper.
    title : str, optional
        In place of the figure's own; "" for none.
    **rule
        Which extrema count, as for `find_extrema`: `extrema` and its options.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value.
    """
    first, last = checks.distances(min_distance, max_distance)
    curve = waveform(base, head_dim, last, min_distance=first)
    found = find_extrema(curve, min_distance=first, **rule)
    with sheet(width, title) as page:
        axes = page.axes(10, 4.6, ax)
        start = max(first, 1) if logx else first
        if last - start < EVERY:
            axes.plot(range(start, last + 1), curve[start - first :], color=INK, lw=page.lw(0.7), label="waveform")
        else:
            bins = Bins(last, log=logx, first=start)
            low, high = bins.lowest(curve, first), bins.highest(curve, first)
            label = "waveform, lowest to highest"
            axes.fill_between(bins.at, low, high, color=INK, alpha=0.35, lw=0, label=label)
            for edge in (low, high):
                axes.plot(bins.at, edge, color=INK, lw=page.lw(0.5))
        size = page.lw(6 if found.peaks.size + found.valleys.size < 100 else 3)
        marks: dict[str, Any] = {"ls": "none", "ms": size, "zorder": 3}
        n_peaks, n_valleys = found.peaks.size, found.valleys.size
        above: dict[str, Any] = {
            "color": BEST,
            "markeredgewidth": 0,
            "label": f"{n_peaks:,} peak{'s' * (n_peaks != 1)}",
        }
        below: dict[str, Any] = {"color": "white", "markeredgecolor": MEAN, "markeredgewidth": page.lw(1.2)}
        below["label"] = f"{n_valleys:,} valley{'s' * (n_valleys != 1)}"
        axes.plot(found.peaks, found.peak_values, "^", **above, **marks)
        axes.plot(found.valleys, found.valley_values, "v", **below, **marks)
        if logx:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter("")
        else:
            axes.locator_params(axis="x", nbins=max(int(page.inches * 0.9), 3), integer=True)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.margins(x=0.01)
        axes.set(xlabel="distance (tokens)", ylabel="waveform (logits)")
        used = rule.get("extrema", SearchSpec.extrema)
        page.write_title(axes, f"Peaks and valleys of base {float(base):,.12g} by the rule {used}, head_dim {head_dim}")
        page.write_legend(axes)
    return page.figure_of(axes)
