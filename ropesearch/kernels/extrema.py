"""Positions of the maxima and minima of a sampled curve, by the rules of `ropesearch.extrema`."""

import numpy as np
import numpy.typing as npt

from ._jit import kernel
from ._vector import steps
from .waveform import BLOCK

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


@kernel
def strict_extrema(values: Floats, size: int, maxima: Words, minima: Words) -> bool:
    """Set the bits of the points, of the first `size`, that are higher (lower) than both neighbours.

    Bit j % 64 of word j // 64 stands for point j. Returns whether two neighbours are equal anywhere.
    """
    one = np.uint64(1)
    last = np.uint64(63)
    level = False
    rose = np.uint64(0)  # whether the curve rises (falls) to the first point of a word
    fell = np.uint64(0)
    for word in range((size + 63) // 64):
        begin = 64 * word
        if begin + 64 < size:
            up, down = steps(values, begin)
            level |= (up | down) != ~np.uint64(0)
        else:  # the curve ends here
            up = np.uint64(0)
            down = np.uint64(0)
            for j in range(begin, size - 1):
                bit = one << np.uint64(j - begin)
                if values[j] < values[j + 1]:
                    up |= bit
                elif values[j] > values[j + 1]:
                    down |= bit
                else:
                    level = True
        maxima[word] = down & (up << one | rose)
        minima[word] = up & (down << one | fell)
        rose = up >> last
        fell = down >> last
    return level


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
def dominant(
    values: Floats,
    size: int,
    lowest: Floats,
    highest: Floats,
    known: Flags,
    likely: Positions,
    valleys: bool,
    count: int,
    gap: int,
    separation: int,
    look_ahead: int,
    level_tolerance: float,
    kept: Positions,
) -> int:
    """Write the dominant peaks (valleys) of the first `size` values into `kept`, in order of choice; return how many.

    Valleys, looked for from right to left, are the peaks of the curve turned by half a turn: t counts points from
    where the search starts, and every value is taken with its sign.

    The values come in blocks of BLOCK. No value of a block is below `lowest` or above `highest`, so that most blocks
    need no look at their values. The values of a block that is not `known` are not there yet: when they are needed
    after all, the answer is −1 − block. `likely` is room for the block, from each on, with the highest bound.
    """
    sign, origin, step = (-1.0, size - 1, -1) if valleys else (1.0, 0, 1)
    bounds = lowest if valleys else highest
    n_blocks = (size + BLOCK - 1) // BLOCK
    first_block = origin // BLOCK

    for s in range(n_blocks - 1, -1, -1):
        block = first_block + step * s
        likely[block] = block
        if s < n_blocks - 1 and sign * bounds[likely[block + step]] > sign * bounds[block]:
            likely[block] = likely[block + step]

    # The level starts at the highest strict maximum.
    level = -np.inf
    for s in range(n_blocks):
        block = first_block + step * s
        if sign * bounds[block] <= level:
            continue
        for neighbour in range(max(block - 1, 0), min(block + 2, n_blocks)):
            if not known[neighbour]:
                return -1 - neighbour
        for j in range(max(block * BLOCK, 1), min((block + 1) * BLOCK, size - 1)):
            here = sign * values[j]
            if here > level and here > sign * values[j - 1] and here > sign * values[j + 1]:
                level = here

    n = 0
    last = 0
    highest_at = -1  # where the level comes from, while that is what the valleys' rule would take again
    for s in range(n_blocks):
        block = first_block + step * s
        if sign * bounds[block] < level - level_tolerance:
            continue
        for neighbour in range(max(block - 1, 0), min(block + 2, n_blocks)):
            if not known[neighbour]:
                return -1 - neighbour
        begin = max(block * BLOCK, 1)
        end = min((block + 1) * BLOCK, size - 1)
        for i in range(end - begin):
            j = end - 1 - i if valleys else begin + i
            here = sign * values[j]
            if not abs(here - level) <= level_tolerance:
                continue
            if here <= sign * values[j - 1] or here <= sign * values[j + 1]:
                continue
            t = step * (j - origin)
            if n == 0 or t - last > separation:
                kept[n] = j
                n += 1
                last = t
                if n == count:
                    return n

            # From the next strict maximum or from t + gap on, whichever comes first (for valleys: last).
            ahead = j + 2 * step
            while 0 < ahead < size - 1:
                beyond = (ahead + step) // BLOCK
                if not known[beyond]:
                    return -1 - beyond
                here = sign * values[ahead]
                if here > sign * values[ahead - step] and here > sign * values[ahead + step]:
                    break
                ahead += step
            found = 0 < ahead < size - 1
            after = step * (ahead - origin)
            if valleys:
                if not found:
                    return n
                start = max(t + gap, after) + 1
                stop = size
            else:
                start = min(t + gap, after) if found else t + gap
                stop = min(start + look_ahead, size)
            if start >= size:
                return n
            if valleys and start <= highest_at:
                continue

            # The highest value there, from the block where it is likely to be, then from all that may be higher.
            left, right = (size - stop, size - start) if valleys else (start, stop)
            level = -np.inf
            begin_block = (right - 1) // BLOCK if valleys else left // BLOCK
            for visit in range(-1, (right - 1) // BLOCK - left // BLOCK + 1):
                other = begin_block + step * visit if visit >= 0 else likely[begin_block]
                if visit >= 0 and sign * bounds[likely[other]] <= level:
                    break
                if sign * bounds[other] <= level or other * BLOCK >= right:
                    continue
                if not known[other]:
                    return -1 - other
                for k in range(max(other * BLOCK, left), min((other + 1) * BLOCK, right)):
                    if sign * values[k] > level:
                        level = sign * values[k]
                        highest_at = step * (k - origin)
    return n
