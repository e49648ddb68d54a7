"""`ropesearch show`."""

from typing import TYPE_CHECKING

import click

from ropesearch.core.errors import InputError

from . import tables
from .errors import Command
from .inputs import read_base_set, read_bases_of_model, read_sweep_rows
from .options import covered_option
from .output import Formats, Output, result_options
from .progress import progress_on_stderr
from .sweep import forms_of_rows, sort_option

if TYPE_CHECKING:
    from ropesearch import BaseSet


def forms_of(base_set: "BaseSet", bound: float | None = None) -> Formats:
    """Return what makes a table, the base-set file and the rows of the table out of a base set."""
    from ropesearch import to_csv

    return {
        "": lambda: tables.of_base_set(base_set, bound),
        ".json": base_set.to_json,
        ".csv": lambda: to_csv(base_set),
    }


@click.command(cls=Command)
@click.argument("name", metavar="BASES")
@click.option("--coverage", is_flag=True, help="Also say how well the set covers the distances up to --max-distance.")
@covered_option("For coverage: the last distance, in tokens, included.")
@click.option("--pick", type=int, metavar="ROW", help="Of a sweep file: show the base set of this row.")
@sort_option
@result_options("", ".json", ".csv")
def show(name: str, coverage: bool, max_distance: int, pick: int | None, sort: str | None, out: Output) -> None:
    """Show a base set, or the rows of a sweep file, as a table.

    \b
        ropesearch show bases.json
        ropesearch show sweep.jsonl --sort floor
        ropesearch show sweep.jsonl --pick 3 -o bases.json
        ropesearch show path/to/model

    BASES is a base-set file, a sweep file, a preset, a position scheme that is nothing but bases, or a model: the bases
    that it carries are shown, as `ropesearch bases` reads them. The last column is the wavelength, in tokens, of the
    slowest frequency of the head. JSON is the file itself, checked and laid out anew. Of a file whose layers differ,
    bases.json#3 is layer 3, counted from 0, here and wherever bases are wanted.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    rows = read_sweep_rows(name)
    if rows is not None and pick is None:
        if coverage:
            raise click.UsageError("--coverage needs one base set: choose it by --pick")
        if not rows:
            msg = f"{name} has no rows yet"
            raise InputError(msg)
        out.deliver(forms_of_rows(rows, sort))
        return
    if rows is None and (pick is not None or sort is not None):
        option = "--sort" if pick is None else "--pick"
        msg = f"{option} is for sweep files, and {name} is none"
        raise click.UsageError(msg)
    if rows is not None and pick is not None:
        from ropesearch.search.named import row_of_sweep

        base_set = row_of_sweep(name, rows, pick)
    elif _is_model(name):
        base_set = read_bases_of_model(name, quiet=out.quiet)
    else:
        base_set = read_base_set(name)
    bound = None
    if coverage:
        base_set.of_all_layers("coverage", name)
        from ropesearch import base_lower_bound

        with progress_on_stderr(quiet=out.quiet) as progress:
            base_set = base_set.with_coverage(max_distance, progress=progress)
        bound = base_lower_bound(max_distance + 1, base_set.head_dim) if out.printed == "" else None
    out.deliver(forms_of(base_set, bound))


def _is_model(name: str) -> bool:
    """Whether a name is of a model, and of no preset and no scheme."""
    from ropesearch.core.model_source import names_model
    from ropesearch.core.presets import PRESETS
    from ropesearch.schemes.grammar import SCHEMES, scheme_word

    return name not in PRESETS and scheme_word(name) not in SCHEMES and names_model(name)
