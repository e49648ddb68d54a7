"""Sums of cosines over a run of distances, by angle addition and a matrix product.

A block of 2·HALF distances is centred on s; its points lie at s ± (k + ½), k = 0 … HALF − 1. With

    E[k] = Σ_i cos(s·θ_i)·cos((k+½)·θ_i)    (even in k + ½)
    O[k] = Σ_i sin(s·θ_i)·sin((k+½)·θ_i)    (odd)

the two halves of the block are Σ_i cos((s ± (k+½))·θ_i) = E[k] ∓ O[k]: half the multiplications of a plain
product, and exact. E and O of ROWS blocks, a *strip*, are one product of small matrices.

The slow frequencies, those that turn by at most SMOOTH rad over half a block, sum to functions so smooth that their
values at NODES Chebyshev nodes determine them: they are summed at the nodes, and the nodes enter the product
like so many more frequencies, with Lagrange's polynomials for cosines. That costs less than 1e-11.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ._jit import kernel
from ._vector import LANES, ROWS, multiply, multiply_and_unfold

Floats = npt.NDArray[np.float64]

HALF = 128
BLOCK = 2 * HALF
STRIP = ROWS * BLOCK
SPAN = 16  # blocks whose phases are one rotation away from a phase that is kept
SMOOTH = 3.0
NODES = LANES


class Workspace(NamedTuple):
    """Tables for the frequencies of one waveform, and room to compute it in.

    Index 0 of the first axis is for E and cosines, 1 for O and sines. Rows and columns that belong to frequencies
    follow NODES that belong to the nodes. The slow frequencies come last.
    """

    near: Floats  # (2, NODES + n, HALF): cos, sin of (k + ½)·θ; Lagrange's polynomials at k + ½
    nodes: Floats  # (2, NODES + n, NODES): cos, sin of node·θ
    turns: Floats  # (2, SPAN, n): cos, sin of r·BLOCK·θ
    starts: Floats  # (2, spans, n): scale·cos, scale·sin of s·θ, s the centre of the first block of a span
    phases: Floats  # (2, ROWS, NODES + n): cos, sin of s·θ for the blocks of one strip
    bounds: Floats  # (2, ROWS, LANES): the least and the greatest values of those blocks, by lane
    values: Floats  # (strips·STRIP,): the waveform
    lowest: Floats  # (strips·ROWS,): its least value in each block
    highest: Floats  # (strips·ROWS,)


def workspace(n_frequencies: int, n_distances: int) -> Workspace:
    """Room for waveforms of so many frequencies over so many distances; its contents are not set yet."""
    strips = -(-n_distances // STRIP)
    n = NODES + n_frequencies
    room = Workspace(
        near=_aligned(2, n, HALF),
        nodes=_aligned(2, n, NODES),
        turns=_aligned(2, SPAN, n_frequencies),
        starts=_aligned(2, -(-strips * ROWS // SPAN), n_frequencies),
        phases=_aligned(2, ROWS, n),
        bounds=_aligned(2, ROWS, LANES),
        values=_aligned(strips * STRIP),
        lowest=np.empty(strips * ROWS),
        highest=np.empty(strips * ROWS),
    )
    room.near[:, :NODES] = _POLYNOMIALS
    return room


def workspace_size(n_frequencies: int, n_distances: int) -> int:
    """Bytes that a workspace takes."""
    strips = -(-n_distances // STRIP)
    n = NODES + n_frequencies
    numbers = 2 * n * (HALF + NODES + ROWS + SPAN + strips * ROWS // SPAN + 1) + strips * (STRIP + 2 * ROWS)
    return 8 * numbers


def _aligned(*shape: int) -> Floats:
    """Return an array that starts where a cache line does: vectors then never straddle two."""
    size = math.prod(shape)
    room = np.empty(size + 8)
    start = -room.ctypes.data // 8 % 8
    return room[start : start + size].reshape(shape)


def _lagrange() -> tuple[Floats, Floats]:
    """Positive halves of 2·NODES Chebyshev nodes, and the even and odd polynomials that are 1 at one of them."""
    nodes = np.cos(np.pi / 2 * (np.arange(NODES) + 0.5) / NODES)
    points = (np.arange(HALF) + 0.5) / HALF
    polynomials = []
    for odd in (0, 1):
        degrees = (2 * np.arange(NODES) + odd)[:, None]
        chebyshev = np.cos(degrees * np.arccos(nodes)), np.cos(degrees * np.arccos(points))
        polynomials.append(np.linalg.solve(*chebyshev))
    return HALF * nodes, np.array(polynomials)


_NODES, _POLYNOMIALS = _lagrange()


@kernel
def prepare(theta: Floats, scale: float, first: int, room: Workspace) -> int:
    """Set the tables for scale·Σ_i cos(m·θ_i), m = first, first + 1, …, the frequencies in descending order.

    Returns how many of them are summed one by one.
    """
    near, nodes, turns, starts = room.near, room.nodes, room.turns, room.starts
    n_fast = theta.size
    while n_fast > 0 and theta[n_fast - 1] * HALF <= SMOOTH:
        n_fast -= 1
    if theta.size - n_fast <= NODES:  # nothing to gain
        n_fast = theta.size
    for i in range(theta.size):
        angle = theta[i]
        if i < n_fast:
            # Powers of e^{iθ} by doubling: z[n:2n] = z[:n]·w, then w = w².
            cosines, sines = near[0, NODES + i], near[1, NODES + i]
            cosines[0] = math.cos(0.5 * angle)
            sines[0] = math.sin(0.5 * angle)
            turn_re = math.cos(angle)
            turn_im = math.sin(angle)
            done = 1
            while done < HALF:
                for k in range(done):
                    cosines[done + k] = cosines[k] * turn_re - sines[k] * turn_im
                    sines[done + k] = cosines[k] * turn_im + sines[k] * turn_re
                turn_re, turn_im = turn_re * turn_re - turn_im * turn_im, 2 * turn_re * turn_im
                done *= 2
        else:
            for j in range(NODES):
                nodes[0, NODES + i, j] = math.cos(_NODES[j] * angle)
                nodes[1, NODES + i, j] = math.sin(_NODES[j] * angle)
        turn_re = math.cos(BLOCK * angle)
        turn_im = math.sin(BLOCK * angle)
        re = 1.0
        im = 0.0
        for r in range(SPAN):
            turns[0, r, i] = re
            turns[1, r, i] = im
            re, im = re * turn_re - im * turn_im, re * turn_im + im * turn_re
        turn_re = re
        turn_im = im
        re = scale * math.cos((first + HALF - 0.5) * angle)
        im = scale * math.sin((first + HALF - 0.5) * angle)
        for span in range(starts.shape[1]):
            starts[0, span, i] = re
            starts[1, span, i] = im
            re, im = re * turn_re - im * turn_im, re * turn_im + im * turn_re
    return n_fast


@kernel
def fill(begin: int, end: int, n_fast: int, room: Workspace) -> None:
    """Compute strips `begin` to `end` − 1 of the waveform, and the bounds of each. No strip depends on another."""
    phases, bounds = room.phases, room.bounds
    n = room.turns.shape[2]
    skipped = NODES if n_fast == n else 0
    for strip in range(begin, end):
        for r in range(ROWS):
            block = strip * ROWS + r
            start_re, start_im = room.starts[0, block // SPAN], room.starts[1, block // SPAN]
            turn_re, turn_im = room.turns[0, block % SPAN], room.turns[1, block % SPAN]
            cosines, sines = phases[0, r], phases[1, r]
            for i in range(n):
                cosines[NODES + i] = start_re[i] * turn_re[i] - start_im[i] * turn_im[i]
            for i in range(n):
                sines[NODES + i] = start_re[i] * turn_im[i] + start_im[i] * turn_re[i]
        if n_fast < n:
            multiply(phases, room.nodes, NODES + n_fast, NODES + n, phases)
        for r in range(ROWS):
            for lane in range(LANES):
                bounds[0, r, lane] = math.inf
                bounds[1, r, lane] = -math.inf
        for column in range(0, HALF, LANES):
            multiply_and_unfold(phases, room.near, skipped, NODES + n_fast, column, room.values, strip * STRIP, bounds)
        for r in range(ROWS):
            least = bounds[0, r, 0]
            greatest = bounds[1, r, 0]
            for lane in range(1, LANES):
                least = min(least, bounds[0, r, lane])
                greatest = max(greatest, bounds[1, r, lane])
            room.lowest[strip * ROWS + r] = least
            room.highest[strip * ROWS + r] = greatest


@kernel
def decay_bound(theta: Floats, first: int, out: Floats) -> None:
    """Write (1/n)·Σ_j |Σ_{i≤j} e^{i·m·θ_i}| for m = first, …; the length of `out` is a multiple of BLOCK."""
    n = theta.size
    cosines = np.empty((n, BLOCK))
    sines = np.empty((n, BLOCK))
    for i in range(n):
        for k in range(BLOCK):
            cosines[i, k] = math.cos(k * theta[i])
            sines[i, k] = math.sin(k * theta[i])
    sum_re = np.empty(BLOCK)
    sum_im = np.empty(BLOCK)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        block[:] = 0.0
        sum_re[:] = 0.0
        sum_im[:] = 0.0
        for i in range(n):
            a = math.cos((first + start) * theta[i])
            b = math.sin((first + start) * theta[i])
            cos_i, sin_i = cosines[i], sines[i]
            for k in range(BLOCK):
                sum_re[k] += a * cos_i[k] - b * sin_i[k]
                sum_im[k] += a * sin_i[k] + b * cos_i[k]
                block[k] += math.sqrt(sum_re[k] * sum_re[k] + sum_im[k] * sum_im[k])
        for k in range(BLOCK):
            block[k] /= n
