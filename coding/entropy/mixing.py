"""Binary arithmetic coding with mixed adaptive probabilities: what the kernels of `klt-cm` are built of.

A decision (a bit) is coded with a probability that several contexts vote on. Each context has a counter, the
probability of a 1 and how many decisions it rests on. Their log odds are weighted and added, and the weights follow
the gradient of the code length: logistic mixing (Mahoney, "Adaptive weighing of context models for lossless data
compression", Florida Tech TR CS-2005-16). The arithmetic coder (Witten, Neal and Cleary, doi 10.1145/214762.214771)
narrows an interval of 48 bits and passes on its first 16 as soon as they are settled.

Nothing here computes with floating point, tables included, so that every machine decodes the same decisions.

An encoder and a decoder are the same walk: a kernel calls `code_mixed` for each decision, an encoder with the bit, a
decoder with any, and goes on with the bit that is returned. All functions are inlined into the kernel.
"""

from __future__ import annotations

import numba
import numpy as np

from coding.base import DamagedError

LOW, HIGH, CODE, POSITION, DECODING = range(5)
"""What the coder's state holds: the interval, the decoder's number in it, bytes so far, which direction."""

_BITS = 48  # of the interval
_LAST = (1 << _BITS) - 1
_CERTAINTY = 1 << 16  # a probability of 1
_UNIT = 256  # log odds of 1, as stretched probabilities have them
_REACH = 12 * _UNIT  # log odds beyond it are not told apart
_COUNT_BITS = 9  # of a counter, the lowest; the other 22 are the probability of a 1
_PROBABILITY_BITS = 22
FRESH = (1 << (_PROBABILITY_BITS - 1)) << _COUNT_BITS
"""A counter that knows nothing: even odds, no decisions."""

UNARY = 14
"""Numbers that `code_magnitude` codes by as many decisions and one more."""

MOST_BITS = 24
"""Of a number of `code_magnitude`."""

NODES = UNARY + MOST_BITS
"""Kinds of decisions in such a number."""

_FIRST_STEP = 14  # the weights' step, halved per unit: at first
_LAST_STEP = 17  # in the long run
WEIGHT_ONE = 1 << 16
"""A weight of 1."""


def _squash_table() -> np.ndarray:
    """Probability of a 1, in 2^-16, of log odds from -_REACH to _REACH."""
    one = 1 << 64
    factor, term = 0, one
    for n in range(1, 20):  # exp(1 / _UNIT) by its series
        factor += term
        term //= _UNIT * n
    power = one
    odds = [one]
    for _ in range(_REACH):
        power = power * factor >> 64
        odds.append(power)
    upper = [_CERTAINTY * power // (power + one) for power in odds]
    lower = [_CERTAINTY - probability for probability in upper[:0:-1]]
    return np.clip(np.array(lower + upper), 1, _CERTAINTY - 1).astype(np.int32)


def _stretch_table(squash: np.ndarray) -> np.ndarray:
    """Log odds of the 2^12 probabilities (2 i + 1) / 2^13."""
    probabilities = (2 * np.arange(1 << 12) + 1) * (_CERTAINTY >> 13)
    return (np.searchsorted(squash, probabilities) - _REACH).astype(np.int32)


_SQUASH = _squash_table()
_STRETCH = _stretch_table(_SQUASH)
# A counter's step after n decisions is 1 / (n + 1.5), in 2^-16.
_RATES = np.array([2 * _CERTAINTY // (2 * n + 3) for n in range(1 << _COUNT_BITS)], np.int32)


def new_encoder() -> np.ndarray:
    """The state of an encoder before its first decision.

    It counts the bytes that do not fit into its `data` without writing them: `finish_encoder` says whether all did.
    """
    coder = np.zeros(5, np.int64)
    coder[HIGH] = _LAST
    return coder


def new_counters(*shape: int) -> np.ndarray:
    """Counters that know nothing, int32."""
    return np.full(shape, FRESH, np.int32)


def new_weights(sets: int, inputs: int) -> np.ndarray:
    """Weights of a mixer, int32 (sets, inputs + 1): last in each set, how many decisions it has seen."""
    weights = np.full((sets, inputs + 1), WEIGHT_ONE * 5 // (4 * inputs), np.int32)
    weights[:, -1] = 0
    return weights


def new_decoder(stream: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The state of a decoder before the first decision of `stream`, and its bytes as the kernels take them."""
    coder = new_encoder()
    coder[DECODING] = 1
    coder[CODE] = int.from_bytes(stream[: _BITS // 8].ljust(_BITS // 8, b"\0"), "big")
    coder[POSITION] = _BITS // 8
    # A copy: kernels are compiled once, for arrays that can be written.
    return coder, np.frombuffer(stream, np.uint8).copy()


def finish_encoder(coder: np.ndarray, data: np.ndarray) -> bytes | None:
    """The bytes behind the last decision: the number of the interval with the most zeros at its end, without these.

    Returns:
        All bytes; None where `data` was too short for them, and then they are about `coder[POSITION]`.
    """
    position = int(coder[POSITION])
    if position > len(data):
        return None
    low, high = int(coder[LOW]), int(coder[HIGH])
    zeros = next(zeros for zeros in range(_BITS, -1, -1) if (high >> zeros) << zeros >= low)
    last = ((high >> zeros) << zeros).to_bytes(_BITS // 8, "big")
    return (data[:position].tobytes() + last).rstrip(b"\0")


def check_decoder(coder: np.ndarray, data: np.ndarray) -> None:
    """Raise DamagedError where `data` has more bytes than the decisions took.

    An encoder drops zeros at the end and a decoder takes as many as it wants, so too few bytes cannot be told.
    """
    if len(data) > coder[POSITION]:
        raise DamagedError(f"a coded array has {len(data) - coder[POSITION]} bytes too many")


@numba.njit(forceinline=True)
def _narrow(coder, data, low, high):
    """Go on with the interval from `low` to `high`, without the bits that are settled."""
    while (low ^ high) >> (_BITS - 16) == 0:
        position = coder[POSITION]
        if coder[DECODING]:
            word = np.int64(0)
            if position < len(data):
                word = np.int64(data[position]) << 8
            if position + 1 < len(data):
                word |= np.int64(data[position + 1])
            coder[CODE] = ((coder[CODE] << 16) & _LAST) | word
        elif position + 1 < len(data):
            data[position] = low >> (_BITS - 8)
            data[position + 1] = (low >> (_BITS - 16)) & 255
        coder[POSITION] = position + 2
        low = (low << 16) & _LAST
        high = ((high << 16) & _LAST) | 0xFFFF
    coder[LOW], coder[HIGH] = low, high


@numba.njit(forceinline=True)
def code_bit(coder, data, probability, bit):
    """Code one decision; `probability` is that of a 1, in 2^-16, from 1 to 2^16 - 1."""
    low, high = coder[LOW], coder[HIGH]
    middle = low + ((high - low) >> 16) * probability
    if coder[DECODING]:
        bit = 1 if coder[CODE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    _narrow(coder, data, low, high)
    return bit


@numba.njit(forceinline=True)
def code_bits(coder, data, number, count):
    """Code a number of `count` bits, at most 16, that are all as probable as not."""
    low, high = coder[LOW], coder[HIGH]
    if high - low < 1 << 32:  # an interval around a carry can be that small, and then is no sum of parts
        coded = np.int64(0)
        for place in range(count - 1, -1, -1):
            coded = 2 * coded + code_bit(coder, data, _CERTAINTY >> 1, (number >> place) & 1)
        return coded
    part = (high - low) >> count
    if coder[DECODING]:
        number = min((coder[CODE] - low) // part, (1 << count) - 1)
    low += number * part
    _narrow(coder, data, low, low + part - 1)
    return number


@numba.njit(forceinline=True)
def code_mixed(coder, data, counters, bases, node, inputs, weights, chosen, limit, bit):
    """Code one decision on which several contexts vote, and let them learn from it.

    Args:
        counters: of `new_counters`, one-dimensional.
        bases: tuple of where in it each context's counters start.
        node: which of a context's counters is for this decision.
        inputs: int64, at least as long as `bases`; scratch.
        weights: of `new_weights`, for as many inputs.
        chosen: which of its sets weighs.
        limit: decisions that a counter remembers, at most 511.
        bit: the decision; a decoder's is not looked at.

    Returns:
        The decision.
    """
    count = len(bases)
    total = np.int64(0)
    for i in range(count):
        inputs[i] = _STRETCH[counters[bases[i] + node] >> (_COUNT_BITS + _PROBABILITY_BITS - 12)]
        total += weights[chosen, i] * inputs[i]
    total = min(max(total >> 16, -_REACH), _REACH)
    probability = np.int64(_SQUASH[total + _REACH])
    bit = code_bit(coder, data, probability, bit)
    error = (bit << 16) - probability
    seen = np.int64(weights[chosen, count])
    shift = _FIRST_STEP + (seen >> 8)
    if shift < _LAST_STEP:
        weights[chosen, count] = seen + 1
    for i in range(count):
        # Log odds stay below 2^12 and errors below 2^16: a weight never gets near what int32 holds before it is
        # stopped by the error that it makes, and a damaged stream cannot do more than wrap it.
        weights[chosen, i] += (inputs[i] * error + (1 << (shift - 1))) >> shift
        state = np.int64(counters[bases[i] + node])
        seen = state & ((1 << _COUNT_BITS) - 1)
        probability = state >> _COUNT_BITS
        probability += (((bit << _PROBABILITY_BITS) - bit - probability) * _RATES[seen]) >> 16
        counters[bases[i] + node] = (probability << _COUNT_BITS) | min(seen + 1, limit)
    return bit


@numba.njit(forceinline=True)
def code_magnitude(coder, data, counters, bases, inputs, weights, chosen, limit, magnitude):
    """Code a whole number from 0 to 2^`MOST_BITS` - 1: unary up to `UNARY`, beyond it by Exp-Golomb (Teuhola 1978).

    Args:
        bases: tuple of where each context's `NODES` counters start.
        chosen: the first of `NODES` sets of weights.

    Returns:
        The number; a damaged stream's too is in the range.
    """
    number = np.int64(0)
    while number < UNARY:
        more = code_mixed(
            coder, data, counters, bases, number, inputs, weights, chosen + number, limit, int(magnitude > number)
        )
        if not more:
            return number
        number += 1
    rest = magnitude - UNARY + 1
    bits = np.int64(0)
    while bits < MOST_BITS - 1:
        node = UNARY + bits
        more = code_mixed(
            coder, data, counters, bases, node, inputs, weights, chosen + node, limit, int(rest >> (bits + 1) > 0)
        )
        if not more:
            break
        bits += 1
    low_bits = min(bits, 16)
    high_bits = bits - low_bits
    decoded = np.int64(1) << high_bits
    decoded |= code_bits(coder, data, (rest >> low_bits) & ((1 << high_bits) - 1), high_bits)
    decoded = (decoded << low_bits) | code_bits(coder, data, rest & ((1 << low_bits) - 1), low_bits)
    return min(decoded - 1 + UNARY, (1 << MOST_BITS) - 1)
