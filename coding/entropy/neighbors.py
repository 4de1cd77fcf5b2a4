"""Sizes of numbers and sums of their neighbors, from which contexts are formed.

A plane is stored as a flat buffer whose rows are `stride` apart, with a margin of `PAD` rows and columns, so that every
place `p` in it has neighbors.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from coding.entropy.compiled import inlined
from coding.entropy.vectors import INT64

PAD = 2
"""Rows and columns in the margin of a plane."""


@inlined
def at(plane, p):
    """Return the number at place `p` >= 0; numba would check a signed index for being negative."""
    return plane[np.uint64(p)]


@inlined
def half(number):
    """Return the size of an integer >= 0 in half octaves; for 0 to 12: 0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7."""
    if number < 2:
        return np.int64(number)
    bits = bit_length(number)
    return 2 * bits - 2 + ((number >> (bits - 2)) & 1)


@intrinsic
def bit_length(typing, number):
    """Return the number of bits of an integer >= 0, int64."""

    def generate(context, builder, signature, args):
        return builder.sub(INT64(64), builder.ctlz(args[0], ir.IntType(1)(0)))

    return types.int64(types.int64), generate


@inlined
def left_sum(plane, p):
    """Return the sum of the two numbers to the left of `p`; the nearest counts twice."""
    return 2 * at(plane, p - 1) + at(plane, p - 2)


@inlined
def above_sum(plane, p, stride):
    """Return the sum of four numbers in the two rows above `p`; the nearest counts twice."""
    return 2 * at(plane, p - stride) + at(plane, p - stride - 1) + at(plane, p - stride + 1) + at(plane, p - 2 * stride)


@inlined
def causal_sum(plane, p, stride):
    """Return the weighted sum of the neighbors that precede `p` in raster order."""
    return left_sum(plane, p) + above_sum(plane, p, stride)


@inlined
def cross_sum(plane, p, stride):
    """Return the sum of the neighbors on the four sides of `p`."""
    return at(plane, p - 1) + at(plane, p + 1) + at(plane, p - stride) + at(plane, p + stride)


@inlined
def surround_left(plane, p, stride):
    """Fill the margin to the left of a row that begins at `p` with the first number of the row above."""
    for x in range(PAD):
        plane[p - PAD + x] = plane[p - stride]


@inlined
def surround_right(plane, p, stride):
    """Fill the margin to the right of a row that begins at `p` with its last number."""
    end = p + stride - 2 * PAD
    for x in range(PAD):
        plane[end + x] = plane[end - 1]


@inlined
def surround_below(plane, stride):
    """Fill the margin below a plane with its last row."""
    last = len(plane) - (PAD + 1) * stride
    for y in range(1, PAD + 1):
        for x in range(stride):
            plane[last + y * stride + x] = plane[last + x]
