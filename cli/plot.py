"""`ropesearch plot`: a group, one command per figure."""

import click

from .options import Command, overwrite_option, quiet_option, read_base_set, read_schemes
from .progress import ProgressReport


@click.group()
def plot() -> None:
    """Draw a figure."""


@plot.command(cls=Command)
@click.argument("file", type=click.Path(), required=False)
@click.option("--scheme", metavar="SPEC", help="Draw a position scheme, such as yarn:32, instead of FILE.")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", required=True, help="Where to: .png, .svg or .pdf.")
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
