"""Pools of peaks and valleys, and the search for the candidate that matches them best.

Positions count from the first distance of the window. A pool has two rows, PEAK and VALLEY, with one
entry per position.

If candidates have few extrema, these lie end to end in one flat array: the peaks of candidate c are
flat[bounds[c, 0]:bounds[c, 1]], its valleys flat[bounds[c, 1]:bounds[c, 2]]. If they have many, these are rows of
bits: bit j % 64 of word j // 64 for position j. Sums of a pool's entries over set bits are then taken by planes: plane
b holds bit b of every entry, and the sum is Σ_b 2^b · (number of bits set in both row and plane).
"""

from typing import Any

import numpy as np

from ropesearch.core.arrays import Counts, Flags, Positions, Words

from ._jit import inner, kernel

PEAK = 0
VALLEY = 1
CHUNK = 64  # words


@kernel
def pool_add(copies: Counts, pairs: Counts, squares: Counts, row: int, positions: Positions, tolerance: int) -> None:
    """Add positions to one row of a pool, a multiset; a position that the other row holds leaves that row instead.

    So no position is ever in both rows. `pairs` and `squares` hold, for every position, how many members of the row are
    at most `tolerance` away, and the sum of their squared distances.
    """
    for j in range(positions.size):
        x = positions[j]
        met = copies[1 - row, x]
        side = 1 - row if met > 0 else row
        change = -met if met > 0 else 1
        copies[side, x] += change
        for y in range(max(x - tolerance, 0), min(x + tolerance + 1, pairs.shape[1])):
            pairs[side, y] += change
            squares[side, y] += change * (x - y) * (x - y)


@kernel
def best_coincidence(pairs: Counts, squares: Counts, flat: Positions, bounds: Counts, chosen: Flags) -> int:
    """Return the candidate with most pairs; ties go to the least sum of squares, then the first. -1: none left."""
    best = -1
    most = np.int64(0)
    least = np.int64(0)
    for c in range(chosen.size):
        if chosen[c]:
            continue
        n = np.int64(0)
        distance = np.int64(0)
        for j in range(bounds[c, 0], bounds[c, 2]):
            opposite = VALLEY if j < bounds[c, 1] else PEAK
            n += pairs[opposite, flat[j]]
            distance += squares[opposite, flat[j]]
        if best < 0 or n > most or (n == most and distance < least):
            best = c
            most = n
            least = distance
    return best


@kernel
def nearest_add(nearest: Counts, positions: Positions) -> None:
    """Add `positions` to a row that holds, at every position, the distance to its nearest member."""
    for x in positions:
        nearest[x] = 0
    for y in range(1, nearest.size):
        nearest[y] = min(nearest[y], nearest[y - 1] + 1)
    for y in range(nearest.size - 2, -1, -1):
        nearest[y] = min(nearest[y], nearest[y + 1] + 1)


@kernel
def best_distance(nearest: Counts, flat: Positions, bounds: Counts, normalize: bool, chosen: Flags) -> int:
    """Return the candidate with the least sum of nearest distances, or the first of several. -1 if all are chosen."""
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


@kernel
def bit_planes(numbers: Counts, planes: Words) -> None:
    """Write bit b of every number into plane b; the last plane holds the sign."""
    for word in range(planes.shape[1]):
        for b in range(planes.shape[0]):
            planes[b, word] = 0
        for k in range(64):
            if numbers[64 * word + k] != 0:
                for b in range(planes.shape[0]):
                    planes[b, word] |= np.uint64((numbers[64 * word + k] >> b) & 1) << np.uint64(k)


@inner
def count_bits(word: Any) -> Any:
    """Count the bits that are set. LLVM recognises this sequence and uses the machine's instruction for it."""
    word = word - (word >> np.uint64(1) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (word >> np.uint64(2) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.multiply(word, np.uint64(0x0101010101010101)) >> np.uint64(56)  # wraps around; `*` would warn


@inner
def common_bits(left: Words, right: Words) -> int:
    """Count the bits that are set in both, over CHUNK words."""
    n = np.uint64(0)
    for k in range(CHUNK):
        n += count_bits(left[k] & right[k])
    return int(n)


@kernel
def add_bits(rows: Words, planes: Words, weights: Counts, chunks: Counts, sums: Counts) -> None:
    """Add to sums[c] the sum of the numbers in `planes` over the set bits of rows[c], in the given chunks."""
    for c in range(rows.shape[0]):
        for i in range(chunks.size):
            words = slice(chunks[i] * CHUNK, (chunks[i] + 1) * CHUNK)
            for b in range(planes.shape[0]):
                sums[c] += weights[b] * common_bits(rows[c, words], planes[b, words])
