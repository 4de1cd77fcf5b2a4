"""Adaptive probabilities of binary decisions, mixed from several contexts.

Each context of a decision has a counter, which holds the probability of a 1 and the number of decisions behind it. The
log odds of these probabilities are weighted and added, and the weights follow the gradient of the code length: logistic
mixing (Mahoney, "Adaptive weighing of context models for lossless data compression", Florida Tech TR CS-2005-16).

All arithmetic, also for the tables, uses integers, so that every machine decodes the same decisions. The
functions that kernels call are inlined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import inlined
from coding.entropy.counters import adapt, goal_of, mix, new_counters
from coding.entropy.range_coder import CERTAIN, CERTAIN_BITS, code_bit, code_bits
from coding.entropy.vectors import LANES, add_products, aligned_zeros

LOG_ODDS_UNIT = 256
"""Integer that represents log odds of 1."""

MAX_LOG_ODDS = 12 * LOG_ODDS_UNIT

_STRETCH_BITS = 12  # of a probability, to look up its log odds

_WEIGHT_BITS = 16  # binary places of a weight
_SET_SIZE = 2 * LANES  # numbers in a cache line
_INITIAL_WEIGHT_SUM = (1 << _WEIGHT_BITS) * 5 // 4
_FIRST_RATE_SHIFT, _LAST_RATE_SHIFT = 14, 17  # the learning rate of a set of weights halves every 256 decisions
_RATE_SHIFT_USES_BITS = 8

UNARY_LIMIT = 14
"""`code_magnitude` codes smaller numbers in unary."""

MAGNITUDE_BITS = 24
"""Bits of the largest number that `code_magnitude` can code."""

NODES = UNARY_LIMIT + MAGNITUDE_BITS
"""Decisions of `code_magnitude`: each has its own counter in a context, and its own set of weights."""


def _squash_table() -> np.ndarray:
    """Return the probabilities of a 1, in units of 2^-16, for log odds from -`MAX_LOG_ODDS` to `MAX_LOG_ODDS`."""
    one = 1 << 64
    factor, term = 0, one
    for n in range(1, 20):  # power series of exp(1 / LOG_ODDS_UNIT)
        factor += term
        term //= LOG_ODDS_UNIT * n
    power = one
    odds = [one]
    for _ in range(MAX_LOG_ODDS):
        power = power * factor >> 64
        odds.append(power)
    upper = [CERTAIN * power // (power + one) for power in odds]
    lower = [CERTAIN - probability for probability in upper[:0:-1]]
    return np.clip(np.array(lower + upper), 1, CERTAIN - 1).astype(np.int32)


def _stretch_table(squash: np.ndarray) -> np.ndarray:
    """Return the log odds of the probabilities (2 i + 1) / 2^(`_STRETCH_BITS` + 1)."""
    probabilities = (2 * np.arange(1 << _STRETCH_BITS) + 1) * (CERTAIN >> (_STRETCH_BITS + 1))
    return (np.searchsorted(squash, probabilities) - MAX_LOG_ODDS).astype(np.int32)


_SQUASH = _squash_table()
_STRETCH = _stretch_table(_SQUASH)


class Mixer(NamedTuple):
    """Counters and weights, which adapt with each decision.

    Attributes:
        counters: int32 (N,), counters of all contexts.
        weights: int32 (S `_SET_SIZE`,), S sets: `LANES` weights, of which unused ones are 0, the number of uses of the
            set, and nothing.
        scratch: int32 (2 `LANES`,), the inputs, and their counters.
    """

    counters: np.ndarray
    weights: np.ndarray
    scratch: np.ndarray


def new_mixer(counters: int, sets: int, inputs: int, uses: int = 0) -> Mixer:
    """Return a mixer before its first decision.

    Args:
        counters: number of counters.
        sets: number of sets of weights.
        inputs: number of contexts of a decision, at most `LANES`.
        uses: number of decisions that the initial weights count as; the more, the slower they change.
    """
    weights = aligned_zeros((sets, _SET_SIZE), np.int32)
    weights[:, :inputs], weights[:, LANES] = _INITIAL_WEIGHT_SUM // inputs, uses
    return Mixer(new_counters(counters), weights.reshape(-1), aligned_zeros((2 * LANES,), np.int32))


@inlined
def code_mixed(coder, mixer, contexts, weight_set, node, bit):
    """Code a decision with a probability mixed from its contexts, and update the mixer.

    Args:
        coder: a `Coder`.
        mixer: a `Mixer`.
        contexts: tuple of the first counter of each context.
        weight_set: the first set of weights.
        node: offset that is added to each of `contexts` and to `weight_set`.
        bit: the decision; ignored by a decoder.

    Returns:
        The decision.
    """
    counters, weights, scratch = mixer.counters, mixer.weights, mixer.scratch
    first, offset = _SET_SIZE * (weight_set + node), np.int64(node)
    total = mix(counters, contexts, offset, _STRETCH, _STRETCH_BITS, weights, first, scratch) >> _WEIGHT_BITS
    probability = np.int64(_SQUASH[min(max(total, -MAX_LOG_ODDS), MAX_LOG_ODDS) + MAX_LOG_ODDS])
    bit = code_bit(coder, probability, bit)
    uses = np.int64(weights[first + LANES])
    shift = _FIRST_RATE_SHIFT + (uses >> _RATE_SHIFT_USES_BITS)
    if shift < _LAST_RATE_SHIFT:
        weights[first + LANES] = uses + 1
    # Log odds are below 2^12 and errors below 2^16: prediction errors stop a weight long before it leaves int32, and a
    # damaged stream can at worst make it wrap.
    add_products(weights, first, scratch, (0,), (bit << CERTAIN_BITS) - probability, shift)
    adapt(counters, contexts, offset, goal_of(bit), scratch)
    return bit


@inlined
def code_magnitude(coder, mixer, contexts, weight_set, magnitude):
    """Code an integer from 0 to 2^`MAGNITUDE_BITS` - 1: unary below `UNARY_LIMIT`, else Exp-Golomb (Teuhola 1978).

    Args:
        coder: a `Coder`.
        mixer: a `Mixer`.
        contexts: tuple of the first of `NODES` counters of each context.
        weight_set: the first of `NODES` sets of weights.
        magnitude: the number; ignored by a decoder.

    Returns:
        The number, in range even if the stream is damaged.
    """
    number = np.int64(0)
    while number < UNARY_LIMIT:
        if not code_mixed(coder, mixer, contexts, weight_set, number, int(magnitude > number)):
            return number
        number += 1
    rest = magnitude - UNARY_LIMIT + 1
    bits = np.int64(0)
    while bits < MAGNITUDE_BITS - 1:
        if not code_mixed(coder, mixer, contexts, weight_set, UNARY_LIMIT + bits, int(rest >> (bits + 1) > 0)):
            break
        bits += 1
    rest = (1 << bits) | code_bits(coder, rest & ((1 << bits) - 1), bits)
    return min(rest - 1 + UNARY_LIMIT, (1 << MAGNITUDE_BITS) - 1)
