"""The kernel of CCSDS 123.0-B-2 that codes a band: prediction, quantization and codewords.

Comments use the names of the standard: s" is a sample representative, sigma a local sum, d a central local difference,
U the vector of local differences, delta the mapped quantizer index, Sigma and Gamma the accumulator and the counter of
the sample-adaptive coder, t the index of a sample within its band.

All arithmetic uses 64-bit integers. With samples of 16 bits and at most 18 weights of at most 22 bits, the largest
intermediate takes less than 50 bits, so the register of R = 64 bits never wraps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import compiled, inlined

CODE_BITS = 16
"""Most bits of a codeword after its zeros: the largest D."""

_MAX_CODEWORD_BITS = 48


class Settings(NamedTuple):
    """The parameters of an image as integers, with their symbols in the standard.

    Attributes:
        range_bits: D.
        low: s_min.
        middle: s_mid.
        high: s_max.
        bands: P, number of preceding bands in a prediction.
        directions: number of local differences within the band: 3 in full prediction mode, 0 in reduced mode.
        narrow: 1 if local sums leave out the sample to the left.
        column: 1 if local sums use the sample above only.
        weight_bits: Omega.
        interval_bits: log2(t_inc).
        exponent_first: v_min.
        exponent_last: v_max.
        representative_bits: Theta.
        damping: phi.
        offset: psi.
        max_error: m; the first sample of a band is always lossless.
        unary_limit: U_max.
        count_bits: gamma_0.
        rescale_bits: gamma*.
        accumulator_bits: K.
    """

    range_bits: int
    low: int
    middle: int
    high: int
    bands: int
    directions: int
    narrow: int
    column: int
    weight_bits: int
    interval_bits: int
    exponent_first: int
    exponent_last: int
    representative_bits: int
    damping: int
    offset: int
    max_error: int
    unary_limit: int
    count_bits: int
    rescale_bits: int
    accumulator_bits: int


class State(NamedTuple):
    """The state that is carried from band to band.

    Attributes:
        vectors: int32 (H * W, C), U of each sample, C = P, or P + 3 in full mode; the central differences of the
            preceding bands are filled in, 0 where there are none.
        representatives: int32 (H, W), s" of the preceding band; s_mid before the first band.
        below: int32 (W,), scratch: the first row of `representatives`.
        weights: int64 (C,), scratch.
    """

    vectors: np.ndarray
    representatives: np.ndarray
    below: np.ndarray
    weights: np.ndarray


class Prediction(NamedTuple):
    """The prediction of a sample.

    Attributes:
        high_resolution: the high-resolution predicted sample value.
        double: the double-resolution predicted sample value.
    """

    high_resolution: int
    double: int


class Counts(NamedTuple):
    """The state of the sample-adaptive coder: Sigma, Gamma, and k of the last codeword."""

    accumulator: int
    counter: int
    k: int


class Bits(NamedTuple):
    """A place in a stream: the lowest `held` bits of `window` come first, then the byte at `position`."""

    window: int
    held: int
    position: int


def new_state(settings: Settings, height: int, width: int) -> State:
    """Return the state before the first band of an image of `height` x `width` pixels."""
    count = settings.directions + settings.bands
    return State(
        np.zeros((height * width, count), np.int32),
        np.full((height, width), settings.middle, np.int32),
        np.zeros(width, np.int32),
        np.zeros(count, np.int64),
    )


@inlined
def _clip(value, low, high):
    return min(max(value, low), high)


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
def _representative(center, index, prediction, settings):
    """Return s" of a sample from its clipped quantizer bin center."""
    bits, resolution = settings.weight_bits, settings.representative_bits
    sign = (index > 0) - (index < 0)
    shifted = (center << bits) - sign * settings.max_error * (settings.offset << (bits - resolution))
    value = 4 * ((1 << resolution) - settings.damping) * shifted
    value += settings.damping * (prediction.high_resolution - (1 << (bits + 1)))
    return ((value >> (bits + resolution + 1)) + 1) >> 1


@inlined
def _scaling(age, settings):
    """Return the left and right shift of local differences, from rho; `age` is t - N_X."""
    exponent = settings.exponent_first + (age >> settings.interval_bits)
    exponent = _clip(exponent, settings.exponent_first, settings.exponent_last)
    exponent += settings.range_bits - settings.weight_bits
    return max(-exponent, 0), max(exponent, 0)


@inlined
def _adapt(counts, settings):
    """Return the `Counts` with k of the next codeword; the search starts at the last k."""
    counter, k = counts.counter, counts.k
    target = counts.accumulator + (49 * counter >> 7)
    while k < settings.range_bits - 2 and counter << (k + 1) <= target:
        k += 1
    while k > 0 and counter << k > target:
        k -= 1
    return Counts(counts.accumulator, counter, k)


@inlined
def _codeword(mapped, k, settings):
    """Return the codeword of delta, and its number of bits."""
    zeros = mapped >> k
    if zeros < settings.unary_limit:
        return (1 << k) | (mapped & ((1 << k) - 1)), zeros + 1 + k
    return mapped, settings.unary_limit + settings.range_bits


@inlined
def _read_codeword(window, held, k, settings):
    """Return delta of the first codeword in the lowest `held` bits of `window`, and the number of remaining bits."""
    zeros = 0
    while zeros < settings.unary_limit and not (window >> (held - 1 - zeros)) & 1:
        zeros += 1
    held -= zeros
    if zeros < settings.unary_limit:
        held -= 1 + k
        return (zeros << k) | ((window >> held) & ((1 << k) - 1)), held
    held -= settings.range_bits
    return (window >> held) & ((1 << settings.range_bits) - 1), held


@inlined
def _first_counts(settings):
    accumulator = ((3 * (1 << (settings.accumulator_bits + 6)) - 49) << settings.count_bits) >> 7
    return Counts(accumulator, 1 << settings.count_bits, 0)


@inlined
def _count(counts, mapped, settings):
    """Return the `Counts` after a sample."""
    if counts.counter == (1 << settings.rescale_bits) - 1:
        return Counts((counts.accumulator + mapped + 1) >> 1, (counts.counter + 1) >> 1, counts.k)
    return Counts(counts.accumulator + mapped, counts.counter + 1, counts.k)


@compiled
def code_band(decode, samples, state, settings, stream, bit):
    """Append the codewords of a band to `stream`, or read them from it.

    Encoder and decoder share one loop, since only the codewords differ. A decoder reads zeros after the end of
    `stream`, so that a truncated stream needs no special case.

    Args:
        decode: whether to read.
        samples: int32 (H, W), filled by a decoder.
        state: a `State`; afterwards it is ready for the next band.
        settings: a `Settings`.
        stream: uint8 buffer. For an encoder it has (7 + H * W * (U_max + CODE_BITS)) / 8 + 1 bytes or more, and its
            first byte starts with the bits so far.
        bit: number of the first bit of the band: for an encoder 0 to 7, for a decoder up to the end of `stream`.

    Returns:
        Number of the first bit after the band, which for a decoder may be after the end of `stream`; -1 if a codeword
        does not stand for a sample.
    """
    bits, is_sample = _start(decode, samples, state, settings, stream, bit)
    if not is_sample:
        return -1
    bits, is_sample = _code_samples(decode, samples, state, settings, bits, stream)
    if not is_sample:
        return -1
    if not decode:
        stream[bits.position] = (bits.window << (8 - bits.held)) & 255
    return 8 * bits.position + (-bits.held if decode else bits.held)


@inlined
def _start(decode, samples, state, settings, stream, bit):
    """Code the first sample of a band; return the `Bits` after it, and whether its codeword stands for a sample."""
    for x in range(len(state.below)):
        state.below[x] = state.representatives[0, x]
    state.weights[:] = 0
    for i in range(settings.bands):
        state.weights[settings.directions + i] = (7 << settings.weight_bits) >> (3 * (i + 1))
    predicted = np.int64(state.below[0]) if settings.bands else settings.middle
    if decode:
        bits = _fill(Bits(0, -(bit & 7), bit >> 3), stream)
        bits = Bits(bits.window, bits.held - settings.range_bits, bits.position)
        mapped = (bits.window >> bits.held) & ((1 << settings.range_bits) - 1)
        sample = predicted + _unmap(mapped, 2 * predicted, 0, settings)
        if sample < settings.low or sample > settings.high:
            return bits, False
        samples[0, 0] = sample
    else:
        mapped = _map(samples[0, 0] - predicted, 2 * predicted, 0, settings)
        bits = _write(Bits(np.int64(stream[0]) >> (8 - bit), bit, 0), stream, mapped, settings.range_bits)
    state.representatives[0, 0] = samples[0, 0]
    _shift(state.vectors[0], 4 * samples[0, 0], settings)
    return bits, True


@inlined
def _code_samples(decode, samples, state, settings, bits, stream):
    """Code the other samples; return the `Bits` after them, and whether all codewords stand for samples."""
    weights = state.weights
    height, width = samples.shape
    limit = 1 << (settings.weight_bits + 2)
    counts = _first_counts(settings)
    for y in range(height):
        for x in range(width):
            t = y * width + x
            if t == 0:
                continue
            vector = state.vectors[t]
            local_sum = _differences(state, vector, y, x, settings)
            # The two loops over the weights are not functions of their own, since these were slower.
            difference = 0
            for i in range(settings.directions + settings.bands):
                difference += weights[i] * vector[i]
            prediction = _predict(difference, local_sum, settings)
            counts = _adapt(counts, settings)
            index, mapped, bits = _code_index(decode, samples[y, x], prediction, counts.k, settings, bits, stream)
            value = (prediction.double >> 1) + index * (2 * settings.max_error + 1)
            if value < settings.low - settings.max_error or value > settings.high + settings.max_error:
                return bits, False
            center = _clip(value, settings.low, settings.high)
            if decode:
                samples[y, x] = center
            state.representatives[y, x] = _representative(center, index, prediction, settings)
            counts = _count(counts, mapped, settings)
            left, right = _scaling(t - width, settings)
            sign = 1 if 2 * center >= prediction.double else -1
            for i in range(settings.directions + settings.bands):
                step = ((((sign * vector[i]) << left) >> right) + 1) >> 1
                weights[i] = _clip(weights[i] + step, -limit, limit - 1)
            _shift(vector, 4 * state.representatives[y, x] - local_sum, settings)
    return bits, True


@inlined
def _code_index(decode, sample, prediction, k, settings, bits, stream):
    """Return the quantizer index of a sample, its delta, and the `Bits` after its codeword."""
    if decode:
        mapped, bits = _read(bits, stream, k, settings)
        return _unmap(mapped, prediction.double, settings.max_error, settings), mapped, bits
    index = _quantize(sample - (prediction.double >> 1), settings.max_error)
    mapped = _map(index, prediction.double, settings.max_error, settings)
    word, length = _codeword(mapped, k, settings)
    return index, mapped, _write(bits, stream, word, length)


@inlined
def _predict(difference, local_sum, settings):
    """Return the `Prediction` of a sample from its predicted central local difference."""
    bits, half = settings.weight_bits, 1 << (settings.weight_bits + 1)
    value = difference + ((local_sum - 4 * settings.middle) << bits) + (settings.middle << (bits + 2)) + half
    value = _clip(value, settings.low << (bits + 2), (settings.high << (bits + 2)) + half)
    return Prediction(value, value >> (bits + 1))


@inlined
def _differences(state, vector, y, x, settings):
    """Fill in the local differences within the band, and return the local sum."""
    representatives, below = state.representatives, state.below
    if y == 0:
        for i in range(settings.directions):
            vector[i] = 0
        return 4 * (below[x - 1] if settings.narrow else representatives[0, x - 1])
    north = representatives[y - 1, x]
    west = representatives[y, x - 1] if x > 0 else north
    northwest = representatives[y - 1, x - 1] if x > 0 else north
    northeast = representatives[y - 1, x + 1] if x + 1 < len(below) else north
    local_sum = _local_sum(north, west, northwest, northeast, x, len(below) - 1, settings)
    if settings.directions:
        vector[0] = 4 * north - local_sum
        vector[1] = 4 * west - local_sum
        vector[2] = 4 * northwest - local_sum
    return local_sum


@inlined
def _shift(vector, difference, settings):
    """Shift the central local differences of a sample by one band, and insert the newest."""
    for i in range(settings.directions + settings.bands - 1, settings.directions, -1):
        vector[i] = vector[i - 1]
    if settings.bands:
        vector[settings.directions] = difference


@inlined
def _write(bits, stream, word, length):
    """Append a codeword of `length` bits; return the `Bits` after it."""
    window, held, position = (bits.window << length) | word, bits.held + length, bits.position
    while held >= 8:
        held -= 8
        stream[position] = (window >> held) & 255
        position += 1
    return Bits(window, held, position)


@inlined
def _fill(bits, stream):
    """Return the `Bits` with enough bits in the window for any codeword."""
    window, held, position = bits
    while held <= _MAX_CODEWORD_BITS:
        window = (window << 8) | (stream[position] if position < len(stream) else 0)
        position += 1
        held += 8
    return Bits(window, held, position)


@inlined
def _read(bits, stream, k, settings):
    """Return delta of the next codeword, and the `Bits` after it."""
    bits = _fill(bits, stream)
    mapped, held = _read_codeword(bits.window, bits.held, k, settings)
    return mapped, Bits(bits.window, held, bits.position)
