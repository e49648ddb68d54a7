"""The loops in vector instructions against what they stand for in numpy, and sums by planes against plain sums."""

import numba
import numpy as np
import pytest

from ropesearch.kernels import _vector
from ropesearch.kernels._vector import LANES, ROWS
from ropesearch.kernels.matching import CHUNK, PEAK, VALLEY, add_bits, bit_planes, pool_add

draw = np.random.default_rng(7)


# An intrinsic is called from compiled code alone.
@numba.njit
def multiply(left, right, begin, end, out):
    _vector._multiply_compiled(left, right, begin, end, out)


@numba.njit
def multiply_and_unfold(left, right, begin, end, half, values, block, lowest, highest):
    _vector._multiply_and_unfold_compiled(left, right, begin, end, half, values, block, lowest, highest)


@numba.njit
def rotate(starts, span, turns, turn, out, column):
    _vector._rotate_compiled(starts, span, turns, turn, out, column)


@numba.njit
def steps(values, j):
    return _vector._steps_compiled(values, j)


@numba.njit
def common_bits(left, right, at):
    return _vector._common_bits_compiled(left, right, at)


@pytest.mark.parametrize(("begin", "end"), [(0, 13), (3, 4), (5, 5), (2, 11)])
def test_multiply(begin, end):
    left, right = draw.normal(size=(2, ROWS, 13)), draw.normal(size=(2, 17, LANES))
    ours, theirs = np.full((2, 2, ROWS, LANES + 3), 7.0)
    multiply(left, right, begin, end, ours)
    _vector._multiply(left, right, begin, end, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("width", [64, 64 + LANES])  # the last columns are none of its business
@pytest.mark.parametrize(("begin", "end"), [(0, 13), (3, 4), (2, 11)])
def test_multiply_and_unfold(begin, end, width):
    left, right = draw.normal(size=(2, ROWS, 13)), draw.normal(size=(2, 17, width))
    ours, theirs = ([np.full(128 * (ROWS + 5), 7.0), *np.full((2, ROWS + 5), 7.0)] for _ in range(2))
    multiply_and_unfold(left, right, begin, end, 64, ours[0], 3, *ours[1:])
    _vector._multiply_and_unfold(left, right, begin, end, 64, theirs[0], 3, *theirs[1:])
    for mine, twin in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, twin, rtol=0, atol=1e-14)


def test_rotate():
    starts, turns = draw.normal(size=(2, 3, 2 * LANES)), draw.normal(size=(2, ROWS + 2, 2 * LANES))
    ours, theirs = np.full((2, 2, ROWS, 2 * LANES + 5), 7.0)
    rotate(starts, 2, turns, 1, ours, 5)
    _vector._rotate(starts, 2, turns, 1, theirs, 5)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)


def test_steps():
    values = draw.integers(0, 3, 100).astype(float)  # few levels: a third of all steps are none
    for j in (0, 1, 35):
        assert steps(values, j) == _vector._steps(values, j)


def test_common_bits():
    left, right = draw.integers(0, 2**64, (2, 70), dtype=np.uint64)
    for at in (0, 1, 6):
        together = sum(int(a & b).bit_count() for a, b in zip(left[at : at + 64], right[at : at + 64], strict=True))
        assert common_bits(left, right, at) == together == _vector._common_bits(left, right, at)


@pytest.mark.parametrize(("least", "most"), [(-5, 9), (0, 1), (-1, 0), (-(2**40), 2**40)])
def test_sums_by_planes(least, most):
    numbers = draw.integers(least, most + 1, 3 * 64 * CHUNK)
    numbers[64 * CHUNK : 2 * 64 * CHUNK] = 0
    rows = draw.integers(0, 2**64, (5, 3 * CHUNK), dtype=np.uint64)
    planes = np.empty((max(most, -1 - least).bit_length() + 1, 3 * CHUNK), np.uint64)
    bit_planes(numbers, planes)
    weights = 2 ** np.arange(len(planes))
    weights[-1] *= -1
    sums = np.arange(5)
    add_bits(rows, planes, weights, np.array([0, 2]), sums)
    bits = np.unpackbits(rows.astype("<u8").view(np.uint8), axis=1, bitorder="little")
    assert sums.tolist() == (np.arange(5) + bits.astype(np.int64) @ numbers).tolist()


def test_a_pool_is_a_list_without_those_in_both_rows():
    tolerance, size = 2, 60
    copies, pairs, squares = np.zeros((3, 2, size), np.int64)
    pools = {PEAK: [], VALLEY: []}
    for _ in range(40):
        row = int(draw.integers(2))
        positions = np.sort(draw.choice(size, 4, replace=False)).astype(np.int32)
        pool_add(copies, pairs, squares, row, positions, tolerance)
        pools[row] += positions.tolist()
        both = {*pools[PEAK]} & {*pools[VALLEY]}
        pools = {side: [x for x in pool if x not in both] for side, pool in pools.items()}
        for side, pool in pools.items():
            apart = np.subtract.outer(np.arange(size), np.array(pool, int))
            near = np.where(abs(apart) <= tolerance, 1, 0)
            assert copies[side].tolist() == np.bincount(pool, minlength=size).tolist()
            assert pairs[side].tolist() == near.sum(axis=1).tolist()
            assert squares[side].tolist() == (near * apart**2).sum(axis=1).tolist()
