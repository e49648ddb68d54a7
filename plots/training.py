"""How a training run went: its loss by step, and by position in the row."""

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core.checks import is_number, is_whole
from ropesearch.core.errors import InputError
from ropesearch.training.folder import RunFolder

from .style import BEST, DASHES, INK, MARKERS, Width, save_figure, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = 4
"""Into how many stretches of steps the losses by position are put together."""


def plot_run(run: str | os.PathLike[str], *, width: Width = None, title: str | None = None) -> "Figure":
    """Draw the metrics of a run: loss by step on the left, by position in the row on the right.

    Lines on the right are means over stretches of the last stage, from pale at its beginning to dark at its end.

    Parameters
    ----------
    run : path-like
        The run folder.
    width : float or {'single', 'double'}, optional
        Of the figure: inches, or one or two columns of a paper, in one of which the panels stand above each other.
    title : str, optional
        Of the figure, which has none of its own.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If it has no metrics.
    """
    lines = metrics_of(run)
    steps = [line["step"] for line in lines]
    with sheet(width, title) as page:
        from matplotlib import colormaps

        narrow = page.inches < 6
        figure = page.figure(11, 8.4 if narrow else 4.2)
        left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
        left.plot(steps, [line["loss"] for line in lines], color=INK, lw=page.lw(1.2))
        for before, after in pairwise(lines):
            if before["stage"] != after["stage"]:
                left.axvline(before["step"] + 0.5, color=BEST, lw=page.lw(0.8), ls=DASHES[1])
                place = (before["step"] + 0.5, 1)
                text = f" {after['length']:,} tokens"
                small = 0.8 * page.font
                left.annotate(text, place, xycoords=("data", "axes fraction"), va="top", fontsize=small)
        left.set(xlabel="step", ylabel="loss, nats per token", title="Loss by step")
        stretches = losses_by_position(lines)
        for i, (label, ends, means) in enumerate(stretches):
            colour = colormaps["viridis_r"](0.15 + 0.85 * (i + 1) / PARTS)
            look = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "ms": page.lw(4), "lw": page.lw(1.4)}
            right.plot(ends, means, **look, label=label)
        right.set(xlabel="position in the row, up to", ylabel="loss, nats per token")
        right.set_title(f"Loss by position, rows of {lines[-1]['length']:,} tokens")
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter("{x:,.0f}")
        if stretches:
            page.write_legend_below(figure, right, 0.9)
        page.write_title(figure, "")
    return figure


def draw_run(run: str | os.PathLike[str]) -> None:
    """Write loss.png into the run folder, in place of the one before."""
    save_figure(plot_run(run), Path(run) / "loss.png", overwrite=True)


def _by_position(lines: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    ends = sorted({int(end) for line in lines for end in line["loss_by_position"]})
    means = [
        float(np.mean([line["loss_by_position"][str(end)] for line in lines if str(end) in line["loss_by_position"]]))
        for end in ends
    ]
    return ends, means


def metrics_of(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the lines of metrics of a run.

    Raises
    ------
    ValueError
        If there are none, they cannot be read, or one of them lacks what is drawn.
    """
    file = Path(run) / "metrics.jsonl"
    try:
        lines = RunFolder(file.parent).read_metrics()
    except (OSError, ValueError) as error:
        msg = f"{file} cannot be read: {error}"
        raise InputError(msg) from None
    if not lines:
        msg = f"{file} has no line in it yet"
        raise InputError(msg)
    for number, line in enumerate(lines, start=1):
        if what := _wrong_in(line):
            msg = f"{file} is not that of a run: line {number} has {what}"
            raise InputError(msg)
    return lines


def _wrong_in(line: dict[str, Any]) -> str | None:
    if not all(is_whole(line[key]) for key in ("step", "stage", "length")):
        return "a step, stage or length that is no whole number"
    if not _is_loss(line["loss"]):
        return "a loss that is no number"
    by_position = line.get("loss_by_position", {})
    if not isinstance(by_position, dict) or not all(map(_is_loss, by_position.values())):
        return "losses by position that are no numbers"
    if not all(re.fullmatch("[1-9][0-9]{0,14}", end) for end in by_position):
        return "losses by position with positions that are no whole numbers"
    return None


def _is_loss(value: Any) -> bool:
    return isinstance(value, float) or is_number(value)  # NaN and infinity are losses of a run that diverged


def losses_by_position(lines: list[dict[str, Any]]) -> list[tuple[str, list[int], list[float]]]:
    """Return the losses by position in stretches of the last stage: a label, the bounds, and the means below them."""
    last = [line for line in lines if line["stage"] == lines[-1]["stage"] and line.get("loss_by_position")]
    parts = np.array_split(np.arange(len(last)), min(PARTS, len(last)) or 1)
    return [
        (f"steps {last[part[0]]['step']} to {last[part[-1]]['step']}", *_by_position([last[j] for j in part]))
        for part in parts
        if len(part)
    ]
