"""`ropesearch plot`: a group, one command per figure."""

import re

import click

from ropesearch.core.errors import ParameterError

from .options import Command, overwrite_option, quiet_option, read_base_set, read_schemes, reading_inputs
from .progress import ProgressReport

figure_option = click.option(
    "-o", "--output", type=click.Path(), metavar="FILE", required=True, help="Where to: .png, .svg or .pdf."
)


@click.group()
def plot() -> None:
    """Draw a figure."""


@plot.command(cls=Command)
@click.argument("file", type=click.Path(), required=False)
@click.option("--scheme", metavar="SPEC", help="Draw a position scheme, such as yarn:32, instead of FILE.")
@figure_option
@click.option("--max-distance", type=int, default=131072, show_default=True, help="Last distance, in tokens.")
@overwrite_option
@quiet_option
def coverage(
    file: str | None, scheme: str | None, output: str, max_distance: int, overwrite: bool, quiet: bool
) -> None:
    """Draw how the waveforms of the base-set file FILE cover the distances.

    Every head thin, the best head and the mean of the heads bold; below, every distance around the worst one.
    """
    if (file is None) == (scheme is None):
        raise click.UsageError("either FILE or --scheme must be given")
    drawn = read_base_set(file) if file else read_schemes([str(scheme)])[0]
    from ropesearch.plots.coverage import plot_coverage
    from ropesearch.plots.style import check_figure_path, save_figure

    check_figure_path(output, overwrite=overwrite)
    with ProgressReport(quiet=quiet) as progress:
        save_figure(plot_coverage(drawn, max_distance, progress=progress), output, overwrite=overwrite)
    if not quiet:
        click.echo(f"wrote {output}", err=True)


@plot.command(cls=Command)
@click.argument("file", type=click.Path())
@figure_option
@click.option("--head", metavar="LAYER.HEAD", help="Draw one head, large: 12.3 is query head 3 of layer 12.")
@click.option("--slopes", is_flag=True, help="Draw the slopes of all heads, and their mean by KV head.")
@click.option("--bases", type=click.Path(), metavar="FILE", help="Predict the decay with this base-set file.")
@overwrite_option
@quiet_option
def decay(
    file: str, output: str, head: str | None, slopes: bool, bases: str | None, overwrite: bool, quiet: bool
) -> None:
    """Draw the decay file FILE: the attention of a model's heads by distance.

    Every head in a cell of its own, the measured score and the model curve, tinted by its slope, unless --head or
    --slopes asks for another figure.
    """
    if head is not None and slopes:
        raise click.UsageError("only one of --head and --slopes can be given")
    place = None if head is None else _place(head)
    from ropesearch.plots.decay import plot_head, plot_heads, plot_slopes
    from ropesearch.plots.style import check_figure_path, save_figure

    from ropesearch import Decay

    drawn: Decay = reading_inputs(lambda: Decay.load(file))
    base_set = None if bases is None or slopes else read_base_set(bases)
    if bases is not None and slopes:
        click.echo("note: --bases has no effect with --slopes", err=True)
    check_figure_path(output, overwrite=overwrite)
    if slopes:
        figure = plot_slopes(drawn)
    else:
        figure = plot_heads(drawn, base_set) if place is None else plot_head(drawn, *place, base_set)
    save_figure(figure, output, overwrite=overwrite)
    if not quiet:
        click.echo(f"wrote {output}", err=True)


def _place(text: str) -> tuple[int, int]:
    """Layer and query head."""
    numbers = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", text)
    if numbers is None:
        raise ParameterError("head", text, "LAYER.HEAD, two whole numbers such as 12.3")
    return int(numbers[1]), int(numbers[2])
