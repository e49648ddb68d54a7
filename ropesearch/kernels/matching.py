"""Pools of peaks and valleys, and the search for the candidate that meets them best.

Positions count from the first distance of the window. A pool has two rows, PEAK and VALLEY, of what is known at
every position. The extrema of all candidates lie end to end in one flat array: the peaks of candidate c are
flat[bounds[c, 0]:bounds[c, 1]], its valleys flat[bounds[c, 1]:bounds[c, 2]].
"""

import numpy as np
import numpy.typing as npt

from ._jit import kernel

Positions = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

PEAK = 0
VALLEY = 1


@kernel
def _spread(pairs: Counts, squares: Counts, x: int, copies: int, tolerance: int) -> None:
    """Let `copies` of position x count at every position at most `tolerance` away."""
    for y in range(max(x - tolerance, 0), min(x + tolerance + 1, pairs.size)):
        pairs[y] += copies
        squares[y] += copies * (x - y) * (x - y)


@kernel
def pool_add(copies: Counts, pairs: Counts, squares: Counts, positions: Positions, tolerance: int) -> None:
    """Put positions into one row of a pool, a list: one that stands there already stands there once more."""
    for x in positions:
        copies[x] += 1
        _spread(pairs, squares, int(x), 1, tolerance)


@kernel
def pool_cancel(copies: Counts, pairs: Counts, squares: Counts, positions: Positions, tolerance: int) -> None:
    """Take those of `positions` that stand in both rows of a pool out of both, with all copies."""
    for x in positions:
        if copies[PEAK, x] > 0 and copies[VALLEY, x] > 0:
            for row in range(2):
                _spread(pairs[row], squares[row], int(x), -copies[row, x], tolerance)
                copies[row, x] = 0


@kernel
def best_coincidence(pairs: Counts, squares: Counts, flat: Positions, bounds: Counts, chosen: Flags) -> int:
    """Candidate with most pairs; among equals the least sum of squares, then the first. -1 if all are chosen."""
    best = -1
    most = np.int64(0)
    least = np.int64(0)
    for c in range(chosen.size):
        if chosen[c]:
            continue
        n = np.int64(0)
        distance = np.int64(0)
        for x in flat[bounds[c, 0] : bounds[c, 1]]:
            n += pairs[VALLEY, x]
            distance += squares[VALLEY, x]
        for x in flat[bounds[c, 1] : bounds[c, 2]]:
            n += pairs[PEAK, x]
            distance += squares[PEAK, x]
        if best < 0 or n > most or (n == most and distance < least):
            best = c
            most = n
            least = distance
    return best


@kernel
def nearest_add(nearest: Counts, positions: Positions) -> None:
    """Keep, at every position, the distance to the nearest member of a row that grows by `positions`."""
    for x in positions:
        nearest[x] = 0
    for y in range(1, nearest.size):
        nearest[y] = min(nearest[y], nearest[y - 1] + 1)
    for y in range(nearest.size - 2, -1, -1):
        nearest[y] = min(nearest[y], nearest[y + 1] + 1)


@kernel
def best_distance(nearest: Counts, flat: Positions, bounds: Counts, normalize: bool, chosen: Flags) -> int:
    """Candidate with the least sum of nearest distances, then the first. -1 if all are chosen."""
    best = -1
    least = 0.0
    for c in range(chosen.size):
        if chosen[c]:
            continue
        from_peaks = np.int64(0)
        for x in flat[bounds[c, 0] : bounds[c, 1]]:
            from_peaks += nearest[VALLEY, x]
        from_valleys = np.int64(0)
        for x in flat[bounds[c, 1] : bounds[c, 2]]:
            from_valleys += nearest[PEAK, x]
        score = float(from_peaks + from_valleys)  # exact: far below 2^53
        if normalize:
            score = from_peaks / max(bounds[c, 1] - bounds[c, 0], 1)
            score += from_valleys / max(bounds[c, 2] - bounds[c, 1], 1)
        if best < 0 or score < least:
            best = c
            least = score
    return best
