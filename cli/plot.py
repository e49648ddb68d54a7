"""`ropesearch plot`: a group, one command per figure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import click

from ropesearch.core.errors import ParameterError

from .errors import Command
from .inputs import read_base_set, read_decay, read_schemes
from .measure import parse_layers
from .options import F, combined, figure_option, overwrite_option, quiet_option
from .output import note, say
from .progress import progress_on_stderr

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """Where the figure of a command goes, and how large it is.

    Attributes
    ----------
    path : str
        The file.
    overwrite, quiet : bool
        Whether a file that exists may be replaced; whether notes stay away.
    look : dict
        `width` and `title`, as every figure takes them.
    dpi : float
        Pixels per inch of a PNG.
    """

    path: str
    overwrite: bool
    quiet: bool
    look: dict[str, Any]
    dpi: float

    def deliver(self, figure: "Figure") -> None:
        """Write the figure, and say so."""
        from ropesearch.plots.style import save_figure

        save_figure(figure, self.path, dpi=self.dpi, overwrite=self.overwrite)
        say(f"wrote {self.path}", quiet=self.quiet)


def drawing_options(function: F) -> F:
    """Add the options of a command that draws; the function gets them as `out`, a Drawing."""

    @wraps(function)
    def command(
        *args: Any,
        output: str,
        width: str | None,
        dpi: float,
        title: str | None,
        no_title: bool,
        overwrite: bool,
        quiet: bool,
        **others: Any,
    ) -> Any:
        from ropesearch.plots.style import check_figure_path, check_width

        if no_title and title is not None:
            raise click.UsageError("--title and --no-title exclude each other; give one of them")
        check_width(width)
        check_figure_path(output, overwrite=overwrite)
        look = {"width": width, "title": "" if no_title else title}
        return function(*args, out=Drawing(output, overwrite, quiet, look, dpi), **others)

    return cast(F, _options(command))


_options: Callable[[Any], Any] = combined(
    figure_option,
    click.option(
        "--width",
        metavar="WIDTH",
        help="Width of the figure, in inches; or single or double, one or two columns of a paper (3.5 or 7.16 inches).",
    ),
    click.option("--dpi", type=float, default=150, show_default=True, help="Pixels per inch of a .png."),
    click.option("--title", metavar="TEXT", help="Title, in place of the figure's own."),
    click.option("--no-title", is_flag=True, help="Draw no title."),
    overwrite_option,
    quiet_option,
)


@click.group()
def plot() -> None:
    """Draw a figure."""


@plot.command(cls=Command)
@click.argument("file", type=click.Path(), required=False)
@click.option("--scheme", metavar="SPEC", help="Draw a position scheme, such as yarn:32, instead of FILE.")
@click.option("--max-distance", type=int, default=131072, show_default=True, help="Last distance, in tokens.")
@click.option("--logx", is_flag=True, help="Draw distances on a log scale.")
@drawing_options
def coverage(file: str | None, scheme: str | None, max_distance: int, logx: bool, out: Drawing) -> None:
    """Draw how the waveforms of a base-set file, or of a position scheme, cover the distances.

    Thin lines are the heads, bold ones the best head and the mean of all. The lower part shows every distance around
    the worst one.
    """
    if (file is None) == (scheme is None):
        raise click.UsageError("either FILE or --scheme must be given")
    drawn = read_base_set(file) if file else read_schemes([str(scheme)])[0]
    from ropesearch.plots.coverage import plot_coverage

    with progress_on_stderr(quiet=out.quiet) as progress:
        figure = plot_coverage(drawn, max_distance, logx=logx, **out.look, progress=progress)
    out.deliver(figure)


@plot.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option("--head", metavar="LAYER.HEAD", help="Draw only one head, large: 12.3 is query head 3 of layer 12.")
@click.option("--slopes", is_flag=True, help="Draw the slope of every head, and the mean of each KV head.")
@click.option(
    "--bases", type=click.Path(), metavar="FILE", help="Also draw the decay predicted for this base-set file."
)
@click.option(
    "--layers", metavar="LIST", help="Layers to draw, such as 0,5,10-12.  [default: all; of more than 32, some]"
)
@drawing_options
def decay(file: str, head: str | None, slopes: bool, bases: str | None, layers: str | None, out: Drawing) -> None:
    """Draw the decay file FILE: the attention of a model's heads by distance.

    Each head gets a cell, tinted by its slope, with the measured score and the model curve. --head and --slopes draw
    other figures.
    """
    if head is not None and slopes:
        raise click.UsageError("only one of --head and --slopes can be given")
    if layers is not None and (head is not None or slopes):
        raise click.UsageError("--layers goes with neither --head nor --slopes")
    wanted = None if layers is None else parse_layers(layers)
    place = None if head is None else _place(head)
    from ropesearch.plots.decay import plot_head, plot_heads, plot_slopes

    drawn = read_decay(file)
    base_set = None if bases is None or slopes else read_base_set(bases)
    if bases is not None and slopes:
        note("--bases has no effect with --slopes", quiet=out.quiet)
    if slopes:
        figure = plot_slopes(drawn, **out.look)
    elif place is None:
        figure = plot_heads(drawn, base_set, layers=wanted, **out.look)
    else:
        figure = plot_head(drawn, *place, base_set, **out.look)
    out.deliver(figure)


def _place(text: str) -> tuple[int, int]:
    """Layer and query head."""
    numbers = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", text)
    if numbers is None:
        raise ParameterError("head", text, "LAYER.HEAD, two whole numbers such as 12.3")
    return int(numbers[1]), int(numbers[2])
