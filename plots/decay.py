"""The decay figures: how attention in a real model decays over distance, for all heads, one head, and as slopes."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError
from ropesearch.decay.data import Decay

from .style import BEST, FAINT, INK, MEAN, plain, project_style

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure


WAVEFORM = "#1b7837"
VERIFIED = "#92c5de"

POOR_FIT = 0.9
"""A cell is framed where the model curve's correlation with the score is below this."""
MOST_NUMBERS = 300
"""Largest number of cells in a heat map that show their numbers."""
BINS_PER_DECADE = 90
"""Points per decade of a line. Below a distance of about 40 a point is one distance, beyond it a mean over several."""
LARGEST = 16.5  # inches that cells take up in either direction

SLOPE_UNIT = "nats per decade"


def plot_heads(decay: Decay, bases: BaseSet | Any = None) -> "Figure":
    """Draw every head's score and model curve over distance, one cell per head.

    Rows are the measured layers; columns are the query heads, with those that share a KV head side by side. In each
    cell the distance runs from 1 to the last on a log scale, at the decay's `fit_distances`. The score runs from the
    lowest to the highest value drawn in that cell, so cells compare in shape, not in size. The tint shows the head's
    slope. A frame marks a head whose model curve correlates with its score below 0.9.

    Parameters
    ----------
    decay : Decay
    bases : BaseSet or sequence of float, length K, optional
        One per KV head, for a third line, the prediction. By default those of `decay`, if any.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the bases do not fit the model's heads.
    """
    decay = _with_bases(decay, bases)
    at = decay.fit_distances
    slopes, fit = decay.figures["slope"], decay.figures["curve"]
    rows, columns = slopes.shape
    width = _between(9 / columns, 0.55, 5.0, columns)
    height = _between(8 / rows, 0.5, 2.8, rows)
    group = decay.group
    gap = min(0.2, 1.5 * group / columns) / width if group > 1 else 0.0
    left = np.arange(columns) + gap * (np.arange(columns) // group)
    corners = np.stack(np.broadcast_arrays(left, np.arange(rows)[:, None]), axis=-1).reshape(-1, 1, 2)
    bold = min(max(width, 0.8), 1.2)
    drawn = [(decay.score, INK, 1.7 * bold, "measured score"), (decay.curve, BEST, 0.8 * bold, "model curve")]
    if decay.bases is not None and decay.prediction is not None:
        drawn.append((decay.prediction, MEAN, 0.8 * bold, f"predicted with {_format_bases(decay.bases)}"))
    lines = _in_cells(np.log(at), [curves[..., at].reshape(rows * columns, -1) for curves, *_ in drawn])

    with project_style():
        from matplotlib.collections import LineCollection, PolyCollection
        from matplotlib.figure import Figure

        figure = Figure(figsize=(max(width * left[-1] + 2.5, 7.5), height * rows + 2.4), layout="constrained")
        axes = figure.subplots()
        colours, norm = _slope_colours(slopes)
        edge = np.array((0.02 / width, 0.02 / height))
        squares = corners + np.abs(np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) - edge)
        tints = PolyCollection(squares, array=slopes.ravel(), cmap=colours, norm=norm, lw=0)
        axes.add_collection(tints, autolim=False)
        for line, (curves, colour, lw, name) in zip(lines, drawn, strict=True):
            above = 2 if curves is decay.score or curves is decay.curve else 1.5  # the prediction hides neither
            shown = LineCollection(list(corners + line), colors=colour, lw=lw, label=name, zorder=above)
            axes.add_collection(shown, autolim=False)
        poor = fit.ravel() < POOR_FIT
        if poor.any():
            name = f"correlation of the model curve below {POOR_FIT}"
            frames = PolyCollection(squares[poor], facecolors="none", edgecolors=BEST, lw=1.6, label=name)
            axes.add_collection(frames, autolim=False)
        axes.set_xlim(0, left[-1] + 1)
        axes.set_ylim(rows, 0)
        last = f"{decay.max_distance:,}"
        axes.set_xlabel(f"in each cell: distance from 1 to {last} on a log scale, score in a range of its own")
        _name_cells(axes, decay, left, width, height)
        _title(figure, f"Attention by distance, every head of {_model_name(decay)}")
        axes.set_title(
            f"{_describe_texts(decay)}; correlation of the model curve: {_format_quantiles(fit)}",
            loc="left",
            fontsize=9,
        )
        bar = figure.colorbar(tints, ax=axes, aspect=40, shrink=min(1, 8 / max(height * rows, 3)), pad=0.02)
        bar.set_label(f"slope, {SLOPE_UNIT}")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def plot_head(decay: Decay, layer: int, head: int, bases: BaseSet | Any = None) -> "Figure":
    """Draw one head: its measured score by distance, and what it is compared with.

    The band is two standard errors to either side. A thin line shows each part: a text, or one half of the only text.
    The unit waveform and a line over log m are fitted to the score by least squares at the decay's `fit_distances`. If
    attention after the softmax was measured, a second panel shows it. Where distances lie too close together, lines
    are means over several, and a pale band spans their lowest to highest score.

    Parameters
    ----------
    decay : Decay
    layer, head : int
        A measured layer and a query head, each from 0.
    bases : BaseSet or sequence of float, length K, optional
        One per KV head, for the prediction. By default those of `decay`, if any. The score measured with the bases of
        `decay` is not drawn if these differ.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the layer was not measured, the head does not exist, or the bases do not fit the model's heads.
    """
    row = _find_row(decay, layer)
    checks.integer("head", head, 0)
    if head >= decay.model["heads"]:
        msg = f"head {head} does not exist: {decay.model['name']} has query heads 0 to {decay.model['heads'] - 1}"
        raise InputError(msg)
    decay = _with_bases(decay, bases)
    bins = _Bins(decay.max_distance)

    with project_style():
        from matplotlib.figure import Figure

        ratios = (5,) if decay.mass is None else (5, 2)
        figure = Figure(figsize=(10, 2 + 0.9 * sum(ratios)), layout="constrained")
        panels = figure.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios, sharex=True)[:, 0]
        axes = panels[0]
        _draw_score(axes, decay, row, head, bins)
        _draw_comparisons(axes, decay, row, head, bins)
        slope = f"slope {_format_number(decay.figures['slope'][row, head])} {SLOPE_UNIT}"
        _title(figure, f"Attention by distance, layer {layer}, head {head} of {_model_name(decay)}")
        axes.set_title(f"{_describe_texts(decay)}; KV head {head // decay.group}; {slope}", loc="left", fontsize=9)
        axes.set_ylabel("mean q·k/√d (logits)")
        axes.set_axisbelow(True)
        axes.set_xscale("log")
        axes.set_xlim(1, max(decay.max_distance, 2))
        if decay.mass is not None:
            sinks = None if decay.sink_mass is None else float(decay.sink_mass[row, head])
            _draw_mass(panels[1], bins, decay.mass[row, head], sinks)
        last = panels[-1]
        last.set_xlabel("distance (tokens)")
        last.xaxis.set_major_formatter("{x:,.0f}")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def plot_slopes(decay: Decay) -> "Figure":
    """Draw the slope of every head as a heat map, next to the mean slope of every KV head.

    Rows are the measured layers; columns are the query heads, with white lines between those of different KV heads. The
    mean is over the layers and over the query heads that share the KV head; its bar is one standard error between
    layers to either side.

    Parameters
    ----------
    decay : Decay

    Returns
    -------
    matplotlib.figure.Figure
    """
    slopes = decay.figures["slope"]
    rows, columns = slopes.shape
    width = _between(8 / columns, 0.4, 1.2, columns, LARGEST - 3.5)
    height = max(_between(8 / rows, 0.27, 0.6, rows), 2.4 / rows)

    with project_style():
        from matplotlib.figure import Figure

        size = (max(width * columns + 5, 7.5), height * rows + 1.8)
        figure = Figure(figsize=size, layout="constrained")
        heat, means = figure.subplots(1, 2, width_ratios=(max(width * columns, 2), 2.6))
        colours, norm = _slope_colours(slopes)
        image = heat.imshow(slopes, cmap=colours, norm=norm, aspect="auto", extent=(0, columns, rows, 0))
        for edge in range(decay.group, columns, decay.group) if decay.group > 1 else ():
            heat.axvline(edge, color="white", lw=4)
        if slopes.size <= MOST_NUMBERS and width >= 0.35 and height >= 0.18:
            for (row, column), slope in np.ndenumerate(slopes):
                text = _format_number(slope, 1)
                heat.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8)
        _name_cells(heat, decay, np.arange(columns), width, height)
        _title(figure, f"Slope of the attention by distance, every head of {_model_name(decay)}")
        heat.set_title(_describe_texts(decay), loc="left", fontsize=9)
        bar = figure.colorbar(image, ax=heat, aspect=40, pad=0.02)
        bar.set_label(f"slope, {SLOPE_UNIT}")
        _draw_means(means, decay)
        means.set_box_aspect(min(height * rows, 1.2 + 0.4 * decay.model["kv_heads"]) / 2.6)
        means.set_anchor("N")
    return figure


def _draw_score(axes: "Axes", decay: Decay, row: int, head: int, bins: "_Bins") -> None:
    """Draw the measured score, its band and its parts."""
    at, score = bins.at, bins.means(decay.score[row, head])
    band = 2 * bins.means(decay.standard_error[row, head])
    name = f"each of the {len(decay.parts)} {'texts' if len(decay.texts) > 1 else 'halves of its queries'}"
    for i, part in enumerate(decay.parts[:, row, head]):
        axes.plot(at, bins.means(part), color=FAINT, lw=0.5, alpha=0.8, label=name if i == 0 else None)
    axes.fill_between(at, score - band, score + band, color=INK, alpha=0.25, lw=0, label="± 2 standard errors")
    if bins.wide:
        name = f"lowest to highest score, where lines are means (from {bins.wide} on)"
        axes.fill_between(at, *bins.ends(decay.score[row, head]), color=INK, alpha=0.09, lw=0, label=name)
    axes.plot(at, score, color=INK, lw=2, label="measured score")


def _draw_comparisons(axes: "Axes", decay: Decay, row: int, head: int, bins: "_Bins") -> None:
    """Draw what the score is compared with, each with its correlation."""
    r = {name: f"r {_format_number(values[row, head], 3)}" for name, values in decay.figures.items()}
    at, kv_head = bins.at, head // decay.group
    score = decay.score[row, head].astype(np.float64)
    minus_log = -np.log(np.maximum(np.arange(score.size), 1))
    unit = decay.unit_waveforms()[kv_head]
    turned = "turned over, " if decay.figures["unit_waveform"][row, head] < 0 else ""
    fitted_how = f"{turned}scale and offset fitted to the score"
    for values, colour, style, name in [
        (minus_log, FAINT, "--", f"least-squares line over −log m: {r['minus_log']}"),
        (unit, WAVEFORM, "-", f"unit waveform, {fitted_how}: {r['unit_waveform']}"),
    ]:
        fitted = bins.means(_fitted(values, score, decay.fit_distances))
        axes.plot(at, fitted, style, color=colour, lw=1, zorder=1.5, label=name)
    axes.plot(at, bins.means(decay.curve[row, head]), color=BEST, lw=1, label=f"model curve: {r['curve']}")
    if decay.bases is None or decay.prediction is None:
        return
    base = f"base {decay.bases[kv_head]:,.12g}"
    name = f"predicted with {base}"
    if decay.verified is not None:
        measured = bins.means(decay.verified[row, head])
        axes.plot(at, measured, color=VERIFIED, lw=2, zorder=1.8, label=f"measured with {base}")
        name += f": {r['prediction']} with what was then measured"
    axes.plot(at, bins.means(decay.prediction[row, head]), color=MEAN, lw=1, zorder=1.8, label=name)


def _draw_mass(axes: "Axes", bins: "_Bins", mass: npt.NDArray[Any], sinks: float | None) -> None:
    """Draw attention after the softmax."""
    means = bins.means(mass)
    seen = np.where(means > 0, means, np.nan)  # a log scale cannot show 0
    if bins.wide:
        low, high = bins.ends(np.where(mass > 0, mass, np.nan))
        axes.fill_between(bins.at, low, high, color=INK, alpha=0.09, lw=0)
    axes.plot(bins.at, seen, color=INK, lw=1)
    if np.isfinite(seen).any():
        axes.set_yscale("log")
    axes.set_ylabel("share of attention")
    title = "share of a query's attention by distance, after the softmax, without the first four keys"
    title += "" if sinks is None else f" (which get {sinks:.1%})"
    axes.set_title(title, loc="left", fontsize=9)


def _draw_means(axes: "Axes", decay: Decay) -> None:
    """Draw the mean slope by KV head, with its standard error between layers."""
    means = decay.kv_head_slopes()
    error = decay.kv_head_slope_errors() if len(decay.layers) > 1 else None
    heads = np.arange(means.size)
    axes.errorbar(means, heads, xerr=error, fmt="o", color=INK, ms=5, lw=1.2)
    axes.set_ylim(means.size - 0.5, -0.5)
    axes.set_yticks(heads[:: max(1, means.size // 32)])
    axes.set_ylabel("KV head")
    axes.set_xlabel(f"mean slope, {SLOPE_UNIT}")
    axes.locator_params(axis="x", nbins=4)
    spread = "" if error is None else ", ± 1 standard error"
    axes.set_title(f"mean by KV head{spread}", loc="left", fontsize=9)


def _with_bases(decay: Decay, bases: Any) -> Decay:
    """Return the decay with other bases, if given; what was verified holds only for its own bases."""
    fitting = decay.bases if bases is None else decay.fitting_bases(bases)
    return decay if fitting == decay.bases else replace(decay, bases=fitting, verified=None)


def _find_row(decay: Decay, layer: int) -> int:
    checks.integer("layer", layer, 0)
    if layer in decay.layers:
        return decay.layers.index(layer)
    msg = f"layer {layer} was not measured; measured layers: {_format_ranges(decay.layers)}"
    raise InputError(msg)


def _format_ranges(numbers: "Sequence[int]") -> str:
    """Format integers as text, consecutive ones as a range."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in found)


def _in_cells(x: Floats, curves: "Sequence[npt.NDArray[Any]]") -> list[Floats]:
    """Scale each line to its cell, from (0, 0) top left to (1, 1): (cells, distances, 2)."""
    along = 0.08 + 0.84 * x / (x[-1] or 1.0)
    low = np.fmin.reduce([np.fmin.reduce(values, axis=-1) for values in curves])[:, None]
    high = np.fmax.reduce([np.fmax.reduce(values, axis=-1) for values in curves])[:, None]
    points = []
    for values in curves:
        middle = np.where(np.isnan(values), np.nan, 0.5)  # for a constant line
        share = np.divide(values - low, high - low, out=middle, where=high > low)
        points.append(np.stack(np.broadcast_arrays(along, 0.9 - 0.8 * share), axis=-1))
    return points


def _name_cells(axes: "Axes", decay: Decay, left: Floats | npt.NDArray[np.int_], width: float, height: float) -> None:
    """Label the layers down the side, and the query heads and their KV heads along the top."""
    group = decay.group
    rows = range(0, len(decay.layers), math.ceil(0.18 / height))
    columns = range(0, len(left), math.ceil(0.25 / width))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.xaxis.tick_top()
    axes.set_xticks([left[i] + 0.5 for i in columns], [str(i) for i in columns])
    axes.set_yticks([i + 0.5 for i in rows], [str(decay.layers[i]) for i in rows])
    axes.set_ylabel("layer")
    named = axes.secondary_xaxis("top")
    named.spines["top"].set_visible(False)
    if group > 1:
        starts = range(0, len(left), group)
        named.set_xticks([left[i] + group / 2 for i in starts], [f"KV {i // group}" for i in starts], weight="bold")
        named.tick_params(length=0, pad=18, labelsize=9)
    else:
        named.set_xticks([])
    named.set_xlabel("query head, under its KV head" if group > 1 else "head", labelpad=6 if group > 1 else 18)


def _slope_colours(slopes: Floats) -> "tuple[Colormap, Normalize]":
    """Return colours for both sides of 0, light enough for lines and numbers on them."""
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    strong = mpl.colormaps["BrBG_r"](np.linspace(0.05, 0.95, 255))[:, :3]
    colours = LinearSegmentedColormap.from_list("slope", 0.42 + 0.58 * strong)
    largest = float(np.fmax.reduce(np.abs(slopes), axis=None))
    limit = largest if largest > 0 else 1.0
    return colours.with_extremes(bad="#eeeeee"), Normalize(-limit, limit)


def _between(size: float, least: float, most: float, n: int, room: float = LARGEST) -> float:
    """Return the size of a cell in inches, such that n of them fit."""
    return min(max(size, least), most, room / n)


class _Bins:
    """Distances 1 … last in non-empty bins of about the same width on a log scale."""

    def __init__(self, last: int) -> None:
        n = math.ceil(BINS_PER_DECADE * math.log10(last + 1))
        self._starts = np.unique(np.rint(np.geomspace(1, last + 1, n + 1)).astype(np.int64))[:-1]
        self._ends = np.append(self._starts[1:], last + 1)
        self.at = np.sqrt(self._starts * (self._ends - 1.0))
        several = self._ends - self._starts > 1
        self.wide = int(self._starts[several.argmax()]) if several.any() else 0  # first distance that shares its bin

    def means(self, curve: npt.NDArray[Any]) -> Floats:
        """Return the mean of a curve over distances 0 … last in each bin."""
        sums = np.add.reduceat(curve.astype(np.float64), self._starts)
        return sums / (self._ends - self._starts)

    def ends(self, curve: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Return the lowest and the highest value in each bin."""
        return np.fmin.reduceat(curve, self._starts), np.fmax.reduceat(curve, self._starts)


def _fitted(values: Floats, target: Floats, at: npt.NDArray[np.int64]) -> Floats:
    """Scale and shift values to fit `target`, by least squares at some distances."""
    x, y = values[at], target[at]
    spread = ((x - x.mean()) ** 2).sum()
    scale = ((x - x.mean()) * (y - y.mean())).sum() / spread if spread > 0 else 0.0
    fitted: Floats = y.mean() + scale * (values - x.mean())
    return fitted


def _title(figure: "Figure", text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", weight="bold")


def _model_name(decay: Decay) -> str:
    """Return the model's name, shortened from the left if long, with $ escaped for matplotlib."""
    name = str(decay.model["name"])
    return plain("…" + name[-39:] if len(name) > 40 else name)


def _describe_texts(decay: Decay) -> str:
    n = len(decay.texts)
    return f"{n} text{'s' * (n != 1)} of {decay.length:,} tokens"


def _format_quantiles(fit: Floats) -> str:
    known = fit[~np.isnan(fit)]
    if known.size < 2:
        return _format_number(known[0] if known.size else math.nan, 3)
    low, middle, high = (_format_number(q, 3) for q in np.quantile(known, (0.05, 0.5, 0.95)))
    return f"{low} / {middle} / {high} (5 / 50 / 95 % of heads)"


def _format_bases(bases: "Iterable[float]") -> str:
    ordered = sorted(set(bases))
    ends = " to ".join(f"{base:,.12g}" for base in (ordered[0], ordered[-1])[: len(ordered)])
    return f"base{'s' * (len(ordered) > 1)} {ends}"


def _format_number(value: float, digits: int = 2) -> str:
    """Format a figure with a true minus sign, or as a dash if it is NaN."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")
