"""`ropesearch plot`: a group, one command per figure."""

import click

from .options import Command, overwrite_option, read_base_set


@click.group()
def plot() -> None:
    """Draw a figure."""


@plot.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option("-o", "--output", type=click.Path(), metavar="FILE", required=True, help="Where to: .png, .svg or .pdf.")
@click.option("--max-distance", type=int, default=131072, show_default=True, help="Last distance, in tokens.")
@overwrite_option
def coverage(file: str, output: str, max_distance: int, overwrite: bool) -> None:
    """Draw how the waveforms of the base-set file FILE cover the distances.

    Every head thin, the best head and the mean of the heads bold; below, every distance around the worst one.
    """
    base_set = read_base_set(file)
    from ropesearch.plots.coverage import plot_coverage
    from ropesearch.plots.style import check_figure_path, save_figure

    check_figure_path(output, overwrite=overwrite)
    save_figure(plot_coverage(base_set, max_distance), output, overwrite=overwrite)
    click.echo(f"wrote {output}", err=True)
