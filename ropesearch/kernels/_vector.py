"""The loops that are written in vector instructions: left to itself, numba uses a quarter of what a core can do.

Each is given twice: as numpy, which says what it does, and as LLVM's intermediate code, which the compiler turns into
the instructions of the machine at hand. Matrices come in pairs, for cosines and sines.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic as _intrinsic

from ropesearch.core.arrays import Floats, Words

# numba types some of these in part.
cgutils: Any = _cgutils
config: Any = numba.config
intrinsic: Callable[[Callable[..., Any]], Any] = _intrinsic
types: Any = numba.types

ROWS = 4
LANES = 8  # numbers in the widest vector register; where registers are narrower, LLVM takes two or four for one
COLUMNS = 2 if get_host_cpu_features().get("avx512f") else 1  # vectors side by side: there are registers for it

_WORD, _INDEX = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_SHUFFLE = ir.VectorType(_INDEX, LANES)
_EVERY_LANE_THE_FIRST = ir.Constant(_SHUFFLE, [0] * LANES)
_REVERSED = ir.Constant(_SHUFFLE, list(range(LANES))[::-1])


def _multiply(left: Floats, right: Floats, begin: int, end: int, out: Floats) -> None:
    """Write the first LANES columns of Σ_k left[p, :, k]·right[p, k, :], begin ≤ k < end, into those of `out`."""
    out[:, :, :LANES] = left[:, :, begin:end] @ right[:, begin:end, :LANES]


def _multiply_and_unfold(
    left: Floats,
    right: Floats,
    begin: int,
    end: int,
    half: int,
    values: Floats,
    block: int,
    lowest: Floats,
    highest: Floats,
) -> None:
    """Of E, O = Σ_k left[p, :, k]·right[p, k, :half], begin ≤ k < end, write E ∓ O into ROWS blocks of values.

    E + O goes left of the middle of a block, mirrored, and E − O right of it. `block` is the number of the first, and
    the least and the greatest value of each go to its place in `lowest` and `highest`.
    """
    even, odd = left[:, :, begin:end] @ right[:, begin:end, :half]
    blocks = np.hstack([(even + odd)[:, ::-1], even - odd])
    values[block * blocks.shape[1] : (block + ROWS) * blocks.shape[1]] = blocks.ravel()
    lowest[block : block + ROWS] = blocks.min(axis=1)
    highest[block : block + ROWS] = blocks.max(axis=1)


def _rotate(starts: Floats, span: int, turns: Floats, turn: int, out: Floats, column: int) -> None:
    """Write cos and sin of α + β into columns of `out` from `column` on.

    starts[:, span] holds those of α, turns[:, turn + r] those of β for row r; their widths are multiples of LANES.
    """
    start = starts[0, span] + 1j * starts[1, span]
    for r in range(ROWS):
        product = start * (turns[0, turn + r] + 1j * turns[1, turn + r])
        out[0, r, column:] = product.real
        out[1, r, column:] = product.imag


def _steps(values: Floats, j: int) -> tuple[np.uint64, np.uint64]:
    """Bit k of the first word: values[j + k] is less than the next value; of the second: greater. 64 of each."""
    here, after = values[j : j + 64], values[j + 1 : j + 65]
    powers = [1 << k for k in range(64)]
    up, down = (sum(p for p, yes in zip(powers, row, strict=True) if yes) for row in (here < after, here > after))
    return np.uint64(up), np.uint64(down)


def _common_bits(left: Words, right: Words, at: int) -> int:
    """How many bits are set in both, in 64 words from `at` on."""
    return int(np.unpackbits((left[at : at + 64] & right[at : at + 64]).view(np.uint8)).sum())


def _product(
    builder: Any, left: Any, right: Any, begin: Any, end: Any, column: Any, columns: int
) -> dict[tuple[int, int, int], Any]:
    """Of two products ROWS × `columns` vectors, by (pair, row, vector); the sums stay in registers throughout."""
    cells = [(p, r, v) for p in range(2) for r in range(ROWS) for v in range(columns)]
    sums = {cell: cgutils.alloca_once(builder, _VECTOR) for cell in cells}
    for total in sums.values():
        builder.store(ir.Constant(_VECTOR, [0.0] * LANES), total)
    with cgutils.for_range(builder, end, start=begin, intp=_WORD) as loop:
        for p in range(2):
            places = [builder.add(column, _WORD(v * LANES)) for v in range(columns)]
            terms = [_load(builder, _place(builder, right, p, loop.index, place)) for place in places]
            for r in range(ROWS):
                factor = builder.load(_place(builder, left, p, _WORD(r), loop.index))
                factor = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), factor, _INDEX(0))
                factor = builder.shuffle_vector(factor, factor, _EVERY_LANE_THE_FIRST)
                for v, term in enumerate(terms):
                    # `contract`: where the processor can, both become one fused instruction.
                    product = builder.fmul(factor, term, flags=("contract",))
                    total = builder.fadd(builder.load(sums[p, r, v]), product, flags=("contract",))
                    builder.store(total, sums[p, r, v])
    return {cell: builder.load(total) for cell, total in sums.items()}


def _place(builder: Any, array: Any, pair: int, row: Any, column: Any) -> Any:
    """Address of array[pair, row, column]."""
    _, rows, width = cgutils.unpack_tuple(builder, array.shape)
    line = builder.add(builder.mul(_WORD(pair), rows), row)
    return builder.gep(array.data, [builder.add(builder.mul(line, width), column)])


def _load(builder: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(place, _VECTOR.as_pointer()), align=8)


def _store(builder: Any, vector: Any, place: Any) -> None:
    builder.store(vector, builder.bitcast(place, _VECTOR.as_pointer()), align=8)


def _arrays(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """Arguments with every array opened: its fields can be read."""
    return [
        context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


@intrinsic
def _multiply_compiled(_typing: Any, left: Any, right: Any, begin: Any, end: Any, out: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, right, begin, end, out = _arrays(context, builder, signature, args)
        for (p, r, _), total in _product(builder, left, right, begin, end, _WORD(0), 1).items():
            _store(builder, total, _place(builder, out, p, _WORD(r), _WORD(0)))
        return context.get_dummy_value()

    return types.void(left, right, types.int64, types.int64, out), generate


@intrinsic
def _multiply_and_unfold_compiled(
    _typing: Any,
    left: Any,
    right: Any,
    begin: Any,
    end: Any,
    half: Any,
    values: Any,
    block: Any,
    lowest: Any,
    highest: Any,
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, right, begin, end, half, values, block, lowest, highest = _arrays(context, builder, signature, args)
        sides = [("<", lowest, np.inf), (">", highest, -np.inf)]
        bounds = {}
        for order, _, worst in sides:
            for r in range(ROWS):
                bounds[order, r] = cgutils.alloca_once(builder, _VECTOR)
                builder.store(ir.Constant(_VECTOR, [worst] * LANES), bounds[order, r])
        with cgutils.for_range_slice(builder, _WORD(0), half, _WORD(LANES * COLUMNS), intp=_WORD) as (column, _):
            sums = _product(builder, left, right, begin, end, column, COLUMNS)
            for r in range(ROWS):
                middle = builder.mul(half, builder.add(builder.mul(builder.add(block, _WORD(r)), _WORD(2)), _WORD(1)))
                for v in range(COLUMNS):
                    place = builder.add(column, _WORD(v * LANES))
                    after = builder.fsub(sums[0, r, v], sums[1, r, v])
                    before = builder.fadd(sums[0, r, v], sums[1, r, v])
                    for order, _, _ in sides:
                        bound = bounds[order, r]
                        builder.store(_further(builder, order, builder.load(bound), after, before), bound)
                    _store(builder, after, builder.gep(values.data, [builder.add(middle, place)]))
                    mirrored = builder.sub(builder.sub(middle, place), _WORD(LANES))
                    before = builder.shuffle_vector(before, before, _REVERSED)
                    _store(builder, before, builder.gep(values.data, [mirrored]))
        for order, target, _ in sides:
            for r in range(ROWS):
                bound = builder.load(bounds[order, r])
                for width in (4, 2, 1):  # the furthest of all lanes, by halves
                    half_turned = [(lane + width) % LANES for lane in range(LANES)]
                    turned = builder.shuffle_vector(bound, bound, ir.Constant(_SHUFFLE, half_turned))
                    bound = _further(builder, order, bound, turned)
                place = builder.gep(target.data, [builder.add(block, _WORD(r))])
                builder.store(builder.extract_element(bound, _INDEX(0)), place)
        return context.get_dummy_value()

    word = types.int64
    return types.void(left, right, word, word, word, values, word, lowest, highest), generate


def _further(builder: Any, order: str, bound: Any, *vectors: Any) -> Any:
    """The least ("<") or greatest (">") in each lane."""
    for vector in vectors:
        bound = builder.select(builder.fcmp_ordered(order, vector, bound), vector, bound)
    return bound


@intrinsic
def _rotate_compiled(_typing: Any, starts: Any, span: Any, turns: Any, turn: Any, out: Any, column: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        starts, span, turns, turn, out, column = _arrays(context, builder, signature, args)
        width = cgutils.unpack_tuple(builder, starts.shape)[2]
        with cgutils.for_range_slice(builder, _WORD(0), width, _WORD(LANES), intp=_WORD) as (i, _):
            re, im = (_load(builder, _place(builder, starts, p, span, i)) for p in range(2))
            for r in range(ROWS):
                row = builder.add(turn, _WORD(r))
                cosine, sine = (_load(builder, _place(builder, turns, p, row, i)) for p in range(2))
                real = builder.fsub(builder.fmul(re, cosine), builder.fmul(im, sine))
                imaginary = builder.fadd(builder.fmul(re, sine), builder.fmul(im, cosine))
                for p, vector in enumerate((real, imaginary)):
                    _store(builder, vector, _place(builder, out, p, _WORD(r), builder.add(column, i)))
        return context.get_dummy_value()

    return types.void(starts, types.int64, turns, types.int64, out, types.int64), generate


@intrinsic
def _steps_compiled(_typing: Any, values: Any, j: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, j = _arrays(context, builder, signature, args)
        run = ir.VectorType(ir.DoubleType(), 64)  # LLVM takes it apart
        here, after = (
            builder.load(builder.bitcast(builder.gep(values.data, [place]), run.as_pointer()), align=8)
            for place in (j, builder.add(j, _WORD(1)))
        )
        words = [builder.bitcast(builder.fcmp_ordered(order, here, after), _WORD) for order in "<>"]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint64, 2)(values, types.int64), generate


@intrinsic
def _common_bits_compiled(_typing: Any, left: Any, right: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, right, at = _arrays(context, builder, signature, args)
        run = ir.VectorType(_WORD, 64)

        def call(name: str, result: Any, vector: Any) -> Any:
            kind = ir.FunctionType(result, [run])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v64i64"), [vector])

        words = [
            builder.load(builder.bitcast(builder.gep(array.data, [at]), run.as_pointer()), align=8)
            for array in (left, right)
        ]
        return call("vector.reduce.add", _WORD, call("ctpop", run, builder.and_(*words)))

    return types.int64(left, right, types.int64), generate


# An intrinsic exists in compiled code alone; without the compiler the numpy above is run as it stands.
multiply = _multiply if config.DISABLE_JIT else _multiply_compiled
multiply_and_unfold = _multiply_and_unfold if config.DISABLE_JIT else _multiply_and_unfold_compiled
rotate = _rotate if config.DISABLE_JIT else _rotate_compiled
steps = _steps if config.DISABLE_JIT else _steps_compiled
common_bits = _common_bits if config.DISABLE_JIT else _common_bits_compiled
