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


def inflate(data: bytes, length: int | None = None, limit: int | None = None) -> bytes:
    """What was given to `deflate`, with no more memory than its known length, or limit, takes.

    Args:
        length: how many bytes it must be; or
        limit: how many it may be.

    Raises:
        DamagedError: no such data, or another length.
    """
    most = limit if length is None else length
    decompressor = zlib.decompressobj()
    try:
        value = decompressor.decompress(data, most + 1)
    except zlib.error as error:
        raise DamagedError(f"a deflated block is damaged ({error})") from None
    if not decompressor.eof or decompressor.unused_data or len(value) > most:
        raise DamagedError("a deflated block has another length than it should")
    if length is not None and len(value) != length:
        raise DamagedError(f"a deflated block holds {len(value)} bytes instead of {length}")
    return value
