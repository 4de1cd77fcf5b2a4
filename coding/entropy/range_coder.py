"""A binary range coder: from decisions with probabilities to bytes, and back.

The coder (Witten, Neal and Cleary, doi 10.1145/214762.214771) narrows an interval of 48 bits with each decision, and
writes or reads 16 bits as soon as the first 16 bits of the interval are settled.

Encoder and decoder run the same code: a kernel calls `code_bit` for each decision, an encoder with the bit, a decoder
with any value, and both continue with the returned bit. The functions that kernels call are inlined.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from coding.base import DamagedError
from coding.entropy.compiled import inlined

LOW, HIGH, CODE, POSITION, DECODING = range(5)
"""Indices into the state of a coder: the ends of the interval, the decoder's number in it, the number of bytes so far,
and whether it is a decoder."""

CERTAIN = 1 << 16
"""Integer that represents a probability of 1."""

_INTERVAL_BITS = 48
_INTERVAL_MASK = (1 << _INTERVAL_BITS) - 1
_INTERVAL_BYTES = _INTERVAL_BITS // 8
_PART_BITS = 16  # equally likely bits that are coded at once


class Coder(NamedTuple):
    """An encoder or a decoder.

    Attributes:
        state: int64 (5,), indexed by `LOW`, `HIGH`, `CODE`, `POSITION` and `DECODING`.
        data: uint8 (B,), the bytes that are written or read.
    """

    state: np.ndarray
    data: np.ndarray


def new_encoder(room: int) -> Coder:
    """Return an encoder before its first decision.

    Args:
        room: number of bytes that can be written between calls of `take_bytes`; further bytes are counted, not written.
    """
    state = np.zeros(5, np.int64)
    state[HIGH] = _INTERVAL_MASK
    return Coder(state, np.zeros(room, np.uint8))


def new_decoder(stream: bytes) -> Coder:
    """Return a decoder before the first decision of `stream`."""
    # Copied, since kernels are compiled for writable arrays only.
    coder = Coder(new_encoder(0).state, np.frombuffer(stream, np.uint8).copy())
    coder.state[DECODING] = 1
    coder.state[CODE] = int.from_bytes(stream[:_INTERVAL_BYTES].ljust(_INTERVAL_BYTES, b"\0"), "big")
    coder.state[POSITION] = _INTERVAL_BYTES
    return coder


def take_bytes(coder: Coder) -> bytes:
    """Return the bytes that an encoder has written, and make room for new ones.

    Raises:
        ValueError: more bytes than there was room for.
    """
    position = int(coder.state[POSITION])
    if position > len(coder.data):
        raise ValueError(f"an encoder must have room for its {position} bytes, got {len(coder.data)}")
    coder.state[POSITION] = 0
    return coder.data[:position].tobytes()


def finish_encoder(coder: Coder, parts: Iterable[bytes] = ()) -> bytes:
    """Return the stream of an encoder: `parts`, the bytes not taken yet, and a number in the interval.

    The number is the one with the most trailing zeros; trailing zeros of the stream are dropped.

    Args:
        coder: an encoder after its last decision.
        parts: what `take_bytes` returned so far.

    Raises:
        ValueError: more bytes than there was room for.
    """
    low, high = int(coder.state[LOW]), int(coder.state[HIGH])
    zeros = next(zeros for zeros in range(_INTERVAL_BITS, -1, -1) if (high >> zeros) << zeros >= low)
    last = ((high >> zeros) << zeros).to_bytes(_INTERVAL_BYTES, "big")
    return b"".join([*parts, take_bytes(coder), last]).rstrip(b"\0")


def check_decoder(coder: Coder) -> None:
    """Check that a decoder has used all of its bytes.

    Missing bytes cannot be noticed: encoders drop trailing zeros, and decoders read as many as they need.

    Raises:
        DamagedError: there are bytes after the last decision.
    """
    unused = len(coder.data) - int(coder.state[POSITION])
    if unused > 0:
        raise DamagedError(f"a stream must end with its last decision, got {unused} more bytes")


@inlined
def _narrow(coder, low, high):
    """Continue with the interval from `low` to `high`; write or read its settled bits."""
    state, data = coder.state, coder.data
    while (low ^ high) >> (_INTERVAL_BITS - 16) == 0:
        position = state[POSITION]
        if state[DECODING]:
            word = np.int64(0)
            if position < len(data):
                word = np.int64(data[position]) << 8
            if position + 1 < len(data):
                word |= np.int64(data[position + 1])
            state[CODE] = ((state[CODE] << 16) & _INTERVAL_MASK) | word
        elif position + 1 < len(data):
            data[position] = low >> (_INTERVAL_BITS - 8)
            data[position + 1] = (low >> (_INTERVAL_BITS - 16)) & 255
        state[POSITION] = position + 2
        low = (low << 16) & _INTERVAL_MASK
        high = ((high << 16) & _INTERVAL_MASK) | 0xFFFF
    state[LOW], state[HIGH] = low, high


@inlined
def code_bit(coder, probability, bit):
    """Code a decision.

    Args:
        coder: a `Coder`.
        probability: probability of a 1 in units of 2^-16, from 1 to 2^16 - 1.
        bit: the decision; ignored by a decoder.

    Returns:
        The decision.
    """
    low, high = coder.state[LOW], coder.state[HIGH]
    middle = low + ((high - low) >> 16) * probability
    if coder.state[DECODING]:
        bit = 1 if coder.state[CODE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    _narrow(coder, low, high)
    return bit


@inlined
def code_bits(coder, number, count):
    """Code a number of `count` bits with equally likely values; return the number."""
    coded = np.int64(0)
    while count > 0:
        part = min(count, _PART_BITS)
        count -= part
        coded = (coded << part) | _code_part(coder, (number >> count) & ((1 << part) - 1), part)
    return coded


@inlined
def _code_part(coder, number, count):
    """Code a number of at most `_PART_BITS` bits; return the number."""
    state = coder.state
    low, high = state[LOW], state[HIGH]
    if high - low < 1 << 32:  # around a carry an interval can be too small to split into parts
        coded = np.int64(0)
        for place in range(count - 1, -1, -1):
            coded = 2 * coded + code_bit(coder, CERTAIN >> 1, (number >> place) & 1)
        return coded
    part = (high - low) >> count
    if state[DECODING]:
        # In a damaged stream the code may lie outside the interval.
        number = min(max((state[CODE] - low) // part, 0), (1 << count) - 1)
    low += number * part
    _narrow(coder, low, low + part - 1)
    return number
