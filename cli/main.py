"""The group of commands, and how each of them ends."""

from collections.abc import Sequence

import click

from ropesearch._version import __version__

from .apply import apply
from .compare import compare
from .export import export
from .extrema import extrema
from .measure import measure
from .plot import plot
from .search import search
from .show import show
from .sweep import sweep
from .waveform import waveform


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ropesearch")
def cli() -> None:
    """Search RoPE bases for every attention head, and see what they do over distance."""


for command in (search, sweep, show, export, apply, measure, compare, waveform, extrema, plot):
    cli.add_command(command)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 wrong input, 1 environment, 130 interrupted."""
    try:
        code = cli.main(args, prog_name="ropesearch", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except click.ClickException as error:
        line = error.format_message()
        # A group called without a command raises its help.
        click.echo(line if line.startswith("Usage:") else f"Error: {line}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else 0
