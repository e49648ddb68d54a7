"""`ropesearch show`."""

from typing import TYPE_CHECKING

import click

from .options import Command, quiet_option, read_base_set
from .progress import ProgressReport

if TYPE_CHECKING:
    from ropesearch import BaseSet


def print_base_set(base_set: "BaseSet", *, as_json: bool) -> None:
    """Print a base set on stdout, as a table or as its file."""
    if as_json:
        click.echo(base_set.to_json(), nl=False)
        return
    from rich.console import Console

    from ropesearch.exporters.table import coverage_to_rich, to_rich

    console = Console()
    console.print(to_rich(base_set))
    if base_set.coverage_figures:
        console.print(coverage_to_rich(base_set.coverage_figures))


@click.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the base-set file itself, checked and laid out anew.")
@click.option("--coverage", is_flag=True, help="Also say how the set covers the distances up to --max-distance.")
@click.option(
    "--max-distance", type=int, default=131072, show_default=True, help="For coverage: one more than the last distance."
)
@quiet_option
def show(file: str, as_json: bool, coverage: bool, max_distance: int, quiet: bool) -> None:
    """Show the base-set file FILE as a table.

    The last column is the wavelength, in tokens, of the slowest frequency of the head.
    """
    base_set = read_base_set(file)
    if coverage:
        with ProgressReport(quiet=quiet) as progress:
            base_set = base_set.with_coverage(max_distance, progress=progress)
    print_base_set(base_set, as_json=as_json)
