"""The kernel of the predictor of CCSDS 123.0-B-2: samples to mapped quantizer indices and back.

Comments use the names of the standard: s" is a sample representative, sigma a local sum, d a central local difference,
U the vector of local differences, delta the mapped quantizer index, t the index of a sample within its band.

All arithmetic uses 64-bit integers. With samples of 16 bits and at most 18 weights of at most 22 bits, the largest
intermediate takes less than 50 bits, so a register of R = 64 bits never wraps; smaller ones wrap as the standard says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.classical.ccsds123.header import Header, ImageMetadata, PredictorMetadata
from coding.classical.ccsds123.order import count_segments, segment_at
from coding.entropy.compiled import compiled, inlined


class Settings(NamedTuple):
    """The parameters of an image as integers, with their symbols in the standard.

    Attributes:
        depth: M, 0 for band-sequential order.
        range_bits: D.
        low: s_min.
        middle: s_mid.
        high: s_max.
        bands: P, number of preceding bands in a prediction.
        directions: number of local differences within the band: 3 in full prediction mode, 0 in reduced mode.
        narrow: 1 if local sums leave out the sample to the left.
        column: 1 if local sums use the sample above only.
        wrap_bits: 64 - R.
        weight_bits: Omega.
        interval_bits: log2(t_inc).
        exponent_first: v_min.
        exponent_last: v_max.
        has_exponent_offsets: 1 if any weight exponent offset is not 0.
        representative_bits: Theta.
        fidelity: 0 for lossless, 1 for absolute, 2 for relative, 3 for both kinds of error limits.
        period_bits: log2 of the rows after which error limits change.
    """

    depth: int
    range_bits: int
    low: int
    middle: int
    high: int
    bands: int
    directions: int
    narrow: int
    column: int
    wrap_bits: int
    weight_bits: int
    interval_bits: int
    exponent_first: int
    exponent_last: int
    has_exponent_offsets: int
    representative_bits: int
    fidelity: int
    period_bits: int


class Tables(NamedTuple):
    """The parameters of each band, int64.

    Attributes:
        weights: (C, directions + P), initial weights.
        exponent_offsets: (C, directions + P).
        absolute: (periods, C), a_z.
        relative: (periods, C), r_z.
        dampings: (C,), phi.
        offsets: (C,), psi.
    """

    weights: np.ndarray
    exponent_offsets: np.ndarray
    absolute: np.ndarray
    relative: np.ndarray
    dampings: np.ndarray
    offsets: np.ndarray


class State(NamedTuple):
    """What later samples need of earlier ones: two bands in band-sequential, two rows in band-interleaved order.

    Attributes:
        vectors: int32 (H or 1, W, directions + P), U of each sample; the central differences of the preceding bands are
            filled in, 0 where there are none.
        representatives: int32 (2, H, W) or (C, 2, W), s".
        weights: int64 (1 or C, directions + P).
    """

    vectors: np.ndarray
    representatives: np.ndarray
    weights: np.ndarray


class Place(NamedTuple):
    """The place of a sample, and where `State` has its neighbors.

    Attributes:
        z, y, x: band, row and column.
        plane, below: first indices of the band and of the preceding one in `representatives`.
        row, above: second indices of the row and of the one above in `representatives`.
        last: the last column.
    """

    z: int
    y: int
    x: int
    plane: int
    below: int
    row: int
    above: int
    last: int


class Prediction(NamedTuple):
    """The prediction of a sample.

    Attributes:
        high_resolution: the high-resolution predicted sample value.
        double: the double-resolution predicted sample value.
        max_error: m.
    """

    high_resolution: int
    double: int
    max_error: int


def samples_to_indices(values: np.ndarray, header: Header) -> None:
    """Replace the samples of an image by their mapped quantizer indices.

    Args:
        values: uint16 (C, H, W); signed samples in two's complement.
        header: of the image.
    """
    _predict(False, values, *_arguments(header))


def indices_to_samples(values: np.ndarray, header: Header) -> bool:
    """Replace mapped quantizer indices, uint16 (C, H, W), by samples; return whether all of them stand for samples."""
    return bool(_predict(True, values, *_arguments(header)))


def _arguments(header: Header) -> tuple[Settings, Tables, State, int]:
    """Return the arguments of `_predict` after the values."""
    image, predictor = header.image, header.predictor
    settings = _settings(image, predictor)
    tables = Tables(
        predictor.weights,
        predictor.exponent_offsets,
        predictor.absolute.table,
        predictor.relative.table,
        predictor.dampings,
        predictor.offsets,
    )
    bands, height, width = image.shape
    rows, planes = (1, (bands, 2)) if image.depth else (height, (2, height))
    count = predictor.directions + predictor.bands
    state = State(
        np.zeros((rows, width, count), np.int32),
        np.zeros((*planes, width), np.int32),
        np.zeros((bands if image.depth else 1, count), np.int64),
    )
    return settings, tables, state, count_segments(image.shape, image.depth)


def _settings(image: ImageMetadata, predictor: PredictorMetadata) -> Settings:
    middle = 0 if image.signed else 2 ** (image.range_bits - 1)
    column, narrow = divmod(predictor.local_sums, 2)
    return Settings(
        depth=image.depth,
        range_bits=image.range_bits,
        low=middle - 2 ** (image.range_bits - 1),
        middle=middle,
        high=middle + 2 ** (image.range_bits - 1) - 1,
        bands=predictor.bands,
        directions=predictor.directions,
        narrow=narrow,
        column=column,
        wrap_bits=64 - predictor.register_bits,
        weight_bits=predictor.weight_bits,
        interval_bits=predictor.interval_bits,
        exponent_first=predictor.exponent_first,
        exponent_last=predictor.exponent_last,
        has_exponent_offsets=int(predictor.exponent_offsets.any()),
        representative_bits=predictor.representative_bits,
        fidelity=image.fidelity,
        period_bits=predictor.period_bits,
    )


@inlined
def _clip(value, low, high):
    return min(max(value, low), high)


@compiled
def _predict(decode, values, settings, tables, state, segments):
    """Replace samples by their deltas, or the other way round; return whether all deltas stand for samples.

    Encoder and decoder share one loop, since they differ in how they find a quantizer index only.
    """
    return _code_segments(decode, values, settings, tables, state, segments)


@inlined
def _code_segments(decode, values, settings, tables, state, segments):
    """Do the work of `_predict`, which would count references to the arrays in each step."""
    bands, height, width = values.shape
    for segment in range(segments):
        first, end, y = segment_at(segment, bands, height, settings.depth)
        if settings.depth < 2:  # the same as below, but 15 % faster with the band outside of the loop
            for x in range(width):
                if not _code(decode, values, _place(first, y, x, width - 1, settings), settings, tables, state):
                    return False
            continue
        for x in range(width):
            for z in range(first, end):
                if not _code(decode, values, _place(z, y, x, width - 1, settings), settings, tables, state):
                    return False
    return True


@inlined
def _code(decode, values, place, settings, tables, state):
    """Code a sample; return whether its delta stands for a sample."""
    if place.x == 0 and place.y == 0:
        return _code_first(decode, values, place, settings, tables, state)
    return _code_sample(decode, values, place, settings, tables, state)


@inlined
def _place(z, y, x, last, settings):
    if settings.depth:
        return Place(z, y, x, z, z - 1, y & 1, (y & 1) ^ 1, last)
    return Place(z, y, x, z & 1, (z & 1) ^ 1, y, y - 1, last)


@inlined
def _code_first(decode, values, place, settings, tables, state):
    """Code the first sample of a band, which is without loss; return whether its delta stands for a sample."""
    weights = state.weights[place.z if settings.depth else 0]
    for i in range(len(weights)):
        weights[i] = tables.weights[place.z, i]
    if settings.bands and place.z > 0:
        predicted = np.int64(state.representatives[place.below, 0, 0])
    else:
        predicted = np.int64(settings.middle)
    if decode:
        sample = predicted + _unmap(np.int64(values[place.z, 0, 0]), 2 * predicted, 0, settings)
        values[place.z, 0, 0] = sample & 0xFFFF
    else:
        sample = _sample(values[place.z, 0, 0], settings)
        values[place.z, 0, 0] = _map(sample - predicted, 2 * predicted, 0, settings)
    state.representatives[place.plane, 0, 0] = sample
    _shift(state.vectors[0, 0], 4 * sample, settings)
    return settings.low <= sample <= settings.high


@inlined
def _code_sample(decode, values, place, settings, tables, state):
    """Code a sample that is not the first of its band; return whether its delta stands for a sample."""
    vector = state.vectors[0 if settings.depth else place.y, place.x]
    weights = state.weights[place.z if settings.depth else 0]
    if place.z == 0:
        vector[settings.directions :] = 0
    local_sum = _differences(state, vector, place, settings)
    # The two loops over the weights are not functions of their own, since these were slower.
    difference = np.int64(0)
    for i in range(settings.directions + settings.bands):
        difference += weights[i] * vector[i]
    prediction = _finish_prediction(difference, local_sum, place, settings, tables)
    max_error = prediction.max_error
    value = values[place.z, place.y, place.x]
    if decode:
        index = _unmap(np.int64(value), prediction.double, max_error, settings)
    else:
        index = _quantize(_sample(value, settings) - (prediction.double >> 1), max_error)
        values[place.z, place.y, place.x] = _map(index, prediction.double, max_error, settings)
    center = (prediction.double >> 1) + index * (2 * max_error + 1)
    is_sample = settings.low - max_error <= center <= settings.high + max_error
    center = _clip(center, settings.low, settings.high)
    if decode:
        values[place.z, place.y, place.x] = center & 0xFFFF
    representative = _representative(center, index, prediction, place.z, settings, tables)
    state.representatives[place.plane, place.row, place.x] = representative
    sign = 1 if 2 * center >= prediction.double else -1
    exponent = _scaling_exponent(place.y * (place.last + 1) + place.x - (place.last + 1), settings)
    left, right = max(-exponent, 0), max(exponent, 0)
    limit = 1 << (settings.weight_bits + 2)
    if settings.has_exponent_offsets:
        _learn(vector, weights, sign, exponent, limit, tables.exponent_offsets[place.z])
    else:
        for i in range(settings.directions + settings.bands):
            step = ((((sign * vector[i]) << left) >> right) + 1) >> 1
            weights[i] = _clip(weights[i] + step, -limit, limit - 1)
    _shift(vector, 4 * representative - local_sum, settings)
    return is_sample


@inlined
def _learn(vector, weights, sign, exponent, limit, offsets):
    """Update the weights of a sample with an offset to each exponent."""
    for i in range(len(weights)):
        left, right = max(-exponent - offsets[i], 0), max(exponent + offsets[i], 0)
        step = ((((sign * vector[i]) << left) >> right) + 1) >> 1
        weights[i] = _clip(weights[i] + step, -limit, limit - 1)


@inlined
def _sample(value, settings):
    """Return the sample of its 16 bits: in two's complement if s_min is below 0."""
    sign = 0x8000 if settings.low < 0 else 0
    return (np.int64(value) ^ sign) - sign


@inlined
def _local_sum(north, west, northwest, northeast, x, last, settings):
    """Return sigma of a sample that has a row above."""
    if settings.column:
        return 4 * north
    if x == 0:
        return 2 * (north + northeast)
    if not settings.narrow:
        return west + northwest + north + northeast
    if x < last:
        return northwest + 2 * north + northeast
    return 2 * (northwest + north)


@inlined
def _differences(state, vector, place, settings):
    """Fill in the local differences within the band, and return the local sum."""
    representatives, x = state.representatives, place.x
    if place.y == 0:
        for i in range(settings.directions):
            vector[i] = 0
        if not settings.narrow:
            return 4 * np.int64(representatives[place.plane, place.row, x - 1])
        if place.z == 0:
            return 4 * np.int64(settings.middle)
        return 4 * np.int64(representatives[place.below, 0, x - 1])
    north = np.int64(representatives[place.plane, place.above, x])
    west = np.int64(representatives[place.plane, place.row, x - 1]) if x > 0 else north
    northwest = np.int64(representatives[place.plane, place.above, x - 1]) if x > 0 else north
    northeast = np.int64(representatives[place.plane, place.above, x + 1]) if x < place.last else north
    local_sum = _local_sum(north, west, northwest, northeast, x, place.last, settings)
    if settings.directions:
        vector[0] = 4 * north - local_sum
        vector[1] = 4 * west - local_sum
        vector[2] = 4 * northwest - local_sum
    return local_sum


@inlined
def _finish_prediction(difference, local_sum, place, settings, tables):
    """Return the `Prediction` of a sample from its predicted central local difference."""
    bits, half = settings.weight_bits, 1 << (settings.weight_bits + 1)
    value = difference + ((local_sum - 4 * settings.middle) << bits)
    value = (value << settings.wrap_bits) >> settings.wrap_bits  # mod*_R
    value += (settings.middle << (bits + 2)) + half
    value = _clip(value, settings.low << (bits + 2), (settings.high << (bits + 2)) + half)
    double = value >> (bits + 1)
    return Prediction(value, double, _max_error(double >> 1, place, settings, tables))


@inlined
def _max_error(predicted, place, settings, tables):
    """Return m."""
    if settings.fidelity == 0:
        return np.int64(0)
    period = place.y >> settings.period_bits
    absolute = tables.absolute[period, place.z]
    if settings.fidelity == 1:
        return absolute
    relative = (tables.relative[period, place.z] * abs(predicted)) >> settings.range_bits
    return relative if settings.fidelity == 2 else min(absolute, relative)


@inlined
def _quantize(residual, max_error):
    """Return the quantizer index."""
    if max_error == 0:
        return residual
    size = (abs(residual) + max_error) // (2 * max_error + 1)
    return size if residual > 0 else -size


@inlined
def _map(index, double, max_error, settings):
    """Return delta of the quantizer index."""
    _, _, step, reach = _reach(double, max_error, settings)
    size = abs(index)
    # theta = reach // step; this comparison avoids the division far from s_min and s_max.
    if size * step > reach:
        return size + reach // step
    return 2 * size - (1 if index != 0 and (index > 0) == (double & 1) else 0)


@inlined
def _unmap(mapped, double, max_error, settings):
    """Return the quantizer index of delta."""
    below, above, step, reach = _reach(double, max_error, settings)
    size = (mapped + 1) >> 1
    if size * step > reach:
        size = mapped - reach // step
        return size if below < above else -size
    return -size if (mapped & 1) != (double & 1) else size


@inlined
def _reach(double, max_error, settings):
    """Return the distances to s_min and s_max, the quantizer step, and a number whose quotient by the step is theta."""
    below, above = (double >> 1) - settings.low, settings.high - (double >> 1)
    return below, above, 2 * max_error + 1, min(below, above) + max_error


@inlined
def _representative(center, index, prediction, z, settings, tables):
    """Return s" of a sample from its clipped quantizer bin center."""
    bits, resolution = settings.weight_bits, settings.representative_bits
    damping, offset = tables.dampings[z], tables.offsets[z]
    sign = (index > 0) - (index < 0)
    # psi is below 2^Theta and 2^Omega a multiple of 16, so these are whole numbers.
    shifted = (center << bits) - sign * prediction.max_error * (offset << (bits - resolution))
    value = 4 * ((1 << resolution) - damping) * shifted
    value += damping * (prediction.high_resolution - (1 << (bits + 1)))
    return ((value >> (bits + resolution + 1)) + 1) >> 1


@inlined
def _scaling_exponent(age, settings):
    """Return rho; `age` is t - N_X."""
    exponent = settings.exponent_first + (age >> settings.interval_bits)
    exponent = _clip(exponent, settings.exponent_first, settings.exponent_last)
    return exponent + settings.range_bits - settings.weight_bits


@inlined
def _shift(vector, difference, settings):
    """Shift the central local differences of a sample by one band, and insert the newest."""
    for i in range(settings.directions + settings.bands - 1, settings.directions, -1):
        vector[i] = vector[i - 1]
    if settings.bands:
        vector[settings.directions] = difference
