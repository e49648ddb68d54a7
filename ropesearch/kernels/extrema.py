"""Positions of the maxima and minima of a sampled curve, by the rules of `ropesearch.extrema`."""

import numpy as np
import numpy.typing as npt

from ._jit import kernel

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int32]


@kernel
def strict_extrema(values: Floats) -> tuple[Positions, Positions]:
    """Points higher (lower) than both neighbours: neither plateaus nor end points."""
    room = values.size // 2 + 1
    maxima = np.empty(room, np.int32)
    minima = np.empty(room, np.int32)
    n_maxima = 0
    n_minima = 0
    before = values[:-2]
    here = values[1:-1]
    after = values[2:]
    for j in range(values.size - 2):
        # Written always and counted only if true: a quarter of all points are extrema, no branch predicts them.
        maxima[n_maxima] = j + 1
        minima[n_minima] = j + 1
        n_maxima += (here[j] > before[j]) & (here[j] > after[j])
        n_minima += (here[j] < before[j]) & (here[j] < after[j])
    return maxima[:n_maxima], minima[:n_minima]


@kernel
def local_extrema(values: Floats) -> tuple[Positions, Positions]:
    """Runs of equal values above (below) what stands on both sides of them, each at its middle, rounded down."""
    room = values.size // 2 + 1
    maxima = np.empty(room, np.int32)
    minima = np.empty(room, np.int32)
    n_maxima = 0
    n_minima = 0
    run = 0  # where the present run of equal values starts
    was_rising = False
    for j in range(1, values.size):
        if values[j] == values[j - 1]:
            continue
        rising = values[j] > values[j - 1]
        if run > 0 and was_rising and not rising:
            maxima[n_maxima] = (run + j - 1) // 2
            n_maxima += 1
        if run > 0 and rising and not was_rising:
            minima[n_minima] = (run + j - 1) // 2
            n_minima += 1
        was_rising = rising
        run = j
    return maxima[:n_maxima].copy(), minima[:n_minima].copy()  # a view would keep all the room in memory


@kernel
def dominant_peaks(
    values: Floats, maxima: Positions, count: int, gap: int, look_ahead: int, level_tolerance: float
) -> Positions:
    """Maxima at a level that follows the curve from left to right, `gap` apart, at most `count`."""
    kept = np.empty(min(count, maxima.size), np.int32)
    n = 0
    if maxima.size == 0:
        return kept
    level = values[maxima[0]]
    for m in maxima:
        level = max(level, values[m])
    for j in range(maxima.size):
        m = int(maxima[j])
        if abs(values[m] - level) > level_tolerance:
            continue
        if n == 0 or m - kept[n - 1] > gap:
            kept[n] = m
            n += 1
            if n == kept.size:
                break
        ahead = m + gap
        if j + 1 < maxima.size:
            ahead = min(ahead, maxima[j + 1])
        if ahead >= values.size:
            break
        level = values[ahead]
        for k in range(ahead + 1, min(ahead + look_ahead, values.size)):
            level = max(level, values[k])
    return kept[:n]


@kernel
def dominant_valleys(
    values: Floats, minima: Positions, count: int, gap: int, valley_gap: int, level_tolerance: float
) -> Positions:
    """Minima at a level that follows the curve from right to left, `valley_gap` apart, at most `count`."""
    kept = np.empty(min(count, minima.size), np.int32)
    n = 0
    if minima.size == 0:
        return kept
    lowest = np.empty(values.size)  # lowest[e]: the smallest of values[:e + 1]
    lowest[0] = values[0]
    for e in range(1, values.size):
        lowest[e] = min(lowest[e - 1], values[e])
    level = values[minima[0]]
    for m in minima:
        level = min(level, values[m])
    for j in range(minima.size - 1, -1, -1):
        m = int(minima[j])
        if abs(values[m] - level) > level_tolerance:
            continue
        if n == 0 or kept[n - 1] - m > valley_gap:
            kept[n] = m
            n += 1
            if n == kept.size:
                break
        if j == 0:
            break
        end = min(m - gap, minima[j - 1])
        if end <= 0:
            break
        level = lowest[end - 1]
    return kept[:n]
