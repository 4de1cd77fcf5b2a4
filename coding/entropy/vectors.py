"""Operations on vectors of `LANES` integers of 32 bits, for kernels whose loops numba does not vectorize.

A vector is a part of an array of int32, or numbers gathered from one. Each operation is written in LLVM's vector types,
which LLVM maps to the registers of any processor: AVX-512, two or four registers of AVX2 or NEON, or plain numbers.
Products and their sums have 64 bits. All results are exact integers, the same on every machine.

The places of vectors are tuples, so that the loops over them are unrolled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import DTypeLike

LANES = 8
CACHE_LINE = 64
"""Bytes of a line of most caches: vectors that lie in two of them take longer to load."""

INT32, INT64 = ir.IntType(32), ir.IntType(64)
NARROW, WIDE = ir.VectorType(INT32, LANES), ir.VectorType(INT64, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array of zeros that begins where a cache line does; numpy's arrays begin anywhere in a line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(dtype).reshape(shape)


@intrinsic
def weighted_sum(typing, weights, first, values, places):
    """Return the sum over all i and lanes l of weights[first + LANES i + l] * values[places[i] + l], int64.

    Weights and values are int32 arrays, `first` is an int64, `places` a tuple of int64.
    """

    def generate(context, builder, signature, args):
        weight_data, value_data = (array_data(context, builder, signature, args, index) for index in (0, 2))
        total = same(WIDE, 0)
        for i, place in enumerate(cgutils.unpack_tuple(builder, args[3])):
            weight = builder.load(vector_at(builder, weight_data, builder.add(args[1], INT64(LANES * i))), align=4)
            value = builder.load(vector_at(builder, value_data, place), align=4)
            total = builder.add(total, builder.mul(builder.sext(weight, WIDE), builder.sext(value, WIDE)))
        return call(builder, "llvm.vector.reduce.add.v8i64", INT64, [total])

    return types.int64(weights, types.int64, values, places), generate


@intrinsic
def add_products(typing, weights, first, values, places, factor, shift):
    """Add factor * values[places[i] + l] / 2^shift, rounded, to weights[first + LANES i + l] for all i and lanes l.

    See `weighted_sum`; `factor` and `shift` are int64, shift from 1 to 63. Products must fit into int64.
    """

    def generate(context, builder, signature, args):
        weight_data, value_data = (array_data(context, builder, signature, args, index) for index in (0, 2))
        factors, shifts = spread(builder, args[4], WIDE), spread(builder, args[5], WIDE)
        half = builder.shl(same(WIDE, 1), builder.sub(shifts, same(WIDE, 1)))
        for i, place in enumerate(cgutils.unpack_tuple(builder, args[3])):
            pointer = vector_at(builder, weight_data, builder.add(args[1], INT64(LANES * i)))
            value = builder.sext(builder.load(vector_at(builder, value_data, place), align=4), WIDE)
            change = builder.ashr(builder.add(builder.mul(factors, value), half), shifts)
            weight = builder.add(builder.load(pointer, align=4), builder.trunc(change, NARROW))
            builder.store(weight, pointer, align=4)
        return context.get_dummy_value()

    return types.void(weights, types.int64, values, places, types.int64, types.int64), generate


@intrinsic
def word_at(typing, values, place):
    """Return the eight numbers of an int8 array from a place on as one int64, the first one in the lowest byte.

    Numba runs on machines only whose integers begin with the lowest byte.
    """

    def generate(context, builder, signature, args):
        pointer = builder.gep(array_data(context, builder, signature, args, 0), [args[1]])
        vector = builder.load(builder.bitcast(pointer, _BYTES.as_pointer()), align=1)
        return builder.bitcast(vector, INT64)

    return types.int64(values, types.int64), generate


@intrinsic
def sums_of_words(typing, weights, first, words):
    """Return the weighted sum of the numbers in `words`, see `word_at`, and the sum of their squares, int64.

    See `weighted_sum`; `words` is a tuple of int64. Sums have 32 bits and wrap around.
    """

    def generate(context, builder, signature, args):
        data = array_data(context, builder, signature, args, 0)
        total, energy = same(NARROW, 0), same(NARROW, 0)
        for pointer, value in _weights_and_values(builder, data, args[1], args[2]):
            total = builder.add(total, builder.mul(builder.load(pointer, align=4), value))
            energy = builder.add(energy, builder.mul(value, value))
        sums = [call(builder, "llvm.vector.reduce.add.v8i32", INT32, [vector]) for vector in (total, energy)]
        return context.make_tuple(builder, signature.return_type, [builder.sext(number, INT64) for number in sums])

    return types.UniTuple(types.int64, 2)(weights, types.int64, words), generate


@intrinsic
def add_products_of_words(typing, weights, first, words, factor, shift):
    """Add factor * number / 2^shift, rounded, to the weights of the numbers in `words`.

    See `sums_of_words`; `factor` and `shift` are int64. Products have 32 bits and wrap around.
    """

    def generate(context, builder, signature, args):
        data = array_data(context, builder, signature, args, 0)
        factors, shifts = (spread(builder, builder.trunc(number, INT32), NARROW) for number in args[3:])
        half = builder.shl(same(NARROW, 1), builder.sub(shifts, same(NARROW, 1)))
        for pointer, value in _weights_and_values(builder, data, args[1], args[2]):
            change = builder.ashr(builder.add(builder.mul(factors, value), half), shifts)
            builder.store(builder.add(builder.load(pointer, align=4), change), pointer, align=4)
        return context.get_dummy_value()

    return types.void(weights, types.int64, words, types.int64, types.int64), generate


def _weights_and_values(
    builder: ir.IRBuilder, data: ir.Value, first: ir.Value, words: ir.Value
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield for each word the pointer to its vector of weights, and the vector of its numbers."""
    for i, word in enumerate(cgutils.unpack_tuple(builder, words)):
        value = builder.sext(builder.bitcast(word, _BYTES), NARROW)
        yield vector_at(builder, data, builder.add(first, INT64(LANES * i))), value


# -- for other intrinsics -------------------------------------------------------------------------


def array_data(context, builder, signature, args, index):
    """Return the pointer to the first number of an array among the arguments."""
    return context.make_array(signature.args[index])(context, builder, args[index]).data


def vector_at(builder: ir.IRBuilder, data: ir.Value, place: ir.Value) -> ir.Value:
    """Return the pointer to the vector at a place of an array."""
    return builder.bitcast(builder.gep(data, [place]), NARROW.as_pointer())


def vector_of(builder: ir.IRBuilder, numbers: Sequence[ir.Value]) -> ir.Value:
    """Return the vector of some numbers, 0 in further lanes."""
    vector = same(NARROW, 0)
    for lane, number in enumerate(numbers):
        vector = builder.insert_element(vector, number, INT32(lane))
    return vector


def same(kind: ir.VectorType, number: int) -> ir.Constant:
    """Return the vector whose lanes are all the same constant."""
    return ir.Constant(kind, [number] * LANES)


def spread(builder: ir.IRBuilder, number: ir.Value, kind: ir.VectorType) -> ir.Value:
    """Return the vector whose lanes are all the same number."""
    nothing = ir.Constant(kind, ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, number, INT32(0)), nothing, same(NARROW, 0))


def call(builder: ir.IRBuilder, name: str, kind: ir.Type, args: list[ir.Value]) -> ir.Value:
    """Call a function of LLVM."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [arg.type for arg in args]), name)
    return builder.call(function, args)
