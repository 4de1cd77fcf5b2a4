"""The hybrid entropy coder of CCSDS 123.0-B-2: less than a bit for an index where most indices are small.

Where mapped quantizer indices are large on average, each has a codeword of its own; where they are small, one of 16
codes has codewords for words of several of them. An image ends with the unfinished words and with the accumulators, and
is decoded from its end: then each step of the encoder can be undone.

Comments use the names of the standard: delta is a mapped quantizer index, Sigma the high-resolution accumulator, Gamma
the counter, U_max the largest number of zeros in a codeword.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.base import DamagedError
from coding.classical.ccsds123.bits import (
    MAX_CODEWORD_BITS,
    Bits,
    fill_back,
    read_back,
    reversed_words,
    trailing_zeros,
    write,
)
from coding.classical.ccsds123.header import MAX_RANGE_BITS, Header
from coding.classical.ccsds123.hybrid_codes import SYMBOL_LIMITS, THRESHOLDS, load_codes
from coding.classical.ccsds123.order import count_segments, segment_at
from coding.classical.ccsds123.sample_adaptive import Parameters
from coding.entropy.compiled import compiled, inlined

_LIMITS = np.array(SYMBOL_LIMITS)
_THRESHOLDS = np.array(THRESHOLDS)
_LAST_CODE = len(THRESHOLDS) - 1
_THRESHOLD_BITS = 14
_MOST_BITS = 1 + 32 + MAX_RANGE_BITS + 21
"""Most bits of a sample: the accumulator's lowest bit, an escape, and the longest codeword of the codes."""


class _State(NamedTuple):
    """The state of the decoder, and the error limits that it reads.

    Attributes:
        accumulators: int64 (C,), Sigma.
        nodes: int32 (codes,), nodes of the words that are not yet read.
        absolute: int64 (periods, C), a_z.
        relative: int64 (periods, C), r_z.
    """

    accumulators: np.ndarray
    nodes: np.ndarray
    absolute: np.ndarray
    relative: np.ndarray


def encode(deltas: np.ndarray, header: Header, first_mean: int) -> bytes:
    """Encode mapped quantizer indices, uint16 (C, H, W), in band-sequential order.

    The standard lets the encoder choose the accumulators at the start of a band. These stand for the mean index at the
    end of the preceding band, in the first band for `first_mean`.
    """
    bands, height, width = deltas.shape
    parameters, codes = Parameters.of(header), load_codes()
    out = np.zeros((7 + height * width * _MOST_BITS) // 8 + 2, np.uint8)
    nodes = codes.roots.copy()
    accumulators = []
    chunks, bit = [], 0
    largest = (1 << (parameters.range_bits + parameters.count_bits)) - 1
    start = 4 * first_mean << parameters.count_bits
    for band in deltas.reshape(bands, -1):
        bit, accumulator, counter = _encode_band(band, min(start, largest), nodes, codes, parameters, out, bit)
        whole, bit = divmod(bit, 8)
        chunks.append(out[:whole].tobytes())
        out[0] = out[whole]
        accumulators.append(accumulator)
        start = (accumulator << parameters.count_bits) // counter
    chunks.append(_tail(accumulators, nodes, parameters, int(out[0]) >> (8 - bit), bit))
    return b"".join(chunks)


def _tail(accumulators: list[int], nodes: np.ndarray, parameters: Parameters, held: int, bit: int) -> bytes:
    """Return the end of an image: `bit` bits that are `held` back, flush words, accumulators, a 1 and fill bits."""
    codes = load_codes()
    fields = [(held, bit), *((int(codes.words[node]), int(codes.lengths[node])) for node in nodes)]
    size = _accumulator_bits(parameters)
    fields += [(accumulator, size) for accumulator in accumulators]
    text = "".join(f"{value:0{size}b}" if size else "" for value, size in [*fields, (1, 1)])
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def decode(body: bytes, header: Header) -> np.ndarray:
    """Return the mapped quantizer indices of a compressed image, uint16 (C, H, W), and fill in its error limits.

    Raises:
        DamagedError: the codewords end early or late, or are damaged.
    """
    image, parameters, codes = header.image, Parameters.of(header), load_codes()
    end = len(body.rstrip(b"\0"))
    if not end or len(body) - end >= image.word_size:
        raise DamagedError("the end of a compressed image is damaged or missing")
    deltas = np.empty(image.shape, np.uint16)
    state = _State(
        np.empty(image.shape[0], np.int64),
        np.empty(len(codes.roots), np.int32),
        header.predictor.absolute.table,
        header.predictor.relative.table,
    )
    segments = count_segments(image.shape, image.depth)
    last_bits = (body[end - 1] & -body[end - 1]).bit_length()  # the 1 that ends the image, and zeros after it
    words = reversed_words(body[:end])
    if _decode(deltas, segments, state, codes, parameters, words, last_bits) != 8 * end:
        raise DamagedError("the codewords of a compressed image are damaged, or it has not the size of its header")
    return deltas


@inlined
def _accumulator_bits(parameters):
    """Return the bits of an accumulator at the end of an image."""
    return 2 + parameters.range_bits + parameters.rescale_bits


@inlined
def _code_of(accumulator, counter, code):
    """Return the number of the code, -1 for codewords of single indices; the search starts at `code`."""
    scaled = accumulator << _THRESHOLD_BITS
    while code < _LAST_CODE and scaled < counter * _THRESHOLDS[code + 1]:
        code += 1
    while code >= 0 and scaled >= counter * _THRESHOLDS[code]:
        code -= 1
    return code


@inlined
def _low_bits(accumulator, counter, k, parameters):
    """Return the number of low bits of delta that stand as they are in its codeword; the search starts at `k`."""
    target = accumulator + (49 * counter >> 5)
    while k < parameters.range_bits - 2 and counter << (k + 3) <= target:
        k += 1
    while k > 2 and counter << (k + 2) > target:
        k -= 1
    return k


@inlined
def _write_reversed(bits, stream, value, k, parameters):
    """Append a codeword that ends with its zeros; return the `Bits` after it."""
    zeros = value >> k
    if zeros < parameters.unary_limit:
        word = (((value & ((1 << k) - 1)) << 1) | 1) << zeros
        return write(bits, stream, word, k + 1 + zeros)
    return write(bits, stream, value << parameters.unary_limit, parameters.range_bits + parameters.unary_limit)


@inlined
def _read_reversed(bits, words, k, parameters):
    """Return the number of the last codeword that `_write_reversed` wrote, and the `Bits` before it."""
    bits = fill_back(bits, words)
    window, zeros = bits.window, trailing_zeros(bits, parameters.unary_limit)
    if zeros == parameters.unary_limit:
        value, length = (window >> zeros) & ((1 << parameters.range_bits) - 1), zeros + parameters.range_bits
    else:
        value, length = (zeros << k) | ((window >> (zeros + 1)) & ((1 << k) - 1)), zeros + 1 + k
    return value, Bits(window >> length, bits.held - length, bits.position)


@compiled
def _encode_band(deltas, accumulator, nodes, codes, parameters, stream, bit):
    """Append the bits of a band to `stream`.

    Args:
        deltas: uint16 (H * W,).
        accumulator: Sigma of the first sample.
        nodes: (codes,), nodes of the words so far, changed.
        codes: `Codes`.
        parameters: `Parameters`.
        stream: uint8 buffer with room for the band, whose first byte starts with the bits so far.
        bit: number of the first bit, 0 to 7.

    Returns:
        Number of the first bit after the band; Sigma and Gamma of its last sample.
    """
    return _encode_deltas(deltas, accumulator, nodes, codes, parameters, stream, bit)


@inlined
def _encode_deltas(deltas, accumulator, nodes, codes, parameters, stream, bit):
    """Do the work of `_encode_band`, which would count references to the arrays in each step."""
    counter = 1 << parameters.count_bits
    bits = write(Bits(np.int64(stream[0]) >> (8 - bit), bit, 0), stream, np.int64(deltas[0]), parameters.range_bits)
    code, k = 0, 2
    for t in range(1, len(deltas)):
        delta = np.int64(deltas[t])
        if counter == (1 << parameters.rescale_bits) - 1:
            bits = write(bits, stream, accumulator & 1, 1)
            counter = (counter + 1) >> 1
            accumulator = (accumulator + 4 * delta + 1) >> 1
        else:
            counter += 1
            accumulator += 4 * delta
        code = _code_of(accumulator, counter, max(code, 0))
        if code < 0:
            k = _low_bits(accumulator, counter, k, parameters)
            bits = _write_reversed(bits, stream, delta, k, parameters)
        else:
            bits = _encode_symbol(delta, code, nodes, codes, parameters, bits, stream)
    stream[bits.position] = (bits.window << (8 - bits.held)) & 255
    return 8 * bits.position + bits.held, accumulator, counter


@inlined
def _encode_symbol(delta, code, nodes, codes, parameters, bits, stream):
    """Append a symbol to the word of a code, and write the codeword if the word is complete; return the `Bits`."""
    symbol = delta
    if delta > _LIMITS[code]:
        symbol = _LIMITS[code] + 1
        bits = _write_reversed(bits, stream, delta - symbol, 0, parameters)
    node = codes.children[nodes[code], symbol]
    if codes.children[node, 0] == 0:
        bits = write(bits, stream, np.int64(codes.words[node]), np.int64(codes.lengths[node]))
        node = codes.roots[code]
    nodes[code] = node
    return bits


@compiled
def _decode(deltas, segments, state, codes, parameters, words, skipped):
    """Read an image from its end.

    Args:
        deltas: uint16 (C, H, W), filled.
        segments: number of segments.
        state: `_State`, filled.
        codes: `Codes`.
        parameters: `Parameters`.
        words: of `reversed_words`.
        skipped: number of bits from the 1 that ends the image on, less than 64.

    Returns:
        Number of bits that were read; -1 if a codeword stands for no delta, or the stream ended long before.
    """
    return _decode_segments(deltas, segments, state, codes, parameters, words, skipped)


@inlined
def _decode_segments(deltas, segments, state, codes, parameters, words, skipped):
    """Do the work of `_decode`, which would count references to the arrays in each step."""
    bands, height, width = deltas.shape
    _, bits = read_back(Bits(np.int64(0), np.int64(0), np.int64(0)), words, skipped)
    bits = _read_tail(state, codes, parameters, bits, words)
    code, k, size = 0, 2, _accumulator_bits(parameters)
    for segment in range(segments - 1, -1, -1):
        first, end, y = segment_at(segment, bands, height, parameters.depth)
        for x in range(width - 1, -1, -1):
            counter, was_halved = _counter_at(y * width + x, parameters)
            for z in range(end - 1, first - 1, -1):
                if x == 0 and y == 0:
                    delta, bits = read_back(bits, words, parameters.range_bits)
                    deltas[z, 0, 0] = delta
                    continue
                accumulator = state.accumulators[z]
                code = _code_of(accumulator, counter, max(code, 0))
                if code < 0:
                    k = _low_bits(accumulator, counter, k, parameters)
                    delta, bits = _read_reversed(bits, words, k, parameters)
                else:
                    delta, bits = _decode_symbol(code, state.nodes, codes, parameters, bits, words)
                if was_halved:
                    lowest, bits = read_back(bits, words, 1)
                    accumulator = 2 * accumulator - lowest
                accumulator -= 4 * delta
                if accumulator < 0 or accumulator >> size or delta >> parameters.range_bits:
                    return np.int64(-1)
                state.accumulators[z] = accumulator
                deltas[z, y, x] = delta
        if first == 0 and (y & ((1 << parameters.period_bits) - 1)) == 0:
            bits = _read_limits_back(y >> parameters.period_bits, state, parameters, bits, words)
        if bits.position > len(words) + MAX_CODEWORD_BITS:
            return np.int64(-1)
    return 8 * bits.position - bits.held


@inlined
def _read_tail(state, codes, parameters, bits, words):
    """Read the last accumulators and the flush words; return the `Bits` before them."""
    size = _accumulator_bits(parameters)
    for z in range(len(state.accumulators) - 1, -1, -1):
        state.accumulators[z], bits = read_back(bits, words, size)
    for code in range(len(state.nodes) - 1, -1, -1):
        state.nodes[code], bits = _read_word(1, code, codes, bits, words)
    return bits


@inlined
def _counter_at(t, parameters):
    """Return Gamma of a sample, and whether it was halved there."""
    ramp = (1 << parameters.rescale_bits) - 1 - (1 << parameters.count_bits)
    half = 1 << (parameters.rescale_bits - 1)
    if t <= ramp:
        return (1 << parameters.count_bits) + t, False
    age = (t - ramp - 1) & (half - 1)
    return half + age, age == 0


@inlined
def _read_word(kind, code, codes, bits, words):
    """Return the node of the last codeword (kind 0) or flush word (1) of a code, and the `Bits` before it."""
    window, held, position = fill_back(bits, words)
    word, length = 0, 0
    while True:
        word = (word << 1) | ((window >> length) & 1)
        length += 1
        start = codes.starts[kind, code, length]
        index = word - codes.firsts[kind, code, length]
        if index < codes.starts[kind, code, length + 1] - start:
            return codes.ordered[start + index], Bits(window >> length, held - length, position)


@inlined
def _decode_symbol(code, nodes, codes, parameters, bits, words):
    """Return delta of the last symbol of a code, and the `Bits` before what it added to the stream."""
    node = nodes[code]
    if node == codes.roots[code]:
        bits = fill_back(bits, words)
        node = codes.endings[code, bits.window & 255]
        if node:
            length = np.int64(codes.lengths[node])
            bits = Bits(bits.window >> length, bits.held - length, bits.position)
        else:
            node, bits = _read_word(0, code, codes, bits, words)
    symbol = np.int64(codes.symbols[node])
    nodes[code] = codes.parents[node]
    if symbol <= _LIMITS[code]:
        return symbol, bits
    excess, bits = _read_reversed(bits, words, 0, parameters)
    return symbol + excess, bits


@inlined
def _read_limits_back(period, state, parameters, bits, words):
    """Read the error limits of the rows just read; return the `Bits` before them."""
    if parameters.relative_bits:
        for z in range(parameters.relative_count - 1, -1, -1):
            state.relative[period, z], bits = read_back(bits, words, parameters.relative_bits)
    if parameters.absolute_bits:
        for z in range(parameters.absolute_count - 1, -1, -1):
            state.absolute[period, z], bits = read_back(bits, words, parameters.absolute_bits)
    return bits
