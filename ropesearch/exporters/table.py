"""A base set as a table: rows, CSV, Markdown, and rich for a terminal."""

import csv
import io
import math
import os
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, shown

if TYPE_CHECKING:
    from rich.table import Table

    from ropesearch.decay.data import Decay

COLUMNS = {
    "kv_head": "KV head",
    "query_heads": "query heads",
    "base": "base",
    "chosen": "chosen",
    "longest_wavelength": "longest wavelength",
}
"""Column names by key: the key heads a CSV column, the name a Markdown or terminal one."""


DECAY_COLUMNS = {
    "slope": "slope",
    "unit_waveform": "unit waveform",
    "minus_log": "−log m",
    "curve": "model curve",
    "agreement": "two texts",
    "sink_mass": "mass on sinks",
}
CHANGE_COLUMNS = {
    "slope": "slope",
    "predicted_slope": "predicted slope",
    "verified_slope": "slope with bases",
    "prediction": "r of prediction",
    "no_change": "r of no change",
    "change_error": "change off by",
}
"""Names of the figures of a decay in the tables for a terminal, as measured and with bases."""


def rows(base_set: BaseSet) -> list[tuple[str, ...]]:
    """Return one row of text per KV head, in head order, in the columns of `COLUMNS`.

    The columns are the KV head, from 0; the query heads that share it, as first-last; its base; its place in the
    order of choice, from 1; and the wavelength of its slowest frequency, 2π/θ, in tokens, rounded.
    """
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
                shown(base),
                str(places[base].pop(0)),
                str(round(2 * math.pi / float(theta))),
            )
        )
    return table


def to_csv(base_set: BaseSet) -> str:
    """Return the table as CSV, with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows(base_set))
    return text.getvalue()


def to_markdown(base_set: BaseSet) -> str:
    """Return the table as Markdown."""
    lines = [tuple(COLUMNS.values()), ("---:",) * len(COLUMNS), *rows(base_set)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def to_rich(base_set: BaseSet) -> "Table":
    """Return the table for a rich console."""
    from rich.table import Table

    groups = "" if base_set.kv_heads == base_set.heads else f", {base_set.kv_heads} KV heads"
    table = Table(title=f"{base_set.strategy}: {base_set.heads} heads{groups}, head_dim {base_set.head_dim}")
    if base_set.parameters.get("order") == "measured":
        table.caption = "laid over the heads by measured slope, which is beyond the paper"
    for name in COLUMNS.values():
        table.add_column(name, justify="right")
    for row in rows(base_set):
        table.add_row(*row)
    return table


def decay_to_rich(decay: "Decay") -> "list[Table]":
    """Return the median head of every layer, and quantiles over all heads, for a rich console; and so with bases."""
    model = os.path.basename(os.path.normpath(str(decay.model["name"])))
    n = len(decay.texts)
    title = f"{model}: {decay.length} tokens of {n} text{'s' * (n > 1)}, distances to {decay.max_distance}"
    tables = [_decay_table(decay, title, DECAY_COLUMNS)]
    if decay.bases is not None:
        shown_bases = ", ".join(map(shown, decay.bases[:4])) + ", …" * (len(decay.bases) > 4)
        tables.append(_decay_table(decay, f"with the bases {shown_bases}", CHANGE_COLUMNS))
    return tables


def _decay_table(decay: "Decay", title: str, names: Mapping[str, str]) -> "Table":
    from rich.table import Table

    columns = {key: name for key, name in names.items() if key in decay.figures}
    table = Table(title=title, caption="layers: the median head; below: quantiles over all heads")
    for name in ("layer", *columns.values()):
        table.add_column(name, justify="right")

    def add(label: str, values: Iterable[float | None], *, last: bool = False) -> None:
        table.add_row(label, *("–" if v is None else f"{v:.3f}" for v in values), end_section=last)

    for row, layer in enumerate(decay.layers):
        values = [[v for v in decay.figures[key][row].tolist() if not math.isnan(v)] for key in columns]
        medians = (statistics.median(known) if known else None for known in values)
        add(str(layer), medians, last=row == len(decay.layers) - 1)
    summary = decay.summary()
    for label in ("5 %", "50 %", "95 %"):
        add(label, (summary[key][label] for key in columns))
    return table


def coverage_to_rich(figures: Mapping[str, Any]) -> "Table":
    """Return the figures of a coverage, those of `Coverage.to_dict`, for a rich console."""
    from rich.table import Table

    try:
        first, last = figures["distances"]
        shares = [float(share) for share in figures["valleys_on_peaks"] if share is not None]
        ripple = figures["ripple"]
        lines = {
            "floor of the best head": f"{figures['floor']:.4f} at distance {figures['floor_distance']}",
            "mean of the best head": f"{figures['mean']:.4f}",
            "1 % quantile of the best head": f"{figures['quantile_01']:.4f}",
            "ripple of the mean": "none below 8192 distances" if ripple is None else f"{ripple:.5f}",
            "valleys on another's peak": f"{sum(shares) / len(shares):.1%}" if shares else "no valleys",
        }
    except (KeyError, TypeError, ValueError):
        raise InputError("its coverage holds other figures than these; computing it anew helps") from None
    table = Table(title=f"coverage, distances {first} to {last}", show_header=False)
    for name, value in lines.items():
        table.add_row(name, value)
    return table
