"""A binary range coder: from decisions with probabilities to bytes, and back.

The coder (Witten, Neal and Cleary, doi 10.1145/214762.214771) narrows an interval of 48 bits with each decision, and
writes or reads 16 bits as soon as the first 16 bits of the interval are settled.

Encoder and decoder run the same code: a kernel calls `code_bit` for each decision, an encoder with the bit, a decoder
with any value, and both continue with the returned bit. Bits that are as likely 0 as 1 are stored as they are, in a
part of their own, which saves time. The functions that kernels call are inlined.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from coding.base import DamagedError, join_blocks, take_block
from coding.entropy.compiled import inlined

LOW, HIGH, CODE, POSITION, DECODING, PLAIN_POSITION, PLAIN_BITS, PLAIN_COUNT = range(8)
"""Indices into the state of a coder: the ends of the interval, the decoder's number in it, the number of bytes so far,
whether it is a decoder; and of the plain bits, the number of words so far, those not yet in or out of a word, and how
many these are."""

CERTAIN_BITS = 16
CERTAIN = 1 << CERTAIN_BITS
"""Integer that represents a probability of 1."""

_INTERVAL_BITS = 48
_INTERVAL_MASK = (1 << _INTERVAL_BITS) - 1
_INTERVAL_BYTES = _INTERVAL_BITS // 8
_WORD_BITS = 32
_WORD_BYTES = _WORD_BITS // 8


class Coder(NamedTuple):
    """An encoder or a decoder.

    Attributes:
        state: int64 (8,), indexed by `LOW` to `PLAIN_COUNT`.
        data: uint8 (B,), the bytes that are written or read.
        plain: uint32 (W,), words of plain bits, the first ones lowest.
    """

    state: np.ndarray
    data: np.ndarray
    plain: np.ndarray


class Part(NamedTuple):
    """Bytes that an encoder has written: coded ones, and plain bits."""

    coded: bytes
    plain: bytes


def new_encoder(room: int) -> Coder:
    """Return an encoder before its first decision.

    Args:
        room: number of bytes that can be written between calls of `take_bytes`, both of coded and of plain ones;
            further bytes are counted, not written.
    """
    state = np.zeros(8, np.int64)
    state[HIGH] = _INTERVAL_MASK
    return Coder(state, np.zeros(room, np.uint8), np.zeros(-(-room // _WORD_BYTES), np.uint32))


def new_decoder(stream: bytes) -> Coder:
    """Return a decoder before the first decision of `stream`.

    Raises:
        DamagedError: `stream` is damaged.
    """
    plain, coded = take_block(stream) if stream else (b"", b"")
    words = np.frombuffer(plain.ljust(-(-len(plain) // _WORD_BYTES) * _WORD_BYTES, b"\0"), "<u4").astype(np.uint32)
    # Copied, since kernels are compiled for writable arrays only.
    coder = Coder(new_encoder(0).state, np.frombuffer(coded, np.uint8).copy(), words)
    coder.state[DECODING] = 1
    coder.state[CODE] = int.from_bytes(coded[:_INTERVAL_BYTES].ljust(_INTERVAL_BYTES, b"\0"), "big")
    coder.state[POSITION] = _INTERVAL_BYTES
    return coder


def take_bytes(coder: Coder) -> Part:
    """Return the bytes that an encoder has written, and make room for new ones.

    Raises:
        ValueError: more bytes than there was room for.
    """
    position, words = int(coder.state[POSITION]), int(coder.state[PLAIN_POSITION])
    if position > len(coder.data) or words > len(coder.plain):
        most = max(position, _WORD_BYTES * words)
        raise ValueError(f"an encoder must have room for its {most} bytes, got {len(coder.data)}")
    coder.state[POSITION] = coder.state[PLAIN_POSITION] = 0
    return Part(coder.data[:position].tobytes(), coder.plain[:words].astype("<u4").tobytes())


def finish_encoder(coder: Coder, parts: Iterable[Part] = ()) -> bytes:
    """Return the stream of an encoder: a block with all plain bytes, then all coded bytes.

    The coded bytes end with a number in the interval, the one with the most trailing zeros; trailing zeros are dropped.

    Args:
        coder: an encoder after its last decision.
        parts: what `take_bytes` returned so far.

    Raises:
        ValueError: more bytes than there was room for.
    """
    low, high = int(coder.state[LOW]), int(coder.state[HIGH])
    zeros = next(zeros for zeros in range(_INTERVAL_BITS, -1, -1) if (high >> zeros) << zeros >= low)
    last = ((high >> zeros) << zeros).to_bytes(_INTERVAL_BYTES, "big")
    last_plain = int(coder.state[PLAIN_BITS]).to_bytes(8, "little")
    parts = [*parts, take_bytes(coder), Part(last, last_plain)]
    coded, plain = (b"".join(pieces).rstrip(b"\0") for pieces in zip(*parts, strict=True))
    return join_blocks([plain]) + coded


def check_decoder(coder: Coder) -> None:
    """Check that a decoder has used all of its bytes.

    Missing bytes cannot be noticed: encoders drop trailing zeros, and decoders read as many as they need.

    Raises:
        DamagedError: there are bytes after the last decision.
    """
    unused = max(len(coder.data) - int(coder.state[POSITION]), len(coder.plain) - int(coder.state[PLAIN_POSITION]))
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
    """Code a number of `count` bits, at most 63, with equally likely values; return the number."""
    if count > _WORD_BITS:
        upper = _code_plain(coder, number >> _WORD_BITS, count - _WORD_BITS)
        return (upper << _WORD_BITS) | _code_plain(coder, number & ((1 << _WORD_BITS) - 1), _WORD_BITS)
    return _code_plain(coder, number, count)


@inlined
def _code_plain(coder, number, count):
    """Write or read at most `_WORD_BITS` plain bits; return the number."""
    state, plain = coder.state, coder.plain
    bits, held, position = state[PLAIN_BITS], state[PLAIN_COUNT], state[PLAIN_POSITION]
    if state[DECODING]:
        if held < count:
            if position < len(plain):
                bits |= np.int64(plain[position]) << held
            state[PLAIN_POSITION] = position + 1
            held += _WORD_BITS
        number = bits & ((1 << count) - 1)
        state[PLAIN_BITS], state[PLAIN_COUNT] = bits >> count, held - count
        return number
    bits |= number << held
    held += count
    if held >= _WORD_BITS:
        if position < len(plain):
            plain[position] = bits & ((1 << _WORD_BITS) - 1)
        state[PLAIN_POSITION] = position + 1
        bits >>= _WORD_BITS
        held -= _WORD_BITS
    state[PLAIN_BITS], state[PLAIN_COUNT] = bits, held
    return number
