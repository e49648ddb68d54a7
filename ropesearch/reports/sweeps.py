"""The section of a sweep: its rows as a table, and a figure of them against an option that it varied."""

from collections.abc import Mapping, Sequence
from typing import Any

from ropesearch.core.errors import InputError, printable
from ropesearch.exporters.sweep_table import SWEEP_FIGURES, sweep_table
from ropesearch.plots.sweep import FIGURES, lines_of, varied_numbers

from .html import Html, folded, table, tag
from .section import Section, rounded

MOST_ROWS = 2000
"""Rows of the table in the page; the chart has all of them."""
FOLDED_FROM = 40


def section_of_sweep(name: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    """Make the section of a sweep's rows, as `read_sweep` returns them."""
    if not rows:
        msg = f"{name} has no rows yet"
        raise InputError(msg)
    known = [row for row in rows if row.get("coverage")]
    figures = [key for key in SWEEP_FIGURES if any(row["coverage"].get(key) is not None for row in known)]
    body: list[Html | dict[str, Any]] = []
    numbers = varied_numbers(known) if known else []
    if all(row["point"].get("kv_heads") == row["point"].get("heads") for row in known):
        numbers = [option for option in numbers if option != "kv_heads"]
    if figures and numbers:
        body.append(
            {
                "kind": "sweep",
                "figures": [
                    {
                        "key": key,
                        "label": FIGURES[key],
                        "values": [rounded(row["coverage"].get(key)) for row in known],
                    }
                    for key in figures
                ],
                "against": [_against(known, option) for option in sorted(numbers, key=lambda name: name != "stride")],
            }
        )
    else:
        body.append(tag("p", "The points of this sweep vary no number, or have no coverage: there is nothing to draw."))
    words = sweep_table(rows)
    remarks = ["* best", f"{name}#1 is the first row, wherever bases are wanted."]
    if len(words.rows) > MOST_ROWS:
        remarks.append(f"The first {MOST_ROWS:,} of {len(words.rows):,} rows.")
    found = table(words.title, words.columns, words.rows[:MOST_ROWS], remarks=remarks)
    body.append(found if len(words.rows) < FOLDED_FROM else folded(f"All {len(words.rows):,} rows", found))
    failed = [f"row {i}: {row['error']}" for i, row in enumerate(rows, start=1) if "error" in row]
    if failed:
        body.append(folded(f"{len(failed)} failed", tag("ul", *(tag("li", line) for line in failed[:MOST_ROWS]))))
    return Section(name, "sweep", body)


def _against(rows: Sequence[Mapping[str, Any]], option: str) -> dict[str, Any]:
    """Return the values of an option, and which rows are on one line."""
    lines: dict[str, list[int]] = {}
    for i, line in enumerate(lines_of(rows, option)):
        lines.setdefault(line, []).append(i)
    return {
        "key": option,
        "label": printable(option.replace("_", " ")),
        "values": [rounded(row["point"].get(option), 12) for row in rows],
        "lines": [{"name": printable(line), "rows": places} for line, places in lines.items()],
    }
