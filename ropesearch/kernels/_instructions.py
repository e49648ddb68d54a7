"""The product of `_product`, written in LLVM instructions, which LLVM compiles for the machine at hand.

It is a numba intrinsic, so only compiled code can call it. LLVM splits a vector over as many registers as necessary.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic as _intrinsic

from ropesearch.core.arrays import Floats

from ._product import HALF, ROWS

# numba types some of these in part.
cgutils: Any = _cgutils
config: Any = numba.config
intrinsic: Callable[[Callable[..., Any]], Any] = _intrinsic
types: Any = numba.types


def _has_avx512() -> bool:
    chosen = config.CPU_FEATURES  # from NUMBA_CPU_FEATURES
    return bool(get_host_cpu_features().get("avx512f")) if chosen is None else "+avx512f" in chosen


LANES = 8  # columns at a time
# Which sums are held at the same time, those of cosines, p = 0, and of sines. Both, in 32 registers: two units that
# multiply and add then never wait for a sum. One after the other where there are 16, or they would go to memory.
TOGETHER = [(0, 1)] if _has_avx512() else [(0,), (1,)]

INDEX, LANE, NUMBER = ir.IntType(64), ir.IntType(32), ir.DoubleType()
VECTOR = ir.VectorType(NUMBER, LANES)


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
    """Compute `_product.unfolded_product` for arrays in C order."""
    _call_product(left, row, right, begin, end, values, block, lowest, highest)


@intrinsic
def _call_product(
    _typing: Any,
    left: Any,
    row: Any,
    right: Any,
    begin: Any,
    end: Any,
    values: Any,
    block: Any,
    lowest: Any,
    highest: Any,
) -> Any:
    if any(array.layout != "C" for array in (left, right, values, lowest, highest)):
        return None
    index = types.int64
    return types.void(left, index, right, index, index, values, index, lowest, highest), _emit_product


def _emit_product(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit `unfolded_product`, with all sums and bounds of LANES columns in registers."""
    left, row, right, begin, end, values, block, lowest, highest = (
        context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    )
    least = [_allocate(builder, np.inf) for _ in range(ROWS)]
    most = [_allocate(builder, -np.inf) for _ in range(ROWS)]
    with cgutils.for_range_slice(builder, INDEX(0), INDEX(HALF), INDEX(LANES), intp=INDEX) as (column, _):
        even, odd = (
            sums for pairs in TOGETHER for sums in _emit_sums(builder, left, row, right, begin, end, column, pairs)
        )
        for r in range(ROWS):
            before, after = builder.fadd(even[r], odd[r]), builder.fsub(even[r], odd[r])
            for bounds, order in ((least, "<"), (most, ">")):
                bound = _select(builder, order, _select(builder, order, before, after), _load(builder, bounds[r]))
                builder.store(bound, bounds[r])
            middle = builder.mul(
                builder.add(builder.mul(INDEX(2), builder.add(block, INDEX(r))), INDEX(1)), INDEX(HALF)
            )
            _store(builder, after, _address(builder, values, builder.add(middle, column)))
            mirrored = _shuffle(builder, before, range(LANES - 1, -1, -1))
            _store(builder, mirrored, _address(builder, values, builder.sub(middle, builder.add(column, INDEX(LANES)))))
    for r in range(ROWS):
        for bounds, order, target in ((least, "<", lowest), (most, ">", highest)):
            bound = _load(builder, bounds[r])
            width = LANES // 2
            while width > 0:  # reduce all lanes to one, by halves
                bound = _select(builder, order, bound, _shuffle(builder, bound, range(width, width + LANES)))
                width //= 2
            place = _address(builder, target, builder.add(block, INDEX(r)))
            builder.store(builder.extract_element(bound, LANE(0)), place)
    return context.get_dummy_value()


def _emit_sums(
    builder: Any, left: Any, row: Any, right: Any, begin: Any, end: Any, column: Any, pairs: tuple[int, ...]
) -> list[list[Any]]:
    """Emit Σ_i left[p, i, row + r]·right[p, i, column : column + LANES], for each p of the pairs and for each r."""
    sums = [[_allocate(builder, 0.0) for _ in range(ROWS)] for _ in pairs]
    with cgutils.for_range(builder, end, start=begin, intp=INDEX) as loop:
        for p, totals in zip(pairs, sums, strict=True):
            term = _load(builder, _address(builder, right, INDEX(p), loop.index, column))
            for r, total in enumerate(totals):
                place = _address(builder, left, INDEX(p), loop.index, builder.add(row, INDEX(r)))
                factor = builder.load(place, typ=NUMBER)
                factor = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), factor, LANE(0))
                factor = _shuffle(builder, factor, [0] * LANES)
                # `contract` lets both become one fused instruction where the processor has it.
                product = builder.fmul(factor, term, flags=("contract",))
                builder.store(builder.fadd(_load(builder, total), product, flags=("contract",)), total)
    return [[_load(builder, total) for total in totals] for totals in sums]


def _address(builder: Any, array: Any, *index: Any) -> Any:
    """Emit the address of an element of an array in C order."""
    offset, *others = index
    for i, width in zip(others, cgutils.unpack_tuple(builder, array.shape)[1:], strict=True):
        offset = builder.add(builder.mul(offset, width), i)
    return builder.gep(array.data, [offset], source_etype=NUMBER)


def _allocate(builder: Any, start: float) -> Any:
    """Emit a vector that LLVM keeps in registers, all lanes set to `start`."""
    place = cgutils.alloca_once(builder, VECTOR)
    builder.store(ir.Constant(VECTOR, [start] * LANES), place)
    return place


def _load(builder: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(place, VECTOR.as_pointer()), align=8, typ=VECTOR)


def _store(builder: Any, vector: Any, place: Any) -> None:
    builder.store(vector, builder.bitcast(place, VECTOR.as_pointer()), align=8)


def _shuffle(builder: Any, vector: Any, lanes: Any) -> Any:
    """Emit a vector made of the given lanes of another, modulo LANES."""
    order = ir.Constant(ir.VectorType(LANE, LANES), [lane % LANES for lane in lanes])
    return builder.shuffle_vector(vector, vector, order)


def _select(builder: Any, order: str, one: Any, other: Any) -> Any:
    """Emit the lesser ("<") or greater (">") of two vectors in each lane."""
    return builder.select(builder.fcmp_ordered(order, one, other), one, other)
