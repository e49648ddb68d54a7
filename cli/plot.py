"""`ropesearch plot`: a group, one command per figure."""

import re

import click

from ropesearch.core.errors import ParameterError

from .errors import Command
from .inputs import read_base_set, read_decay, read_schemes
from .options import figure_option, overwrite_option, quiet_option
from .output import note, say
from .plot_results import needle, perplexity, recall
from .progress import progress_on_stderr


@click.group()
def plot() -> None:
    """Draw a figure."""


for command in (needle, perplexity, recall):
    plot.add_command(command)


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
    """Draw how the waveforms of a base-set file, or of a position scheme, cover the distances.

    Thin lines are the heads, bold ones the best head and the mean of all. The lower part shows every distance around
    the worst one.
    """
    if (file is None) == (scheme is None):
        raise click.UsageError("either FILE or --scheme must be given")
    drawn = read_base_set(file) if file else read_schemes([str(scheme)])[0]
    from ropesearch.plots.coverage import plot_coverage
    from ropesearch.plots.style import check_figure_path, save_figure

    check_figure_path(output, overwrite=overwrite)
    with progress_on_stderr(quiet=quiet) as progress:
        save_figure(plot_coverage(drawn, max_distance, progress=progress), output, overwrite=overwrite)
    say(f"wrote {output}", quiet=quiet)


@plot.command(cls=Command)
@click.argument("file", type=click.Path())
@figure_option
@click.option("--head", metavar="LAYER.HEAD", help="Draw only one head, large: 12.3 is query head 3 of layer 12.")
@click.option("--slopes", is_flag=True, help="Draw the slope of every head, and the mean of each KV head.")
@click.option(
    "--bases", type=click.Path(), metavar="FILE", help="Also draw the decay predicted for this base-set file."
)
@overwrite_option
@quiet_option
def decay(
    file: str, output: str, head: str | None, slopes: bool, bases: str | None, overwrite: bool, quiet: bool
) -> None:
    """Draw the decay file FILE: the attention of a model's heads by distance.

    Each head gets a cell, tinted by its slope, with the measured score and the model curve. --head and --slopes draw
    other figures.
    """
    if head is not None and slopes:
        raise click.UsageError("only one of --head and --slopes can be given")
    place = None if head is None else _place(head)
    from ropesearch.plots.decay import plot_head, plot_heads, plot_slopes
    from ropesearch.plots.style import check_figure_path, save_figure

    drawn = read_decay(file)
    base_set = None if bases is None or slopes else read_base_set(bases)
    if bases is not None and slopes:
        note("--bases has no effect with --slopes", quiet=quiet)
    check_figure_path(output, overwrite=overwrite)
    if slopes:
        figure = plot_slopes(drawn)
    else:
        figure = plot_heads(drawn, base_set) if place is None else plot_head(drawn, *place, base_set)
    save_figure(figure, output, overwrite=overwrite)
    say(f"wrote {output}", quiet=quiet)


def _place(text: str) -> tuple[int, int]:
    """Layer and query head."""
    numbers = re.fullmatch(r"([0-9]{1,9})\.([0-9]{1,9})", text)
    if numbers is None:
        raise ParameterError("head", text, "LAYER.HEAD, two whole numbers such as 12.3")
    return int(numbers[1]), int(numbers[2])
