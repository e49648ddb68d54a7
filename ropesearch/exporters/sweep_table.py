"""The rows of a sweep as a table: what all share in the title, what differs in columns, the best marked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropesearch.core.errors import shown

SWEEP_COLUMNS = ("strategy", "stride", "bmin", "bmax", "heads", "max_distance")
"""Options of a sweep that the title names where all points share them."""
SWEEP_FIGURES: dict[str, Callable[[Iterable[float]], float]] = {
    "floor": max,
    "mean": max,
    "quantile_01": max,
    "ripple": min,
}
"""Figures of a sweep's rows, and which is the best."""


@dataclass(frozen=True)
class SweepTable:
    """A table in words.

    Attributes
    ----------
    title : str
    columns : tuple of str
        Their names; the first is the number of the row in the file, from 1.
    rows : tuple of tuple of str
        The best figure of a column ends in a star, the others in a space.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sweep_table(rows: Sequence[Mapping[str, Any]], sort: str | None = None) -> SweepTable:
    """Return one row per point: its number, the options in which points differ, and figures, the best with a star."""
    figures = [name for name in SWEEP_FIGURES if any(row.get("coverage", {}).get(name) is not None for row in rows)]
    values = {name: [row["point"].get(name) for row in rows] for name in rows[0]["point"]}
    differ = [name for name in values if any(value != values[name][0] for value in values[name])]
    differ = [name for name in differ if name != "kv_heads" or values[name] != values.get("heads")]
    same = [name for name in SWEEP_COLUMNS if name in values and name not in differ]
    shared = [f"{name.replace('_', ' ')} {_option(values[name][0])}" for name in same]
    counts = [str(len(row["base_set"]["bases"])) if "base_set" in row else "failed" for row in rows]
    if any(count != str(row["point"].get("heads")) for count, row in zip(counts, rows, strict=True)):
        values["bases"] = counts
        differ.append("bases")
    n = f"{len(rows)} point{'s' * (len(rows) > 1)}"
    values_of = {name: [row.get("coverage", {}).get(name) for row in rows] for name in figures}
    columns = [marked(column, ".5f", SWEEP_FIGURES[name]) for name, column in values_of.items()]
    return SweepTable(
        f"{n}: {', '.join(shared)}" if shared else n,
        ("#", *(name.replace("_", " ") for name in (*differ, *figures))),
        tuple(
            (str(i + 1), *(_option(values[name][i]) for name in differ), *(column[i] for column in columns))
            for i in sorted_rows(rows, sort)
        ),
    )


def sorted_rows(rows: Sequence[Mapping[str, Any]], sort: str | None) -> list[int]:
    """Return the places of a sweep's rows, the best first; rows without the figure come last."""
    if sort is None:
        return list(range(len(rows)))
    sign = 1 if SWEEP_FIGURES[sort] is min else -1

    def key(i: int) -> tuple[bool, float]:
        value = rows[i].get("coverage", {}).get(sort)
        return value is None, 0.0 if value is None else sign * value

    return sorted(range(len(rows)), key=key)


def marked(values: Sequence[float | None], form: str, best_of: Callable[[Iterable[float]], float]) -> list[str]:
    """Cells of one column, in a form such as ".3f" or ".1%".

    Equal to the digits shown is equal, and the only one is not the best of any.
    """
    known = [value for value in values if value is not None]
    best = number(best_of(known), form) if len(values) > 1 and known else None
    cells = [number(value, form) for value in values]
    return [f"{cell}*" if cell == best else f"{cell} " for cell in cells]


def number(value: float | None, form: str) -> str:
    """Return a figure in a form such as ".3f", or a dash if there is none."""
    return "–" if value is None else f"{value:{form}}"


def _option(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:.12g}" if isinstance(value, float) else shown(value)
