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

from collections.abc import Callable

import numba
import numpy as np

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

_FIRST_STEP = 14  # the weights' step, halved per unit: at first
_LAST_STEP = 17  # in the long run
WEIGHT_ONE = 1 << 16
"""A weight of 1."""


def compiled(function: Callable) -> Callable:
    """`function` compiled by numba, running without Python's lock, kept on disk if there is a folder to write it to."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


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


def new_coder(decoding: bool) -> np.ndarray:
    """The state of a coder before its first decision; a decoder's goes to `start_decoder` before."""
    coder = np.zeros(5, np.int64)
    coder[HIGH] = _LAST
    coder[DECODING] = decoding
    return coder


def new_counters(*shape: int) -> np.ndarray:
    """Counters that know nothing, int32."""
    return np.full(shape, FRESH, np.int32)


def new_weights(sets: int, inputs: int) -> np.ndarray:
    """Weights of a mixer, int32 (sets, inputs + 1): last in each set, how many decisions it has seen."""
    weights = np.full((sets, inputs + 1), WEIGHT_ONE * 5 // (4 * inputs), np.int32)
    weights[:, -1] = 0
    return weights
