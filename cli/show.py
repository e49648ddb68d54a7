"""`ropesearch show`."""

from typing import TYPE_CHECKING

import click

from . import tables
from .errors import Command
from .inputs import read_base_set
from .options import covered_option
from .output import Formats, Output, result_options
from .progress import progress_on_stderr

if TYPE_CHECKING:
    from ropesearch import BaseSet


def forms_of(base_set: "BaseSet") -> Formats:
    """Return what makes a table, the base-set file and the rows of the table out of a base set."""
    from ropesearch import to_csv

    return {"": lambda: tables.of_base_set(base_set), ".json": base_set.to_json, ".csv": lambda: to_csv(base_set)}


@click.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option("--coverage", is_flag=True, help="Also say how well the set covers the distances up to --max-distance.")
@covered_option("For coverage: the last distance, in tokens, included.")
@result_options("", ".json", ".csv")
def show(file: str, coverage: bool, max_distance: int, out: Output) -> None:
    """Show the base-set file FILE as a table.

    The last column is the wavelength, in tokens, of the slowest frequency of the head. JSON is the file itself,
    checked and laid out anew.
    """
    base_set = read_base_set(file)
    if coverage:
        with progress_on_stderr(quiet=out.quiet) as progress:
            base_set = base_set.with_coverage(max_distance, progress=progress)
    out.deliver(forms_of(base_set))
