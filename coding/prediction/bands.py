"""Prediction, quantization and coding of the samples of a band, in one pass that encoder and decoder share.

A plane holds the samples of a band minus their mean, with a margin of `PAD` rows and columns. The margin is filled from
what a decoder has: above with the first row of the preceding band, to the left with the sample above, to the right and
below with the last sample.

A prediction error is coded as its magnitude in units of 2^k, the k bits below, and its sign. Both k and the contexts
depend on the errors around the sample: to the left and above in its own band, and on all sides in the two preceding
bands. Contexts are in units of 2^k as well, so that dark and bright bands share their statistics.

Samples may lie on the lattice of floats: integers with at most `digits` significant bits, so that large ones are
farther apart. They are predicted as integers, but the prediction error is the number of lattice places between the
prediction and the sample. An error size remains a difference of integers, and is divided by the distance of lattice
places where it becomes a context.

Samples that the decoder knows already, such as those at which a sensor saturates, take no bits, but predict others.
Neither do gaps, whose samples have no meaning: they become what is predicted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import compiled, inlined
from coding.entropy.mixing import MAGNITUDE_BITS, NODES, Mixer, code_magnitude, code_mixed, new_mixer
from coding.entropy.neighbors import (
    PAD,
    bit_length,
    causal_sum,
    cross_sum,
    half,
    surround_below,
    surround_left,
    surround_right,
)
from coding.entropy.range_coder import code_bits
from coding.prediction.regression import POINT

FRACTION_BITS = 3
"""Fractional bits of a prediction before it is rounded."""

_FRACTIONS = (1 << (FRACTION_BITS - 1)) + 1  # distances of a prediction from the nearest integer
_CLASSES = 64  # of activity
_FINE = 8  # activities within an octave
_SCALES = 5  # values of k that contexts distinguish
_SUM_SIZES = 16  # sizes of a sum of errors that contexts distinguish
_ERROR_SIZES = 12  # sizes of a single error that contexts distinguish
_BIT_MAGNITUDES = 8  # magnitudes that contexts of the bit below distinguish
_MAX_ERROR_SIZE = (1 << 33) - 1
_ESCAPE = (1 << MAGNITUDE_BITS) - 1  # stands for itself and for larger magnitudes
_ESCAPE_BITS = 34  # of how much larger they are
_MAX_MAGNITUDE = 1 << 35
_INITIAL_ERROR_SIZE = 4  # in the imaginary bands before the first

GAP = 255
"""Kind of samples that have no meaning."""
ALL_DIGITS = 53
"""Significant bits that integers do not exceed, in eighths either."""
_NARROW_RANGE = 1 << 31  # differences from a mean that are smaller fit into int32

# First counter of each kind of context for magnitudes; docs/format.md uses the same names.
_BY_CLASS = 0
_BY_SUMS = _BY_CLASS + _CLASSES * _FRACTIONS * NODES
_BY_ERRORS = _BY_SUMS + _SUM_SIZES * _SUM_SIZES * _SCALES * NODES
_BY_BAND = _BY_ERRORS + _ERROR_SIZES**3 * NODES

# First counter of each kind of context for bits and signs, and their sets of weights.
_BIT_BY_MAGNITUDE = 0
_BIT_BY_CLASS = _BIT_BY_MAGNITUDE + _BIT_MAGNITUDES
_SIGN_BY_FRACTION = _BIT_BY_CLASS + 2 * _CLASSES
_SIGN_BY_CLASS = _SIGN_BY_FRACTION + 2 * _FRACTIONS
_BIT_COUNTERS = _SIGN_BY_CLASS + _CLASSES
_BIT_SETS = 4
_SIGN_SET = _BIT_SETS


class State(NamedTuple):
    """The state that is carried from band to band.

    Planes have a margin of `PAD` rows and columns, and are stored as flat buffers whose rows are `stride` apart.

    Attributes:
        stride: W + 4.
        planes: int32 or int64 (C, (H + 4) (W + 4)), samples minus the mean of their band, as the decoder has them; an
            encoder fills in the band to code.
        error_sizes: int64 (3, (H + 4) (W + 4)), magnitudes of the errors in the last three bands; row: band modulo 3.
        magnitudes: mixer of magnitudes.
        bits: mixer of the bits below and of the signs.
        predictions: int64 (W,), scratch.
    """

    stride: int
    planes: np.ndarray
    error_sizes: np.ndarray
    magnitudes: Mixer
    bits: Mixer
    predictions: np.ndarray


class Band(NamedTuple):
    """The parameters of a band, known before it is coded.

    Attributes:
        number: number of the band and of its plane.
        regressors: int64 (R, 3): how many bands before, rows below and columns right of a sample.
        coefficients: int64 (R,), of the regressors, in units of 2^-`POINT`.
        mean: mean of the samples.
        lowest, highest: limits of the samples.
        bound: largest error of a sample; 0 is lossless.
        digits: largest number of significant bits of the samples, up to `ALL_DIGITS`.
        kinds: uint8 (H * W,), 0 for a sample to code, `GAP` for one without a meaning, else 1 + the index of its value
            in `known`; or of length 0.
        known: int64 (K,), values of samples that the decoder knows.
    """

    number: int
    regressors: np.ndarray
    coefficients: np.ndarray
    mean: int
    lowest: int
    highest: int
    bound: int
    digits: int
    kinds: np.ndarray
    known: np.ndarray


class Activity(NamedTuple):
    """Error sizes around a sample.

    Attributes:
        spatial, spectral: weighted sums in the same band, and in the two preceding bands.
        west, north, center: the error to the left, the one above, and the one at the same place in the preceding band.
        k: exponent of the unit 2^k of magnitudes.
        fine: half of the sum of `spatial` and `spectral`, plus 1, in units of 2^k.
        class_number: number of the class of activity.
    """

    spatial: int
    spectral: int
    west: int
    north: int
    center: int
    k: int
    fine: int
    class_number: int


def new_state(shape: tuple[int, ...], largest_difference: int) -> State:
    """Return the state before the first band of an image.

    Args:
        shape: (C, H, W).
        largest_difference: of two samples of the image.
    """
    bands, height, width = shape
    stride = width + 2 * PAD
    size = (height + 2 * PAD) * stride
    return State(
        stride,
        np.zeros((bands, size), np.int32 if largest_difference < _NARROW_RANGE else np.int64),
        np.full((3, size), _INITIAL_ERROR_SIZE, np.int64),
        new_mixer(_BY_BAND + bands * _FINE * NODES, _SCALES * NODES, 4),
        new_mixer(_BIT_COUNTERS, _BIT_SETS + 1, 2),
        np.zeros(width, np.int64),
    )


@compiled
def fill_plane(planes, band, samples):
    """Copy samples (H, W), their mean subtracted already, into the plane of a band, and fill its margin."""
    height, width = samples.shape
    stride, plane = width + 2 * PAD, planes[band]
    _surround_above(planes, band, stride)
    for y in range(height):
        p = (y + PAD) * stride + PAD
        surround_left(plane, p, stride)
        for x in range(width):
            plane[p + x] = samples[y, x]
        surround_right(plane, p, stride)
    surround_below(plane, stride)


@inlined
def _surround_above(planes, band, stride):
    """Fill the margin above the plane of a band; above the first band it stays 0."""
    if band == 0:
        return
    for y in range(PAD):
        for x in range(stride):
            planes[band, y * stride + x] = planes[band - 1, PAD * stride + x]


@compiled
def code_band(coder, state, band):
    """Encode a band from its plane, or decode it; afterwards the plane holds the samples as the decoder has them.

    Args:
        coder: a `Coder`.
        state: a `State`.
        band: a `Band`.
    """
    stride, plane = state.stride, state.planes[band.number]
    errors, before = state.error_sizes[band.number % 3], state.error_sizes[(band.number + 2) % 3]
    _surround_above(state.planes, band.number, stride)
    for x in range(PAD * stride):
        errors[x] = before[PAD * stride + x % stride]
    for p in range(PAD * stride + PAD, len(plane) - PAD * stride, stride):
        surround_left(plane, p, stride)
        surround_left(errors, p, stride)
        _predict_row(state, band, p)
        _code_row(coder, state, band, p)
        surround_right(plane, p, stride)
        surround_right(errors, p, stride)
    surround_below(plane, stride)
    surround_below(errors, stride)


@inlined
def _predict_row(state, band, p):
    """Sum the terms of the prediction for a row that begins at `p`, except for the regressors in that row."""
    predictions = state.predictions
    predictions[:] = 0
    for i in range(len(band.coefficients)):
        coefficient = band.coefficients[i]
        lag, dy, dx = band.regressors[i, 0], band.regressors[i, 1], band.regressors[i, 2]
        if coefficient != 0 and (lag != 0 or dy != 0):
            source = state.planes[band.number - lag, p + dy * state.stride + dx :]
            for x in range(len(predictions)):
                predictions[x] += coefficient * source[x]


@inlined
def _row_coefficients(band):
    """Return the coefficients of the two samples to the left, the nearest first."""
    left, second_left = np.int64(0), np.int64(0)
    for i in range(len(band.coefficients)):
        if band.regressors[i, 0] == 0 and band.regressors[i, 1] == 0:
            if band.regressors[i, 2] == -1:
                left = band.coefficients[i]
            else:
                second_left = band.coefficients[i]
    return left, second_left


@inlined
def _code_row(coder, state, band, start):
    """Code a row that begins at `start`, after `_predict_row`."""
    stride, step = state.stride, 2 * band.bound + 1
    plane, errors = state.planes[band.number], state.error_sizes[band.number % 3]
    before, second = state.error_sizes[(band.number + 2) % 3], state.error_sizes[(band.number + 1) % 3]
    left, second_left = _row_coefficients(band)
    first = ((start - PAD) // stride - PAD) * len(state.predictions)
    has_known, is_lattice, digits = len(band.kinds) > 0, band.digits < ALL_DIGITS, band.digits
    first_place, last_place = _to_lattice(band.lowest, digits), _to_lattice(band.highest, digits)
    for x in range(len(state.predictions)):
        p = start + x
        kind = band.kinds[first + x] if has_known else 0
        if kind:
            errors[p] = causal_sum(errors, p, stride) >> 3
        if kind and kind != GAP:
            plane[p] = band.known[kind - 1] - band.mean
            continue
        predicted = state.predictions[x] + left * plane[p - 1] + second_left * plane[p - 2]
        predicted = _shift_right(predicted, POINT - FRACTION_BITS) + (band.mean << FRACTION_BITS)
        predicted = min(max(predicted, band.lowest << FRACTION_BITS), band.highest << FRACTION_BITS)
        if kind:
            plane[p] = _shift_right(predicted, FRACTION_BITS) - band.mean
            continue
        shift = _lattice_shift(predicted, digits + FRACTION_BITS) if is_lattice else 0
        activity = _activity(errors, before, second, p, stride, shift)
        place = plane[p] + band.mean
        if is_lattice:
            predicted, place = _to_lattice(predicted, digits + FRACTION_BITS), _to_lattice(place, digits)
        rounded = _shift_right(predicted, FRACTION_BITS)
        fraction = predicted - (rounded << FRACTION_BITS)
        is_flipped = fraction < 0
        fraction = abs(fraction) if activity.k == 0 and band.bound == 0 else 0
        error = place - rounded
        is_negative = (error < 0) != is_flipped
        magnitude = (abs(error) + band.bound) // step if band.bound else abs(error)
        magnitude = _code_magnitude(coder, state, band, activity, fraction, magnitude)
        error = magnitude * step
        if magnitude and _code_sign(coder, state, activity, fraction, magnitude, is_negative):
            error = -error
        if is_flipped:
            error = -error
        place = min(max(rounded + error, first_place), last_place)
        if is_lattice:
            place = _from_lattice(place, digits)
            magnitude = abs(place - _from_lattice(rounded, digits))
        plane[p] = place - band.mean
        errors[p] = min(magnitude, _MAX_ERROR_SIZE)


@inlined
def _lattice_shift(value, digits):
    """Return the binary logarithm of the distance of lattice places at an integer."""
    size = abs(value)
    return bit_length(size) - digits if size >> digits else 0


@inlined
def _to_lattice(value, digits):
    """Return the number of the lattice place at an integer or next to it, towards 0."""
    shift = _lattice_shift(value, digits)
    if shift == 0:
        return value
    place = (shift << (digits - 1)) + (abs(value) >> shift)
    return place if value > 0 else -place


@inlined
def _from_lattice(place, digits):
    """Return the integer at a lattice place."""
    size = abs(place)
    if size >> digits == 0:
        return place
    shift = (size >> (digits - 1)) - 1
    value = (size - (shift << (digits - 1))) << shift
    return value if place > 0 else -value


@inlined
def _shift_right(value, places):
    """Return `value` / 2^places, rounded."""
    return (value + (1 << (places - 1))) >> places


@inlined
def _activity(errors, before, second, p, stride, shift):
    """Return the `Activity` at place `p`, from the error sizes of this band and of the two preceding bands.

    Error sizes are divided by 2^shift.
    """
    spatial = causal_sum(errors, p, stride) >> shift
    spectral = (2 * (before[p] + second[p]) + cross_sum(before, p, stride)) >> shift
    activity = ((spatial + spectral) >> 1) + 1
    k = max(bit_length(activity) - 4, 0)
    fine = activity >> k
    class_number = _FINE * min(k, 6) + fine
    west, north, center = errors[p - 1] >> shift, errors[p - stride] >> shift, before[p] >> shift
    return Activity(spatial, spectral, west, north, center, k, fine, class_number)


@inlined
def _code_magnitude(coder, state, band, activity, fraction, magnitude):
    """Code the magnitude of an error."""
    k = activity.k
    scale = min(k, _SCALES - 1)
    contexts = _magnitude_contexts(band, activity, fraction, scale)
    upper = code_magnitude(coder, state.magnitudes, contexts, scale * NODES, min(magnitude >> k, _ESCAPE))
    if upper == _ESCAPE:
        upper += code_bits(coder, (magnitude >> k) - _ESCAPE, _ESCAPE_BITS)
        upper = min(upper, _MAX_MAGNITUDE >> k)  # a damaged stream may hold more
    if k == 0:
        return upper
    lower = magnitude & ((1 << k) - 1)
    contexts = (
        _BIT_BY_MAGNITUDE + min(upper, _BIT_MAGNITUDES - 1),
        _BIT_BY_CLASS + 2 * activity.class_number + int(upper > 0),
    )
    below = k - 1
    bit = code_mixed(coder, state.bits, contexts, min(upper, _BIT_SETS - 1), 0, lower >> below)
    return ((2 * upper + bit) << below) | code_bits(coder, lower & ((1 << below) - 1), below)


@inlined
def _magnitude_contexts(band, activity, fraction, scale):
    """Return the contexts of the magnitude of an error in units of 2^k."""
    k = activity.k
    spatial = min(half(activity.spatial >> k), _SUM_SIZES - 1)
    spectral = min(half(activity.spectral >> k), _SUM_SIZES - 1)
    west = min(half(4 * activity.west >> k), _ERROR_SIZES - 1)
    north = min(half(4 * activity.north >> k), _ERROR_SIZES - 1)
    center = min(half(4 * activity.center >> k), _ERROR_SIZES - 1)
    return (
        _BY_CLASS + (activity.class_number * _FRACTIONS + fraction) * NODES,
        _BY_SUMS + ((spatial * _SUM_SIZES + spectral) * _SCALES + scale) * NODES,
        _BY_ERRORS + ((west * _ERROR_SIZES + north) * _ERROR_SIZES + center) * NODES,
        _BY_BAND + (band.number * _FINE + activity.fine % _FINE) * NODES,
    )


@inlined
def _code_sign(coder, state, activity, fraction, magnitude, is_negative):
    """Code the sign of an error that is not 0."""
    contexts = (_SIGN_BY_FRACTION + 2 * fraction + int(magnitude > 1), _SIGN_BY_CLASS + activity.class_number)
    return code_mixed(coder, state.bits, contexts, _SIGN_SET, 0, int(is_negative))
