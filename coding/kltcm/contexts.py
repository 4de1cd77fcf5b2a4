"""Entropy coding of quantized wavelet coefficients with mixed contexts.

Each coefficient is coded as a magnitude and a sign. The magnitude is likely to be large where related magnitudes are:
those of its neighbors within the subband, of the coefficients at its place in the next coarser level and in the other
orientations, and of those at its place in the preceding components; or where a large value is expected from related
values. Seven contexts formed from these are mixed for each decision of a magnitude, five for a sign. Nothing here uses
floating point.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import compiled, inlined
from coding.entropy.mixing import NODES, Mixer, code_magnitude, code_mixed, new_mixer
from coding.entropy.neighbors import at, half
from coding.entropy.range_coder import Coder
from coding.kltcm.expectation import (
    UNIT_BITS,
    Expectation,
    adapt,
    expect,
    finish_component,
    neighbors,
    new_expectation,
    preceding,
)
from coding.kltcm.neighborhoods import History, neighborhood, new_history
from coding.kltcm.trellis import NEXT_STATE, QUANTIZER_SHIFT
from coding.kltcm.wavelet import MAX_LEVELS, Subbands

_QUANTIZERS = 2
_USES = 512  # that the initial weights count as: slow learning suits tiles with few coefficients
_ORIENTATIONS = 4
_KINDS = 4 * _ORIENTATIONS  # of subbands: three finest levels and all coarser ones, by orientation
_TOTAL_SIZES = 40
_SIZES = 16  # of sums, in contexts of several
_PLACES = 80  # numbers of components in contexts: after the first 40, eight components share one
_OWN_PLACES = 40
_AMOUNTS = 4
_EXPECTED_SIZES = 16  # of an expected value, in eighths of a half step
_MOST_EXPECTED = 1 << UNIT_BITS  # that reconstruction distinguishes
_LEVELS = 4  # in contexts of signs

# First context of each kind; docs/format.md uses the same names. A context has counters for each quantizer.
_BY_TOTAL = 0
_BY_SUMS = _BY_TOTAL + _KINDS * _TOTAL_SIZES
_BY_FAMILY = _BY_SUMS + _SIZES * _SIZES * _ORIENTATIONS
_BY_NEIGHBORS = _BY_FAMILY + _SIZES * _SIZES * 4 * 3
_BY_PLACE = _BY_NEIGHBORS + 3**7
_BY_MEAN = _BY_PLACE + _PLACES * (MAX_LEVELS + 1) * _ORIENTATIONS * _AMOUNTS
_BY_EXPECTED = _BY_MEAN + _SIZES**3
_CONTEXTS = _BY_EXPECTED + _TOTAL_SIZES * _EXPECTED_SIZES

_SIGN_BY_FOUR = 0
_SIGN_ALWAYS = _SIGN_BY_FOUR + 3**4 * _ORIENTATIONS
_SIGN_BY_TWO = _SIGN_ALWAYS + 1
_SIGN_BY_LEVEL = _SIGN_BY_TWO + 3**2 * _ORIENTATIONS
_SIGN_BY_EXPECTED = _SIGN_BY_LEVEL + 2 * _EXPECTED_SIZES * _LEVELS
_SIGN_CONTEXTS = _SIGN_BY_EXPECTED + 2 * _EXPECTED_SIZES * 3**2 * _ORIENTATIONS


class Plane(NamedTuple):
    """A component that is being coded.

    Attributes:
        place: number of the component in contexts, below `_PLACES`.
        magnitudes: int32 buffer of levels of the quantizers; once coded, of magnitudes in half steps.
        signs: int8 buffer: 0 for 0, 1 for positive, 2 for negative coefficients.
        expected: int32 buffer, the expected values, clamped to int32.
    """

    place: int
    magnitudes: np.ndarray
    signs: np.ndarray
    expected: np.ndarray


class State(NamedTuple):
    """The adaptive state after the components so far.

    Attributes:
        subbands: layout of a component.
        history: magnitudes of the preceding components.
        expectation: prediction of coefficients.
        magnitudes: mixer of magnitudes.
        signs: mixer of signs.
    """

    subbands: Subbands
    history: History
    expectation: Expectation
    magnitudes: Mixer
    signs: Mixer


class ComponentCoder:
    """Encodes or decodes components one after another.

    Attributes:
        history: magnitudes of the components so far.

    Args:
        subbands: layout of a component.
    """

    def __init__(self, subbands: Subbands) -> None:
        self.history = new_history(subbands.size)
        self._subbands = subbands
        self._expectation = new_expectation(subbands.size, _ORIENTATIONS)
        self._magnitudes = new_mixer(_CONTEXTS * _QUANTIZERS * NODES, _KINDS * _QUANTIZERS * NODES, 7, _USES)
        self._signs = new_mixer(_SIGN_CONTEXTS, _ORIENTATIONS, 5, _USES)
        self._count = 0

    def code(self, coder: Coder, magnitudes: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """Encode a component, or decode into the buffers.

        Args:
            coder: an encoder or a decoder.
            magnitudes: int32 buffer, see `Plane`; changed from levels to half steps.
            signs: int8 buffer, see `Plane`.

        Returns:
            The expected values, an int32 buffer.
        """
        place = min(self._count, _OWN_PLACES + (self._count - _OWN_PLACES) // 8, _PLACES - 1)
        state = State(self._subbands, self.history, self._expectation, self._magnitudes, self._signs)
        expected = np.zeros(len(magnitudes), np.int32)
        _code_plane(coder, state, Plane(place, magnitudes, signs, expected))
        self.history = History(magnitudes, self.history.last, self.history.mean)
        finish_component(self._expectation, self._count)
        self._count += 1
        return expected


@compiled
def _code_plane(coder, state, plane):
    """Code a component with the contexts of docs/format.md."""
    subbands, expectation, magnitudes = state.subbands, state.expectation, plane.magnitudes
    trellis_state, end, last, before = 0, 0, np.int64(0), np.int64(0)
    for b in range(len(subbands.counts)):
        start, end = end, end + subbands.counts[b]
        for n in range(start, end):
            p, quantizer = at(subbands.scan, n), trellis_state >> QUANTIZER_SHIFT
            if p != last + 1:
                before = preceding(expectation, p)
            words = neighbors(expectation, p, at(subbands.stride, b), before)
            forecast = expect(expectation, at(subbands.orientation, b), p, words)
            expected = forecast[0]
            magnitude = _code_magnitude(coder, state, plane, (b, n, quantizer), expected)
            sign, value = 0, 0
            if magnitude:
                value = 2 * magnitude - quantizer
                sign = _code_sign(coder, state, plane, (b, p, magnitude), expected)
            plane.signs[np.uint64(p)], magnitudes[np.uint64(p)] = sign, value
            plane.expected[np.uint64(p)] = min(max(expected, -_MOST_EXPECTED), _MOST_EXPECTED)
            mean = at(state.history.mean, p)
            state.history.mean[np.uint64(p)] = mean + (((value << 4) - mean) >> 2)
            value = value if sign == 1 else -value
            last, before = p, adapt(expectation, at(subbands.orientation, b), p, words, forecast, value)
            trellis_state = NEXT_STATE[np.uint64(trellis_state), magnitude & 1]


@inlined
def _code_magnitude(coder, state, plane, which, expected):
    """Code the level of coefficient `n`, which is in subband `b` and has a quantizer; return it."""
    subbands, (b, n, quantizer) = state.subbands, which
    p, stride = at(subbands.scan, n), at(subbands.stride, b)
    level, orientation = at(subbands.level, b), at(subbands.orientation, b)
    kind = min(level, 3) * _ORIENTATIONS + orientation
    around = neighborhood(subbands, state.history, plane.magnitudes, b, n)
    total = min(half(around.total), _TOTAL_SIZES - 1)
    near = min(half(around.near), _SIZES - 1)
    across = min(half(around.across), _SIZES - 1)
    family = min(half(2 * around.parent + around.siblings), _SIZES - 1)
    mean = min(half(around.mean >> 2), _SIZES - 1)
    parent = min(half(around.parent), _SIZES - 1)
    subband = (plane.place * (MAX_LEVELS + 1) + level) * _ORIENTATIONS + orientation
    contexts = (
        _base(_BY_TOTAL + kind * _TOTAL_SIZES + total, quantizer),
        _base(_BY_SUMS + (near * _SIZES + across) * _ORIENTATIONS + orientation, quantizer),
        _base(
            _BY_FAMILY + ((family * _SIZES + across) * 4 + min((around.last + 1) >> 1, 3)) * 3 + min(around.second, 2),
            quantizer,
        ),
        _base(_BY_NEIGHBORS + _neighbors(plane.magnitudes, p, stride, around), quantizer),
        _base(_BY_PLACE + subband * _AMOUNTS + _amount(around.total), quantizer),
        _base(_BY_MEAN + (near * _SIZES + mean) * _SIZES + parent, quantizer),
        _base(_BY_EXPECTED + total * _EXPECTED_SIZES + _size(expected), quantizer),
    )
    return code_magnitude(
        coder, state.magnitudes, contexts, (_QUANTIZERS * kind + quantizer) * NODES, at(plane.magnitudes, p)
    )


@inlined
def _size(expected):
    """Return the size of an expected value."""
    return min(half(abs(expected) >> (UNIT_BITS - 3)), _EXPECTED_SIZES - 1)


@inlined
def _base(context, quantizer):
    """Return the first counter of a context."""
    return (_QUANTIZERS * context + quantizer) * NODES


@inlined
def _amount(total):
    return 0 if total == 0 else 1 if total < 24 else 2 if total < 80 else 3


@inlined
def _three(magnitude):
    """Classify a magnitude in half steps: 0 for 0, 1 for up to a step, 2 for more."""
    return (min(magnitude, 4) + 1) // 2


@inlined
def _neighbors(magnitudes, p, stride, around):
    """Return the number, below 3^7, of the context of single neighbors."""
    north, west = _three(at(magnitudes, p - stride)), _three(at(magnitudes, p - 1))
    northwest, northeast = _three(at(magnitudes, p - stride - 1)), _three(at(magnitudes, p - stride + 1))
    within = ((north * 3 + west) * 3 + northwest) * 3 + northeast
    return ((within * 3 + _three(around.last)) * 3 + _three(around.second)) * 3 + min(around.mean >> 4, 2)


@inlined
def _code_sign(coder, state, plane, which, expected):
    """Code the sign of coefficient `p` of subband `b`, whose level is not 0; return 1 if positive, 2 if negative."""
    signs, (b, p, level) = plane.signs, which
    stride, orientation = at(state.subbands.stride, b), at(state.subbands.orientation, b)
    two = at(signs, p - stride) * 3 + at(signs, p - 1)
    four = (two * 3 + at(signs, p - 2 * stride)) * 3 + at(signs, p - 2)
    size = (1 if expected < 0 else 0) * _EXPECTED_SIZES + _size(expected)
    contexts = (
        _SIGN_BY_FOUR + four * _ORIENTATIONS + orientation,
        _SIGN_ALWAYS,
        _SIGN_BY_TWO + two * _ORIENTATIONS + orientation,
        _SIGN_BY_LEVEL + size * _LEVELS + min(level, _LEVELS - 1),
        _SIGN_BY_EXPECTED + (size * 9 + two) * _ORIENTATIONS + orientation,
    )
    return 1 + code_mixed(coder, state.signs, contexts, orientation, 0, at(signs, p) >> 1)
