"""Adaptive prediction of the errors of the fitted prediction, from the errors around a sample.

The fitted coefficients of a band are the same for all its samples, and none has more regressors than the image can pay
for. Weights that both encoder and decoder adapt cost nothing: normalized least mean squares (NLMS; Widrow and Stearns,
"Adaptive Signal Processing", 1985). They carry over from band to band, and predict the error from

- the errors at five places in the eight preceding bands, above the sample also in the band itself;
- 18 errors before the sample in the band itself, with weights for each class of phases (`coding.prediction.phases`).

Errors are those of the fitted prediction, not of the corrected one, in units of 2^-`FRACTION_BITS`. The change of a
weight is divided by the power of the errors around, so that it does not depend on the scale of a band, and shrinks with
the number of samples so far down to a limit, so that weights first settle and then follow the image. Weights change
after each row only. So the sums of a row are computed before any of its samples is decoded, but for the errors to the
left, and no sample waits for the weights of the one before.

All arithmetic uses integers. The functions that kernels call are inlined.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import inlined
from coding.entropy.neighbors import PAD, bit_length
from coding.entropy.vectors import LANES, add_products, weighted_sum
from coding.prediction.phases import CLASSES

FRACTION_BITS = 3
"""Binary places of predictions and of their errors."""
UNCODED = -1
"""Size in `Filter.sizes` for samples that are not coded."""

_BANDS = 8  # whose errors the filter uses
_PLACES = 5  # whose errors in these bands it uses
_ROWS = 2  # above the sample, of which it uses a vector of errors in the band itself
_LEFT = 2  # errors to the left that it uses
_ONE_BAND_ON = np.arange(_BANDS) - 1
_WEIGHT_BITS = 16  # binary places of a weight
_SHARE = 27  # of the correction that is used, in 32nds: with all of it, errors of quantization would feed themselves
_SHARE_BITS = 5
_MAX_ERROR = 1 << 20
_CLIPPED_AT = 4  # times the mean error around
_MIN_SIZE = 8  # eight times a mean error of 1
_STEP_BITS = 20  # binary places of a step

# The changes of weights are shifted right by twice the bits of the errors around, plus the first of these numbers; one
# more after some samples, and after twice as many again, up to the last. One sample in 2^AGE counts.
_FIRST_SHIFT, _LAST_SHIFT, _AGE = -5, -2, 12
_FIRST_PHASE_SHIFT, _LAST_PHASE_SHIFT, _LAST_SHIFT_WITHOUT, _PHASE_AGE = -7, -4, -2, 9


class Filter(NamedTuple):
    """The state of the filter, and its buffers for a row.

    Attributes:
        stride: W + 4.
        history: int32 (8, (H + 4) (W + 4)), planes of the errors in the last eight bands, with margins of 0; row: band
            modulo 8.
        weights: int32 (`_PLACES`, 8), of `history`.
        row_stride: W + 8.
        rows: int32 ((H + 2) (W + 8) + 8,), the errors in the band itself, with a margin of two rows and eight columns.
        row_weights: int32 (8 `_ROWS` `CLASSES`,), of `rows`, for each class.
        left_weights: int64 (`CLASSES`, `_LEFT`), of the errors to the left.
        ages: int64 (`CLASSES` + 1,), numbers of coded samples in each class, and of all pixels, of the rows so far.
        sums: int64 (W,), weighted sums for a row, without the errors to the left.
        corrections: int64 (W,), the predicted errors of a row.
        sizes: int64 (W,), eight times the mean errors around the samples of a row, in units of 2^-`FRACTION_BITS`.
        steps: int32 (W,), how far the weights are to move, relative to the errors.
    """

    stride: int
    history: np.ndarray
    weights: np.ndarray
    row_stride: int
    rows: np.ndarray
    row_weights: np.ndarray
    left_weights: np.ndarray
    ages: np.ndarray
    sums: np.ndarray
    corrections: np.ndarray
    sizes: np.ndarray
    steps: np.ndarray


def new_filter(height: int, width: int) -> Filter:
    """Return the filter before the first band of an image of `height` x `width` pixels."""
    stride, row_stride = width + 2 * PAD, width + LANES
    return Filter(
        stride,
        np.zeros((_BANDS, (height + 2 * PAD) * stride), np.int32),
        np.zeros((_PLACES, _BANDS), np.int32),
        row_stride,
        np.zeros((height + 2) * row_stride + LANES, np.int32),
        np.zeros(CLASSES * _ROWS * LANES, np.int32),
        np.zeros((CLASSES, _LEFT), np.int64),
        np.zeros(CLASSES + 1, np.int64),
        np.zeros(width, np.int64),
        np.zeros(width, np.int64),
        np.zeros(width, np.int64),
        np.zeros(width, np.int32),
    )


def next_band(state: Filter) -> None:
    """Move the weights to where the next band has the errors that they belong to."""
    state.weights[:] = state.weights[:, _ONE_BAND_ON]


@inlined
def row_start(state, y):
    """Return the place in `Filter.rows` of the first sample of row `y`."""
    return (y + 2) * state.row_stride + LANES


@inlined
def begin_row(state, p, y, phases):
    """Compute the sums of row `y`, which begins at place `p` of a plane; `phases` are the classes of its pixels."""
    r, sums, history, weights = row_start(state, y), state.sums, state.history, state.weights
    sums[:] = 0
    for place in range(_PLACES):
        q = p + _offset(state, place)
        weight = weights[place]
        for band in range(0, _BANDS, 4):  # four at once, to load and store the sums less often
            a, b, c, d = history[band, q:], history[band + 1, q:], history[band + 2, q:], history[band + 3, q:]
            u, v, w, z = weight[band], weight[band + 1], weight[band + 2], weight[band + 3]
            for x in range(len(sums)):  # products of two int32 with 64 bits are fast
                sums[x] += np.int64(u) * np.int64(a[x]) + np.int64(v) * np.int64(b[x])
                sums[x] += np.int64(w) * np.int64(c[x]) + np.int64(z) * np.int64(d[x])
    for x in range(len(sums)):
        first = np.int64(phases[x]) * _ROWS * LANES
        sums[x] += weighted_sum(state.row_weights, first, state.rows, _row_places(state, r + x))


@inlined
def _offset(state, place):
    """Return the offset of a place in planes: the sample itself, to the left, above, to the right, below."""
    if place == 0:
        return 0
    if place < 3:
        return -1 if place == 1 else -state.stride
    return 1 if place == 3 else state.stride


@inlined
def _row_places(state, r):
    """Return where the vectors of the errors above place `r` of `Filter.rows` begin."""
    return r - state.row_stride - 3, r - 2 * state.row_stride - 4


@inlined
def correction(state, x, phase, left, second_left):
    """Return the predicted error of sample `x` of a row.

    The row has begun; `phase` is the class of the sample, `left` and `second_left` are the errors of the two samples to
    its left, in units of 2^-`FRACTION_BITS`.
    """
    total = state.sums[x] + state.left_weights[phase, 0] * left + state.left_weights[phase, 1] * second_left
    state.corrections[x] = total >> _WEIGHT_BITS
    return total >> _WEIGHT_BITS


@inlined
def corrected(predicted, correction):
    """Return a prediction after its correction."""
    return predicted + (_SHARE * correction >> _SHARE_BITS)


@inlined
def clip_error(error):
    """Return an error as it is stored in `Filter.rows`."""
    return min(max(error, -_MAX_ERROR), _MAX_ERROR)


@inlined
def finish_row(state, p, y, band):
    """Adapt the weights to the errors of a row, and add them to the history; see `begin_row`."""
    r, width, ages = row_start(state, y), len(state.sums), state.ages
    _fill_steps(state, r)
    missed, powers = state.corrections, state.sums
    last = _LAST_PHASE_SHIFT if band.has_phases else _LAST_SHIFT_WITHOUT
    for x in range(width):
        if state.sizes[x] == UNCODED:
            continue
        phase = np.int64(band.phases[y * width + x])
        shift = powers[x] + min(_FIRST_PHASE_SHIFT + bit_length(ages[phase] >> _PHASE_AGE), last)
        ages[phase] += 1
        first = phase * _ROWS * LANES
        add_products(state.row_weights, first, state.rows, _row_places(state, r + x), missed[x], shift)
        for i in range(_LEFT):
            state.left_weights[phase, i] += shift_right(missed[x] * state.rows[r + x - 1 - i], shift)
    _move_weights(state, p, min(_FIRST_SHIFT + bit_length(ages[CLASSES] >> _AGE), _LAST_SHIFT))
    ages[CLASSES] += width
    plane = state.history[band.number % _BANDS, p:]
    for x in range(width):
        plane[x] = state.rows[r + x]


@inlined
def _fill_steps(state, r):
    """Fill in the steps for a row that begins at place `r` of `Filter.rows`.

    The corrections become what they left of the errors, clipped, and the sums the logarithms of their divisors.
    """
    errors, missed, powers, sizes = state.rows[r:], state.corrections, state.sums, state.sizes
    for x in range(len(sizes)):
        limit = _CLIPPED_AT * sizes[x] + 2 * _MIN_SIZE
        error = min(max(errors[x] - missed[x], -limit), limit)
        missed[x] = 0 if sizes[x] == UNCODED else error
        powers[x] = 2 * bit_length(max(sizes[x], 0) + _MIN_SIZE)
        state.steps[x] = shift_right(missed[x] << _STEP_BITS, powers[x])


@inlined
def _move_weights(state, p, shift):
    """Move the weights of the history along the steps of a row that begins at place `p`."""
    history, steps = state.history, state.steps
    for place in range(_PLACES):
        q = p + _offset(state, place)
        for band in range(_BANDS):
            errors, total = history[band, q:], np.int64(0)
            for x in range(len(steps)):
                total += np.int64(steps[x]) * np.int64(errors[x])
            state.weights[place, band] += shift_right(total, _STEP_BITS + shift)


@inlined
def shift_right(number, places):
    """Return `number` / 2^places, rounded."""
    return (number + (1 << (places - 1))) >> places
