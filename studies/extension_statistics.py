"""Paired differences over seeds: intervals, Holm's correction, verdicts, and how many seeds would tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
POWER = 0.8
MOST_SEEDS = 9999


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds with its 95 % interval by Student's t; the interval is None for a single seed."""

    mean: float
    interval: tuple[float, float] | None
    sd: float
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of values, one per seed, and its interval."""
    found = np.asarray(values, dtype=float)
    n = len(found)
    if n < 2:
        return Estimate(float(found.mean()), None, math.nan, n)
    sd = float(found.std(ddof=1))
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / math.sqrt(n)
    return Estimate(float(found.mean()), (float(found.mean()) - half, float(found.mean()) + half), sd, n)


def p_value(values: Sequence[float], null: float = 0.0) -> float:
    """Two-sided p of Student's t that the mean of values is not `null`; 1 for a single seed."""
    found = estimate(values)
    if found.n < 2:
        return 1.0
    distance = abs(found.mean - null)
    if not found.sd:
        return 0.0 if distance else 1.0
    return float(2 * stats.t.sf(distance / found.sd * math.sqrt(found.n), found.n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of a family by Holm's step-down rule (1979); the order stays."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def seeds_needed(sd: float, effect: float) -> int:
    """Fewest seeds with which a paired t-test at 5 % finds a difference of `effect` four times in five.

    By the noncentral t distribution; at most 9999.
    """
    if not sd:
        return 2

    def power(n: int) -> float:
        shift, least = effect / sd * math.sqrt(n), float(stats.t.ppf(1 - LEVEL / 2, n - 1))
        return float(stats.nct.sf(least, n - 1, shift) + stats.nct.cdf(-least, n - 1, shift))

    low, high = 1, 2
    while power(high) < POWER:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return min(high, MOST_SEEDS)


def verdict(mean: float, adjusted: float, null: float = 0.0) -> str:
    """Whether the claim that a difference lies above `null` holds, by its adjusted p."""
    if adjusted >= LEVEL:
        return "cannot be told apart"
    return "holds" if mean > null else "does not hold"
