"""The decay figures: how attention in a real model decays over distance, for all heads, one head, and as slopes."""

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Floats
from ropesearch.core.base_set import BaseSet, has_layers
from ropesearch.core.errors import InputError
from ropesearch.decay.data import Decay

from .bins import Bins
from .style import BEST, DASHES, FAINT, INK, LIGHT, MEAN, THIRD, Sheet, Width, format_number, plain, sheet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure


# The model curve lies on the score, thin on thick: light on dark.
SCORE, MODEL, PREDICTED, VERIFIED, WAVEFORM = INK, MEAN, BEST, LIGHT, THIRD

POOR_FIT = 0.9
"""A cell is framed where the model curve's correlation with the score is below this."""
MOST_NUMBERS = 300
"""Largest number of cells in a heat map that show their numbers."""
MOST_ROWS = MOST_COLUMNS = 32
"""Largest number of layers, and of query heads, with cells."""
LARGEST = 16.5  # inches that cells take up in either direction

SLOPE_UNIT = "nats per decade"


def plot_heads(
    decay: Decay,
    bases: BaseSet | Any = None,
    *,
    layers: "Sequence[int] | None" = None,
    width: Width = None,
    title: str | None = None,
) -> "Figure":
    """Draw every head's score and model curve over distance, one cell per head.

    Rows are the measured layers; columns are the query heads, with those that share a KV head side by side. In each
    cell the distance runs from 1 to the last on a log scale. Lines are means over bins of distances, and a band spans
    the lowest to the highest score in each bin. The score runs from the lowest to the highest value drawn in that
    cell, so cells compare in shape, not in size. The tint shows the head's slope. A frame marks a head whose model
    curve correlates with its score below 0.9. Of more than 32 layers, or 32 query heads, some that are evenly spread
    have cells, and the figure says how many.

    Parameters
    ----------
    decay : Decay
    bases : BaseSet or sequence of float, length K, optional
        One per KV head, for a third line, the prediction. By default those of `decay`, if any.
    layers : sequence of int, optional
        The measured layers to draw, however many.
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
        If the bases do not fit the model's heads, or a layer was not measured.
    """
    checks.instance("decay", decay, Decay, "a Decay")
    decay = _with_bases(decay, bases)
    row_of = _spread(len(decay.layers), MOST_ROWS) if layers is None else [_find_row(decay, layer) for layer in layers]
    head_of = _heads_with_cells(decay)
    shown = np.ix_(row_of, head_of)
    slopes, fit = decay.figures["slope"][shown], decay.figures["curve"][shown]
    rows, columns = slopes.shape
    cell_width = _between(9 / columns, 0.55, 5.0, columns)
    cell_height = _between(8 / rows, 0.5, 2.8, rows)
    group = decay.group
    gap = min(0.2, 1.5 * group / columns) / cell_width if group > 1 else 0.0
    left = np.arange(columns) + gap * (np.arange(columns) // group)
    corners = np.stack(np.broadcast_arrays(left, np.arange(rows)[:, None]), axis=-1).reshape(-1, 1, 2)
    bins = Bins(decay.max_distance, log=True, coarser=9 if cell_width < 1 else 4)
    drawn = [
        (decay.score, SCORE, DASHES[0], 2.4, "measured score"),
        (decay.curve, MODEL, DASHES[0], 1.0, "model curve"),
    ]
    if decay.bases is not None and decay.prediction is not None:
        name = f"predicted with {_format_bases(decay.bases)}"
        drawn.append((decay.prediction, PREDICTED, DASHES[1], 1.1, name))
    curves = [np.array([bins.means(curve) for curve in _flat(values, shown)]) for values, *_ in drawn]
    score = _flat(decay.score, shown)
    ends = [np.array([end(curve) for curve in score]) for end in (bins.lowest, bins.highest)]
    low, high, *lines = _in_cells(np.log(bins.at), [*ends, *curves])

    with sheet(width, title) as page:
        from matplotlib.collections import LineCollection, PolyCollection

        size = (max(cell_width * left[-1] + 2.5, 7.5), cell_height * rows + 2.4)
        figure = page.figure(*size)
        axes = figure.subplots()
        scale = figure.get_figwidth() / size[0]  # of a cell
        bold = min(max(cell_width, 0.8), 1.2) * scale
        colours, norm = slope_colours(slopes)
        edge = np.array((0.02 / cell_width, 0.02 / cell_height))
        squares = corners + np.abs(np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) - edge)
        tints = PolyCollection(squares, array=slopes.ravel(), cmap=colours, norm=norm, lw=0)
        axes.add_collection(tints, autolim=False)
        bands = corners + np.concatenate([low, high[:, ::-1]], axis=1)
        name = "lowest to highest score"
        axes.add_collection(PolyCollection(bands, facecolors=SCORE, alpha=0.3, lw=0, label=name), autolim=False)
        for line, (_, colour, dashes, lw, name) in zip(lines, drawn, strict=True):
            look = {"colors": colour, "linestyles": [dashes], "lw": lw * bold, "label": name}
            axes.add_collection(LineCollection(list(corners + line), **look, zorder=2), autolim=False)
        poor = fit.ravel() < POOR_FIT
        if poor.any():
            name = f"correlation of the model curve below {POOR_FIT}"
            frames = PolyCollection(squares[poor], facecolors="none", edgecolors=WAVEFORM, lw=2 * bold, label=name)
            axes.add_collection(frames, autolim=False)
        axes.set_xlim(0, left[-1] + 1)
        axes.set_ylim(rows, 0)
        _name_cells(page, axes, decay, row_of, head_of, left, cell_width * scale, cell_height * scale**0.7)
        page.write_title(figure, f"Attention by distance, every head of {_model_name(decay)}")
        of = [f"{part} of {whole} {name}" for part, whole, name in _parts(decay, rows, columns) if part < whole]
        about = [describe_texts(decay), *of, f"correlation of the model curve: {_format_quantiles(fit)}"]
        bar = figure.colorbar(tints, ax=axes, aspect=40, shrink=min(1, 8 / max(cell_height * rows, 3)), pad=0.02)
        bar.set_label(f"slope, {SLOPE_UNIT}")
        bar.outline.set_visible(False)
        last = f"{decay.max_distance:,}"
        about.append(f"in each cell: distance from 1 to {last} on a log scale, score in a range of its own")
        page.write_below(axes, "; ".join(about))
        page.write_legend_below(figure, axes)
    return figure


def _flat(curves: npt.NDArray[Any], shown: tuple[Any, ...]) -> npt.NDArray[Any]:
    """Return some heads' curves, (cells, M + 1)."""
    flat: npt.NDArray[Any] = curves[shown].reshape(-1, curves.shape[-1])
    return flat


def _parts(decay: Decay, rows: int, columns: int) -> "list[tuple[int, int, str]]":
    return [(rows, len(decay.layers), "layers"), (columns, decay.model["heads"], "query heads")]


def _spread(n: int, most: int) -> list[int]:
    """Return 0 … n − 1, or `most` of them that are evenly spread and include both ends."""
    return [int(i) for i in np.linspace(0, n - 1, min(n, most)).round()]


def _heads_with_cells(decay: Decay) -> list[int]:
    """Return the query heads that have a column: those of some KV heads, if all are too many."""
    kv_heads = _spread(decay.model["kv_heads"], max(MOST_COLUMNS // decay.group, 1))
    return [kv_head * decay.group + i for kv_head in kv_heads for i in range(decay.group)]


def plot_head(
    decay: Decay,
    layer: int,
    head: int,
    bases: BaseSet | Any = None,
    *,
    width: Width = None,
    title: str | None = None,
) -> "Figure":
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
        If the layer was not measured, the head does not exist, or the bases do not fit the model's heads.
    """
    checks.instance("decay", decay, Decay, "a Decay")
    row = _find_row(decay, layer)
    checks.integer("head", head, 0)
    if head >= decay.model["heads"]:
        msg = f"head {head} does not exist: {decay.model['name']} has query heads 0 to {decay.model['heads'] - 1}"
        raise InputError(msg)
    decay = _with_bases(decay, bases)
    bins = Bins(decay.max_distance, log=True)

    with sheet(width, title) as page:
        ratios = (5,) if decay.mass is None else (5, 2)
        figure = page.figure(10, 2 + 0.9 * sum(ratios))
        panels = figure.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios, sharex=True)[:, 0]
        axes = panels[0]
        _draw_score(page, axes, decay, row, head, bins)
        _draw_comparisons(page, axes, decay, row, head, bins)
        slope = f"slope {format_number(decay.figures['slope'][row, head])} {SLOPE_UNIT}"
        page.write_title(figure, f"Attention by distance, layer {layer}, head {head} of {_model_name(decay)}")
        about = f"{describe_texts(decay)}; KV head {head // decay.group}; {slope}"
        axes.set_title(about, loc="left", fontsize=0.9 * page.font)
        axes.set_ylabel("mean q·k/√d (logits)")
        axes.set_axisbelow(True)
        axes.set_xscale("log")
        axes.set_xlim(1, max(decay.max_distance, 2))
        if decay.mass is not None:
            sinks = None if decay.sink_mass is None else float(decay.sink_mass[row, head])
            _draw_mass(page, panels[1], bins, decay.mass[row, head], sinks)
        last = panels[-1]
        last.set_xlabel("distance (tokens)")
        last.xaxis.set_major_formatter("{x:,.0f}")
        page.write_legend_below(figure, axes, 0.9)
    return figure


def plot_slopes(decay: Decay, *, width: Width = None, title: str | None = None) -> "Figure":
    """Draw the slope of every head as a heat map, above the mean slope of every KV head.

    Rows are the measured layers; columns are the query heads, with white lines between those of different KV heads. The
    mean is over the layers and over the query heads that share the KV head; its bar is one standard error between
    layers to either side.

    Parameters
    ----------
    decay : Decay
    width : float or {'single', 'double'}, optional
        Of the figure: inches, or one or two columns of a paper.
    title : str, optional
        In place of the figure's own; "" for none.

    Returns
    -------
    matplotlib.figure.Figure
    """
    checks.instance("decay", decay, Decay, "a Decay")
    slopes = decay.figures["slope"]
    rows, columns = slopes.shape
    cell_width = _between(10 / columns, 0.12, 1.2, columns)
    cell_height = max(_between(8 / rows, 0.27, 0.6, rows), 1.2 / rows)

    with sheet(width, title) as page:
        size = (max(cell_width * columns + 2.2, 7.5), cell_height * rows + 4.2)
        figure = page.figure(*size)
        heat, means = figure.subplots(2, 1, height_ratios=(max(cell_height * rows, 1.5), 2.0))
        scale = figure.get_figwidth() / size[0]
        seen_width, seen_height = (size[0] - 2.2) * scale / columns, cell_height * scale**0.7
        colours, norm = slope_colours(slopes)
        image = heat.imshow(slopes, cmap=colours, norm=norm, aspect="auto", extent=(0, columns, rows, 0))
        for edge in range(decay.group, columns, decay.group) if decay.group > 1 else ():
            heat.axvline(edge, color="white", lw=min(4, 20 * seen_width))
        if slopes.size <= MOST_NUMBERS and seen_width >= 0.032 * page.font and seen_height >= 0.018 * page.font:
            for (row, column), slope in np.ndenumerate(slopes):
                text = format_number(slope, 1)
                heat.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=0.8 * page.font)
        all_rows, all_heads = list(range(rows)), list(range(columns))
        _name_cells(page, heat, decay, all_rows, all_heads, np.arange(columns), seen_width, seen_height)
        page.write_title(figure, f"Slope of the attention by distance, every head of {_model_name(decay)}")
        page.write_below(heat, describe_texts(decay))
        bar = figure.colorbar(image, ax=[heat, means], aspect=40, pad=0.02)
        bar.set_label(f"slope, {SLOPE_UNIT}")
        bar.outline.set_visible(False)
        _draw_means(page, means, decay)
        means.set_xlim(0, columns)
    return figure


def _draw_score(page: Sheet, axes: "Axes", decay: Decay, row: int, head: int, bins: Bins) -> None:
    """Draw the measured score, its band and its parts."""
    at, score = bins.at, bins.means(decay.score[row, head])
    band = 2 * bins.means(decay.standard_error[row, head])
    name = f"each of the {len(decay.parts)} {'texts' if len(decay.texts) > 1 else 'halves of its queries'}"
    for i, part in enumerate(decay.parts[:, row, head]):
        axes.plot(at, bins.means(part), color=FAINT, lw=page.lw(0.5), alpha=0.8, label=name if i == 0 else None)
    axes.fill_between(at, score - band, score + band, color=SCORE, alpha=0.25, lw=0, label="± 2 standard errors")
    if bins.wide:
        name = f"lowest to highest score, where lines are means (from {bins.wide} on)"
        score_of = decay.score[row, head]
        axes.fill_between(at, bins.lowest(score_of), bins.highest(score_of), color=SCORE, alpha=0.09, lw=0, label=name)
    axes.plot(at, score, color=SCORE, lw=page.lw(2.6), label="measured score")


def _draw_comparisons(page: Sheet, axes: "Axes", decay: Decay, row: int, head: int, bins: Bins) -> None:
    """Draw what the score is compared with, each with its correlation."""
    r = {name: f"r {format_number(values[row, head], 3)}" for name, values in decay.figures.items()}
    at, kv_head = bins.at, head // decay.group
    score = decay.score[row, head].astype(np.float64)
    minus_log = -np.log(np.maximum(np.arange(score.size), 1))
    units = decay.unit_waveforms()
    unit = units[kv_head] if units.ndim == 2 else units[row, kv_head]
    turned = "turned over, " if decay.figures["unit_waveform"][row, head] < 0 else ""
    fitted_how = f"{turned}scale and offset fitted to the score"
    for values, colour, style, name in [
        (minus_log, FAINT, DASHES[4], f"least-squares line over −log m: {r['minus_log']}"),
        (unit, WAVEFORM, DASHES[3], f"unit waveform, {fitted_how}: {r['unit_waveform']}"),
    ]:
        fitted = bins.means(_fitted(values, score, decay.fit_distances))
        axes.plot(at, fitted, ls=style, color=colour, lw=page.lw(1.3), zorder=1.5, label=name)
    label = f"model curve: {r['curve']}"
    axes.plot(at, bins.means(decay.curve[row, head]), color=MODEL, lw=page.lw(1.1), label=label)
    if decay.bases is None or decay.prediction is None:
        return
    bases = decay.bases[decay.layers[row]] if has_layers(decay.bases) else decay.bases
    base = f"base {bases[kv_head]:,.12g}"
    name = f"predicted with {base}"
    if decay.verified is not None:
        measured = bins.means(decay.verified[row, head])
        axes.plot(at, measured, color=VERIFIED, lw=page.lw(2.6), zorder=1.8, label=f"measured with {base}")
        name += f": {r['prediction']} with what was then measured"
    predicted = bins.means(decay.prediction[row, head])
    axes.plot(at, predicted, color=PREDICTED, ls=DASHES[1], lw=page.lw(1.2), zorder=1.8, label=name)


def _draw_mass(page: Sheet, axes: "Axes", bins: Bins, mass: npt.NDArray[Any], sinks: float | None) -> None:
    """Draw attention after the softmax."""
    means = bins.means(mass)
    seen = np.where(means > 0, means, np.nan)  # a log scale cannot show 0
    if bins.wide:
        positive = np.where(mass > 0, mass, np.nan)
        axes.fill_between(bins.at, bins.lowest(positive), bins.highest(positive), color=INK, alpha=0.09, lw=0)
    axes.plot(bins.at, seen, color=INK, lw=page.lw(1.2))
    if np.isfinite(seen).any():
        axes.set_yscale("log")
    axes.set_ylabel("share of attention")
    title = "share of a query's attention, after the softmax, without the first four keys"
    title += "" if sinks is None else f" (which get {sinks:.1%})"
    page.write_above(axes, title)


def _draw_means(page: Sheet, axes: "Axes", decay: Decay) -> None:
    """Draw the mean slope by KV head, under its query heads, with its standard error between layers."""
    means = decay.kv_head_slopes()
    error = decay.kv_head_slope_errors() if len(decay.layers) > 1 else None
    middles = (np.arange(means.size) + 0.5) * decay.group
    size = min(5.0, 200 * page.inches / 10 / means.size)
    axes.errorbar(middles, means, yerr=error, fmt="o", color=INK, ms=max(size, 2.2), lw=page.lw(1.2))
    step = max(1, math.ceil(means.size / (2.4 * page.inches)))
    axes.set_xticks(middles[::step], [str(i) for i in range(0, means.size, step)])
    axes.set_xlabel("KV head")
    axes.set_ylabel("mean slope")
    axes.locator_params(axis="y", nbins=5)
    spread = "" if error is None else ", ± 1 standard error between layers"
    page.write_above(axes, f"mean by KV head, {SLOPE_UNIT}{spread}")


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


def _name_cells(
    page: Sheet,
    axes: "Axes",
    decay: Decay,
    row_of: list[int],
    head_of: list[int],
    left: Floats | npt.NDArray[np.int_],
    width: float,
    height: float,
) -> None:
    """Label the layers down the side, and the query heads and their KV heads along the top, as many as have room."""
    group, font = decay.group, 0.9 * page.font
    rows = range(0, len(row_of), math.ceil(0.02 * font / height))
    digits = len(str(head_of[-1]))
    columns = range(0, len(head_of), math.ceil((0.008 + 0.01 * digits) * font / width))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=font)
    axes.xaxis.tick_top()
    axes.set_xticks([left[i] + 0.5 for i in columns], [str(head_of[i]) for i in columns])
    axes.set_yticks([i + 0.5 for i in rows], [str(decay.layers[row_of[i]]) for i in rows])
    axes.set_ylabel("layer")
    named = axes.secondary_xaxis("top")
    named.spines["top"].set_visible(False)
    if group > 1:
        starts = range(0, len(head_of), group * math.ceil(0.055 * font / (group * width)))
        names = [f"KV {head_of[i] // group}" for i in starts]
        named.set_xticks([left[i] + group / 2 for i in starts], names, weight="bold")
        named.tick_params(length=0, pad=2 * font, labelsize=font)
    else:
        named.set_xticks([])
    label = "query head, under its KV head" if group > 1 else "head"
    named.set_xlabel(label, labelpad=0.6 * font if group > 1 else 2 * font)


def slope_colours(slopes: Floats) -> "tuple[Colormap, Normalize]":
    """Return colours, one for each side of 0, light enough for lines and numbers, and their range: that of the data."""
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    low, high = float(np.fmin.reduce(slopes, axis=None)), float(np.fmax.reduce(slopes, axis=None))
    if not low < high:
        middle = low if math.isfinite(low) else 0.0
        low, high = middle - 1, middle + 1
    # Slopes of one sign spread over one half of the map; else both halves have one scale.
    limit = max(-low, high)
    ends = (
        (0.05, 0.45)
        if high <= 0
        else (0.55, 0.95)
        if low >= 0
        else (0.5 + 0.45 * low / limit, 0.5 + 0.45 * high / limit)
    )
    strong = mpl.colormaps["PuOr_r"](np.linspace(*ends, 255))[:, :3]
    colours = LinearSegmentedColormap.from_list("slope", 0.42 + 0.58 * strong)
    return colours.with_extremes(bad="#eeeeee"), Normalize(low, high)


def _between(size: float, least: float, most: float, n: int, room: float = LARGEST) -> float:
    """Return the size of a cell in inches, such that n of them fit."""
    return min(max(size, least), most, room / n)


def _fitted(values: Floats, target: Floats, at: npt.NDArray[np.int64]) -> Floats:
    """Scale and shift values to fit `target`, by least squares at some distances."""
    x, y = values[at], target[at]
    spread = ((x - x.mean()) ** 2).sum()
    scale = ((x - x.mean()) * (y - y.mean())).sum() / spread if spread > 0 else 0.0
    fitted: Floats = y.mean() + scale * (values - x.mean())
    return fitted


def _model_name(decay: Decay) -> str:
    """Return the model's name without its folder, shortened from the left if long, drawn as it is."""
    name = os.path.basename(os.path.normpath(str(decay.model["name"])))
    return plain("…" + name[-39:] if len(name) > 40 else name)


def describe_texts(decay: Decay) -> str:
    """Say what was read: 2 texts of 2,048 tokens."""
    n = len(decay.texts)
    return f"{n} text{'s' * (n != 1)} of {decay.length:,} tokens"


def _format_quantiles(fit: Floats) -> str:
    known = fit[~np.isnan(fit)]
    if known.size < 2:
        return format_number(known[0] if known.size else math.nan, 3)
    low, middle, high = (format_number(q, 3) for q in np.quantile(known, (0.05, 0.5, 0.95)))
    return f"{low} / {middle} / {high} (5 / 50 / 95 % of heads)"


def _format_bases(bases: "Iterable[Any]") -> str:
    ordered = sorted({float(base) for row in bases for base in np.atleast_1d(row)})
    ends = " to ".join(f"{base:,.12g}" for base in (ordered[0], ordered[-1])[: len(ordered)])
    return f"base{'s' * (len(ordered) > 1)} {ends}"
