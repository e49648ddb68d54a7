"""`ropesearch plot needle`, `recall` and `perplexity`: figures of evaluations."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from .errors import Command
from .inputs import read_input
from .plot import Drawing, drawing_options

if TYPE_CHECKING:
    from ropesearch.evaluation.results import Results

results_argument = click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="RESULTS...")


@click.command(cls=Command)
@results_argument
@drawing_options
def needle(files: tuple[str, ...], out: Drawing) -> None:
    """Draw how often needles were found, by their depth and the length of the text.

    One panel for each model and scheme; RESULTS are files that `ropesearch evaluate --suite needle` writes.
    """
    from ropesearch.plots.needle import plot_needle

    out.deliver(plot_needle(_read(files), **out.look))


@click.command(cls=Command)
@results_argument
@drawing_options
def recall(files: tuple[str, ...], out: Drawing) -> None:
    """Draw accuracy and nats of recall, by distance.

    One line for each model and scheme, with 95 % intervals; RESULTS are files that `ropesearch evaluate --suite recall`
    writes.
    """
    from ropesearch.plots.recall import plot_recall

    out.deliver(plot_recall(_read(files), **out.look))


@click.command(cls=Command)
@results_argument
@click.option("--by-length", is_flag=True, help="Draw by length of the window, not by position.")
@drawing_options
def perplexity(files: tuple[str, ...], by_length: bool, out: Drawing) -> None:
    """Draw perplexity by position in the document.

    One line for each model and scheme, with 95 % intervals; RESULTS are files that `ropesearch evaluate --suite
    perplexity` writes.
    """
    from ropesearch.plots.perplexity import plot_perplexity

    out.deliver(plot_perplexity(_read(files), by_length=by_length, **out.look))


def _read(files: Sequence[str]) -> "list[Results]":
    from ropesearch.evaluation.results import Results

    return [read_input(partial(Results.load, path)) for path in files]
