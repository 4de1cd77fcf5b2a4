"""Entropy coding of quantized wavelet planes by mixed contexts.

Each number is coded as a magnitude and a sign. How large it is tells by what is known around it: its neighbors within
the subband, the coefficient of the next coarser level at its place, those of the other orientations, and its place in
the components before, which are large where it is. Six contexts of these vote on every decision of a magnitude. Nothing
here computes with floating point.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from coding.entropy.compiled import compiled
from coding.entropy.mixing import NODES, code_magnitude, code_mixed, new_counters, new_weights
from coding.kltcm.trellis import NEXT
from coding.kltcm.wavelet import FIRST, HEIGHT, LEVEL, ORIENTATION, PARENT, SECOND_SIBLING, SIBLING, STRIDE, WIDTH

_MEMORY = 255  # decisions that a counter rests on
_KINDS = 16  # of subbands: three finest levels and coarser ones, by orientation
_SIZES = 40  # of sums, in half octaves
_COARSE = 16  # of them, where two meet in a context
_CONTEXTS = np.array(
    [
        _KINDS * _SIZES * 2,
        _COARSE * _COARSE * 4 * 2,
        _COARSE * _COARSE * 12 * 2,
        81 * 27 * 2,
        80 * 24 * 4 * 2,
        _COARSE * _COARSE * _COARSE * 2,
    ]
)
_STARTS = np.append(0, _CONTEXTS.cumsum())
_SIGN_CONTEXTS = np.array([81 * 4, 1, 9 * 4])
_SIGN_STARTS = np.append(0, _SIGN_CONTEXTS.cumsum())


class Model:
    """What is learned from the numbers that were coded so far, and the planes that are context of the next.

    Attributes:
        last, before: int64 buffers, magnitudes in half steps of the plane before and of that before it.
        mean: int64 buffer, sixteenths of half steps: of all planes, later ones counting more.

    Args:
        table: of `Subbands`.
        size: of a buffer.
    """

    def __init__(self, table: np.ndarray, size: int):
        self._table = table
        self._counters = new_counters(int(_STARTS[-1]) * NODES)
        self._weights = new_weights(_KINDS * 2 * NODES, len(_CONTEXTS))
        self._sign_counters = new_counters(int(_SIGN_STARTS[-1]))
        self._sign_weights = new_weights(4, len(_SIGN_CONTEXTS))
        self._inputs = np.zeros(len(_CONTEXTS), np.int64)
        self._count = 0
        self.last, self.before, self.mean = (np.zeros(size, np.int64) for _ in range(3))

    def code(self, coder: np.ndarray, data: np.ndarray, numbers: np.ndarray, signs: np.ndarray) -> None:
        """Code a plane; an encoder is given it, a decoder fills it.

        Args:
            coder, data: of the engine.
            numbers: int64 buffer, magnitudes of the dependent quantizers; in half steps afterwards.
            signs: int64 buffer, 0 for 0, 1 for positive, 2 for negative numbers.
        """
        _code_plane(
            coder,
            data,
            min(self._count, 40 + (self._count - 40) // 8, 79),
            self._table,
            numbers,
            signs,
            self.last,
            self.before,
            self.mean,
            self._counters,
            self._weights,
            self._sign_counters,
            self._sign_weights,
            self._inputs,
        )
        self.last, self.before = numbers, self.last
        self.mean += ((numbers << 4) - self.mean) >> 2
        self._count += 1


@njit(forceinline=True)
def _half_octaves(number):
    octaves = 0
    while number >= 4:
        number >>= 1
        octaves += 1
    return 2 * octaves + number


@njit(forceinline=True)
def _at(table, numbers, b, y, x):
    """The number at (y, x) of subband `b`, or at the nearest place that it has; 0 where there is no subband."""
    if b < 0:
        return 0
    row, column = min(y, table[b, HEIGHT] - 1), min(x, table[b, WIDTH] - 1)
    return numbers[table[b, FIRST] + row * table[b, STRIDE] + column]


@njit(forceinline=True)
def _three(number):
    """0, up to a step, or more."""
    return (min(number, 4) + 1) // 2


@compiled
def _code_plane(
    coder,
    data,
    place,
    table,
    numbers,
    signs,
    last,
    before,
    mean,
    counters,
    weights,
    sign_counters,
    sign_weights,
    inputs,
):
    state = 0
    for b in range(table.shape[0]):
        level, orientation = table[b, LEVEL], table[b, ORIENTATION]
        stride = table[b, STRIDE]
        kind = min(level, 3) * 4 + orientation
        for y in range(table[b, HEIGHT]):
            for x in range(table[b, WIDTH]):
                p = table[b, FIRST] + y * stride + x
                north, west = numbers[p - stride], numbers[p - 1]
                north_west, north_east = numbers[p - stride - 1], numbers[p - stride + 1]
                near = 2 * (north + west) + north_west + north_east + numbers[p - 2 * stride] + numbers[p - 2]
                parent = _at(table, numbers, table[b, PARENT], y >> 1, x >> 1)
                sibling = _at(table, numbers, table[b, SIBLING], y, x)
                if orientation == 2:
                    sibling *= 2
                sibling += _at(table, numbers, table[b, SECOND_SIBLING], y, x)
                here, there = last[p], before[p]
                across = 4 * here + last[p - 1] + last[p + 1] + last[p - stride] + last[p + stride] + 2 * there
                usual = mean[p]
                total = 4 * near + 3 * across + 4 * parent + 2 * sibling + (usual >> 2)
                quantizer = state >> 1
                size = 0 if total == 0 else 1 if total < 24 else 2 if total < 80 else 3
                near_size = min(_half_octaves(near), _COARSE - 1)
                across_size = min(_half_octaves(across), _COARSE - 1)
                family_size = min(_half_octaves(2 * parent + sibling), _COARSE - 1)
                one = kind * _SIZES + min(_half_octaves(total), _SIZES - 1)
                two = (near_size * _COARSE + across_size) * 4 + orientation
                three = (family_size * _COARSE + across_size) * 12 + min((here + 1) >> 1, 3) * 3 + min(there, 2)
                four = (_three(north) * 3 + _three(west)) * 9 + _three(north_west) * 3 + _three(north_east)
                four = four * 27 + _three(here) * 9 + _three(there) * 3 + min(usual >> 4, 2)
                five = (place * 24 + min(level, 5) * 4 + orientation) * 4 + size
                six = (near_size * _COARSE + min(_half_octaves(usual >> 2), _COARSE - 1)) * _COARSE
                six += min(_half_octaves(parent), _COARSE - 1)
                bases = (
                    (_STARTS[0] + 2 * one + quantizer) * NODES,
                    (_STARTS[1] + 2 * two + quantizer) * NODES,
                    (_STARTS[2] + 2 * three + quantizer) * NODES,
                    (_STARTS[3] + 2 * four + quantizer) * NODES,
                    (_STARTS[4] + 2 * five + quantizer) * NODES,
                    (_STARTS[5] + 2 * six + quantizer) * NODES,
                )
                number = code_magnitude(
                    coder,
                    data,
                    counters,
                    bases,
                    inputs,
                    weights,
                    (2 * kind + quantizer) * NODES,
                    _MEMORY,
                    numbers[p],
                )
                sign = 0
                if number:
                    above, left = signs[p - stride], signs[p - 1]
                    pair = above * 3 + left
                    bases = (
                        _SIGN_STARTS[0] + ((pair * 3 + signs[p - 2 * stride]) * 3 + signs[p - 2]) * 4 + orientation,
                        _SIGN_STARTS[1],
                        _SIGN_STARTS[2] + pair * 4 + orientation,
                    )
                    sign = 1 + code_mixed(
                        coder,
                        data,
                        sign_counters,
                        bases,
                        0,
                        inputs,
                        sign_weights,
                        orientation,
                        _MEMORY,
                        signs[p] >> 1,
                    )
                signs[p] = sign
                numbers[p] = 2 * number - quantizer if number else 0
                state = NEXT[state, number & 1]
