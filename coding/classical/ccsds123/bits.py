"""Bits at the place in a stream where a kernel reads or writes: forward, and for the hybrid coder backward."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import inlined

_HIGH_ZEROS = np.array([8 - number.bit_length() for number in range(256)])
_LOW_ZEROS = np.array([8, *(int(number & -number).bit_length() - 1 for number in range(1, 256))])

MAX_CODEWORD_BITS = 48
"""U_max = 32 zeros and D = 16 bits."""


class Bits(NamedTuple):
    """A place in a stream.

    Attributes:
        window: bits to read or to write.
        held: how many bits are in the window; higher bits of it do not matter.
        position: index of the next byte of the stream.
    """

    window: int
    held: int
    position: int


@inlined
def write(bits, stream, word, length):
    """Append `length` bits; return the `Bits` after them."""
    window, held, position = (bits.window << length) | word, bits.held + length, bits.position
    while held >= 8:
        held -= 8
        stream[position] = (window >> held) & 255
        position += 1
    return Bits(window, held, position)


@inlined
def fill(bits, stream):
    """Return the `Bits` with enough bits in the window for any codeword, zeros after the end of `stream`."""
    window, held, position = bits
    while held <= MAX_CODEWORD_BITS:
        window = (window << 8) | (stream[position] if position < len(stream) else 0)
        position += 1
        held += 8
    return Bits(window, held, position)


@inlined
def read(bits, stream, length):
    """Return the next `length` bits as a number, and the `Bits` after them."""
    window, held, position = fill(bits, stream)
    held -= length
    return (window >> held) & ((1 << length) - 1), Bits(window, held, position)


@inlined
def leading_zeros(bits, limit):
    """Return the number of zeros that come first in a filled window, at most `limit`, which is 8 or more."""
    zeros = _HIGH_ZEROS[(bits.window >> (bits.held - 8)) & 255]
    if zeros == 8:
        while zeros < limit and not (bits.window >> (bits.held - 1 - zeros)) & 1:
            zeros += 1
    return zeros


def reversed_words(stream: bytes) -> np.ndarray:
    """Return the bytes of a stream from its end as overlapping words for `fill_back`, the last word zeros."""
    padded = np.frombuffer(stream[::-1] + bytes(16), np.uint8)
    return np.ndarray((len(stream) + 8,), np.int64, padded, strides=(1,))


@inlined
def fill_back(bits, words):
    """Return the `Bits` with enough bits in the window for any codeword; the last bit of the stream is the lowest.

    The position counts bytes from the end of the stream; after its start come zeros.
    """
    count = (56 - bits.held) >> 3
    word = words[min(bits.position, len(words) - 1)] & ((1 << (8 * count)) - 1)
    return Bits(bits.window | (word << bits.held), bits.held + 8 * count, bits.position + count)


@inlined
def read_back(bits, words, length):
    """Return the last `length` bits as a number, and the `Bits` before them."""
    window, held, position = fill_back(bits, words)
    return window & ((1 << length) - 1), Bits(window >> length, held - length, position)


@inlined
def trailing_zeros(bits, limit):
    """Return the number of zeros that come last in a filled window, at most `limit`, which is 8 or more."""
    zeros = _LOW_ZEROS[bits.window & 255]
    if zeros == 8:
        while zeros < limit and not (bits.window >> zeros) & 1:
            zeros += 1
    return zeros
