"""Adaptive prediction of the errors of the fitted prediction, from the errors around a sample.

The fitted coefficients of a band are the same for all its samples, and none has more regressors than the image can pay
for. Weights that both encoder and decoder adapt after each sample cost nothing: normalized least mean squares (NLMS;
Widrow and Stearns, "Adaptive Signal Processing", 1985). They carry over from band to band, and predict the error from

- the errors at nine places, in the band itself and in the eight before it;
- 24 errors before the sample in the band itself, with weights for each class of phases (`coding.prediction.phases`).

Errors are those of the fitted prediction, not of the corrected one, in units of 2^-`FRACTION_BITS`. The change of a
weight is divided by the power of the errors around, so that it does not depend on the scale of a band, and shrinks with
the number of samples so far down to a limit, so that weights first settle and then follow the image.

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

_BANDS = LANES  # whose errors the filter uses: a vector has the errors of a place
_PLACES = 5  # whose errors the filter uses
_ROW_VECTORS = 3  # of errors in the band itself: to the left, and in the two rows above
_WEIGHT_BITS = 16  # binary places of a weight
_SHARE = 27  # of the correction that is used, in 32nds: with all of it, errors of quantization would feed themselves
_SHARE_BITS = 5
_MAX_ERROR = 1 << 20
_CLIPPED_AT = 4  # times the mean error around
_MIN_AROUND = 8  # eight times a mean error of 1

# The changes of weights are shifted right by twice the bits of the errors around, plus the first of these numbers; one
# more after some samples, and after twice as many again, up to the last. One sample in 2^AGE counts.
_FIRST_SHIFT, _LAST_SHIFT, _AGE = -5, -2, 12
_FIRST_ROW_SHIFT, _LAST_ROW_SHIFT, _LAST_ROW_SHIFT_OF_ONE, _ROW_AGE = -7, -4, -2, 9


class Filter(NamedTuple):
    """The state of the filter.

    Attributes:
        stride: W + 4.
        errors: int32 (8 (H + 4) (W + 4),), the errors at each place of a plane in the last eight bands; the last index
            is the band modulo 8. The margin is 0.
        weights: int32, weights of `errors`.
        row_stride: W + 8.
        rows: int32 ((H + 2) (W + 8) + 8,), the errors in the band itself, with a margin of two rows and eight columns.
        row_weights: int32, weights of `rows` for each class.
        ages: int64 (`CLASSES` + 1,), numbers of samples in each class, and in all.
    """

    stride: int
    errors: np.ndarray
    weights: np.ndarray
    row_stride: int
    rows: np.ndarray
    row_weights: np.ndarray
    ages: np.ndarray


class Surroundings(NamedTuple):
    """Where the filter finds the errors and weights of a sample.

    Attributes:
        places: places of vectors in `Filter.errors`.
        row_places: places of vectors in `Filter.rows`.
        row_weights: place of the first weight in `Filter.row_weights`.
        phase: class of phases.
    """

    places: tuple[int, ...]
    row_places: tuple[int, ...]
    row_weights: int
    phase: int


def new_filter(height: int, width: int) -> Filter:
    """Return the filter before the first band of an image of `height` x `width` pixels."""
    stride, row_stride = width + 2 * PAD, width + LANES
    return Filter(
        stride,
        np.zeros(LANES * (height + 2 * PAD) * stride, np.int32),
        np.zeros(LANES * _PLACES, np.int32),
        row_stride,
        np.zeros((height + 2) * row_stride + LANES, np.int32),
        np.zeros(CLASSES * _ROW_VECTORS * LANES, np.int32),
        np.zeros(CLASSES + 1, np.int64),
    )


def next_band(state: Filter) -> None:
    """Move the weights to where the next band has the errors that they belong to."""
    weights = state.weights.reshape(_PLACES, LANES)
    weights[:] = np.roll(weights, 1, axis=1)


@inlined
def surroundings(state, p, y, x, phase):
    """Return the `Surroundings` of the sample at place `p` of a plane, in row `y` and column `x`."""
    stride, row_stride = LANES * state.stride, state.row_stride
    q, r = LANES * p, (y + 2) * row_stride + LANES + x
    return Surroundings(
        (q, q - LANES, q - stride, q + LANES, q + stride),
        (r - LANES, r - row_stride - 3, r - 2 * row_stride - 4),
        phase * _ROW_VECTORS * LANES,
        phase,
    )


@inlined
def correction(state, around):
    """Return the predicted error of the fitted prediction; `around` are the `Surroundings`."""
    total = weighted_sum(state.weights, 0, state.errors, around.places)
    return (total + weighted_sum(state.row_weights, around.row_weights, state.rows, around.row_places)) >> _WEIGHT_BITS


@inlined
def corrected(predicted, correction):
    """Return a prediction after its correction."""
    return predicted + (_SHARE * correction >> _SHARE_BITS)


@inlined
def learn(state, around, band, error, correction, size):
    """Adapt the weights to a decoded sample.

    Args:
        state: a `Filter`.
        around: `Surroundings` of the sample.
        band: a `Band`.
        error: error of the fitted prediction.
        correction: its prediction.
        size: mean magnitude of the errors around, in units of 2^-`FRACTION_BITS`.
    """
    limit = _CLIPPED_AT * size + 2 * _MIN_AROUND
    missed = min(max(error - correction, -limit), limit)
    shift, ages = 2 * bit_length(size + _MIN_AROUND), state.ages
    last = _LAST_ROW_SHIFT if band.has_phases else _LAST_ROW_SHIFT_OF_ONE
    row_shift = shift + min(_FIRST_ROW_SHIFT + bit_length(ages[around.phase] >> _ROW_AGE), last)
    shift += min(_FIRST_SHIFT + bit_length(ages[CLASSES] >> _AGE), _LAST_SHIFT)
    add_products(state.weights, 0, state.errors, around.places, missed, shift)
    add_products(state.row_weights, around.row_weights, state.rows, around.row_places, missed, row_shift)
    ages[around.phase] += 1
    ages[CLASSES] += 1
    remember(state, around, band.number, error)


@inlined
def remember(state, around, number, error):
    """Store the error of the fitted prediction of a sample in band `number`."""
    error = min(max(error, -_MAX_ERROR), _MAX_ERROR)
    state.errors[around.places[0] + number % LANES] = error
    state.rows[around.row_places[0] + LANES] = error
