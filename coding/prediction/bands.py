"""The samples of a band: predicted, quantized and coded in one walk that encoder and decoder share.

Planes hold samples less the mean of their band, with `PAD` rows and columns around them that continue them by what a
decoder has: above, the first row of the band before; to the left, the sample above; to the right and below, the last.

An error of the prediction is coded as its magnitude in units of 2^k, the bits below these, and its sign. Both k and
the contexts follow how large the errors around are: in this band to the left and above, in the two before on all
sides. Contexts see them in units of 2^k as well, so that faint and bright bands learn from one another.
"""

from __future__ import annotations

import numba
import numpy as np

from coding.entropy.compiled import compiled
from coding.entropy.mixing import NODES, code_bits, code_magnitude, code_mixed
from coding.prediction.regression import PAD, POINT

FRACTION = 3
"""Binary places of a prediction that contexts see."""

_SCALES = 5  # values of k that have models of their own
_FINE = 64  # levels of the errors around, all together
_LEVELS = 16  # of those of this band, of those of the others
_STEPS = 12  # of single ones
_FOLDS = (1 << (FRACTION - 1)) + 1  # distances of a prediction from the nearest whole number
_LARGEST = (1 << 20) - 1  # magnitude that contexts tell from larger ones


def _level_table() -> np.ndarray:
    """Half octaves of the numbers below 2^12."""
    levels = [0, 1]
    for number in range(2, 1 << 12):
        bits = number.bit_length()
        levels.append(2 * bits - 2 + ((number >> (bits - 2)) & 1))
    return np.array(levels, np.uint8)


_LEVEL = _level_table()
_BITS = np.array([number.bit_length() for number in range(1 << 12)], np.uint8)

INPUTS = 4
_BY_FINE = 0
_BY_SIDES = _BY_FINE + _FINE * _FOLDS * NODES
_BY_SINGLE = _BY_SIDES + _LEVELS * _LEVELS * _SCALES * NODES
_BY_LOW = _BY_SINGLE + _STEPS**3 * NODES
_BY_SIGN = _BY_LOW + 8 + 2 * _FINE
_BY_BAND = _BY_SIGN + 2 * _FOLDS + _FINE


def counters_of(bands: int) -> int:
    """Counters that the models of so many bands have together."""
    return _BY_BAND + bands * 8 * NODES


SETS = _SCALES * NODES
"""Sets of weights of the magnitudes."""

LOW_SETS = 5
"""Sets of weights of the bits below them and of the signs."""


@numba.njit(forceinline=True)
def _level(number, most):
    return min(np.int64(_LEVEL[min(number, 4095)]), most)


@numba.njit(forceinline=True)
def _bit_length(number):
    if number < 4096:
        return np.int64(_BITS[number])
    return 12 + np.int64(_BITS[min(number >> 12, 4095)])


@numba.njit(forceinline=True)
def _shift_right(value, places):
    """`value` / 2^places, rounded."""
    return (value + (1 << (places - 1))) >> places


@compiled
def fill_plane(planes, band, samples):
    """Put samples (H, W) less their mean into a plane, and what surrounds them."""
    _start_plane(planes, band)
    for y in range(samples.shape[0]):
        _start_row(planes, band, y)
        for x in range(samples.shape[1]):
            planes[band, y + PAD, x + PAD] = samples[y, x]
        _end_row(planes, band, y)
    _end_plane(planes, band)


@numba.njit(forceinline=True)
def _start_plane(planes, band):
    for y in range(PAD):
        for x in range(planes.shape[2]):
            planes[band, y, x] = planes[band - 1, PAD, x] if band else 0


@numba.njit(forceinline=True)
def _start_row(planes, band, y):
    for x in range(PAD):
        planes[band, y + PAD, x] = planes[band, y + PAD - 1, PAD]


@numba.njit(forceinline=True)
def _end_row(planes, band, y):
    width = planes.shape[2] - 2 * PAD
    for x in range(PAD):
        planes[band, y + PAD, width + PAD + x] = planes[band, y + PAD, width + PAD - 1]


@numba.njit(forceinline=True)
def _end_plane(planes, band):
    last = planes.shape[1] - PAD - 1
    for y in range(PAD):
        for x in range(planes.shape[2]):
            planes[band, last + 1 + y, x] = planes[band, last, x]


@compiled
def code_band(
    coder, data, planes, band, places, factors, low, high, bound, sizes, counters, weights, low_weights, inputs, row
):
    """Code a band; an encoder finds it in its plane, and leaves there what the decoder will have.

    Args:
        coder: of the engine.
        data: uint8, of the engine.
        planes: int32 (C, H + 4, W + 4); those before `band` as they were left.
        band: number of the plane.
        places: int64 (R, 3): bands before, rows below and columns right of the regressors.
        factors: int64 (R,): their coefficients, in 2^-`POINT`.
        low: least value of the plane's samples.
        high: largest.
        bound: what no sample's error exceeds.
        sizes: int64 (3, H + 2, W + 4): magnitudes of the errors of this band and the two before, at their number
            modulo 3; before the first band, what its errors shall be taken for.
        counters: int32 (`counters_of` C,).
        weights: (`SETS`, INPUTS + 1).
        low_weights: (`LOW_SETS`, 3).
        inputs: int64 (INPUTS,); scratch.
        row: int64 (W,); scratch.
    """
    height, width = sizes.shape[1] - 2, sizes.shape[2] - 4
    here, before, second = sizes[band % 3], sizes[(band + 2) % 3], sizes[(band + 1) % 3]
    quantizer = 2 * bound + 1
    by_band = _BY_BAND + band * 8 * NODES
    left, second_left = np.int64(0), np.int64(0)
    for i in range(len(places)):
        if places[i, 0] == 0 and places[i, 1] == 0:
            if places[i, 2] == -1:
                left = factors[i]
            else:
                second_left = factors[i]
    for x in range(width + 4):
        here[0, x] = before[1, x]
        before[height + 1, x] = before[height, x]
    _start_plane(planes, band)
    for y in range(height):
        _start_row(planes, band, y)
        row[:] = 0
        for i in range(len(places)):
            lag, dy, dx = places[i, 0], places[i, 1], places[i, 2]
            if factors[i] != 0 and (lag != 0 or dy != 0):
                factor = factors[i]
                source = planes[band - lag, y + PAD + dy, PAD + dx : PAD + dx + width]
                for x in range(width):
                    row[x] += factor * source[x]
        for x in range(2):
            here[y + 1, x] = here[y, 2]
        w, ww = here[y + 1, 1], here[y + 1, 0]
        nw, n = here[y, 1], here[y, 2]
        p, pp = np.int64(planes[band, y + PAD, PAD - 1]), np.int64(planes[band, y + PAD, PAD - 2])
        for x in range(width):
            ne = here[y, x + 3]
            center = before[y + 1, x + 2]
            spatial = 2 * (w + n) + nw + ne + ww
            spectral = 2 * (center + second[y + 1, x + 2]) + before[y + 1, x + 1] + before[y + 1, x + 3]
            spectral += before[y, x + 2] + before[y + 2, x + 2]
            around = (8 * spatial + 7 * spectral) // 14 + 1  # in eighths
            bits = _bit_length(around)
            k = max(bits - 4, 0)
            fine = min(around >> k, 15)
            scale = min(k, _SCALES - 1)
            fine_index = min(8 * min(k, 6) + fine, _FINE - 1)

            predicted = row[x] + left * p + second_left * pp
            predicted = min(max(_shift_right(predicted, POINT - FRACTION), low << FRACTION), high << FRACTION)
            whole = _shift_right(predicted, FRACTION)
            fold = predicted - (whole << FRACTION)
            flip = fold < 0
            fold = abs(fold) if k == 0 and bound == 0 else 0
            error = planes[band, y + PAD, x + PAD] - whole
            if flip:
                error = -error
            magnitude = (abs(error) + bound) // quantizer if bound else abs(error)
            negative = int(error < 0)

            bases = (
                _BY_FINE + (fine_index * _FOLDS + fold) * NODES,
                _BY_SIDES
                + ((_level(spatial >> k, _LEVELS - 1) * _LEVELS + _level(spectral >> k, _LEVELS - 1)) * _SCALES + scale)
                * NODES,
                _BY_SINGLE
                + (
                    (_level(4 * w >> k, _STEPS - 1) * _STEPS + _level(4 * n >> k, _STEPS - 1)) * _STEPS
                    + _level(4 * center >> k, _STEPS - 1)
                )
                * NODES,
                by_band + (fine & 7) * NODES,
            )
            coded = code_magnitude(coder, data, counters, bases, inputs, weights, scale * NODES, 255, magnitude >> k)
            if k > 0:
                below = magnitude & ((1 << k) - 1)
                slots = (_BY_LOW + min(coded, 7), _BY_LOW + 8 + 2 * fine_index + int(coded > 0))
                top = code_mixed(
                    coder, data, counters, slots, 0, inputs, low_weights, min(coded, 3), 255, below >> (k - 1)
                )
                coded = 2 * coded + top
                rest = k - 1
                while rest > 0:
                    part = min(rest, 16)
                    rest -= part
                    coded = (coded << part) | code_bits(coder, data, (below >> rest) & ((1 << part) - 1), part)
            if coded > 0:
                slots = (_BY_SIGN + 2 * fold + int(coded > 1), _BY_SIGN + 2 * _FOLDS + fine_index)
                negative = code_mixed(coder, data, counters, slots, 0, inputs, low_weights, 4, 255, negative)
            error = coded * quantizer
            if (negative != 0) != flip:
                error = -error
            pp = p
            p = min(max(whole + error, low), high)
            planes[band, y + PAD, x + PAD] = p
            ww, nw, n = w, n, ne
            w = min(coded, _LARGEST)
            here[y + 1, x + 2] = w
        here[y + 1, width + 2] = w
        here[y + 1, width + 3] = w
        _end_row(planes, band, y)
    _end_plane(planes, band)
