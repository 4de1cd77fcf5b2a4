"""The loop of CCSDS 123.0-B-2 over the samples of a band: prediction, quantization and codewords, compiled.

The names in the comments are those of the standard: s" is a sample representative, sigma a local sum, d a central
local difference, U the vector of local differences, delta the mapped quantizer index, Sigma and Gamma the accumulator
and the counter of the sample-adaptive coder, t the index of a sample within its band.

All arithmetic is that of 64-bit integers. With samples of 16 bits and at most 18 weights of at most 22 bits the largest
intermediate takes less than 50, so that the register of R = 64 bits never wraps.

Arrays are touched by `code_band` alone: numba counts references to those that are passed on, for every sample, which
took two thirds of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from coding.entropy.compiled import compiled

CODE_BITS = 16
"""Bits of a codeword beyond its zeros, at most: the largest D."""


class Settings(NamedTuple):
    """What the loops need to know, as whole numbers; by the symbols of the standard.

    Attributes:
        range_bits: D.
        low: s_min.
        middle: s_mid.
        high: s_max.
        bands: P, preceding bands that a prediction uses.
        directions: 3 in full prediction mode, 0 in reduced: local differences within the band.
        narrow: 1 where local sums leave out the sample to the left.
        column: 1 where they take the sample above alone.
        weight_bits: Omega.
        interval_bits: log2(t_inc).
        exponent_first: v_min.
        exponent_last: v_max.
        representative_bits: Theta.
        damping: phi.
        offset: psi.
        max_error: m, but for the first sample of a band, which is without error.
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


@numba.njit(forceinline=True)
def _clip(value, low, high):
    return min(max(value, low), high)


@numba.njit(forceinline=True)
def _local_sum(north, west, northwest, northeast, x, last, settings):
    """sigma of a sample that has a row above."""
    if settings.column:
        return 4 * north
    if x == 0:
        return 2 * (north + northeast)
    if not settings.narrow:
        return west + northwest + north + northeast
    if x < last:
        return northwest + 2 * north + northeast
    return 2 * (northwest + north)


@numba.njit(forceinline=True)
def _high_resolution(difference, local_sum, settings):
    """The high-resolution predicted sample value from the predicted central local difference."""
    bits, half = settings.weight_bits, 1 << (settings.weight_bits + 1)
    value = difference + ((local_sum - 4 * settings.middle) << bits) + (settings.middle << (bits + 2)) + half
    return _clip(value, settings.low << (bits + 2), (settings.high << (bits + 2)) + half)


@numba.njit(forceinline=True)
def _quantize(residual, max_error):
    """The quantizer index."""
    if max_error == 0:
        return residual
    size = (abs(residual) + max_error) // (2 * max_error + 1)
    return size if residual > 0 else -size


@numba.njit(forceinline=True)
def _map(index, double, max_error, settings):
    """delta of the quantizer index."""
    below, above = (double >> 1) - settings.low, settings.high - (double >> 1)
    size, step, reach = abs(index), 2 * max_error + 1, min(below, above) + max_error
    # theta = reach // step; the comparison saves the division where it does not matter, far from the type's limits.
    if size * step > reach:
        return size + reach // step
    return 2 * size - (1 if index != 0 and (index > 0) == (double & 1) else 0)


@numba.njit(forceinline=True)
def _unmap(mapped, double, max_error, settings):
    """The quantizer index of delta."""
    below, above = (double >> 1) - settings.low, settings.high - (double >> 1)
    size, step, reach = (mapped + 1) >> 1, 2 * max_error + 1, min(below, above) + max_error
    if size * step > reach:
        size = mapped - reach // step
        return size if below < above else -size
    return -size if (mapped & 1) != (double & 1) else size


@numba.njit(forceinline=True)
def _representative(center, index, high_resolution, settings):
    """s" of a sample from its clipped quantizer bin center."""
    bits, resolution = settings.weight_bits, settings.representative_bits
    sign = (index > 0) - (index < 0)
    shifted = (center << bits) - sign * settings.max_error * (settings.offset << (bits - resolution))
    value = 4 * ((1 << resolution) - settings.damping) * shifted
    value += settings.damping * (high_resolution - (1 << (bits + 1)))
    return ((value >> (bits + resolution + 1)) + 1) >> 1


@numba.njit(forceinline=True)
def _scaling_exponent(age, settings):
    """rho of t - N_X."""
    exponent = settings.exponent_first + (age >> settings.interval_bits)
    exponent = _clip(exponent, settings.exponent_first, settings.exponent_last)
    return exponent + settings.range_bits - settings.weight_bits


@numba.njit(forceinline=True)
def _code_parameter(k, accumulator, counter, settings):
    """k of the next codeword, looked for from that of the last, which is near."""
    target = accumulator + (49 * counter >> 7)
    while k < settings.range_bits - 2 and counter << (k + 1) <= target:
        k += 1
    while k > 0 and counter << k > target:
        k -= 1
    return k


@numba.njit(forceinline=True)
def _codeword(mapped, k, settings):
    """The codeword of delta, and how many bits it has."""
    zeros = mapped >> k
    if zeros < settings.unary_limit:
        return (1 << k) | (mapped & ((1 << k) - 1)), zeros + 1 + k
    return mapped, settings.unary_limit + settings.range_bits


@numba.njit(forceinline=True)
def _read_codeword(window, held, k, settings):
    """delta of the codeword at the front of the lowest `held` bits of `window`, and how many bits remain."""
    zeros = 0
    while zeros < settings.unary_limit and not (window >> (held - 1 - zeros)) & 1:
        zeros += 1
    held -= zeros
    if zeros < settings.unary_limit:
        held -= 1 + k
        return (zeros << k) | ((window >> held) & ((1 << k) - 1)), held
    held -= settings.range_bits
    return (window >> held) & ((1 << settings.range_bits) - 1), held


@numba.njit(forceinline=True)
def _count(accumulator, counter, mapped, settings):
    """Sigma and Gamma after a sample."""
    if counter == (1 << settings.rescale_bits) - 1:
        return (accumulator + mapped + 1) >> 1, (counter + 1) >> 1
    return accumulator + mapped, counter + 1


@compiled
def code_band(decode, samples, vectors, representatives, settings, stream, bit):
    """Append the codewords of a band to `stream`, or read them from it.

    One loop for both, since all but the codewords is the same. To a decoder the bytes behind the end of `stream` are 0,
    so that a stream which was cut ends like any other.

    Args:
        decode: whether to read.
        samples: int32 (H, W), filled by a decoder.
        vectors: int32 (H * W, C): the vectors of local differences, C = P and three more in full mode; the central
            differences of the preceding bands are in place, 0 where there are none. Left ready for the next band.
        representatives: int32 (H, W): s" of the band before, s_mid everywhere before the first. Left as this band's.
        settings: a `Settings`.
        stream: uint8. An encoder's has (7 + H * W * (U_max + CODE_BITS)) / 8 bytes and one more; the first starts with
            the bits so far.
        bit: where the band starts: for an encoder in the first byte, for a decoder no further than the end.

    Returns:
        The first bit behind the band, for a decoder maybe behind the end, -1 where a codeword stands for no sample.
    """
    height, width = samples.shape
    directions, bands = settings.directions, settings.bands
    below = representatives[0].copy()
    weights = np.zeros(directions + bands, np.int64)
    for i in range(bands):
        weights[directions + i] = (7 << settings.weight_bits) >> (3 * (i + 1))
    limit = 1 << (settings.weight_bits + 2)
    accumulator = ((3 * (1 << (settings.accumulator_bits + 6)) - 49) << settings.count_bits) >> 7
    counter, k = 1 << settings.count_bits, 0
    if decode:
        window, held, position = 0, -(bit & 7), bit >> 3
    else:
        window, held, position = np.int64(stream[0]) >> (8 - bit), bit, 0

    for y in range(height):
        for x in range(width):
            t = y * width + x
            max_error = settings.max_error if t else 0
            local_sum, high_resolution = 0, 0
            if t == 0:
                double = 2 * (below[0] if bands else settings.middle)
            else:
                if y == 0:
                    local_sum = 4 * (below[x - 1] if settings.narrow else representatives[0, x - 1])
                    for i in range(directions):
                        vectors[t, i] = 0
                else:
                    north = representatives[y - 1, x]
                    west = representatives[y, x - 1] if x > 0 else north
                    northwest = representatives[y - 1, x - 1] if x > 0 else north
                    northeast = representatives[y - 1, x + 1] if x + 1 < width else north
                    local_sum = _local_sum(north, west, northwest, northeast, x, width - 1, settings)
                    if directions:
                        vectors[t, 0] = 4 * north - local_sum
                        vectors[t, 1] = 4 * west - local_sum
                        vectors[t, 2] = 4 * northwest - local_sum
                difference = 0
                for i in range(directions + bands):
                    difference += weights[i] * vectors[t, i]
                high_resolution = _high_resolution(difference, local_sum, settings)
                double = high_resolution >> (settings.weight_bits + 1)
                k = _code_parameter(k, accumulator, counter, settings)
            predicted = double >> 1

            if decode:
                while held <= 48:  # bits of the longest codeword
                    window = (window << 8) | (stream[position] if position < len(stream) else 0)
                    position += 1
                    held += 8
                if t == 0:
                    held -= settings.range_bits
                    mapped = (window >> held) & ((1 << settings.range_bits) - 1)
                else:
                    mapped, held = _read_codeword(window, held, k, settings)
                index = _unmap(mapped, double, max_error, settings)
            else:
                index = _quantize(samples[y, x] - predicted, max_error)
                mapped = _map(index, double, max_error, settings)
                word, length = _codeword(mapped, k, settings) if t else (mapped, settings.range_bits)
                window, held = (window << length) | word, held + length
                while held >= 8:
                    held -= 8
                    stream[position] = (window >> held) & 255
                    position += 1

            value = predicted + index * (2 * max_error + 1)
            if value < settings.low - max_error or value > settings.high + max_error:
                return -1
            center = _clip(value, settings.low, settings.high)
            if decode:
                samples[y, x] = center
            if t == 0:
                representatives[0, 0] = center
            else:
                accumulator, counter = _count(accumulator, counter, mapped, settings)
                representatives[y, x] = _representative(center, index, high_resolution, settings)
                exponent = _scaling_exponent(t - width, settings)
                left, right = max(-exponent, 0), max(exponent, 0)
                sign = 1 if 2 * center >= double else -1
                for i in range(directions + bands):
                    step = ((((sign * vectors[t, i]) << left) >> right) + 1) >> 1
                    weights[i] = _clip(weights[i] + step, -limit, limit - 1)
            for i in range(directions + bands - 1, directions, -1):
                vectors[t, i] = vectors[t, i - 1]
            if bands:
                vectors[t, directions] = 4 * representatives[y, x] - local_sum
    if decode:
        return 8 * position - held
    stream[position] = (window << (8 - held)) & 255
    return 8 * position + held
