"""Tables of results as text: their cells in words, and Markdown, CSV, LaTeX and JSON."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .table import Cell, Difference, Line, Table

NOTHING = "–"
MINUS = "−"
CSV_COLUMNS = (
    "suite", "about", "row", "source", "column", "figure", "value", "low", "high", "n", "best",
    "versus", "difference", "difference_low", "difference_high",
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """A cell as it is printed: its figure, the ends of its interval, and whether it is the best."""

    figure: str
    ends: tuple[str, str] | None = None
    best: bool = False


@dataclass(frozen=True)
class Printed:
    """A table as it is printed: of figures, or of differences.

    Attributes
    ----------
    title : str
    columns : tuple of str
    rows : tuple of (str, tuple of Words)
        Label and cells.
    n_ours : int
        How many of the rows are not the paper's; these come first.
    remarks : tuple of str
        What stands below; `{mark}` in one stands for how the format marks the best.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Words, ...]], ...]
    n_ours: int
    remarks: tuple[str, ...] = ()


def printed(tables: Iterable[Table]) -> Iterator[Printed]:
    """Each table as it is printed: its figures, then, if there are some, its differences."""
    for table in tables:
        head = f"{table.suite}, {table.about}" if table.about else table.suite
        ours = [line for line in table.lines if line.source is None]
        yield Printed(
            f"{head}{_UNITS[table.figure]}, with 95 % intervals",
            table.columns,
            tuple(
                (line.label, tuple(_figure(table.figure, line, cell) for cell in line.cells)) for line in table.lines
            ),
            len(ours),
            tuple(_remarks(table)),
        )
        compared = [line for line in ours if any(cell and cell.difference for cell in line.cells)]
        places = [
            i for i in range(len(table.columns)) if any((cell := line.cells[i]) and cell.difference for line in ours)
        ]
        if compared:
            unit = "percentage points" if table.figure == "accuracy" else f"% of its {table.figure}"
            words = _difference_of(table.figure)
            yield Printed(
                f"{head}: difference to {table.versus} over the same samples, in {unit}, with 95 % intervals",
                tuple(table.columns[i] for i in places),
                tuple((line.label, tuple(words(line.cells[i]) for i in places)) for line in compared),
                len(compared),
            )


_UNITS = {"accuracy": ": accuracy in %", "perplexity": ""}


def _remarks(table: Table) -> Iterator[str]:
    if any(cell is not None and cell.best for line in table.lines for cell in line.cells):
        yield "{mark}: better than the second of those measured here, beyond the noise"
    for source in dict.fromkeys(line.source for line in table.lines if line.source is not None):
        yield f"paper: {source}"


def _figure(figure: str, line: Line, cell: Cell | None) -> Words:
    if cell is None:
        return Words(NOTHING)
    if line.source is not None:
        return Words(f"{100 * cell.value:.2f}" if figure == "accuracy" else _digits(cell.value))
    as_text: Callable[[float], str] = (lambda value: f"{100 * value:.1f}") if figure == "accuracy" else _digits
    ends = None if cell.interval is None else (as_text(cell.interval[0]), as_text(cell.interval[1]))
    return Words(as_text(cell.value), ends, cell.best)


def _digits(value: float) -> str:
    """Four significant digits."""
    return f"{value:#.4g}".rstrip(".")


def _difference_of(figure: str) -> Callable[[Cell | None], Words]:
    digits = 1 if figure == "accuracy" else 2

    def as_text(share: float) -> str:
        return f"{100 * share:+.{digits}f}".replace("-", MINUS)

    def words(cell: Cell | None) -> Words:
        found: Difference | None = None if cell is None else cell.difference
        if found is None:
            return Words(NOTHING)
        low, high = found.interval
        return Words(as_text(found.value), (as_text(low), as_text(high)) if math.isfinite(high - low) else None)

    return words


def to_json(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """Tables and notes as JSON: accuracies from 0 to 1, and null for an interval where there is none."""
    content = {"tables": [_finite(asdict(table)) for table in tables], "notes": list(notes)}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def to_csv(tables: Iterable[Table]) -> str:
    """One line for each cell, with its interval and its difference; accuracies from 0 to 1."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for line in table.lines:
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell is not None:
                    writer.writerow(_finite(_csv_line(table, line, column, cell)))
    return file.getvalue()


def _csv_line(table: Table, line: Line, column: str, cell: Cell) -> list[Any]:
    head = [table.suite, table.about, line.label, line.source, column, table.figure, cell.value]
    difference: list[Any] = [None] * 4
    if cell.difference is not None:
        difference = [table.versus, cell.difference.value, *cell.difference.interval]
    return [*head, *(cell.interval or (None, None)), cell.n, "yes" if cell.best else None, *difference]


def _finite(value: Any) -> Any:
    """The same with None in place of infinities."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_markdown(tables: Iterable[Table]) -> str:
    """Tables in Markdown."""
    return "\n".join(_markdown(table) for table in printed(tables))


def _markdown(table: Printed) -> str:
    def cell(words: Words) -> str:
        figure = f"**{words.figure}**" if words.best else words.figure
        return figure if words.ends is None else f"{figure} [{words.ends[0]}, {words.ends[1]}]"

    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [
        f"{_in_markdown(table.title)}:",
        "",
        row(["", *map(_in_markdown, table.columns)]),
        row(["---", *["---:"] * len(table.columns)]),
        *(row([_in_markdown(label), *map(cell, cells)]) for label, cells in table.rows),
        "",
    ]
    for remark in table.remarks:
        lines += [_in_markdown(remark).format(mark="**bold**"), ""]
    return "\n".join(lines)


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", _one_line(text))


def to_latex(tables: Iterable[Table]) -> str:
    """Tables in LaTeX; they need the package booktabs."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_latex(table) for table in printed(tables))


def _latex(table: Printed) -> str:
    def cell(words: Words) -> str:
        figure = _in_latex(words.figure)
        figure = rf"\textbf{{{figure}}}" if words.best else figure
        return (
            figure if words.ends is None else rf"{figure} {{\footnotesize [{', '.join(map(_in_latex, words.ends))}]}}"
        )

    def row(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    rows = [row([_in_latex(label), *map(cell, cells)]) for label, cells in table.rows]
    remarks = [_in_latex(remark).replace(r"\{mark\}", r"\textbf{bold}") for remark in table.remarks]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{'. '.join([_in_latex(table.title), *remarks])}.}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            row(["", *map(_in_latex, table.columns)]),
            r"\midrule",
            *rows[: table.n_ours],
            *([r"\midrule", *rows[table.n_ours :]] if table.n_ours < len(rows) else []),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MINUS: "$-$",
    NOTHING: "--",
    # After \\ a bracket or a star would be its argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
