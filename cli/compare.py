"""`ropesearch compare`."""

import click

from .options import Command, deliver, output_suffix, overwrite_option, quiet_option, reading_inputs, scheme_option
from .progress import ProgressReport

_WRITERS = {".csv": "to_csv", ".json": "to_json"}


@click.command(cls=Command)
@click.argument("names", nargs=-1)
@scheme_option
@click.option("--max-distance", type=int, default=131072, show_default=True, help="One more than the last distance.")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Where to: .csv or .json.  [default: a table]")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of a table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@overwrite_option
@quiet_option
def compare(
    names: tuple[str, ...],
    schemes: tuple[str, ...],
    max_distance: int,
    output: str | None,
    as_csv: bool,
    as_json: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Compare what NAMES cover: base-set files, presets and position schemes.

    \b
        ropesearch compare bases.json table2 uniform abf:5e6 yarn:32 pi:32

    The figures are those of --coverage; the best of each column is marked.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    if not names + schemes:
        raise click.UsageError("NAMES must be given: base-set files, presets or position schemes")
    printed = ".json" if as_json else ".csv" if as_csv else ""
    suffix = output_suffix(output, printed, _WRITERS, overwrite=overwrite)

    from ropesearch.search import compare as comparison

    with ProgressReport(quiet=quiet) as progress:
        lines = reading_inputs(lambda: comparison.compare([*names, *schemes], max_distance, progress=progress))
    if not suffix:
        from rich.console import Console

        Console().print(comparison.to_rich(lines))
        return
    text = getattr(comparison, _WRITERS[suffix])(lines)
    deliver(text, output, overwrite=overwrite, quiet=quiet)
