"""`ropesearch show`."""

from typing import TYPE_CHECKING

import click

from .options import Command, read_base_set

if TYPE_CHECKING:
    from ropesearch import BaseSet


def print_base_set(base_set: "BaseSet", *, as_json: bool) -> None:
    """Print a base set on stdout, as a table or as its file."""
    if as_json:
        click.echo(base_set.to_json(), nl=False)
        return
    from rich.console import Console

    from ropesearch.tables import to_rich

    Console().print(to_rich(base_set))


@click.command(cls=Command)
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the base-set file itself, checked and laid out anew.")
def show(file: str, as_json: bool) -> None:
    """Show the base-set file FILE as a table.

    The last column is the wavelength, in tokens, of the slowest frequency of the head.
    """
    print_base_set(read_base_set(file), as_json=as_json)
