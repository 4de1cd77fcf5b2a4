"""What all codecs share: the interface, its errors, and the framing of their bytes."""

from __future__ import annotations

import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from utils.errors import ProjectError


class CodingError(ProjectError, ValueError):
    """A cube that a codec cannot code as it was asked to."""


class DamagedError(ProjectError, ValueError):
    """Bytes that are no coded scene, or no longer what was written."""


class Codec(ABC):
    """Turns cubes into bytes and back.

    Learned or classical, everything that is compared is a codec, and its rate is 8 * len(bytes) / cube.size:
    whatever the decoder needs beside the weights is in the bytes.
    """

    @abstractmethod
    def encode(self, cube: np.ndarray) -> bytes:
        """Cube (C, H, W) to bytes.

        Raises:
            CodingError: a cube that this codec cannot take.
        """

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of `encode` to a cube (C, H, W) of the type that went in.

        Raises:
            DamagedError: other bytes.
        """


@dataclass(frozen=True)
class Family:
    """A codec whose fineness is still open: what each setting makes of it, None where it has none.

    Attributes:
        lossy: codec of a step, in units of the samples: about that of a uniform quantizer with the same squared
            error, step^2 / 12. As it grows the rate falls.
        bounded: codec of a whole number E that no sample's error exceeds, in units of the samples.
        lossless: codec that returns what it was given.
        fixed: codec with nothing to set, at whatever rate and error it has.
        quantized: learned codec at its own default, which loses little against the latents as float32.
    """

    lossy: Callable[[float], Codec] | None = None
    bounded: Callable[[int], Codec] | None = None
    lossless: Callable[[], Codec] | None = None
    fixed: Callable[[], Codec] | None = None
    quantized: Callable[[], Codec] | None = None


class BoundNotGuaranteed(DamagedError):
    """A tile whose decoder arrived at other numbers than its encoder, so that its error is not known to be bounded.

    Attributes:
        samples: what it arrived at.
    """

    def __init__(self, samples: np.ndarray):
        super().__init__("this machine rounds differently than the one that encoded it: bound not guaranteed")
        self.samples = samples


class TileCoder(ABC):
    """Codes the tiles of one scene, each on its own; what all of them need lies in the file once.

    Attributes:
        codec: the codec's name in the registry.
        clips_to_scale: whether samples come back within 0 and the scale, wherever they were: errors count against
            samples that were clipped to it, too.
    """

    codec: str
    clips_to_scale: bool

    @abstractmethod
    def parameters(self) -> dict:
        """Plain JSON values for the header."""

    @abstractmethod
    def shared(self) -> bytes:
        """Side information for the file."""

    @abstractmethod
    def encode_tile(self, samples: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """Code a tile.

        Args:
            samples: (C, H, W), the coded bands of the scene, in its type.
            valid: bool (C, H, W), False where there is no data.

        Returns:
            The bytes, and what `decode_tile` will make of them.
        """

    @abstractmethod
    def decode_tile(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        """The tile (C, H, W) in the scene's type; what it holds where nothing is valid means nothing.

        Raises:
            DamagedError: other bytes than `encode_tile` returned.
            BoundNotGuaranteed: decoded, but not to the numbers that the encoder had.
        """


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


_STEPS = (1e-9, 1e9)  # what float32 still divides and multiplies by
_MAX_ERRORS = range(2**16)  # beyond, any cube of integers does


def check_step(step: float) -> None:
    """That `step` can be the step of a quantizer.

    Raises:
        CodingError: no number from 1e-9 to 1e9.
    """
    if not _STEPS[0] <= step <= _STEPS[1]:
        raise CodingError(f"a step of {step}: must be a number from {_STEPS[0]:g} to {_STEPS[1]:g}")


def check_max_error(max_error: int) -> None:
    """That `max_error` can bound errors.

    Raises:
        CodingError: no whole number from 0 to 65535.
    """
    if max_error not in _MAX_ERRORS:
        raise CodingError(f"a largest error of {max_error}: must be a whole number from 0 to {_MAX_ERRORS[-1]}")


def bound_of_step(step: float) -> int:
    """The largest bound E whose bins, 2 E + 1 wide, are no wider than `step`: 0, which loses nothing, below 3.

    Raises:
        CodingError: a step that is no number from 1e-9 to 1e9.
    """
    check_step(step)
    return max(0, math.floor((step - 1) / 2))
