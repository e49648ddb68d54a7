"""Positions of the maxima and minima of a sampled curve, by the rules of `ropesearch.extrema`."""

import numpy as np

from ropesearch.core.arrays import Counts, Flags, Floats, Positions, Words

from ._jit import inner, kernel
from .waveform import BLOCK, STRIP, Workspace, fill, prepare


@inner
def steps(values: Floats, following: Floats) -> tuple[np.uint64, np.uint64]:
    """Bit k of the first word: values[k] is less than following[k]; of the second: greater. 64 of each."""
    up = np.uint64(0)
    down = np.uint64(0)
    for k in range(64):
        up |= np.uint64(values[k] < following[k]) << np.uint64(k)
        down |= np.uint64(values[k] > following[k]) << np.uint64(k)
    return up, down


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
            up, down = steps(values[begin : begin + 64], values[begin + 1 : begin + 65])
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


@inner
def dominant(
    values: Floats,
    size: int,
    bounds: Floats,
    valleys: bool,
    count: int,
    gap: int,
    separation: int,
    look_ahead: int,
    level_tolerance: float,
    kept: Positions,
    likely: Positions,
    seen: Flags,
) -> int:
    """Write the dominant peaks (valleys) of the first `size` values into `kept`, in order of choice; return how many.

    Valleys, looked for from right to left, are the peaks of the curve turned by half a turn: t counts points from
    where the search starts, and every value is taken with its sign. `bounds` are those of the blocks, above for peaks
    and below for valleys: most blocks need no look at their values. `seen` tells which were looked at; `likely` is
    room for the block, from each on, with the highest bound.
    """
    sign, step, origin = (-1.0, -1, size - 1) if valleys else (1.0, 1, 0)
    n_blocks = (size + BLOCK - 1) // BLOCK
    for s in range(n_blocks):
        block = s if valleys else n_blocks - 1 - s
        likely[block] = block
        if s > 0 and sign * bounds[likely[block + step]] > sign * bounds[block]:
            likely[block] = likely[block + step]

    n = 0
    t = 0
    level = -np.inf
    highest_at = -1
    start = 1  # the level is the highest value from here to `stop`; the first one is the highest strict maximum
    stop = size - 1
    while start < stop:
        if not valleys or start > highest_at:
            strict = level == -np.inf
            level = -np.inf
            first = (origin + step * start) // BLOCK
            n_visits = abs((origin + step * (stop - 1)) // BLOCK - first) + 1
            for visit in range(-1 if n_visits > 1 else 0, n_visits):
                block = likely[first + step] if visit < 0 else first + step * visit  # of the first, a part may be left
                if visit >= 0 and sign * bounds[likely[block]] <= level:
                    break
                seen[block] = True
                left = min(max(block * BLOCK, size - stop if valleys else start), size)
                right = max(min((block + 1) * BLOCK, size - start if valleys else stop), left)
                if strict:  # an extremum at an edge needs the neighbour there
                    seen[max(block - 1, 0)] = True
                    seen[min(block + 1, n_blocks - 1)] = True
                for j in range(left, right):
                    here = sign * values[j]
                    if here > level and not (strict and (here <= sign * values[j - 1] or here <= sign * values[j + 1])):
                        level = here
                        highest_at = -1 if strict else step * (j - origin)

        # On to the next strict maximum at level.
        t += 1
        at_level = False
        while t < size - 1:
            j = origin + step * t
            block = j // BLOCK
            if sign * bounds[block] < level - level_tolerance:
                t = origin + 1 - block * BLOCK if valleys else (block + 1) * BLOCK
                continue
            seen[block] = True
            here = sign * values[j]
            at_level = abs(here - level) <= level_tolerance
            if at_level:
                seen[(j - 1) // BLOCK] = True
                seen[(j + 1) // BLOCK] = True
            if at_level and here > sign * values[j - 1] and here > sign * values[j + 1]:
                break
            at_level = False
            t += 1
        if not at_level:
            break
        if n == 0 or abs(j - kept[n - 1]) > separation:
            kept[n] = j
            n += 1
            if n == count:
                break

        # The next level, from the next strict maximum or from t + gap on, whichever comes first (for valleys: last).
        after = t + 2
        while after < size - 1:
            j = origin + step * after
            seen[j // BLOCK] = True
            seen[(j + step) // BLOCK] = True
            if sign * values[j] > sign * values[j - 1] and sign * values[j] > sign * values[j + 1]:
                break
            after += 1
        if valleys:
            start = max(t + gap, after) + 1 if after < size - 1 else size
            stop = size
        else:
            start = min(t + gap, after) if after < size - 1 else t + gap
            stop = min(start + look_ahead, size)
    return n


@kernel
def dominant_of_curve(
    values: Floats,
    bounds: Floats,
    valleys: bool,
    count: int,
    gap: int,
    separation: int,
    look_ahead: int,
    level_tolerance: float,
    kept: Positions,
    likely: Positions,
    seen: Flags,
) -> int:
    """`dominant` for all values of one curve."""
    size = values.size
    return dominant(
        values, size, bounds, valleys, count, gap, separation, look_ahead, level_tolerance, kept, likely, seen
    )


@kernel
def dominant_of_waveforms(
    frequencies: Floats,
    scale: float,
    first: int,
    size: int,
    room: Workspace,
    count: int,
    gap: int,
    valley_gap: int,
    look_ahead: int,
    level_tolerance: float,
    kept: Positions,
    found: Counts,
    likely: Positions,
    seen: Flags,
) -> None:
    """For every row of frequencies the dominant peaks, kept[c, 0, :found[c, 0]], and valleys, kept[c, 1, …].

    A run of waveforms in one call: to take the interpreter's lock between steps so short would cost as much as they do.
    """
    for c in range(frequencies.shape[0]):
        n_fast = prepare(frequencies[c], scale, first, room)
        fill(0, room.values.size // STRIP, frequencies.shape[1], n_fast, size, room)
        for kind in range(2):
            valleys = kind == 1
            bounds = room.lowest if valleys else room.highest
            separation = valley_gap if valleys else gap
            found[c, kind] = dominant(
                room.values,
                size,
                bounds,
                valleys,
                count,
                gap,
                separation,
                look_ahead,
                level_tolerance,
                kept[c, kind],
                likely,
                seen,
            )


@kernel
def strict_extrema_of_waveforms(
    frequencies: Floats,
    scale: float,
    first: int,
    size: int,
    room: Workspace,
    maxima: Words,
    minima: Words,
    level: Flags,
) -> None:
    """For every row of frequencies the rows of `strict_extrema`, and whether two neighbours are equal anywhere."""
    for c in range(frequencies.shape[0]):
        n_fast = prepare(frequencies[c], scale, first, room)
        fill(0, room.values.size // STRIP, frequencies.shape[1], n_fast, size, room)
        level[c] = strict_extrema(room.values, size, maxima[c], minima[c])
