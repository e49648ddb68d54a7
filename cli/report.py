"""`ropesearch report`."""

import click

from .errors import Command
from .inputs import read_input
from .options import covered_option
from .output import Output, file_options
from .progress import progress_on_stderr


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@click.option("--title", metavar="TEXT", help="Heading of the page.  [default: the names of the files]")
@covered_option("Last distance of waveforms, in tokens, included.")
@file_options("the page", ".html", required=True)
def report(files: tuple[str, ...], title: str | None, max_distance: int, out: Output) -> None:
    """Make a page to explore from any results: one HTML file that holds all that it shows and loads nothing.

    \b
        ropesearch report bases.json -o report.html
        ropesearch report bases.json sweep.jsonl decay.json recall.json run -o report.html

    FILES are base-set files, presets, position schemes, rows of sweep files such as sweep.jsonl#3, sweep files, decay
    files, results of evaluations and folders of training runs. Each is a section of the page; the results of one suite
    share one. The page computes waveforms from the bases, so that zooming in shows every value.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    from ropesearch.reports.write import report_text

    with progress_on_stderr(quiet=out.quiet) as progress:
        page = read_input(lambda: report_text(files, title=title, max_distance=max_distance, progress=progress))
    out.deliver({"": lambda: "", ".html": lambda: page})
