"""A base set as a table: rows, CSV and Markdown."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from ropesearch.core import checks
from ropesearch.core.base_set import OF_MODEL, BaseSet
from ropesearch.core.errors import InputError, shown

COLUMNS = {
    "kv_head": "KV head",
    "query_heads": "query heads",
    "base": "base",
    "chosen": "chosen",
    "longest_wavelength": "longest wavelength",
}
"""Column names by key: the key heads a column in CSV, the name in tables for people."""
NOTHING = "–"


def columns(base_set: BaseSet) -> dict[str, str]:
    """Return the columns of a set: `COLUMNS`, after the layer where layers differ."""
    checks.instance("base_set", base_set, BaseSet, "a BaseSet")
    return COLUMNS if base_set.layers is None else {"layer": "layer", **COLUMNS}


def rows(base_set: BaseSet, *, digits: int | None = None) -> list[tuple[str, ...]]:
    """Return one row of text per KV head, in head order, in the columns of `columns`; bases to some digits, or all.

    The columns are the layer, where layers differ; the KV head, from 0; the query heads that share it, as first-last;
    its base; its place in the order of choice, from 1, or a dash if the set was read from a model; and the wavelength
    of its slowest frequency, 2π/θ, in tokens, rounded.
    """
    checks.instance("base_set", base_set, BaseSet, "a BaseSet")
    if base_set.layers is not None:
        each = enumerate(map(base_set.layer, range(base_set.layers)))
        return [(str(layer), *row) for layer, of_layer in each for row in rows(of_layer, digits=digits)]
    group = base_set.heads // base_set.kv_heads
    places: dict[float, list[int]] = {}
    for place, base in enumerate(base_set.selection, start=1):
        places.setdefault(base, []).append(place)
    table: list[tuple[str, ...]] = []
    for head, (base, theta) in enumerate(zip(base_set.bases, base_set.inv_freq()[:, -1], strict=True)):
        first, last = head * group, head * group + group - 1
        table.append(
            (
                str(head),
                str(first) if group == 1 else f"{first}-{last}",
                shown(base) if digits is None else f"{base:.{digits}g}",
                NOTHING if base_set.strategy in OF_MODEL else str(places[base].pop(0)),
                str(round(2 * math.pi / float(theta))),
            )
        )
    return table


def coverage_lines(figures: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the figures of `Coverage.to_dict` in words, by their names, after a title.

    Raises
    ------
    ValueError
        If the figures, which may come from a file, lack one.
    """
    try:
        first, last = figures["distances"]
        shares = [float(share) for share in figures["valleys_on_peaks"] if share is not None]
        ripple = figures["ripple"]
        lines = {
            "floor of the best head": f"{figures['floor']:.4f} at distance {figures['floor_distance']}",
            "mean of the best head": f"{figures['mean']:.4f}",
            "1 % quantile of the best head": f"{figures['quantile_01']:.4f}",
            "ripple of the mean": "undefined below 8192 distances" if ripple is None else f"{ripple:.5f}",
            "valleys on another head's peak": f"{sum(shares) / len(shares):.1%}" if shares else "no valleys",
        }
    except (KeyError, TypeError, ValueError):
        raise InputError("the coverage in the file lacks figures; --coverage computes it again") from None
    return f"coverage, distances {first} to {last}", lines


def to_csv(base_set: BaseSet) -> str:
    """Return the table as CSV, with a header line; where there is no order of choice, its cells are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(base_set))
    writer.writerows([("" if cell == NOTHING else cell) for cell in row] for row in rows(base_set))
    return text.getvalue()


def to_markdown(base_set: BaseSet) -> str:
    """Return the table as Markdown."""
    names = columns(base_set).values()
    lines = [tuple(names), ("---:",) * len(names), *rows(base_set, digits=12)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def to_latex(base_set: BaseSet) -> str:
    """Return the table as LaTeX, for the package booktabs."""
    head, *lines = [tuple(columns(base_set).values()), *rows(base_set, digits=12)]
    text = [" & ".join(line).replace("-", "--").replace(NOTHING, "--") + r" \\" for line in (head, *lines)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'r' * len(head)}}}",
            r"\toprule",
            text[0],
            r"\midrule",
            *text[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
