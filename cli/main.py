"""The group of commands, and how each of them ends."""

from collections.abc import Sequence
from typing import Any

import click

from ropesearch._version import __version__
from ropesearch.core.errors import printable

from .apply import apply
from .bases import bases
from .compare import compare
from .evaluate import evaluate
from .export import export
from .extrema import extrema
from .measure import measure
from .output import echo, open_standard_streams, pipe_may_close
from .plot import plot
from .plot_results import needle, perplexity, recall
from .report import report
from .search import search
from .show import show
from .sweep import sweep
from .table import table
from .train import train
from .waveform import waveform


class Root(click.Group):
    """A group whose help may go to a pipe that closes: left alone, click makes exit code 1 of that."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        """Read the options of the group."""
        with pipe_may_close():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Read the options of the command, and run it."""
        with pipe_may_close():
            return super().invoke(ctx)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ropesearch")
def cli() -> None:
    """Search a RoPE base for every attention head, and see what each does over distance.

    Numbers may end in k or m: thousands and millions in bases (30k is 30000), 1024s in lengths (128k is 131072).
    """


for command in (
    search,
    sweep,
    show,
    export,
    bases,
    apply,
    measure,
    train,
    evaluate,
    table,
    compare,
    waveform,
    extrema,
    plot,
    report,
):
    cli.add_command(command)
for figure in (needle, recall, perplexity):
    plot.add_command(figure)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 wrong input, 1 environment, 130 interrupted."""
    open_standard_streams()
    try:
        code = cli.main(args, prog_name="ropesearch", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        echo("Interrupted.\n", err=True)
        return 130
    except click.ClickException as error:
        line = error.format_message()
        # A group called without a command raises its help.
        echo((line if line.startswith("Usage:") else f"Error: {printable(line)}") + "\n", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0
