"""`ropesearch compare`."""

from functools import partial

import click

from . import tables
from .errors import Command
from .inputs import read_input
from .options import covered_option, scheme_option
from .output import Output, result_options
from .progress import progress_on_stderr


@click.command(cls=Command)
@click.argument("names", nargs=-1)
@scheme_option
@covered_option()
@result_options("", ".csv", ".json")
def compare(names: tuple[str, ...], schemes: tuple[str, ...], max_distance: int, out: Output) -> None:
    """Compare what NAMES cover: base-set files, rows of sweep files, presets and position schemes.

    \b
        ropesearch compare bases.json sweep.jsonl#3 table2 uniform abf:5e6 yarn:32 pi:32

    The figures are those of --coverage, but peaks and valleys are found by the default rule in every set, so that sets
    compare; `show --coverage` goes by the set's own options. A star marks the best of each column. Sets of one base
    stand apart, since one head cannot cover what many do. Of a file whose layers differ, name one: bases.json#3.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    if not names + schemes:
        raise click.UsageError("NAMES must be given: base-set files, presets or position schemes")

    from ropesearch.search.compare import compare, to_csv, to_json

    with progress_on_stderr(quiet=out.quiet) as progress:
        lines = read_input(lambda: compare([*names, *schemes], max_distance, progress=progress))
    table = partial(tables.of_comparison, lines, lines.bound)
    out.deliver({"": table, ".csv": partial(to_csv, lines), ".json": partial(to_json, lines)})
