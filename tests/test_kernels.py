"""The product of waveforms, by hand and plain, and sums by planes, against what they stand for in numpy."""

import os
import subprocess
import sys

import llvmlite
import numba
import numpy as np
import pytest

from ropesearch import search_bases, waveform
from ropesearch.kernels import _product, extrema, matching
from ropesearch.kernels._product import HALF, ROWS
from ropesearch.kernels.matching import CHUNK, PEAK, VALLEY, add_bits, bit_planes, pool_add

draw = np.random.default_rng(7)
if_by_hand = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT) or llvmlite.__version__.startswith("0.43"), reason="the plain product runs"
)


# What kernels alone call, compiled code alone can call.
@numba.njit
def chosen(left, row, right, begin, end, values, block, lowest, highest):
    _product.unfolded_product(left, row, right, begin, end, values, block, lowest, highest)


@numba.njit
def steps(values, following):
    return extrema.steps(values, following)


@numba.njit
def common_bits(left, right):
    return matching.common_bits(left, right)


def by_hand():
    from ropesearch.kernels import _instructions

    return numba.njit(_instructions.unfolded_product)


VERSIONS = [
    pytest.param(lambda: chosen, id="chosen"),
    pytest.param(lambda: numba.njit(_product.unfolded_product), id="plain"),
    pytest.param(by_hand, id="by hand", marks=if_by_hand),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("begin", "end"), [(0, 13), (3, 4), (5, 5), (2, 11)])
def test_unfolded_product(version, begin, end):
    row, block, n_blocks = 4, 3, ROWS + 5
    left, right = draw.normal(size=(2, 13, row + ROWS + 1)), draw.normal(size=(2, 17, HALF + 8))
    values, *bounds = np.full(n_blocks * 2 * HALF, 7.0), *np.full((2, n_blocks), 7.0)
    version()(left, row, right, begin, end, values, block, *bounds)
    terms = slice(begin, end)
    even, odd = left[:, terms, row : row + ROWS].transpose(0, 2, 1) @ right[:, terms, :HALF]
    blocks = np.full((n_blocks, 2 * HALF), 7.0)
    blocks[block : block + ROWS] = np.hstack([(even + odd)[:, ::-1], even - odd])
    np.testing.assert_allclose(values, blocks.ravel(), rtol=0, atol=1e-13)  # fused or not
    assert bounds[0].tolist() == values.reshape(n_blocks, -1).min(axis=1).tolist()
    assert bounds[1].tolist() == values.reshape(n_blocks, -1).max(axis=1).tolist()


@if_by_hand
def test_the_product_by_hand_is_the_one_that_runs():
    """Fails where numba or llvmlite has moved: the plain one takes over then, in silence."""
    floats = [numba.types.Array(numba.float64, n, "C") for n in (3, 1)]
    index = numba.int64
    assert _product.by_hand(floats[0], index, floats[0], index, index, floats[1], index, floats[1], floats[1])


FALLEN_BACK = """
import logging
from llvmlite import ir
from ropesearch import search_bases, waveform

logging.basicConfig(format="%(name)s: %(message)s")
logging.getLogger("ropesearch.kernels").setLevel("DEBUG")
del ir.IRBuilder.shuffle_vector
for value in waveform(1e6, 128, 5000):
    print(value.hex())
for base in search_bases(1e4, 3e4, 500, 6, max_distance=3000, count=10, tolerance=5).bases:
    print(base.hex())
"""


@pytest.mark.slow
@if_by_hand
def test_where_the_product_by_hand_is_refused_the_plain_one_takes_over(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", FALLEN_BACK],
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ropesearch.kernels: products run in plain numba: AttributeError" in done.stderr
    numbers = [float.fromhex(line) for line in done.stdout.split()]
    np.testing.assert_allclose(numbers[:5001], waveform(1e6, 128, 5000), rtol=0, atol=1e-11)
    here = search_bases(1e4, 3e4, 500, 6, max_distance=3000, count=10, tolerance=5)
    assert numbers[5001:] == list(here.bases)


def test_steps():
    values = draw.integers(0, 3, 100).astype(float)  # few levels: a third of all steps are none
    for j in (0, 1, 35):
        here, following = values[j : j + 64], values[j + 1 : j + 65]
        up, down = (int(word) for word in steps(here, following))
        assert [up >> k & 1 for k in range(64)] == (here < following).tolist()
        assert [down >> k & 1 for k in range(64)] == (here > following).tolist()


def test_common_bits():
    left, right = draw.integers(0, 2**64, (2, CHUNK + 6), dtype=np.uint64)
    for at in (0, 1, 6):
        mine, other = left[at : at + CHUNK], right[at : at + CHUNK]
        assert common_bits(mine, other) == sum(int(a & b).bit_count() for a, b in zip(mine, other, strict=True))
    ones = np.full(CHUNK, 2**64 - 1, np.uint64)
    assert common_bits(ones, ones) == 64 * CHUNK


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
