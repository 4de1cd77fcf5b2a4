"""What lies around the streams of a library: a checksum, and the lengths of several streams.

Some libraries read past the end of damaged streams or end the process, so that no error can be caught. A checksum
finds the damage before a library sees it; it does not defend against streams that were made to harm.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from coding.base import DamagedError
from coding.classical.header import unpack_cube_header

_CHECKSUM = struct.Struct("<I")


def seal(header: bytes, body: bytes) -> bytes:
    """`header`, of `pack_cube_header`, and `body`, with the CRC-32 of both between them.

    The checksum is that of ISO/IEC 3309, as zlib has it.
    """
    return header + _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(header))) + body


def unseal(data: bytes, dtypes: Sequence[str]) -> tuple[np.dtype, tuple[int, int, int], bytes]:
    """Type and shape of the cube, and the body, of `seal`.

    Args:
        dtypes: names of the types that the codec takes.

    Raises:
        DamagedError: bytes that `seal` did not return.
    """
    dtype, shape, rest = unpack_cube_header(data, dtypes)
    body = rest[_CHECKSUM.size :]
    if rest[: _CHECKSUM.size] != _CHECKSUM.pack(zlib.crc32(body, zlib.crc32(data[: len(data) - len(rest)]))):
        raise DamagedError(f"the checksum of a cube of {shape} does not fit its {len(body)} bytes")
    return dtype, shape, body


def join_streams(streams: Sequence[bytes]) -> bytes:
    """At least one stream, what all begin with stored once.

    Images of equal size begin with equal headers, 100 bytes and more, which would outweigh the samples of small bands.
    Lengths are LEB128: seven bits a byte, the lowest first, the eighth bit set but in the last.
    """
    # In the order of bytes, what the first and the last begin with all between them begin with.
    first, last = min(streams), max(streams)
    common = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = first[:common]
    lengths = [len(shared), *(len(stream) - len(shared) for stream in streams)]
    return b"".join([*map(_pack_length, lengths), shared, *(stream[len(shared) :] for stream in streams)])


def split_streams(data: bytes, count: int) -> list[bytes]:
    """The `count` streams of `join_streams`.

    Raises:
        DamagedError: other lengths than the bytes have.
    """
    position = 0
    lengths = []
    # A length has a byte at least: a claimed count beyond the bytes ends here.
    for _ in range(count + 1):
        length, position = _unpack_length(data, position)
        lengths.append(length)
    if position + sum(lengths) != len(data):
        raise DamagedError(f"{count} streams claim {sum(lengths)} bytes of {len(data) - position}")
    shared = data[position : position + lengths[0]]
    streams = []
    position += lengths[0]
    for length in lengths[1:]:
        streams.append(shared + data[position : position + length])
        position += length
    return streams


def _pack_length(length: int) -> bytes:
    packed = bytearray()
    while length > 0x7F:
        packed.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*packed, length])


def _unpack_length(data: bytes, position: int) -> tuple[int, int]:
    """The length that begins at `position`, and the position behind it."""
    length = 0
    # Five bytes hold 35 bits, more than any stream.
    for shift, byte in zip(range(0, 35, 7), data[position : position + 5], strict=False):
        length |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return length, position
    raise DamagedError(f"a length at byte {position} of {len(data)} has no end")
