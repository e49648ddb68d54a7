"""The section of evaluations: the tables of `ropesearch table`, and curves by length, position, distance or depth."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ropesearch.core.errors import printable
from ropesearch.evaluation.table import Evaluated, Table, make_tables
from ropesearch.evaluation.table_formats import Printed, Words, printed
from ropesearch.plots.needle import share_grid
from ropesearch.plots.perplexity import WIDE, along_positions
from ropesearch.plots.recall import middles_of
from ropesearch.plots.results import Row, labelled, read_rows

from .html import Html, table, tag
from .section import Section, rounded

Ends = Sequence[float] | None
Groups = Mapping[str, Sequence[Row]]


def section_of_evaluations(files: Sequence[Evaluated]) -> Section:
    """Make the section of results files of one suite, whose rows share tables and charts."""
    tables, notes = make_tables(files)
    results = [file.results for file in files]
    suite = tables[0].suite
    body: list[Html | dict[str, Any]] = [_html_table(words) for words in printed(tables)]
    remarks = [*notes, *(note for each in results for note in each.notes)]
    if remarks:
        body.append(tag("ul", *(tag("li", remark) for remark in dict.fromkeys(remarks)), class_="remark"))
    body += [figure for found in tables if (figure := _by_length(found)) is not None]
    if suite in CHARTS:
        chart, key = CHARTS[suite]
        rows = [row for row in read_rows(results, suite) if key in row]
        body += chart(labelled(rows, key)) if rows else []
    return Section(f"{suite}: {', '.join(file.name for file in files)}", "evaluation", body)


def _html_table(words: Printed) -> Html:
    rows = [(label, *map(_cell, cells)) for label, cells in words.rows]
    remarks = [remark.format(mark="*") for remark in words.remarks]
    return table(words.title, ["", *words.columns], rows, labels=True, remarks=remarks)


def _cell(words: Words) -> Html:
    figure = tag("strong", f"{words.figure}*") if words.best else words.figure
    if words.ends is None:
        return tag("span", figure)
    between = "…" if words.ends[0][0] in "+−" else "–"
    return tag("span", figure, " ", tag("small", f"{words.ends[0]}{between}{words.ends[1]}"))


def _line(name: str, x: Sequence[float], y: Sequence[float | None], ends: Sequence[Ends]) -> dict[str, Any]:
    line: dict[str, Any] = {"name": printable(name), "x": list(map(rounded, x)), "y": list(map(rounded, y))}
    if any(ends):
        line["low"], line["high"] = ([rounded(pair[i]) if pair else None for pair in ends] for i in (0, 1))
    return line


def _chart(title: str, x: str, y: dict[str, Any], lines: list[dict[str, Any]], log: int = 0) -> dict[str, Any]:
    places = sorted({at for line in lines for at in line["x"]})
    return {
        "kind": "lines",
        "half": True,
        "title": printable(title),
        "x": {"label": x, "log": log},
        "y": y,
        "lines": lines,
        "ticks": places if len(places) < 10 and all(at == int(at) for at in places) else None,
    }


def _axis_of(figure: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if figure == "accuracy":
        return {"label": "accuracy", "percent": True}
    values = [value for line in lines for value in line["y"] if value is not None]
    return {"label": figure, "log": 10 if values and max(values) > WIDE * min(values) > 0 else 0}


def _by_length(found: Table) -> dict[str, Any] | None:
    """Return a chart of a table whose columns are lengths; None for any other."""
    places = [i for i, name in enumerate(found.columns) if name.isdecimal()]
    if len(places) < 2:
        return None
    lines = []
    for line in found.lines:
        known = [(int(found.columns[i]), cell) for i in places if (cell := line.cells[i]) is not None]
        if known:
            ends = [cell.interval for _, cell in known]
            lines.append(_line(line.label, [n for n, _ in known], [cell.value for _, cell in known], ends))
    about = f", {found.about}" if found.about else ""
    label = f"{found.figure.capitalize()} by length{about}"
    return _chart(label, "length (tokens)", _axis_of(found.figure, lines), lines, 2)


def _perplexity(groups: Groups) -> list[Html | dict[str, Any]]:
    rows = [row for own in groups.values() for row in own]
    body: list[Html | dict[str, Any]] = []
    tasks = {row["task"] for row in rows}
    for task, length in sorted({(row["task"], row["length"]) for row in rows}):
        lines = [
            _line(name, *along_positions(row))
            for name, own in groups.items()
            for row in own
            if (row["task"], row["length"]) == (task, length)
        ]
        where = f"{task}, " if len(tasks) > 1 else ""
        label = f"Perplexity by position in the document, {where}windows of {length:,} tokens"
        x = "position in the document (tokens)"
        body.append(_chart(label, x, _axis_of("perplexity", lines), lines, 2))
    return body


def _recall(groups: Groups) -> list[Html | dict[str, Any]]:
    body: list[Html | dict[str, Any]] = []
    for length in sorted({row["length"] for own in groups.values() for row in own}):
        own = {name: row for name, group in groups.items() for row in group if row["length"] == length}
        for figure, ends, axis in (
            ("accuracy", "interval", {"label": "accuracy", "percent": True}),
            ("nats", "nats_interval", {"label": "−log p (nats)", "zero": True}),
        ):
            lines = [_recall_line(name, row["by_distance"], figure, ends) for name, row in own.items()]
            label = f"Recall by distance, {length:,} tokens: {figure}"
            chart = _chart(label, "distance (tokens)", axis, [line for line in lines if line is not None])
            if chart["lines"]:
                body.append(chart)
    return body


def _recall_line(name: str, bands: Row, figure: str, ends: str) -> dict[str, Any] | None:
    if figure not in bands:
        return None
    return _line(name, middles_of(bands), bands[figure], bands.get(ends) or [None] * len(bands[figure]))


def _needle(groups: Groups) -> list[Html | dict[str, Any]]:
    rows = [row for own in groups.values() for row in own]
    lengths = sorted({row["length"] for row in rows})
    depths = sorted({float(row["depth"]) for row in rows})
    body: list[Html | dict[str, Any]] = []
    for name, own in groups.items():
        grid = share_grid(own, lengths, depths)
        cells = [
            (f"{depth:.0%}", *(_share(float(share)) for share in line))
            for depth, line in zip(depths, grid, strict=True)
        ]
        title = f"Needles found in %, by depth and length in tokens: {name}"
        body.append(table(title, ["depth", *(f"{n:,}" for n in lengths)], cells, labels=True))
    return body


def _share(share: float) -> Html:
    """Return a share as a cell, tinted in tenths by the style sheet."""
    if math.isnan(share):
        return tag("span", "×", class_="share", title="not measured")
    return tag("span", f"{100 * share:.0f}", class_=f"share s{round(10 * min(max(share, 0), 1))}")


CHARTS = {
    "perplexity": (_perplexity, "by_position"),
    "recall": (_recall, "by_distance"),
    "needle": (_needle, "depth"),
}
"""What is drawn of a suite, and the key that a row must have for it."""
