"""Results as tables for a terminal."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ropesearch.core.errors import printable, shown
from ropesearch.exporters.sweep_table import marked, number, sweep_table

if TYPE_CHECKING:
    from rich.table import Table

    from ropesearch import BaseSet, Decay
    from ropesearch.search.compare import Compared

PIPE_WIDTH = 200  # characters of a table that goes to no terminal, where folded cells would be of no use

COMPARED_COLUMNS: dict[str, tuple[str, str, Callable[[Iterable[float]], float]]] = {
    "floor": ("floor", ".4f", max),
    "mean": ("mean", ".4f", max),
    "quantile_01": ("1 %", ".4f", max),
    "ripple": ("ripple", ".5f", min),
    "valleys_on_peaks": ("valleys", ".1%", max),
}
"""Figures of a comparison: their names, how they are written, and which is the best."""


def as_text(*tables: "Table") -> str:
    """Tables as they are printed."""
    from rich.console import Console
    from rich.text import Text

    class PrintableConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            """Render every title, header and cell that is no Text; names in them come from files."""
            return super().render_str(printable(text), **options)

    console = PrintableConsole(markup=False, emoji=False)  # a bracket in a name is no markup
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


def of_base_set(base_set: "BaseSet", bound: float | None = None) -> str:
    """Return one row per KV head, and the coverage if it was computed, with how many bases reach the lower bound."""
    from ropesearch.exporters.table import columns, rows

    layers = "" if base_set.layers is None else f", {base_set.layers} layers"
    groups = "" if base_set.kv_heads == base_set.heads else f", {base_set.kv_heads} KV heads"
    table = _table(
        *columns(base_set).values(),
        title=f"{base_set.strategy}: {base_set.heads} heads{groups}, head_dim {base_set.head_dim}{layers}",
    )
    if base_set.parameters.get("order") == "measured":
        table.caption = "assigned to the heads by measured slope, which is beyond the paper"
    for row in rows(base_set, digits=12):
        table.add_row(*row)
    if not base_set.coverage_figures:
        return as_text(table)
    coverage = _coverage(base_set.coverage_figures)
    if bound is not None:
        reach = sum(base >= bound for base in base_set.bases)
        coverage.add_row(f"bases of at least {bound:,.12g}", f"{reach} of {len(base_set.bases)}")
        coverage.caption = f"{bound:,.12g}: the lower bound on one base for this length (arXiv:2405.14591)"
    return as_text(table, coverage)


def _coverage(figures: Mapping[str, Any]) -> "Table":
    """Return the figures of `Coverage.to_dict`."""
    from ropesearch.exporters.table import coverage_lines

    title, lines = coverage_lines(figures)
    table = _table(title=title, show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def of_decay(decay: "Decay") -> str:
    """Return the median head of every layer, and quantiles over all heads; and so with bases."""
    from ropesearch.core.base_set import has_layers
    from ropesearch.decay.figures import CHANGE_NAMES, NAMES

    model = os.path.basename(os.path.normpath(str(decay.model["name"])))
    n = len(decay.texts)
    title = f"{model}: {decay.length} tokens of {n} text{'s' * (n > 1)}, distances to {decay.max_distance}"
    tables = [_decay(decay, title, NAMES)]
    if decay.bases is not None:
        if has_layers(decay.bases):
            name = f"with bases for each of {len(decay.bases)} layers"
        else:
            first = ", ".join(map(shown, decay.bases[:4]))
            name = f"with the bases {first}" + ", …" * (len(decay.bases) > 4)
        tables.append(_decay(decay, name, CHANGE_NAMES))
    return as_text(*tables)


def _decay(decay: "Decay", title: str, names: Mapping[str, str]) -> "Table":
    import statistics

    from ropesearch.decay.figures import QUANTILES

    columns = {key: name for key, name in names.items() if key in decay.figures}
    caption = "layers: the median head; below: quantiles over all heads"
    table = _table("layer", *columns.values(), title=title, caption=caption)

    def add(label: str, values: Iterable[float | None], *, last: bool = False) -> None:
        table.add_row(label, *(number(value, ".3f") for value in values), end_section=last)

    for row, layer in enumerate(decay.layers):
        values = [[v for v in decay.figures[key][row].tolist() if not math.isnan(v)] for key in columns]
        medians = (statistics.median(known) if known else None for known in values)
        add(str(layer), medians, last=row == len(decay.layers) - 1)
    summary = decay.summary()
    for label in QUANTILES:
        add(label, (summary[key][label] for key in columns))
    return table


def of_comparison(lines: "Sequence[Compared]", bound: float | None = None) -> str:
    """Return one row per set or scheme, those of one head apart, the best of each column and group marked by a star."""
    first, last = lines[0].coverage.distances
    title = f"coverage, distances {first} to {last}; * best"
    groups = [[line for line in lines if line.bases > 1], [line for line in lines if line.bases == 1]]
    several = all(groups)
    notes = ["floor, mean, 1 %: of the best head; valleys: share on a peak of another head"]
    notes.append("peaks and valleys are those of the default rule, for every set and scheme")
    if several:
        notes.append("one head against many is no contest: sets of one base stand apart")
    if bound is not None:
        notes.append(
            f"≥ bound: bases of at least {bound:,.12g}, below which one head's waveform turns negative within"
            f" {last + 1} tokens (arXiv:2405.14591)"
        )
    names = ["bases", *([] if bound is None else ["≥ bound"]), *(name for name, _, _ in COMPARED_COLUMNS.values())]
    from rich.text import Text

    caption = Text("\n".join(notes))
    table = _table(*names, title=title, caption=caption, names="set or scheme", box=None, padding=(0, 1))
    for group in groups:
        columns = [
            marked([line.figures[key] for line in group], form, best_of)
            for key, (_, form, best_of) in COMPARED_COLUMNS.items()
        ]
        for i, (line, *cells) in enumerate(zip(group, *columns, strict=True)):
            reach = "–" if line.bounded is None else str(line.bounded)
            counts = [str(line.bases), *([] if bound is None else [reach])]
            last_one = several and group is groups[0] and i == len(group) - 1
            table.add_row(line.name, *counts, *cells)
            if last_one:
                table.add_row("")
    return as_text(table)


def of_sweep(rows: Sequence[Mapping[str, Any]], sort: str | None = None) -> str:
    """Return one row per point: its number, the options in which points differ, and figures, the best with a star."""
    found = sweep_table(rows, sort)
    table = _table(*found.columns, title=found.title, caption="* best")
    for row in found.rows:
        table.add_row(*row)
    return as_text(table)


def _table(*columns: str, names: str | None = None, **settings: Any) -> "Table":
    """Return a table of right-aligned columns, after one of names if there is such a one."""
    from rich.table import Table

    table = Table(**settings)
    if names is not None:
        table.add_column(names, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table
