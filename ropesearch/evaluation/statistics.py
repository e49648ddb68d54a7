"""Intervals of what was measured on a sample of documents or questions."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ropesearch.core.arrays import Floats

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""
RESAMPLES = 2000
ROUNDING = 1e-12
"""Of shares and nats: draws that differ by less are the same."""
Interval = tuple[float, float]


def wilson(hits: float, n: int) -> Interval:
    """Wilson's 95 % interval of a share: `hits` of `n` answers right.

    Parameters
    ----------
    hits : float
    n : int
        At least 1.

    Returns
    -------
    low, high : float
        From 0 to 1.

    References
    ----------
    Wilson (1927), Journal of the American Statistical Association 22, 209-212.
    """
    share, z2 = hits / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def ratio_interval(sums: npt.ArrayLike, counts: npt.ArrayLike, seed: int = 0) -> Interval:
    """95 % bootstrap interval of Σ sums / Σ counts, drawn again document by document.

    Parameters
    ----------
    sums, counts : array_like of float, shape (n,)
        Of each document, what was added up, and over how many tokens or questions.
    seed : int
        Of the draws.

    Returns
    -------
    low, high : float
        The whole range, minus to plus infinity, of a single document: it says nothing of others.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval; widened for
    small n as Hesterberg (2015), The American Statistician 69, 371-386, section 4.1: by √(n/(n−1)) and Student's t.
    """
    total, number = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    if len(total) < 2:
        return -math.inf, math.inf
    drawn = _draws(len(total), seed)
    ratios = (drawn @ total) / (drawn @ number)
    low, high = np.quantile(ratios, [0.025, 0.975])
    n = len(total)
    return _widened(float(total.sum() / number.sum()), float(low), float(high), n, n - 1)


def paired_difference(tasks: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], seed: int = 0) -> tuple[float, Interval]:
    """Mean over tasks of the difference of two ratios, second minus first, and its 95 % bootstrap interval.

    The documents or questions of each task are drawn again by themselves, both sides together.

    Parameters
    ----------
    tasks : sequence of (array_like, array_like), each of shape (n, 2)
        Of each task, sum and count of each document, of the first and of the second; the same document in the same
        row.
    seed : int
        Of the draws.

    Returns
    -------
    difference : float
    interval : (float, float)
        The whole range, minus to plus infinity, where a task has only one document, or where in each task all differ
        equally: then nothing tells by how much others would.
    """
    value, drawn = 0.0, np.zeros(RESAMPLES)
    for i, (first, second) in enumerate(tasks):
        both = np.hstack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
        n = len(both)
        # Right and wrong answers make four different rows, however many the questions are.
        alike, times = np.unique(both, axis=0, return_counts=True)
        weights = np.random.default_rng([seed, n, i]).multinomial(n, times / n, size=RESAMPLES)
        value += float(_difference(times @ alike))
        drawn += _difference(weights @ alike) if n > 1 else np.nan
    low, high = np.quantile(drawn / len(tasks), [0.025, 0.975])
    mean = value / len(tasks)
    if math.isnan(low) or high - low < ROUNDING:
        return mean, (-math.inf, math.inf)
    sizes = [len(np.asarray(first)) for first, _ in tasks]
    return mean, _widened(mean, float(low), float(high), min(sizes), sum(sizes) - len(sizes))


def _widened(middle: float, low: float, high: float, n: int, freedom: int) -> Interval:
    """Widen a percentile interval of few documents, which is too narrow."""
    from scipy.special import stdtrit

    by = math.sqrt(n / (n - 1)) * float(stdtrit(freedom, 0.975)) / Z95
    return middle - by * (middle - low), middle + by * (high - middle)


def _difference(sums: Floats) -> Floats:
    result: Floats = sums[..., 2] / sums[..., 3] - sums[..., 0] / sums[..., 1]
    return result


def _draws(n: int, seed: int) -> Floats:
    """How often each of `n` documents is drawn, in each of `RESAMPLES` draws."""
    random = np.random.default_rng([seed, n])
    return random.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
