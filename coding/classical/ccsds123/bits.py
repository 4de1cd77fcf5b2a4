"""Bits at the place in a stream where a kernel reads or writes: forward, and for the hybrid coder backward."""

from __future__ import annotations

from typing import NamedTuple

from coding.entropy.compiled import inlined

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
def fill_back(bits, stream):
    """Return the `Bits` with enough bits in the window for any codeword; the last bit of the stream is the lowest."""
    window, held, position = bits
    while held <= MAX_CODEWORD_BITS:
        window |= (int(stream[position]) if position >= 0 else 0) << held
        position -= 1
        held += 8
    return Bits(window, held, position)


@inlined
def read_back(bits, stream, length):
    """Return the last `length` bits as a number, and the `Bits` before them."""
    window, held, position = fill_back(bits, stream)
    return window & ((1 << length) - 1), Bits(window >> length, held - length, position)
