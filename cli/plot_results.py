"""`ropesearch plot needle`, `recall` and `perplexity`: figures of evaluations."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from .errors import Command
from .inputs import read_input
from .options import F, combined, figure_option, overwrite_option, quiet_option
from .output import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

results_argument = click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="RESULTS...")


def _options(*own: Callable[[F], F]) -> Callable[[F], F]:
    return combined(results_argument, figure_option, *own, overwrite_option, quiet_option)


@click.command(cls=Command)
@_options()
def needle(**options: Any) -> None:
    """Draw how often needles were found, by their depth and the length of the text.

    One panel for each model and scheme; RESULTS are files that `ropesearch evaluate --suite needle` writes.
    """
    from ropesearch.plots.needle import plot_needle

    _draw(plot_needle, **options)


@click.command(cls=Command)
@_options()
def recall(**options: Any) -> None:
    """Draw accuracy and nats of recall, by distance.

    One line for each model and scheme, with 95 % intervals; RESULTS are files that `ropesearch evaluate --suite recall`
    writes.
    """
    from ropesearch.plots.recall import plot_recall

    _draw(plot_recall, **options)


@click.command(cls=Command)
@_options(click.option("--by-length", is_flag=True, help="Draw by length of the window, not by position."))
def perplexity(by_length: bool, **options: Any) -> None:
    """Draw perplexity by position in the document.

    One line for each model and scheme, with 95 % intervals; RESULTS are files that `ropesearch evaluate --suite
    perplexity` writes.
    """
    from ropesearch.plots.perplexity import plot_perplexity

    _draw(partial(plot_perplexity, by_length=by_length), **options)


def _draw(draw: "Callable[..., Figure]", files: tuple[str, ...], output: str, overwrite: bool, quiet: bool) -> None:
    from ropesearch.plots.style import check_figure_path, save_figure

    from ropesearch.evaluation.results import Results

    check_figure_path(output, overwrite=overwrite)
    results = [read_input(partial(Results.load, path)) for path in files]
    save_figure(draw(results), output, overwrite=overwrite)
    say(f"wrote {output}", quiet=quiet)
