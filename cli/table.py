"""`ropesearch table`."""

from dataclasses import replace
from functools import partial
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING

import click

from ropesearch.core import checks

from .errors import Command
from .inputs import read_input
from .output import Output, result_options
from .tables import as_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table as RichTable

    from ropesearch.evaluation.table import Table
    from ropesearch.evaluation.table_formats import Printed, Words

FORMATS = ("md", "csv", "tex", "json")
LONGEST_LABEL = 34


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="RESULTS...")
@click.option("--by-task", is_flag=True, help="Tasks and their average as columns, one table for each length.")
@click.option("--versus", metavar="LABEL", help="Differences are to this row.  [default: the first]")
@click.option("--paper", type=int, metavar="N", help="Put the rows of the paper's Table N below: 6.")
@click.option("--format", "format_", metavar="NAME", help="Print md, csv, tex (LaTeX) or json instead of a table.")
@result_options("", ".csv", ".json", ".md", ".tex")
def table(
    files: tuple[str, ...],
    by_task: bool,
    versus: str | None,
    paper: int | None,
    format_: str | None,
    out: Output,
) -> None:
    """Put the results of `ropesearch evaluate` into tables: models and schemes by length, with 95 % intervals.

    \b
        ropesearch table before.json after.json
        ropesearch table niah.json --by-task --paper 6 -o table.tex

    Accuracies are averaged over tasks. With the samples beside the results (results.samples.jsonl), differences to the
    first row follow, and a star marks the best of a column where it is better than the second beyond the noise: where
    the interval of their difference over the same samples excludes zero.
    """  # noqa: D301  (click reads the control character \b as: leave these lines as they are)
    out = _with_format(out, format_)
    from ropesearch.evaluation import table_formats as formats
    from ropesearch.evaluation.table import Evaluated, make_tables

    evaluated = [read_input(partial(Evaluated.load, path)) for path in files]
    tables, notes = make_tables(evaluated, by_task=by_task, versus=versus, paper=paper)
    writers = {
        "": partial(for_terminal, tables),
        ".csv": partial(formats.to_csv, tables),
        ".json": partial(formats.to_json, tables, notes),
        ".md": partial(formats.to_markdown, tables),
        ".tex": partial(formats.to_latex, tables),
    }
    out.deliver(writers, notes)


def _with_format(out: Output, name: str | None) -> Output:
    if name is None:
        return out
    suffix = "." + checks.choice("format_", name, FORMATS)
    if out.path is None and out.printed == "":
        return replace(out, printed=suffix)
    if out.suffix == suffix:
        return out
    other = f"--output {out.path}" if out.path is not None else f"--{out.suffix[1:]}"
    msg = f"--format {name} and {other} ask for two formats; give one of them"
    raise click.UsageError(msg)


def for_terminal(tables: "Sequence[Table]") -> str:
    """Tables as wide as the terminal: what is wider goes on below."""
    from ropesearch.evaluation.table_formats import printed

    width = get_terminal_size().columns
    blocks = []
    for words in printed(tables):
        pieces = [as_text(_drawn(words, columns)).rstrip() for columns in _pieces(words, width)]
        remarks = [fill(remark.format(mark="*"), width) for remark in words.remarks]
        blocks.append("\n\n".join([fill(words.title, width), *pieces, *(["\n".join(remarks)] if remarks else [])]))
    return "\n\n\n".join(blocks) + "\n"


def _pieces(words: "Printed", width: int) -> "Iterator[range]":
    """Which columns stand side by side."""
    start = 0
    for end in range(2, len(words.columns) + 1):
        if _width(words, range(start, end)) > width and end - start > 1:
            yield range(start, end - 1)
            start = end - 1
    yield range(start, len(words.columns))


def _width(words: "Printed", columns: range) -> int:
    labels = [len(label) for label, _ in _rows(words, columns)]
    lines = [
        [words.columns[i], *(line for _, own in words.rows for line in _cell(own[i]).split("\n"))] for i in columns
    ]
    return min(max(labels, default=0), LONGEST_LABEL) + sum(max(map(len, column)) + 2 for column in lines)


def _rows(words: "Printed", columns: range) -> "list[tuple[str, tuple[Words, ...]]]":
    """Rows that have something in these columns."""
    from ropesearch.evaluation.table_formats import NOTHING

    return [(label, cells) for label, cells in words.rows if any(cells[i].figure != NOTHING for i in columns)]


def _drawn(words: "Printed", columns: range) -> "RichTable":
    """Return some columns, the intervals below their figures."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold", max_width=LONGEST_LABEL)
    for i in columns:
        table.add_column(words.columns[i], justify="right", overflow="fold")
    for label, cells in _rows(words, columns):
        table.add_row(label, *(Text(_cell(cells[i]), justify="right") for i in columns))
    return table


def _cell(words: "Words") -> str:
    figure = f"{words.figure}*" if words.best else f"{words.figure} "
    if words.ends is None:
        return figure
    between = "…" if words.ends[0][0] in "+−" else "–"
    return f"{figure}\n{words.ends[0]}{between}{words.ends[1]} "
