"""What all figures share: colours, line styles, sizes, titles, file formats.

Write a new figure like this; `width` and `title` are its own parameters, passed on as they come:

    def plot_something(data, *, ax=None, width=None, title=None):
        with sheet(width, title) as page:
            axes = page.axes(10, 4.5, ax)               # its size in inches unless `width` is given
            axes.plot(x, best, color=BEST, lw=page.lw(2))
            axes.plot(x, mean, color=MEAN, ls=DASHES[1], lw=page.lw(2))
            page.write_title(axes, "What the figure shows")
            page.write_legend(axes)                     # below the axes, so that it hides nothing
        return page.figure_of(axes)

- `INK`, `BEST`, `THIRD`, `MEAN`, `LIGHT` are colours for lines, from dark to light. They stay apart in grey and for the
  colour-blind, on white. `FAINT` is for grids and for what stands in the background, never for data that must be told
  from other data.
- `line_style(i)` is the colour and the dashes of the i-th of several lines of equal rank; `MARKERS` are for lines of
  few points.
- `base_colours(bases)` gives a colour map and a scale for heads by their base; `path_effects=halo(lw)` lets a bold
  line cross many.
- `page.figure(width, height)` and `page.axes(...)` make a figure that notebooks show. `page.font` is the size of its
  text in points, `page.lw(2)` a line width that suits the size of the figure.
- A title of None is the figure's own; one of "" is none.
"""

import io
import math
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ropesearch.core import checks
from ropesearch.core.errors import ParameterError, printable
from ropesearch.core.files import check_output, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

Width = float | str | None
"""Width of a figure: inches, a name of `WIDTHS`, or None for the figure's own."""

SUFFIXES = (".png", ".svg", ".pdf")
WIDTHS = {"single": 3.5, "double": 7.16}
"""Widths of one and of two columns of a paper, in inches."""
DPI = 150

# In CIE lightness 9, 29, 47, 62 and 78: a test holds them apart in grey and as the colour-blind see them.
INK = "#1a1a1a"
BEST = "#123f94"
THIRD = "#bd3f7d"
MEAN = "#e27a00"
LIGHT = "#74caf7"
COLOURS = (INK, BEST, THIRD, MEAN, LIGHT)
FAINT = "#888888"

Dashes = str | tuple[float, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ("-", (0, (6, 1.6)), (0, (2.4, 1.2)), (0, (7, 1.5, 1.2, 1.5)), (0, (1, 1.2)))
MARKERS = "os^Dv"

_SETTINGS: Any = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.family": "DejaVu Sans",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ropesearch",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
OWN_WIDTH = 10.0  # inches, of most figures; their text has 10 points
SMALLEST_TEXT = 6.5  # points


def line_style(i: int) -> dict[str, Any]:
    """Return the colour and dashes of line i, from 0: the first 25 all differ, neighbours in both."""
    n = len(COLOURS)
    return {"color": COLOURS[(1 + i) % n], "linestyle": DASHES[(i + i // n) % n]}


def base_colours(bases: Sequence[float]) -> "tuple[Colormap, Normalize]":
    """Return a colour map for heads, and its scale over the bases: linear, or by their logarithm if that is wide."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    # Neither so dark as the bold lines over the heads, nor lost on white.
    inner = mpl.colormaps["viridis"](np.linspace(0.1, 0.93, 256))[:, :3]
    low, high = min(bases), max(bases)
    if low == high:
        low, high = low / 2, high * 2
    scale = LogNorm if high > 20 * low else Normalize
    return LinearSegmentedColormap.from_list("bases", 0.25 + 0.75 * inner), scale(low, high)


def halo(lw: float) -> list[Any]:
    """Return path effects that draw a bold line on a white one, so that it stands out from what it crosses."""
    from matplotlib import patheffects

    return [patheffects.Stroke(linewidth=lw + 1.6, foreground="white", alpha=0.8), patheffects.Normal()]


def format_number(value: float, digits: int = 2) -> str:
    """Format a figure with a true minus sign, or as a dash if it is NaN."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def short_number(value: float) -> str:
    """Format a base to four digits with k or M: 1.45M, 17.5k, 500."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Sheet:
    """What a figure is drawn on; `sheet` makes one."""

    width: float | None
    title: str | None

    @property
    def inches(self) -> float:
        """Width in inches."""
        return OWN_WIDTH if self.width is None else self.width

    @property
    def font(self) -> float:
        """Size of the text, in points: that of a paper in a column's width."""
        return float(min(max(10 * math.sqrt(self.inches / 8), SMALLEST_TEXT), 10.0))

    def lw(self, points: float) -> float:
        """Return a line width that suits the size of the figure."""
        return float(points * (self.font / 10) ** 1.5)

    def figure(self, width: float, height: float) -> "Figure":
        """Make a figure of a size in inches; where another width was asked for, the height shrinks less than it."""
        from .figure import Figure

        size = (width, height) if self.width is None else (self.width, height * (self.width / width) ** 0.7)
        return Figure(figsize=size, layout="constrained")

    def axes(self, width: float, height: float, ax: "Axes | None" = None) -> "Axes":
        """Return the caller's axes, or those of a new figure."""
        return self.figure(width, height).subplots() if ax is None else ax

    def write_title(self, where: "Axes | Figure", own: str, **settings: Any) -> None:
        """Write the title that was asked for, or the figure's own, in lines that fit."""
        from matplotlib.axes import Axes

        text = own if self.title is None else plain(self.title)
        if not text:
            return
        of_axes = isinstance(where, Axes)
        figure: Any = where.figure if of_axes else where
        room = figure.get_figwidth() * (where.get_position().width + 0.1 if isinstance(where, Axes) else 1)
        size = 1.1 * self.font
        text = textwrap.fill(
            text, max(int(room * 72 / (0.62 * size)), 20), break_long_words=False, break_on_hyphens=False
        )
        look: dict[str, Any] = {"weight": "bold", "fontsize": size} | settings
        if isinstance(where, Axes):
            where.set_title(text, loc="left", **look)
        else:
            figure.suptitle(text, x=0.01, ha="left", **look)

    def figure_of(self, axes: "Axes") -> "Figure":
        """Return the figure that the axes are in, which may be the caller's."""
        return cast("Figure", axes.get_figure(root=True))

    def write_legend(self, axes: "Axes") -> None:
        """Write the legend below the axes, in as many columns as fit; in a figure of the caller's, inside them."""
        from .figure import Figure

        figure = self.figure_of(axes)
        if isinstance(figure, Figure):
            self.write_legend_below(figure, axes)
        else:
            axes.legend(loc="best")

    def write_legend_below(self, figure: "Figure", axes: "Axes", size: float = 1.0) -> None:
        """Write the legend of the axes below all of a figure, in as many columns as fit; `size` is of the text."""
        handles, labels = axes.get_legend_handles_labels()
        font = size * self.font
        room = 72 * figure.get_figwidth() / (0.56 * font)  # in characters; handle and gap take up nine
        columns = max(int(room / (max(map(len, labels), default=0) + 9)), 1)
        labels = [textwrap.fill(label, max(int(room) - 9, 20), break_on_hyphens=False) for label in labels]
        rows = -(-len(labels) // columns)
        look = {"ncols": max(-(-len(labels) // max(rows, 1)), 1), "handlelength": 2.8, "fontsize": font}
        figure.legend(handles, labels, loc="outside lower center", **look)

    def write_above(self, axes: "Axes", text: str) -> None:
        """Write small text above the axes, in lines that fit."""
        axes.set_title(self._in_lines(axes, text), loc="left", fontsize=0.9 * self.font)

    def write_below(self, axes: "Axes", text: str) -> None:
        """Write small text below the axes, in place of the label of the horizontal one."""
        axes.set_xlabel(self._in_lines(axes, text), fontsize=0.9 * self.font)

    def _in_lines(self, axes: "Axes", text: str) -> str:
        room = 72 * axes.figure.get_figwidth() * axes.get_position().width  # type: ignore[union-attr]
        return textwrap.fill(
            text, max(int(room / (0.5 * self.font)), 20), break_long_words=False, break_on_hyphens=False
        )


def plain(text: object) -> str:
    """Text from strangers, such as a name, for a figure: one line, and no formula."""
    return printable(text).replace("$", r"\$")


@contextmanager
def sheet(width: Width = None, title: str | None = None) -> Iterator[Sheet]:
    """Draw in the project's style; the caller's settings are restored afterwards.

    Parameters
    ----------
    width : float or str, optional
        Inches, or a name of `WIDTHS`.
    title : str, optional
        In place of the figure's own; "" for none.

    Raises
    ------
    ValueError
        If `width` is none of these.
    """
    page = Sheet(check_width(width), title)
    with project_style(page.font):
        yield page


@contextmanager
def project_style(font: float = 10.0) -> Iterator[None]:
    """Draw in the project's style with text of a size in points, and restore the caller's settings afterwards."""
    import matplotlib as mpl

    with mpl.rc_context({**_SETTINGS, "font.size": font}):
        yield


def check_width(width: Width) -> float | None:
    """Return a width in inches, or None for a figure's own."""
    if width is None or (isinstance(width, str) and width in WIDTHS):
        return None if width is None else WIDTHS[str(width)]
    requirement = f"{', '.join(WIDTHS)} or a number of inches from 2 to 40"
    try:
        inches = float(width)
    except (TypeError, ValueError):
        inches = math.nan
    if isinstance(width, bool) or not 2 <= inches <= 40:
        raise ParameterError("width", width, requirement)
    return inches


def check_figure_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise what `save_figure` would raise for this path: for an unknown suffix or an existing file."""
    checks.choice("the suffix of the figure", Path(path).suffix.lower(), SUFFIXES)
    check_output(path, overwrite=overwrite)


def save_figure(figure: "Figure", path: str | os.PathLike[str], *, dpi: float = DPI, overwrite: bool = False) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix of `path`, whole or not at all.

    Text stays text in SVG and PDF.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path-like
    dpi : float
        Pixels per inch of a PNG.
    overwrite : bool
        Whether a file that exists may be replaced.

    Raises
    ------
    ValueError
        If the suffix is unknown, or `dpi` is not from 20 to 2400.
    OSError
        If the file exists and `overwrite` is false, or cannot be written.
    """
    check_figure_path(path, overwrite=overwrite)
    checks.number("dpi", dpi, "a number from 20 to 2400", least=20.0)
    if dpi > 2400:
        raise ParameterError("dpi", dpi, "a number from 20 to 2400")
    kind = Path(path).suffix.lower()[1:]
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    file = io.BytesIO()
    with project_style():
        figure.savefig(file, format=kind, dpi=dpi, metadata=undated)
    content = file.getvalue()
    if kind == "svg":
        content = re.sub(rb'(?<= d=")[^"]+', _rounded, content)
    write_whole(path, content, overwrite=overwrite)


def _rounded(path: "re.Match[bytes]") -> bytes:
    """Return the data of an SVG path to a hundredth of a point, which makes a file of many lines half as large."""
    return re.sub(rb"(\.\d\d)\d+", rb"\1", path[0])
