"""More distances than a figure has dots for, in bins: a mean, a lowest and a highest value for each."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ropesearch.core.arrays import Floats

COLUMNS = 900
"""Bins across a figure on a linear scale: about one per two dots of a screen."""
PER_DECADE = 90
"""Bins per decade on a log scale. Below a distance of about 40 a bin holds one distance."""


class Bins:
    """Distances first … last in non-empty bins of about the same width, on a linear or a log scale.

    `coarser` divides their number, for bold lines. On a log scale, `first` is at least 1.
    """

    def __init__(self, last: int, *, log: bool = False, coarser: int = 1, first: int = 1) -> None:
        if log:
            first = max(first, 1)
            n = math.ceil(PER_DECADE / coarser * math.log10((last + 1) / first))
            self.starts = np.unique(np.rint(np.geomspace(first, last + 1, n + 1)).astype(np.int64))[:-1]
        else:
            n = last - first + 1
            self.starts = first + np.unique(np.linspace(0, n, min(COLUMNS // coarser, n) + 1).astype(np.int64))[:-1]
        self.last = last
        self.ends = np.append(self.starts[1:], last + 1)  # the first distance of the next
        middles = np.sqrt(self.starts * (self.ends - 1.0)) if log else (self.starts + self.ends - 1) / 2
        self.at: Floats = middles
        several = self.ends - self.starts > 1
        self.wide = int(self.starts[several.argmax()]) if several.any() else 0
        """The first distance that shares its bin; 0 if none does."""

    @property
    def widest(self) -> int:
        """Distances in the largest bin."""
        return int((self.ends - self.starts).max())

    def means(self, curve: npt.NDArray[Any], start: int = 0) -> Floats:
        """Return the mean in each bin of a curve over distances start … last, along its last axis."""
        sums = np.add.reduceat(curve.astype(np.float64), self.starts - start, axis=-1)
        means: Floats = sums / (self.ends - self.starts)
        return means

    def lowest(self, curve: npt.NDArray[Any], start: int = 0) -> Floats:
        """Return the lowest value in each bin."""
        values: Floats = np.fmin.reduceat(curve, self.starts - start, axis=-1)
        return values

    def highest(self, curve: npt.NDArray[Any], start: int = 0) -> Floats:
        """Return the highest value in each bin."""
        values: Floats = np.fmax.reduceat(curve, self.starts - start, axis=-1)
        return values
