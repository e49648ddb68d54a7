"""`ropesearch plot`: a group, one command per figure."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import click

from ropesearch.core.errors import ParameterError
from ropesearch.exporters.sweep_table import SWEEP_FIGURES

from .errors import Command
from .inputs import read_base_set, read_decay, read_input, read_one_layer, read_schemes
from .measure import parse_layers
from .notes import options_without_effect
from .options import (
    BASE,
    LENGTH,
    F,
    combined,
    distance_options,
    extrema_options,
    figure_option,
    head_dim_option,
    overwrite_option,
    quiet_option,
)
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


covered_to = click.option(
    "--max-distance", type=LENGTH, default=131072, show_default=True, help="Last distance, in tokens."
)
logx_option = click.option("--logx", is_flag=True, help="Draw the horizontal axis on a log scale.")


@click.group()
def plot() -> None:
    """Draw a figure."""


@plot.command(cls=Command)
@click.argument("name", metavar="BASES", required=False)
@click.option("--scheme", metavar="SPEC", help="Draw a position scheme, such as yarn:32, instead of BASES.")
@covered_to
@logx_option
@drawing_options
def coverage(name: str | None, scheme: str | None, max_distance: int, logx: bool, out: Drawing) -> None:
    """Draw how the waveforms of BASES cover the distances.

    BASES is a base-set file, one of its layers where they differ (bases.json#3), a row of a sweep file such as
    sweep.jsonl#3, a preset or a position scheme. Thin lines are the heads, bold ones the best head and the mean of all.
    The lower part shows every distance around the worst one.
    """
    if (name is None) == (scheme is None):
        raise click.UsageError("either BASES or --scheme must be given")
    drawn = read_one_layer(name, "a waveform") if name else read_schemes([str(scheme)])[0]
    from ropesearch.plots.coverage import plot_coverage

    with progress_on_stderr(quiet=out.quiet) as progress:
        figure = plot_coverage(drawn, max_distance, logx=logx, **out.look, progress=progress)
    out.deliver(figure)


@plot.command(cls=Command)
@click.argument("names", nargs=-1, required=True)
@covered_to
@logx_option
@drawing_options
def overlay(names: tuple[str, ...], max_distance: int, logx: bool, out: Drawing) -> None:
    """Draw several sets and schemes on shared axes: their best heads and their means.

    \b
        ropesearch plot overlay bases.json table2 uniform abf:5e6 -o overlay.png

    NAMES are base-set files, rows of sweep files, presets and position schemes.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    sets = {name: read_one_layer(name, "a waveform") for name in names}
    from ropesearch.plots.overlay import plot_overlay

    with progress_on_stderr(quiet=out.quiet) as progress:
        figure = plot_overlay(sets, max_distance, logx=logx, **out.look, progress=progress)
    out.deliver(figure)


@plot.command(cls=Command)
@click.argument("base", metavar="BASE", type=BASE)
@head_dim_option
@distance_options(1000)
@extrema_options
@click.option("--linear", is_flag=True, help="Draw distances on a linear scale instead of a log scale.")
@drawing_options
@click.pass_context
def extrema(
    ctx: click.Context,
    /,
    base: float,
    head_dim: int,
    min_distance: int,
    max_distance: int,
    linear: bool,
    out: Drawing,
    **rule: Any,
) -> None:
    """Draw the waveform of one base, with the peaks and valleys that a search takes into account."""
    from ropesearch.plots.extrema import plot_extrema

    look = {**out.look, "min_distance": min_distance, "logx": not linear}
    out.deliver(plot_extrema(base, head_dim, max_distance, **look, **rule))
    for line in options_without_effect(ctx, rule):
        note(line, quiet=out.quiet)


@plot.command(cls=Command)
@click.argument("name", metavar="BASES")
@drawing_options
def alignment(name: str, out: Drawing) -> None:
    """Draw whose valleys lie on whose peaks, in the order of choice, and what Algorithm 1 scored each base by.

    BASES is as for `plot coverage`. Its options say which peaks and valleys count.
    """
    base_set = read_base_set(name)
    base_set.of_all_layers("the alignment", name)
    from ropesearch.plots.alignment import plot_alignment

    out.deliver(plot_alignment(base_set, **out.look))


@plot.command(cls=Command)
@click.argument("names", nargs=-1, required=True)
@drawing_options
def bases(names: tuple[str, ...], out: Drawing) -> None:
    """Draw the bases of one or several sets, head by head; of one set whose layers differ, a map of all layers.

    NAMES are base-set files, rows of sweep files, presets, and position schemes that are nothing but bases.
    """
    sets = {name: read_base_set(name) for name in names}
    for name, base_set in sets.items() if len(sets) > 1 else ():
        base_set.of_all_layers("each line of a figure of several sets", name)
    from ropesearch.plots.bases import plot_bases

    out.deliver(plot_bases(sets, **out.look))


@plot.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option(
    "--figure",
    type=click.Choice(list(SWEEP_FIGURES)),
    default="floor",
    show_default=True,
    help="What to draw: a figure of coverage.",
)
@click.option(
    "--against", default="stride", show_default=True, metavar="OPTION", help="The option along the horizontal axis."
)
@logx_option
@drawing_options
def sweep(file: str, figure: str, against: str, logx: bool, out: Drawing) -> None:
    """Draw a figure of every row of the sweep file FILE against an option that the sweep varied."""
    from ropesearch.plots.sweep import plot_sweep

    from ropesearch.search.sweep_file import read_sweep

    rows = read_input(lambda: read_sweep(file))
    out.deliver(plot_sweep(rows, figure, against.replace("-", "_"), logx=logx, **out.look))


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
