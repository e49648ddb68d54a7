"""The section of a decay: a map of the slopes of all heads, and the curves of the one that is chosen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ropesearch.core.errors import InputError
from ropesearch.decay.data import Decay
from ropesearch.decay.figures import CHANGE_NAMES, NAMES, QUANTILES
from ropesearch.exporters.sweep_table import number
from ropesearch.plots.bins import PER_DECADE, Bins
from ropesearch.plots.decay import MODEL, PREDICTED, SCORE, SLOPE_UNIT, VERIFIED, describe_texts, slope_colours
from ropesearch.plots.style import short_number

from .html import Html, facts, table
from .section import Section, packed, rounded
from .theme import style_of

MOST_BYTES = 1_100_000
"""Of all curves of a decay in the file. With too many heads, bins are wider, and then some layers are left out."""
FEWEST_BINS = 24
SCALE_STEPS = 24


def section_of_decay(name: str, decay: Decay, *, share: int = 1) -> Section:
    """Make the section of a decay; of several in a page, each gets its `share` of the room for curves."""
    about = {
        "model": str(decay.model["name"]),
        "read": describe_texts(decay),
        "layers": f"{len(decay.layers)} measured",
        "heads": str(decay.model["heads"]),
        "KV heads": str(decay.model["kv_heads"]),
        "head_dim": str(decay.model["head_dim"]),
        "distances": f"0 to {decay.max_distance:,}",
    }
    if decay.bases is not None:
        low, high = (short_number(end) for end in (np.min(decay.bases), np.max(decay.bases)))
        about["predicted for bases"] = low if low == high else f"{low} to {high}"
    summary = decay.summary()
    names = {key: label for key, label in (NAMES | CHANGE_NAMES).items() if key in decay.figures}
    quantiles = [
        (label, *(number(summary[key][quantile], ".3f") for quantile in QUANTILES)) for key, label in names.items()
    ]
    body: list[Html | dict[str, Any]] = [
        facts(about),
        _heads(decay, names, MOST_BYTES // share),
        table("Figures over all heads", ["figure", "5 %", "median", "95 %"], quantiles, labels=True),
    ]
    return Section(name, "decay", body)


def _heads(decay: Decay, names: dict[str, str], room: int) -> dict[str, Any]:
    curves = {"score": decay.score, "curve": decay.curve}
    if decay.prediction is not None:
        curves["prediction"] = decay.prediction
    if decay.verified is not None:
        curves["verified"] = decay.verified
    if decay.max_distance < 1:
        msg = f"the decay of {decay.model['name']} has no distances beyond 0"
        raise InputError(msg)
    layers, bins = _fitting(decay, len(curves) + 2, room)
    rows = [decay.layers.index(layer) for layer in layers]
    binned = {key: bins.means(values[rows]) for key, values in curves.items()}
    binned |= {"low": bins.lowest(decay.score[rows]), "high": bins.highest(decay.score[rows])}
    ends = _ends(list(binned.values()))
    slopes = decay.figures["slope"][rows]
    colours, norm = slope_colours(decay.figures["slope"])
    from matplotlib.colors import to_hex

    steps = np.linspace(float(norm.vmin or 0), float(norm.vmax or 0), SCALE_STEPS)
    wide = f" (means over bins of distances from {bins.wide:,} on)" if bins.wide else ""
    lines = [
        {"name": f"measured score{wide}", "curve": "score", "low": "low", "high": "high"} | style_of(SCORE, width=2.4),
        {"name": "model curve", "curve": "curve"} | style_of(MODEL),
    ]
    if "verified" in binned:
        lines.append({"name": "measured with the bases", "curve": "verified"} | style_of(VERIFIED, width=2.4))
    if "prediction" in binned:
        lines.append({"name": "predicted with the bases", "curve": "prediction"} | style_of(PREDICTED, dash=True))
    hint = "Each cell is a head, in its layer's row; choose one to see its curves below."
    if len(layers) < len(decay.layers):
        hint += f" {len(layers)} of {len(decay.layers)} layers are in this page."
    return {
        "kind": "decay",
        "label": "Slope of every head, by layer and head",
        "hint": hint,
        "layers": layers,
        "heads": int(decay.model["heads"]),
        "group": decay.group,
        "step": max(len(layers) // 16, 1),
        "slopes": _rounded(slopes),
        "colours": [[to_hex(colours(norm(value))) for value in row] for row in slopes.tolist()],
        "scale": {
            "unit": SLOPE_UNIT,
            "low": float(steps[0]),
            "high": float(steps[-1]),
            "colours": [to_hex(colours(norm(value))) for value in steps],
        },
        "figures": [{"name": label, "values": _rounded(decay.figures[key][rows])} for key, label in names.items()],
        "distances": [round(float(at), 2) for at in bins.at],
        "ends": ends.tolist(),
        "curves": {
            key: [
                [packed(values[row, head], *ends[row, head]) for head in range(values.shape[1])]
                for row in range(len(rows))
            ]
            for key, values in binned.items()
        },
        "lines": lines,
    }


def _rounded(figures: npt.NDArray[np.float64]) -> list[list[float | None]]:
    return [[rounded(value, 4) for value in row] for row in figures.tolist()]


def _fitting(decay: Decay, n_curves: int, room: int) -> tuple[list[int], Bins]:
    """Return layers and bins whose curves take up no more than the room: coarser bins first, then fewer layers."""
    layers, heads = list(decay.layers), int(decay.model["heads"])
    for coarser in range(1, PER_DECADE):
        bins = Bins(decay.max_distance, log=True, coarser=coarser)
        bytes_of_head = n_curves * (8 * bins.at.size / 3 + 8)
        if bytes_of_head * heads * len(layers) <= room:
            return layers, bins
        if bins.at.size <= FEWEST_BINS:
            break
    n = max(int(room / (bytes_of_head * heads)), 1)
    places = np.unique(np.linspace(0, len(layers) - 1, n).round().astype(int))
    return [layers[i] for i in places], bins


def _ends(curves: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Return the lowest and highest value of each head over all curves, (layers, heads, 2)."""
    low = np.fmin.reduce([np.fmin.reduce(values, axis=-1) for values in curves]).astype(np.float64)
    high = np.fmax.reduce([np.fmax.reduce(values, axis=-1) for values in curves]).astype(np.float64)
    ends: npt.NDArray[np.float64] = np.nan_to_num(np.stack([low, high], axis=-1))
    return ends
