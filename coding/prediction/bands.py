"""Prediction, quantization and coding of the samples of a band, in one pass that encoder and decoder share.

A plane holds the samples of a band minus their mean, with a margin of `PAD` rows and columns. The margin is filled from
what a decoder has: above with the first row of the preceding band, to the left with the sample above, to the right and
below with the last sample.

A sample is predicted with the coefficients of its band, and the prediction is corrected by an adaptive filter
(`coding.prediction.adaptive`). A prediction error is coded as its magnitude in units of 2^k, the k bits below, and its
sign. Both k and the contexts depend on the errors around the sample: to the left and above in its own band, and on all
sides in the two preceding bands. Contexts are in units of 2^k as well, so that dark and bright bands share their
statistics.

Samples may lie on the lattice of floats: integers with at most `digits` significant bits, so that large ones are
farther apart. They are predicted as integers, but the prediction error is the number of lattice places between the
prediction and the sample. An error size remains a difference of integers, and is divided by the distance of lattice
places where it becomes a context.

With a bound, a sample is more likely to be in the half of its bin that faces the prediction than in the other one. The
decoded sample is the center of the bin, but other samples are predicted from its representative, which is nearer to the
prediction (as in CCSDS 123.0-B-2).

Samples that the decoder knows already, such as those at which a sensor saturates, take no bits, but predict others.
Neither do gaps, whose samples have no meaning: they become what is predicted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import compiled, inlined
from coding.entropy.counters import code_counted, new_counters
from coding.entropy.mixing import MAGNITUDE_BITS, NODES, Mixer, code_magnitude, new_mixer
from coding.entropy.neighbors import (
    PAD,
    bit_length,
    causal_sum,
    surround_below,
    surround_left,
    surround_right,
)
from coding.entropy.range_coder import code_bits
from coding.prediction.adaptive import (
    FRACTION_BITS,
    UNCODED,
    Filter,
    begin_row,
    clip_error,
    corrected,
    correction,
    finish_row,
    new_filter,
    row_start,
    shift_right,
)
from coding.prediction.phases import CLASSES
from coding.prediction.regression import POINT

_FRACTIONS = (1 << (FRACTION_BITS - 1)) + 1  # distances of a prediction from the nearest integer
_CLASSES = 64  # of activity
_FINE = 8  # activities within an octave
_AMOUNTS = 2 * _FINE + _FINE  # activities in units of 2^k: all of them for k = 0, those of an octave for others
_SCALES = 5  # values of k with weights of their own
LEVEL_BITS = 7  # of a sample's level that contexts distinguish
_LEVELS = 1 << LEVEL_BITS
_BIT_MAGNITUDES = 4  # magnitudes that contexts of the bit below distinguish
_MAX_ERROR_SIZE = (1 << 33) - 1
_ESCAPE = (1 << MAGNITUDE_BITS) - 1  # stands for itself and for larger magnitudes
_ESCAPE_BITS = 34  # of how much larger they are
_MAX_MAGNITUDE = 1 << 35
_INITIAL_ERROR_SIZE = 4  # in the imaginary bands before the first

GAP = 255
"""Kind of samples that have no meaning."""
ALL_DIGITS = 53
"""Significant bits that integers do not exceed, in eighths either."""
TERMS = 4
"""The number of terms of a prediction is a multiple of this: so many are added at once."""
NARROW = 1 << 24
"""Differences from a mean that are smaller fit into int32, and their products with all coefficients, added, into the 53
bits of float64. Wider ones take int64, and their predictions are not corrected."""

_NARROW_BYTES = 4

# First counter of each kind of context for magnitudes; docs/format.md uses the same names.
_BY_CLASS = 0
_BY_PHASE = _BY_CLASS + _CLASSES * _FRACTIONS * NODES
_BY_LEVEL = _BY_PHASE + CLASSES * _AMOUNTS * NODES
_BY_BAND = _BY_LEVEL + _LEVELS * _AMOUNTS * NODES
_CONTEXTS = 4

# First counter of bits and of signs.
_OF_BIT = 0
_OF_SIGN = _OF_BIT + _CLASSES * _BIT_MAGNITUDES
_BIT_COUNTERS = _OF_SIGN + 2 * _FRACTIONS


class State(NamedTuple):
    """The state that is carried from band to band.

    Planes have a margin of `PAD` rows and columns, and are stored as flat buffers whose rows are `stride` apart.

    Attributes:
        stride: W + 4.
        samples: int32 (C, H * W), as the decoder has them.
        planes: int32 or int64 (C, (H + 4) (W + 4)), representatives of the samples minus the mean of their band; an
            encoder fills the samples of the band to code into its plane.
        error_sizes: int64 (3, (H + 4) (W + 4)), magnitudes of the errors in the last three bands; row: band modulo 3.
        filter: of the errors; unused for int64.
        magnitudes: mixer of magnitudes.
        bits: counters of the bits below and of the signs.
        predictions: float64 or int64 (W,), scratch: predictions of a row, without the samples in that row.
        error_sums: int64 (W,), scratch: weighted sums of the error sizes around a row, without those in that row.
    """

    stride: int
    samples: np.ndarray
    planes: np.ndarray
    error_sizes: np.ndarray
    filter: Filter
    magnitudes: Mixer
    bits: np.ndarray
    predictions: np.ndarray
    error_sums: np.ndarray


class Band(NamedTuple):
    """The parameters of a band, known before it is coded.

    Attributes:
        number: number of the band and of its plane.
        offsets: int64 (T,), T a multiple of `TERMS`: where the regressors in preceding bands and rows lie in the
            flattened planes, relative to a sample's place in its own plane.
        factors: float64 or int64 (T,), as in `State.predictions`: their coefficients in units of 2^-`POINT`.
        left, second_left: coefficients of the two samples to the left.
        mean: mean of the samples.
        lowest, highest: limits of the samples.
        first_place, last_place: their places on the lattice of floats.
        level_shift: binary logarithm of the number of places in a level.
        bound: largest error of a sample; 0 is lossless.
        digits: largest number of significant bits of the samples, up to `ALL_DIGITS`.
        phases: uint8 (H * W,), classes of the pixels.
        has_phases: whether there is more than one class.
        kinds: uint8 (H * W,), 0 for a sample to code, `GAP` for one without a meaning, else 1 + the index of its value
            in `known`; or of length 0.
        known: int64 (K,), values of samples that the decoder knows.
    """

    number: int
    offsets: np.ndarray
    factors: np.ndarray
    left: int
    second_left: int
    mean: int
    lowest: int
    highest: int
    first_place: int
    last_place: int
    level_shift: int
    bound: int
    digits: int
    phases: np.ndarray
    has_phases: bool
    kinds: np.ndarray
    known: np.ndarray


class Activity(NamedTuple):
    """Error sizes around a sample.

    Attributes:
        mean: weighted mean of the error sizes in the band itself and in the two before it, times eight.
        k: exponent of the unit 2^k of magnitudes.
        fine: `mean` plus 1, in units of 2^k.
        class_number: number of the class of activity.
    """

    mean: int
    k: int
    fine: int
    class_number: int


class Seen(NamedTuple):
    """What else the contexts of a magnitude depend on.

    Attributes:
        fraction: distance of the prediction from the nearest integer, in units of 2^-`FRACTION_BITS`; 0 where it does
            not matter.
        phase: class of phases.
        level: level of the prediction between the limits of all samples.
    """

    fraction: int
    phase: int
    level: int


def new_state(shape: tuple[int, ...], largest_difference: int) -> State:
    """Return the state before the first band of an image.

    Args:
        shape: (C, H, W).
        largest_difference: of two samples of the image.
    """
    bands, height, width = shape
    stride = width + 2 * PAD
    size = (height + 2 * PAD) * stride
    is_narrow = largest_difference < NARROW
    return State(
        stride,
        np.zeros((bands, height * width), np.int32),
        np.zeros((bands, size), np.int32 if is_narrow else np.int64),
        np.full((3, size), _INITIAL_ERROR_SIZE, np.int64),
        new_filter(height, width) if is_narrow else new_filter(0, 0),
        new_mixer(_BY_BAND + bands * _FINE * NODES, _SCALES * NODES, _CONTEXTS),
        new_counters(_BIT_COUNTERS),
        np.zeros(width, np.float64 if is_narrow else np.int64),
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
    """Encode a band from its plane, or decode it: fill in its samples, and their representatives in the plane.

    Args:
        coder: a `Coder`.
        state: a `State`.
        band: a `Band`.
    """
    stride, plane = state.stride, state.planes[band.number]
    errors, before = state.error_sizes[band.number % 3], state.error_sizes[(band.number + 2) % 3]
    is_filtered, width = state.planes.itemsize == _NARROW_BYTES, len(state.predictions)
    _surround_above(state.planes, band.number, stride)
    for x in range(PAD * stride):
        errors[x] = before[PAD * stride + x % stride]
    for p in range(PAD * stride + PAD, len(plane) - PAD * stride, stride):
        surround_left(plane, p, stride)
        surround_left(errors, p, stride)
        y = (p - PAD) // stride - PAD
        _predict_row(state, band, p)
        _sum_errors(state, band, p)
        if is_filtered:
            begin_row(state.filter, p, y, band.phases[y * width :])
        _code_row(coder, state, band, p, y)
        if is_filtered:
            finish_row(state.filter, p, y, band)
        surround_right(plane, p, stride)
        surround_right(errors, p, stride)
    surround_below(plane, stride)
    surround_below(errors, stride)


@inlined
def _predict_row(state, band, p):
    """Sum the terms of the prediction for a row that begins at `p`, except for the regressors in that row."""
    predictions, planes, factors = state.predictions, state.planes.reshape(-1), band.factors
    start = band.number * state.planes.shape[1] + p
    predictions[:] = 0
    for i in range(0, len(factors), TERMS):
        a, b = planes[start + band.offsets[i] :], planes[start + band.offsets[i + 1] :]
        c, d = planes[start + band.offsets[i + 2] :], planes[start + band.offsets[i + 3] :]
        for x in range(len(predictions)):
            predictions[x] += factors[i] * a[x] + factors[i + 1] * b[x] + factors[i + 2] * c[x] + factors[i + 3] * d[x]


@inlined
def _sum_errors(state, band, p):
    """Sum the error sizes around the samples of a row that begins at `p`, except for those in that row."""
    stride, errors = state.stride, state.error_sizes[band.number % 3]
    before, second = state.error_sizes[(band.number + 2) % 3], state.error_sizes[(band.number + 1) % 3]
    above, around, after = errors[p - stride - 1 :], before[p - stride :], second[p:]
    top, left, below = errors[p - 2 * stride :], before[p - 1 :], before[p + stride :]
    for x in range(len(state.predictions)):
        in_band = above[x] + 2 * above[x + 1] + above[x + 2] + top[x]
        across = left[x] + 2 * left[x + 1] + left[x + 2] + around[x] + below[x] + 2 * after[x]
        state.error_sums[x] = in_band + across


@inlined
def _code_row(coder, state, band, start, y):
    """Code row `y`, which begins at `start`, after its sums.

    Arrays are cut to the row, since numba checks the signs of all other indices.
    """
    stride, plane, errors = state.stride, state.planes[band.number], state.error_sizes[band.number % 3]
    width, is_filtered, has_kinds = len(state.predictions), state.planes.itemsize == _NARROW_BYTES, len(band.kinds) > 0
    here, left, second_left = plane[start:], plane[start - 1 :], plane[start - 2 :]
    samples = state.samples[band.number, y * width :]
    sizes, left_sizes, second_sizes = errors[start:], errors[start - 1 :], errors[start - 2 :]
    phases = band.phases[y * width :]
    kinds = band.kinds[y * width :] if has_kinds else band.kinds
    r = row_start(state.filter, y)
    missed_here, missed_left = state.filter.rows[r:], state.filter.rows[r - 1 :]
    missed_second = state.filter.rows[r - 2 :]
    for x in range(width):
        kind, phase = kinds[x] if has_kinds else 0, np.int64(phases[x])
        fitted = np.int64(state.predictions[x]) + band.left * left[x] + band.second_left * second_left[x]
        fitted = shift_right(fitted, POINT - FRACTION_BITS) + (band.mean << FRACTION_BITS)
        if kind:
            value = shift_right(_clip(fitted, band), FRACTION_BITS) if kind == GAP else band.known[kind - 1]
            samples[x], here[x] = value, value - band.mean
            sizes[x] = causal_sum(errors, start + x, stride) >> 3
            if is_filtered:
                missed_here[x], state.filter.sizes[x] = 0, UNCODED
            continue
        missed = correction(state.filter, x, phase, missed_left[x], missed_second[x]) if is_filtered else 0
        predicted = _clip(corrected(fitted, missed), band)
        total = state.error_sums[x] + 2 * left_sizes[x] + second_sizes[x]
        activity = _activity(total, _lattice_shift(predicted, band.digits + FRACTION_BITS))
        value, size = _code_sample(coder, state, band, activity, predicted, phase, here[x])
        samples[x], here[x] = value, _representative(value, predicted, band) - band.mean
        sizes[x] = min(size, _MAX_ERROR_SIZE)
        if is_filtered:
            missed_here[x] = clip_error((value << FRACTION_BITS) - fitted)
            state.filter.sizes[x] = activity.mean * (2 * band.bound + 1)


@inlined
def _code_sample(coder, state, band, activity, predicted, phase, value):
    """Code a sample; return it, and the magnitude of its error in units of the quantizer step.

    The prediction has `FRACTION_BITS`; `phase` is the class of phases. The value is the sample minus the mean of the
    band; a decoder ignores it.
    """
    is_lattice, digits, step, place = band.digits < ALL_DIGITS, band.digits, 2 * band.bound + 1, value + band.mean
    if is_lattice:
        predicted, place = _to_lattice(predicted, digits + FRACTION_BITS), _to_lattice(place, digits)
    rounded = shift_right(predicted, FRACTION_BITS)
    fraction = predicted - (rounded << FRACTION_BITS)
    is_flipped = fraction < 0
    fraction = abs(fraction) if activity.k == 0 and band.bound == 0 else 0
    level = min(max((rounded - band.first_place) >> band.level_shift, 0), _LEVELS - 1)
    error = place - rounded
    is_negative = (error < 0) != is_flipped
    magnitude = (abs(error) + band.bound) // step if band.bound else abs(error)
    magnitude = _code_magnitude(coder, state, band, activity, Seen(fraction, phase, level), magnitude)
    error = magnitude * step
    if magnitude and _code_sign(coder, state, activity, fraction, magnitude, is_negative) != is_flipped:
        error = -error
    place = min(max(rounded + error, band.first_place), band.last_place)
    if not is_lattice:
        return place, magnitude
    value = _from_lattice(place, digits)
    return value, abs(value - _from_lattice(rounded, digits))


@inlined
def _representative(value, predicted, band):
    """Return the representative of a sample: half of the bound nearer to its prediction."""
    distance, most = value - shift_right(predicted, FRACTION_BITS), band.bound >> 1
    return value - min(max(distance, -most), most)


@inlined
def _clip(predicted, band):
    """Return a prediction between the limits of the samples."""
    return min(max(predicted, band.lowest << FRACTION_BITS), band.highest << FRACTION_BITS)


@compiled
def lattice_place(value, digits):
    """Return the number of the lattice place at an integer or next to it, towards 0."""
    return _to_lattice(value, digits)


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
def _activity(total, shift):
    """Return the `Activity` of a weighted sum of error sizes, which are divided by 2^shift."""
    mean = total >> (shift + 1)
    k = max(bit_length(mean + 1) - 4, 0)
    fine = (mean + 1) >> k
    return Activity(mean, k, fine, _FINE * min(k, 6) + fine)


@inlined
def _code_magnitude(coder, state, band, activity, seen, magnitude):
    """Code the magnitude of an error."""
    k = activity.k
    contexts, weight_set = _magnitude_contexts(band, activity, seen), min(k, _SCALES - 1) * NODES
    upper = code_magnitude(coder, state.magnitudes, contexts, weight_set, min(magnitude >> k, _ESCAPE))
    if upper == _ESCAPE:
        upper += code_bits(coder, (magnitude >> k) - _ESCAPE, _ESCAPE_BITS)
        upper = min(upper, _MAX_MAGNITUDE >> k)  # a damaged stream may hold more
    if k == 0:
        return upper
    lower = magnitude & ((1 << k) - 1)
    below = k - 1
    counter = _OF_BIT + activity.class_number * _BIT_MAGNITUDES + min(upper, _BIT_MAGNITUDES - 1)
    bit = code_counted(coder, state.bits, counter, lower >> below)
    return ((2 * upper + bit) << below) | code_bits(coder, lower & ((1 << below) - 1), below)


@inlined
def _magnitude_contexts(band, activity, seen):
    """Return the contexts of the magnitude of an error in units of 2^k."""
    amount = activity.fine + _FINE if activity.k else activity.fine
    return (
        _BY_CLASS + (activity.class_number * _FRACTIONS + seen.fraction) * NODES,
        _BY_PHASE + (seen.phase * _AMOUNTS + amount) * NODES,
        _BY_LEVEL + (seen.level * _AMOUNTS + amount) * NODES,
        _BY_BAND + (band.number * _FINE + activity.fine % _FINE) * NODES,
    )


@inlined
def _code_sign(coder, state, activity, fraction, magnitude, is_negative):
    """Code the sign of an error that is not 0; return whether it is negative."""
    if activity.k:
        return bool(code_bits(coder, np.int64(is_negative), 1))
    return bool(code_counted(coder, state.bits, _OF_SIGN + 2 * fraction + int(magnitude > 1), int(is_negative)))
