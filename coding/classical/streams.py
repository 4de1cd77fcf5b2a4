"""Joining several streams of a library into one block of bytes."""

from __future__ import annotations

from collections.abc import Sequence

from coding.base import DamagedError, pack_length, unpack_length


def join_streams(streams: Sequence[bytes | bytearray]) -> bytes:
    """Join one or more streams; their common prefix is stored once.

    Images of equal size begin with equal headers of 100 bytes and more, which would outweigh the samples of small
    bands.
    """
    # All streams have the common prefix of the first and the last one in sorted order.
    first, last = min(streams), max(streams)
    common = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = first[:common]
    lengths = [len(shared), *(len(stream) - len(shared) for stream in streams)]
    return b"".join([*map(pack_length, lengths), shared, *(stream[len(shared) :] for stream in streams)])


def split_streams(data: bytes, count: int) -> list[bytes]:
    """Return the `count` streams that `join_streams` joined.

    Raises:
        DamagedError: the lengths do not match the bytes.
    """
    position = 0
    lengths = []
    # A length takes at least a byte, so a `count` larger than the data ends in an error soon.
    for _ in range(count + 1):
        length, position = unpack_length(data, position)
        lengths.append(length)
    if position + sum(lengths) != len(data):
        raise DamagedError(f"{count} streams must have {sum(lengths)} bytes, got {len(data) - position}")
    shared = data[position : position + lengths[0]]
    streams = []
    position += lengths[0]
    for length in lengths[1:]:
        streams.append(shared + data[position : position + length])
        position += length
    return streams
