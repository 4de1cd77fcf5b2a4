"""Adaptive probabilities of binary decisions: counters.

A counter holds the probability of a 1 and the number of decisions behind it. Each decision moves the probability
towards what was decided, the less the more decisions there were before, as a running mean does.

The functions that kernels call are inlined.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from coding.entropy.compiled import inlined
from coding.entropy.range_coder import CERTAIN, CERTAIN_BITS, code_bit
from coding.entropy.vectors import (
    INT32,
    INT64,
    LANES,
    NARROW,
    WIDE,
    array_data,
    call,
    same,
    spread,
    vector_at,
    vector_of,
)

PROBABILITY_BITS = 22
"""Bits of a probability: the upper bits of a counter; its lower bits count decisions."""

COUNT_BITS = 9

_COUNT_MASK = (1 << COUNT_BITS) - 1
_EVEN_ODDS = (1 << (PROBABILITY_BITS - 1)) << COUNT_BITS
_MEMORY = 255  # largest count of decisions in a counter: a limit on how slowly it adapts
# Adaptation rates by the number of decisions n: 1 / (n + 1.5), in units of 2^-16.
_RATES = np.array([2 * CERTAIN // (2 * n + 3) for n in range(_MEMORY + 1)], np.int32)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


def new_counters(count: int) -> np.ndarray:
    """Return counters (count,) before their first decisions, int32."""
    return np.full(count, _EVEN_ODDS, np.int32)


@inlined
def code_counted(coder, counters, place, bit):
    """Code a decision with the probability of one counter, and update the counter.

    Args:
        coder: a `Coder`.
        counters: int32 (N,).
        place: index of the counter.
        bit: the decision; ignored by a decoder.

    Returns:
        The decision.
    """
    counter = np.int64(counters[place])
    count, probability = counter & _COUNT_MASK, counter >> COUNT_BITS
    bit = code_bit(coder, min(max(probability >> (PROBABILITY_BITS - CERTAIN_BITS), 1), CERTAIN - 1), bit)
    probability += ((goal_of(bit) - probability) * _RATES[count]) >> CERTAIN_BITS
    counters[place] = (probability << COUNT_BITS) | min(count + 1, _MEMORY)
    return bit


@inlined
def goal_of(bit):
    """Return the probability towards which a decision moves counters."""
    return (bit << PROBABILITY_BITS) - bit


@intrinsic
def mix(typing, counters, places, offset, table, bits, weights, first, scratch):
    """Return the weighted sum, int64, of what a table holds for the probabilities of counters: the inputs.

    The counters, int32, are at most `LANES`; `offset`, int64, is added to their places, a tuple of int64. The table,
    int32 (2^bits,), is indexed by the upper bits of a probability. Each place has a weight, int32, from `first` on. The
    inputs and then the counters are left in `scratch`, int32 (2 `LANES`,), for `add_products` and `adapt`.
    """

    def generate(context, builder, signature, args):
        arrays = (array_data(context, builder, signature, args, index) for index in (0, 3, 5, 7))
        counter_data, table_data, weight_data, target = arrays
        shift = builder.trunc(builder.sub(INT64(PROBABILITY_BITS + COUNT_BITS), args[4]), INT32)
        total, found, inputs = INT64(0), [], []
        # Numbers one by one: the sum is there sooner than one of a vector, which would have to be filled first.
        for i, place in enumerate(_places(builder, args)):
            found.append(builder.load(builder.gep(counter_data, [place])))
            index = builder.zext(builder.lshr(found[-1], shift), INT64)
            inputs.append(builder.load(builder.gep(table_data, [index])))
            weight = builder.load(builder.gep(weight_data, [builder.add(args[6], INT64(i))]))
            total = builder.add(total, builder.mul(builder.sext(inputs[-1], INT64), builder.sext(weight, INT64)))
        builder.store(vector_of(builder, inputs), vector_at(builder, target, INT64(0)), align=4)
        builder.store(vector_of(builder, found), vector_at(builder, target, INT64(LANES)), align=4)
        return total

    return types.int64(counters, places, types.int64, table, types.int64, weights, types.int64, scratch), generate


@intrinsic
def adapt(typing, counters, places, offset, goal, scratch):
    """Update counters after a decision.

    See `mix`, which must have filled `scratch`; `goal`, int64, is `goal_of` the decision.
    """

    def generate(context, builder, signature, args):
        data, source = (array_data(context, builder, signature, args, index) for index in (0, 4))
        places = _places(builder, args)
        found = builder.load(vector_at(builder, source, INT64(LANES)), align=4)
        count = builder.and_(found, same(NARROW, _COUNT_MASK))
        probability = builder.lshr(found, same(NARROW, COUNT_BITS))
        # As in `_RATES`, but faster than looking them up. Quotients are too far from integers to be rounded to one.
        double = builder.sitofp(builder.add(builder.add(count, count), same(NARROW, 3)), _FLOATS)
        rate = builder.fptosi(builder.fdiv(ir.Constant(_FLOATS, [2.0 * CERTAIN] * LANES), double), WIDE)
        goal = spread(builder, builder.trunc(args[3], INT32), NARROW)
        distance = builder.sext(builder.sub(goal, probability), WIDE)
        change = builder.trunc(builder.ashr(builder.mul(distance, rate), same(WIDE, CERTAIN_BITS)), NARROW)
        probability = builder.shl(builder.add(probability, change), same(NARROW, COUNT_BITS))
        count = call(builder, "llvm.umin.v8i32", NARROW, [builder.add(count, same(NARROW, 1)), same(NARROW, _MEMORY)])
        updated = builder.or_(probability, count)
        for lane, place in enumerate(places):
            builder.store(builder.extract_element(updated, INT32(lane)), builder.gep(data, [place]))
        return context.get_dummy_value()

    return types.void(counters, places, types.int64, types.int64, scratch), generate


def _places(builder: ir.IRBuilder, args: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the places of counters, which are the second argument, with the third, their offset, added."""
    return [builder.add(place, args[2]) for place in cgutils.unpack_tuple(builder, args[1])]
