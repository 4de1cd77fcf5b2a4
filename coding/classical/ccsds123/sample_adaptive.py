"""The sample-adaptive entropy coder of CCSDS 123.0-B-2: a codeword for each mapped quantizer index.

Comments use the names of the standard: delta is a mapped quantizer index, Sigma and Gamma are the accumulator and the
counter, k is the number of low bits of delta that a codeword ends with, U_max the largest number of zeros before them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.base import DamagedError
from coding.classical.ccsds123.bits import MAX_CODEWORD_BITS, Bits, fill, leading_zeros, read, write
from coding.classical.ccsds123.header import MAX_RANGE_BITS, NEVER, Header
from coding.classical.ccsds123.order import count_segments, segment_at
from coding.entropy.compiled import compiled, inlined


class Parameters(NamedTuple):
    """The parameters of a coder that counts samples, for the kernels.

    Attributes:
        depth: M, 0 for band-sequential order.
        range_bits: D.
        unary_limit: U_max.
        count_bits: gamma_0.
        rescale_bits: gamma*.
        period_bits: log2 of the rows after which error limits change.
        absolute_bits, relative_bits: bits of an error limit between the codewords; 0 for none.
        absolute_count, relative_count: number of them at a time.
    """

    depth: int
    range_bits: int
    unary_limit: int
    count_bits: int
    rescale_bits: int
    period_bits: int
    absolute_bits: int
    absolute_count: int
    relative_bits: int
    relative_count: int

    @classmethod
    def of(cls, header: Header) -> Parameters:
        """Return the parameters of an image."""
        image, predictor, coder = header.image, header.predictor, header.coder
        absolute, relative = predictor.absolute, predictor.relative
        has_limits, bands = has_periodic_limits(header), image.shape[0]
        return cls(
            depth=image.depth,
            range_bits=image.range_bits,
            unary_limit=coder.unary_limit,
            count_bits=coder.count_bits,
            rescale_bits=coder.rescale_bits,
            period_bits=predictor.period_bits,
            absolute_bits=absolute.bits * has_limits,
            absolute_count=bands if absolute.per_band else 1,
            relative_bits=relative.bits * has_limits,
            relative_count=bands if relative.per_band else 1,
        )


class State(NamedTuple):
    """The state of the coder for each band, and the error limits that a decoder fills in, all int64.

    Attributes:
        accumulators: (C,), Sigma.
        counters: (C,), Gamma.
        k: (C,), k of the last codeword.
        absolute: (periods, C), a_z.
        relative: (periods, C), r_z.
    """

    accumulators: np.ndarray
    counters: np.ndarray
    k: np.ndarray
    absolute: np.ndarray
    relative: np.ndarray


def has_periodic_limits(header: Header) -> bool:
    """Return whether error limits stand between the codewords."""
    return bool(header.image.fidelity and header.predictor.period_bits < NEVER)


def encode(deltas: np.ndarray, header: Header) -> bytes:
    """Encode mapped quantizer indices, uint16 (C, H, W), in band-sequential order."""
    _, height, width = deltas.shape
    parameters, state = Parameters.of(header), _first_state(header)
    out = np.zeros((7 + height * width * (parameters.unary_limit + MAX_RANGE_BITS)) // 8 + 2, np.uint8)
    chunks, bit = [], 0
    for band in range(len(deltas)):
        segments = (band * height, (band + 1) * height)
        whole, bit = divmod(_code(False, deltas, segments, state, parameters, out, bit), 8)
        chunks.append(out[:whole].tobytes())
        out[0] = out[whole]
    return b"".join([*chunks, out[: bit > 0].tobytes()])


def decode(body: bytes, header: Header) -> np.ndarray:
    """Return the mapped quantizer indices of a compressed image, uint16 (C, H, W), and fill in its error limits.

    Raises:
        DamagedError: the codewords end early or late, or are damaged.
    """
    image = header.image
    deltas = np.empty(image.shape, np.uint16)
    parameters, state = Parameters.of(header), _first_state(header)
    segments = (0, count_segments(image.shape, image.depth))
    bit = _code(True, deltas, segments, state, parameters, np.frombuffer(bytearray(body), np.uint8), 0)
    if not 0 <= bit <= 8 * len(body):
        raise DamagedError("the codewords of a compressed image are damaged or end early")
    if (
        8 * len(body) - bit >= 8 * image.word_size
        or any(body[-(-bit // 8) :])
        or (bit % 8 and body[bit // 8] & (255 >> bit % 8))
    ):
        raise DamagedError("a compressed image must end with its last sample, but it continues")
    return deltas


def _first_state(header: Header) -> State:
    coder, predictor = header.coder, header.predictor
    accumulators = ((3 * (1 << (coder.accumulator_bits + 6)) - 49) << coder.count_bits) >> 7
    return State(
        accumulators,
        np.full_like(accumulators, 1 << coder.count_bits),
        np.zeros_like(accumulators),
        predictor.absolute.table,
        predictor.relative.table,
    )


@compiled
def _code(decode, deltas, segments, state, parameters, stream, bit):
    """Append the codewords of segments to `stream`, or read them from it.

    Encoder and decoder share one loop, since only the codewords differ. A decoder reads zeros after the end of
    `stream`, and stops soon after it.

    Args:
        decode: whether to read.
        deltas: uint16 (C, H, W), filled by a decoder.
        segments: the first segment, and the one after the last.
        state: `State`, changed; a decoder fills in the error limits that are in the stream.
        parameters: `Parameters`.
        stream: uint8 buffer. For an encoder it has room for all segments and its first byte starts with the bits so
            far.
        bit: number of the first bit: for an encoder 0 to 7, for a decoder up to the end of `stream`.

    Returns:
        Number of the first bit after the segments, which for a decoder may be after the end of `stream`; -1 if a
        codeword stands for no delta, or the stream ended long before.
    """
    return _code_segments(decode, deltas, segments, state, parameters, stream, bit)


@inlined
def _code_segments(decode, deltas, segments, state, parameters, stream, bit):
    """Do the work of `_code`, which would count references to the arrays in each step."""
    bands, height, width = deltas.shape
    bits = Bits(np.int64(0), -(bit & 7), bit >> 3) if decode else Bits(np.int64(stream[0]) >> (8 - bit), bit, 0)
    for segment in range(segments[0], segments[1]):
        first, end, y = segment_at(segment, bands, height, parameters.depth)
        if decode and first == 0 and (y & ((1 << parameters.period_bits) - 1)) == 0:
            bits = _read_limits(y >> parameters.period_bits, state, parameters, bits, stream)
        for x in range(width):
            for z in range(first, end):
                if x == 0 and y == 0:
                    bits = _code_first(decode, deltas, z, parameters, bits, stream)
                    continue
                delta, bits = _code_delta(decode, deltas, (z, y, x), state, parameters, bits, stream)
                if delta >> parameters.range_bits:
                    return np.int64(-1)
        if decode and bits.position > len(stream) + MAX_CODEWORD_BITS:
            return np.int64(-1)
    if not decode:
        stream[bits.position] = (bits.window << (8 - bits.held)) & 255
    return 8 * bits.position + (-bits.held if decode else bits.held)


@inlined
def _read_limits(period, state, parameters, bits, stream):
    """Read the error limits of the next rows; return the `Bits` after them."""
    if parameters.absolute_bits:
        for z in range(parameters.absolute_count):
            state.absolute[period, z], bits = read(bits, stream, parameters.absolute_bits)
    if parameters.relative_bits:
        for z in range(parameters.relative_count):
            state.relative[period, z], bits = read(bits, stream, parameters.relative_bits)
    return bits


@inlined
def _code_first(decode, deltas, z, parameters, bits, stream):
    """Code the first delta of a band, which stands as it is; return the `Bits` after it."""
    if not decode:
        return write(bits, stream, np.int64(deltas[z, 0, 0]), parameters.range_bits)
    delta, bits = read(bits, stream, parameters.range_bits)
    deltas[z, 0, 0] = delta
    return bits


@inlined
def _code_delta(decode, deltas, place, state, parameters, bits, stream):
    """Code a delta that is not the first of its band; return it, and the `Bits` after it."""
    z, y, x = place
    accumulator, counter, k = state.accumulators[z], state.counters[z], state.k[z]
    target = accumulator + (49 * counter >> 7)
    while k < parameters.range_bits - 2 and counter << (k + 1) <= target:
        k += 1
    while k > 0 and counter << k > target:
        k -= 1
    if decode:
        delta, bits = _read_codeword(bits, stream, k, parameters)
        deltas[z, y, x] = delta
    else:
        delta = np.int64(deltas[z, y, x])
        word, length = _codeword(delta, k, parameters)
        bits = write(bits, stream, word, length)
    is_full = counter == (1 << parameters.rescale_bits) - 1
    state.accumulators[z] = (accumulator + delta + 1) >> 1 if is_full else accumulator + delta
    state.counters[z] = (counter + 1) >> 1 if is_full else counter + 1
    state.k[z] = k
    return delta, bits


@inlined
def _codeword(delta, k, parameters):
    """Return the codeword of delta, and its number of bits."""
    zeros = delta >> k
    if zeros < parameters.unary_limit:
        return (1 << k) | (delta & ((1 << k) - 1)), zeros + 1 + k
    return delta, parameters.unary_limit + parameters.range_bits


@inlined
def _read_codeword(bits, stream, k, parameters):
    """Return delta of the next codeword, and the `Bits` after it."""
    bits = fill(bits, stream)
    zeros = leading_zeros(bits, parameters.unary_limit)
    window, held, position = bits.window, bits.held - zeros, bits.position
    if zeros < parameters.unary_limit:
        held -= 1 + k
        return (zeros << k) | ((window >> held) & ((1 << k) - 1)), Bits(window, held, position)
    held -= parameters.range_bits
    return (window >> held) & ((1 << parameters.range_bits) - 1), Bits(window, held, position)
