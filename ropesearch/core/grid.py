"""Grids of bases for a search to choose from."""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

from . import checks
from .errors import ParameterError, shown
from .machine import require_memory

MOST_CANDIDATES = 1_000_000
"""How many bases a search chooses from at most; that many take hours."""


def search_range(bmin: Any, bmax: Any) -> tuple[float, float]:
    """Check the ends of a range of bases: 1 < b_min < b_max."""
    low, high = checks.base("bmin", bmin), checks.base("bmax", bmax)
    if high <= low:
        raise ParameterError("bmax", high, f"greater than `bmin`, {shown(low)}")
    return low, high


def candidate_bases(bmin: float, bmax: float, stride: float) -> list[float]:
    """Return the candidate set B_c = {b_min + i·s, i = 1…⌊(b_max−b_min)/s⌋}, ascending, without b_min itself.

    The arithmetic is exact, on the decimal numbers as written: 0.1 is a tenth.

    Parameters
    ----------
    bmin, bmax : float
        Ends of the range, dimensionless, 1 < bmin < bmax.
    stride : float
        Step s, greater than 0 and at most the width of the range.

    Returns
    -------
    list of float
        Each is the float nearest to b_min + i·s.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value.
    MemoryError
        If the candidates do not fit in memory.

    References
    ----------
    HARPE, arXiv:2412.07171, Eq. 10.
    """
    n = count_candidates(bmin, bmax, stride)
    require_memory(200 * n, f"a grid of {n} candidates")
    (first, s), unit = _to_integers(float(bmin), float(stride))
    return [(first + i * s) / unit for i in range(1, n + 1)]


def count_candidates(bmin: float, bmax: float, stride: float) -> int:
    """Return how many bases `candidate_bases` gives; raise the same errors."""
    low, high = search_range(bmin, bmax)
    step = checks.positive("stride", stride)
    (first, last, s), _ = _to_integers(low, high, step)
    if s > last - first:
        raise ParameterError("stride", step, f"at most the width of the range, {shown(high - low)}")
    n = (last - first) // s
    if n > MOST_CANDIDATES:
        least = f"{(high - low) / MOST_CANDIDATES:.4g}"
        raise ParameterError("stride", step, f"at least {least}, which gives at most {MOST_CANDIDATES} candidates")
    return n


def evenly_spaced_bases(bmin: float, bmax: float, n: int) -> list[float]:
    """Return the uniform base set b_min + h·(b_max−b_min)/(n−1), h = 0…n−1, ascending; {b_min} for n = 1.

    Parameters
    ----------
    bmin, bmax : float
        Ends of the range, dimensionless, 1 < bmin < bmax.
    n : int
        How many bases, at least 1.

    Returns
    -------
    list of float

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it and shows its value.

    References
    ----------
    HARPE, arXiv:2412.07171, Eq. 9.
    """
    low, high = search_range(bmin, bmax)
    (first, last), unit = _to_integers(low, high)
    steps = max(n - 1, 1)
    return [(first * steps + h * (last - first)) / (unit * steps) for h in range(n)]


def widest_stride(bmin: float, bmax: float, n: int) -> float:
    """Return a stride, rounded down to three digits, that gives at least `n` candidates."""
    stride = (bmax - bmin) / n
    digits = Fraction(10) ** (len(str(int(stride))) - 3) if stride >= 1 else Fraction(1, 1000)
    return float(stride // digits * digits) or stride


def _to_integers(*values: float) -> tuple[list[int], int]:
    """Return integers k and one n such that k / n are exactly the values as written in decimal."""
    fractions = [_to_fraction(value) for value in values]
    unit = math.lcm(*(f.denominator for f in fractions))
    return [f.numerator * (unit // f.denominator) for f in fractions], unit


@lru_cache(1000)  # a sweep asks for the same ones again and again
def _to_fraction(value: float) -> Fraction:
    return Fraction(repr(value))
