"""The product of small matrices in which a waveform's time goes, in plain numba, and the choice of the faster one.

numba keeps the sums of a product in memory. In `_instructions` they stay in registers until the values are done, which
makes the default search 1.3 to 1.4 times as fast (`benchmarks/kernels.py`).
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import overload as _overload

from ropesearch.core.arrays import Floats

# numba types these in part.
njit: Any = numba.njit
overload: Callable[..., Callable[[Callable[..., Any]], Any]] = _overload

ROWS = 4  # blocks at a time
HALF = 128  # numbers in half a block


def unfolded_product(
    left: Floats,
    row: int,
    right: Floats,
    begin: int,
    end: int,
    values: Floats,
    block: int,
    lowest: Floats,
    highest: Floats,
) -> None:
    """Compute ROWS blocks of values, the first of them block number `block`, and the bounds of each.

    With E, O = Σ_i left[p, i, row + r]·right[p, i, k] for p = 0, 1, over begin ≤ i < end, block r has E + O, mirrored,
    in its left half and E − O in its right half.
    """
    sums = np.empty((2, ROWS, HALF))
    for p in range(2):
        for r in range(0, ROWS, 2):
            # Two rows and four terms at a time: each number that is read or written serves several operations.
            s, t = sums[p, r], sums[p, r + 1]
            for k in range(HALF):
                s[k] = 0.0
                t[k] = 0.0
            i = begin
            while i + 4 <= end:
                b0, b1, b2, b3 = right[p, i], right[p, i + 1], right[p, i + 2], right[p, i + 3]
                x, y = row + r, row + r + 1
                x0, x1, x2, x3 = left[p, i, x], left[p, i + 1, x], left[p, i + 2, x], left[p, i + 3, x]
                y0, y1, y2, y3 = left[p, i, y], left[p, i + 1, y], left[p, i + 2, y], left[p, i + 3, y]
                for k in range(HALF):
                    s[k] += x0 * b0[k] + x1 * b1[k] + x2 * b2[k] + x3 * b3[k]
                    t[k] += y0 * b0[k] + y1 * b1[k] + y2 * b2[k] + y3 * b3[k]
                i += 4
            while i < end:
                b0, x0, y0 = right[p, i], left[p, i, row + r], left[p, i, row + r + 1]
                for k in range(HALF):
                    s[k] += x0 * b0[k]
                    t[k] += y0 * b0[k]
                i += 1
    for r in range(ROWS):
        even, odd = sums[0, r], sums[1, r]
        middle = (2 * (block + r) + 1) * HALF
        before, after = values[middle - HALF : middle], values[middle : middle + HALF]
        least, most = np.inf, -np.inf
        for k in range(HALF):
            before[HALF - 1 - k] = even[k] + odd[k]
            after[k] = even[k] - odd[k]
            least = min(least, even[k] - abs(odd[k]))
            most = max(most, even[k] + abs(odd[k]))
        lowest[block + r] = least
        highest[block + r] = most


@overload(unfolded_product, jit_options={"error_model": "numpy", "fastmath": {"contract"}})
@functools.wraps(unfolded_product)
def _implementation(*kinds: Any) -> Callable[..., None]:
    """What to compile where `unfolded_product` is called with arguments of these types."""
    return by_hand(*kinds) or unfolded_product


@functools.cache
def by_hand(*kinds: Any) -> Callable[..., None] | None:
    """`unfolded_product` in instructions, for arguments of these types; None where numba does not take them."""
    try:
        from ._instructions import unfolded_product as written

        njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(written).compile(kinds)
    except Exception as error:  # whatever a numba or llvmlite whose insides have changed may raise
        logging.getLogger("ropesearch.kernels").debug("products run in plain numba: %r", error)
        return None
    return written
