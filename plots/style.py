"""What all figures share: style, colours, file formats."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropesearch.core import checks
from ropesearch.core.errors import printable
from ropesearch.core.files import check_output, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")

BEST = "#b2182b"
MEAN = "#2166ac"
INK = "#222222"
FAINT = "#888888"

_SETTINGS: Any = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "ropesearch",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def plain(text: object) -> str:
    """Text from strangers, such as a name, for a figure: one line, and no formula."""
    return printable(text).replace("$", r"\$")


@contextmanager
def project_style() -> Iterator[None]:
    """Draw in the project's style, and restore the caller's settings afterwards."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield


def check_figure_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise what `save_figure` would raise for this path: for an unknown suffix or an existing file."""
    checks.choice("the suffix of the figure", Path(path).suffix.lower(), SUFFIXES)
    check_output(path, overwrite=overwrite)


def save_figure(figure: "Figure", path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix of `path`, whole or not at all.

    Raises
    ------
    ValueError
        If the suffix is unknown.
    OSError
        If the file exists and `overwrite` is false, or cannot be written.
    """
    check_figure_path(path, overwrite=overwrite)
    kind = Path(path).suffix.lower()[1:]
    undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    file = io.BytesIO()
    with project_style():
        figure.savefig(file, format=kind, dpi=150, metadata=undated)
    write_whole(path, file.getvalue(), overwrite=overwrite)
