"""Blocks of bytes with their lengths, and bytes made smaller by DEFLATE: what the records of tiles are built of."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from .base import DamagedError

_LENGTH = struct.Struct("<I")


def join_blocks(blocks: Sequence[bytes]) -> bytes:
    """The blocks one after the other, each behind its length as uint32, little-endian."""
    return b"".join(_LENGTH.pack(len(block)) + block for block in blocks)


def split_blocks(data: bytes, count: int) -> list[bytes]:
    """The `count` blocks of `join_blocks`.

    Raises:
        DamagedError: other lengths than the bytes have.
    """
    blocks, position = [], 0
    for _ in range(count):
        start = position + _LENGTH.size
        if start > len(data):
            raise DamagedError(f"a record of {len(data)} bytes ends before its block {len(blocks)}")
        (length,) = _LENGTH.unpack_from(data, position)
        position = start + length
        if position > len(data):
            raise DamagedError(f"block {len(blocks)} claims {length} bytes of a record of {len(data)}")
        blocks.append(data[start:position])
    if position != len(data):
        raise DamagedError(f"a record has {len(data) - position} bytes too many")
    return blocks


def deflate(data: bytes) -> bytes:
    """`data` in zlib's format (RFC 1950)."""
    return zlib.compress(data, 9)


def inflate(data: bytes, limit: int) -> bytes:
    """What was given to `deflate`, in no more memory than `limit` bytes take.

    Args:
        limit: how many bytes it may be.

    Raises:
        DamagedError: no such data, or more of it.
    """
    decompressor = zlib.decompressobj()
    try:
        value = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise DamagedError(f"a deflated block is damaged ({error})") from None
    if not decompressor.eof or decompressor.unused_data or len(value) > limit:
        raise DamagedError("a deflated block has another length than it should")
    return value
