"""A section of the page, and how numbers are packed into it."""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .html import Html

NONE = 65535


@dataclass(frozen=True)
class Section:
    """What the page shows of one input.

    Attributes
    ----------
    title, kind : str
        Its heading, and what kind of input it is of.
    body : list of (Html or dict)
        HTML, and in between figures: what `page/figures.js` draws, as JSON, with its `kind`.
    """

    title: str
    kind: str
    body: list[Html | dict[str, Any]]


def packed(values: npt.ArrayLike, low: float, high: float) -> str:
    """Pack numbers between two ends into 16 bits each, as base64; `unpacked` in page/chart.js reads them."""
    array = np.asarray(values, dtype=np.float64)
    span = high - low if high > low else 1.0
    with np.errstate(invalid="ignore"):
        steps = np.rint(np.clip((array - low) / span, 0, 1) * (NONE - 1))
    return base64.b64encode(np.where(np.isnan(array), NONE, steps).astype("<u2").tobytes()).decode()


def rounded(value: float | None, digits: int = 7) -> float | None:
    """Return a figure with as many digits as a chart needs; None for one that is not finite, which JSON has not."""
    try:
        return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")
    except OverflowError:  # an integer from a file
        return None
