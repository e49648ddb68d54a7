"""Sums of cosines over a run of distances, by angle addition and a matrix product.

A block of 2·HALF distances is centred on s; its points lie at s ± (k + ½), k = 0 … HALF − 1. With

    E[k] = Σ_i cos(s·θ_i)·cos((k+½)·θ_i)    (even in k + ½)
    O[k] = Σ_i sin(s·θ_i)·sin((k+½)·θ_i)    (odd)

the two halves of the block are Σ_i cos((s ± (k+½))·θ_i) = E[k] ∓ O[k]. This is exact, with half the multiplications
of a plain product. E and O of ROWS blocks, a *strip*, are one product of small matrices.

The slow frequencies, those that turn by at most SMOOTH rad over half a block, sum to functions so smooth that their
values at NODES Chebyshev nodes determine them. They are summed at the nodes only, and the nodes enter the product like
NODES more frequencies, with Lagrange polynomials in place of cosines. The error is below 1e-11.
"""

import math
from typing import NamedTuple

import numpy as np

from ropesearch.core.arrays import Floats

from ._jit import inner, kernel
from ._product import HALF, ROWS, unfolded_product

BLOCK = 2 * HALF
STRIP = ROWS * BLOCK
SPAN = 64  # blocks whose phases are computed at a time: enough for loops that numba can vectorise
SMOOTH = 3.0
NODES = 8
GAP = 8


class Workspace(NamedTuple):
    """Tables for the frequencies of one waveform, and memory to compute it in.

    Index 0 of the first axis is for E and cosines, 1 for O and sines. The first NODES places belong to the nodes; the
    frequencies follow, the slow ones last.
    """

    # Rows whose length is a power of two would compete for a few sets of the cache: the last GAP columns of two tables
    # are padding against that.
    near: Floats  # (2, NODES + n, HALF + GAP): cos, sin of (k + ½)·θ; Lagrange's polynomials at k + ½
    nodes: Floats  # (2, n, NODES): cos, sin of node·θ
    turns: Floats  # (2, n, SPAN): cos, sin of r·BLOCK·θ
    starts: Floats  # (2, n, spans): scale·cos, scale·sin of s·θ, s the centre of the first block of a span
    phases: Floats  # (2, NODES + n, SPAN + GAP): cos, sin of s·θ for the blocks of one span; sums of the slow at nodes
    values: Floats  # (strips·STRIP,): the waveform
    lowest: Floats  # (strips·ROWS,): its smallest value in each block
    highest: Floats  # (strips·ROWS,)


def workspace(n_frequencies: int, n_distances: int) -> Workspace:
    """Allocate a workspace for waveforms, all zeros except the polynomials."""
    n = n_frequencies
    strips = -(-n_distances // STRIP)
    room = Workspace(
        near=_aligned(2, NODES + n, HALF + GAP),
        nodes=_aligned(2, n, NODES),
        turns=_aligned(2, n, SPAN),
        starts=_aligned(2, n, -(-strips * ROWS // SPAN)),
        phases=_aligned(2, NODES + n, SPAN + GAP),
        values=_aligned(strips * STRIP),
        lowest=np.empty(strips * ROWS),
        highest=np.empty(strips * ROWS),
    )
    room.near[:, :NODES, :HALF] = _POLYNOMIALS
    return room


def workspace_size(n_frequencies: int, n_distances: int) -> int:
    """Return the size of a workspace in bytes."""
    strips = -(-n_distances // STRIP)
    spans = -(-strips * ROWS // SPAN)
    tables = 2 * (NODES + n_frequencies) * (HALF + NODES + 2 * SPAN + spans + 2 * GAP)
    return 8 * (tables + strips * (STRIP + 2 * ROWS))


def _aligned(*shape: int) -> Floats:
    """Return an array aligned to a cache line, so that vectors never straddle two lines."""
    size = math.prod(shape)
    room = np.zeros(size + 8)
    start = -room.ctypes.data // 8 % 8
    return room[start : start + size].reshape(shape)


def _lagrange() -> tuple[Floats, Floats]:
    """Return the positive half of 2·NODES Chebyshev nodes, and the even and odd polynomials that are 1 at one node."""
    nodes = np.cos(np.pi / 2 * (np.arange(NODES) + 0.5) / NODES)
    points = (np.arange(HALF) + 0.5) / HALF
    polynomials = []
    for odd in (0, 1):
        degrees = (2 * np.arange(NODES) + odd)[:, None]
        chebyshev = np.cos(degrees * np.arccos(nodes)), np.cos(degrees * np.arccos(points))
        polynomials.append(np.linalg.solve(*chebyshev))
    return HALF * nodes, np.array(polynomials)


_NODES, _POLYNOMIALS = _lagrange()


@inner
def prepare(theta: Floats, scale: float, first: int, room: Workspace) -> int:
    """Set the tables for scale·Σ_i cos(m·θ_i), m = first, first + 1, …, with frequencies in descending order.

    Return how many frequencies are summed one by one.
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
            turn_re = math.cos(angle)
            turn_im = math.sin(angle)
            re = math.cos(0.5 * angle)
            im = math.sin(0.5 * angle)
            for k in range(HALF):
                near[0, NODES + i, k] = re
                near[1, NODES + i, k] = im
                re, im = re * turn_re - im * turn_im, re * turn_im + im * turn_re
        else:
            for j in range(NODES):
                nodes[0, i, j] = math.cos(_NODES[j] * angle)
                nodes[1, i, j] = math.sin(_NODES[j] * angle)
        turn_re = math.cos(BLOCK * angle)
        turn_im = math.sin(BLOCK * angle)
        re = 1.0
        im = 0.0
        for r in range(SPAN):
            turns[0, i, r] = re
            turns[1, i, r] = im
            re, im = re * turn_re - im * turn_im, re * turn_im + im * turn_re
        turn_re = re
        turn_im = im
        re = scale * math.cos((first + HALF - 0.5) * angle)
        im = scale * math.sin((first + HALF - 0.5) * angle)
        for span in range(starts.shape[2]):
            starts[0, i, span] = re
            starts[1, i, span] = im
            re, im = re * turn_re - im * turn_im, re * turn_im + im * turn_re
    return n_fast


@inner
def turn(span: int, n: int, n_fast: int, room: Workspace) -> None:
    """Set the phases of the blocks of a span, and the sums of the slow frequencies at the nodes of each."""
    nodes, phases = room.nodes, room.phases
    blocks = room.turns.shape[2]  # SPAN; as a constant it would only be compiled for longer
    for i in range(n):
        re = room.starts[0, i, span]
        im = room.starts[1, i, span]
        cosines, sines = room.turns[0, i], room.turns[1, i]
        out_re, out_im = phases[0, NODES + i], phases[1, NODES + i]
        for r in range(blocks):
            out_re[r] = re * cosines[r] - im * sines[r]
            out_im[r] = re * sines[r] + im * cosines[r]
    for p in range(2):
        phases[p, :NODES] = 0.0
        for i in range(n_fast, n):
            slow = phases[p, NODES + i]
            for j in range(nodes.shape[2]):
                factor = nodes[p, i, j]
                at_node = phases[p, j]
                for r in range(blocks):
                    at_node[r] += factor * slow[r]


@inner
def fill(begin: int, end: int, n: int, n_fast: int, size: int, room: Workspace) -> None:
    """Compute strips `begin` to `end` − 1 of the waveform of n frequencies. Strips are independent.

    The bounds of the last block cover only its part within the first `size` values.
    """
    skipped = 0 if n_fast < n else NODES
    for strip in range(begin, end):
        block = strip * ROWS
        if strip == begin or block % SPAN == 0:
            turn(block // SPAN, n, n_fast, room)
        unfolded_product(
            room.phases,
            block % SPAN,
            room.near,
            skipped,
            NODES + n_fast,
            room.values,
            block,
            room.lowest,
            room.highest,
        )
    last = (size - 1) // BLOCK
    if begin * ROWS <= last < end * ROWS:
        room.lowest[last] = math.inf
        room.highest[last] = -math.inf
        for j in range(last * BLOCK, size):
            room.lowest[last] = min(room.lowest[last], room.values[j])
            room.highest[last] = max(room.highest[last], room.values[j])


@kernel
def waveform(theta: Floats, scale: float, first: int, size: int, begin: int, end: int, room: Workspace) -> None:
    """Compute strips `begin` to `end` − 1 of scale·Σ_i cos(m·θ_i), m = first … first + size − 1; the θ_i descend."""
    n_fast = prepare(theta, scale, first, room)
    fill(begin, end, theta.size, n_fast, size, room)


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
