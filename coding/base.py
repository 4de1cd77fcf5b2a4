"""The codec interface, its errors, and what all codecs share: checks, rounding to a type, framing of bytes."""

from __future__ import annotations

import math
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from datasets.base import INTEGER_RANGES
from utils.errors import ProjectError

LEAST_STEP, MOST_STEP = 1e-9, 1e9
"""Range of quantizer steps that float32 still divides and multiplies by."""

_LENGTH = struct.Struct("<I")


class CodingError(ProjectError, ValueError):
    """A cube that a codec cannot code in the way it was asked to."""


class DamagedError(ProjectError, ValueError):
    """Bytes that are no coded scene, or no longer what was written."""


class BoundNotGuaranteed(DamagedError):
    """A tile whose decoder arrived at other numbers than its encoder, so that its error may exceed the bound.

    Attributes:
        samples: the decoded cube.
    """

    def __init__(self, samples: np.ndarray) -> None:
        super().__init__("this machine rounds differently than the one that encoded it: bound not guaranteed")
        self.samples = samples


class Codec(ABC):
    """A codec with all its settings fixed: it turns cubes into bytes and back.

    Whatever the decoder needs besides the weights of a model is in the bytes, `parameters` and `shared`; together they
    are what the codec's rate counts.

    Attributes:
        dtype: type of the samples, one of `datasets.base.DTYPES`.
        parameters: plain JSON values for the header of a file.
        shared: side information that all tiles of a scene share.
        clips_to_scale: whether samples come back within 0 and the scale, wherever they were: errors count against
            samples that were clipped in the same way.
    """

    dtype: str
    parameters: Mapping[str, Any] = MappingProxyType({})
    shared: bytes = b""
    clips_to_scale: bool = False

    @abstractmethod
    def encode(self, cube: np.ndarray, valid: np.ndarray) -> bytes:
        """Encode a cube.

        Args:
            cube: (C, H, W) of type `dtype`, finite, with gaps filled as by `coding.hsc.masks.fill_gaps`.
            valid: bool (C, H, W), False where there is no data.

        Raises:
            CodingError: a cube that this codec cannot code.
        """

    @abstractmethod
    def decode(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        """Decode the bytes of `encode`.

        Args:
            data: the bytes.
            valid: as for `encode`; its shape is that of the cube.

        Returns:
            The cube (C, H, W) of type `dtype`; its samples have no meaning where `valid` is False.

        Raises:
            DamagedError: other bytes than `encode` returned.
            BoundNotGuaranteed: decoded, but not to the numbers that the encoder had.
        """

    def encode_and_decode(self, cube: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """Return the bytes of `encode` and the cube that `decode` makes of them."""
        data = self.encode(cube, valid)
        return data, self.decode(data, valid)

    def reconstruct(self, cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the cube that comes back from `encode` and `decode`, without the bytes where that is quicker."""
        return self.encode_and_decode(cube, valid)[1]


@dataclass(frozen=True)
class CodecFactory:
    """A codec for the samples of one scene whose fineness is still open; None for the modes that it does not have.

    Attributes:
        lossy: takes a step and returns a codec with about the squared error of a uniform quantizer of that step,
            step^2 / 12. The rate falls as the step grows.
        bounded: takes a largest error, in the samples' units, and returns a codec that keeps it. A codec with weights
            takes a step, too, as a second argument.
        lossless: returns a codec that gives back what it was given.
        fixed: returns a codec with nothing to set.
        quantized: returns the lossy codec of a default step, at which coarser steps begin to lose something.
        finest, coarsest: steps between which one is searched.
        first: step that a search begins with.
        unit: a step of 1, in the samples' units.
        num_tiles: tiles of a scene by which a step is searched.
        model: the field `model` of a file's header.
    """

    lossy: Callable[[float], Codec] | None = None
    bounded: Callable[..., Codec] | None = None
    lossless: Callable[[], Codec] | None = None
    fixed: Callable[[], Codec] | None = None
    quantized: Callable[[], Codec] | None = None
    finest: float = 2.0**-20
    coarsest: float = 2.0
    first: float = 2.0**-8
    unit: float = 1.0
    num_tiles: int = 4
    model: dict[str, Any] | None = None


# -- checks and rounding --------------------------------------------------------------------------


def check_step(step: float) -> None:
    """Validate a quantizer step.

    Raises:
        CodingError: `step` is no number from 1e-9 to 1e9.
    """
    if not LEAST_STEP <= step <= MOST_STEP:
        raise CodingError(f"the step must be a number from {LEAST_STEP:g} to {MOST_STEP:g}, got {step:g}")


def check_max_error(max_error: float, most: float) -> None:
    """Validate a bound on the error.

    Raises:
        CodingError: `max_error` is no number from 0 to `most`.
    """
    if not 0 <= max_error <= most:
        raise CodingError(f"the largest error must be a number from 0 to {most:g}, got {max_error:g}")


def check_finite(samples: np.ndarray) -> None:
    """Validate that samples can be coded.

    Raises:
        CodingError: NaN or infinity is among `samples`.
    """
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise CodingError("samples must be finite, got NaN or infinity: name that value by --nodata, or replace it")


def bound_of_step(step: float) -> int:
    """Return the largest bound E whose bins, 2 E + 1 wide, are no wider than `step`; 0, without loss, below 3.

    Raises:
        CodingError: `step` is no number from 1e-9 to 1e9.
    """
    check_step(step)
    return max(0, math.floor((step - 1) / 2))


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Round, clip and cast decoded values to the type of samples.

    Args:
        values: (C, ...), any real type. NaN becomes 0 in integers.
        dtype: one of `datasets.base.DTYPES`.
    """
    samples = np.empty(values.shape, dtype)
    for band, plane in zip(samples, values, strict=True):  # one by one: little memory besides the result
        if dtype == "float32":
            with np.errstate(over="ignore"):
                band[:] = plane
        else:
            band[:] = np.clip(np.rint(np.nan_to_num(plane)), *INTEGER_RANGES[dtype])
    return samples


# -- framing --------------------------------------------------------------------------------------


def join_blocks(blocks: Sequence[bytes]) -> bytes:
    """Return the blocks one after the other, each after its length as uint32, little-endian."""
    return b"".join(_LENGTH.pack(len(block)) + block for block in blocks)


def split_blocks(data: bytes, count: int) -> list[bytes]:
    """Return the `count` blocks of `join_blocks`.

    Raises:
        DamagedError: the lengths are not those of the bytes.
    """
    blocks = []
    for _ in range(count):
        block, data = take_block(data)
        blocks.append(block)
    if data:
        raise DamagedError(f"blocks are followed by {len(data)} bytes too many")
    return blocks


def take_block(data: bytes) -> tuple[bytes, bytes]:
    """Return the first block of `join_blocks`, and the bytes after it.

    Raises:
        DamagedError: there are fewer bytes than the block needs.
    """
    if len(data) < _LENGTH.size:
        raise DamagedError(f"{len(data)} bytes are too few for a block")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise DamagedError(f"a block claims {end - _LENGTH.size} of {len(data) - _LENGTH.size} bytes")
    return data[_LENGTH.size : end], data[end:]


def deflate(data: bytes) -> bytes:
    """Return `data` in zlib's format (RFC 1950)."""
    return zlib.compress(data, 9)


def inflate(data: bytes, limit: int) -> bytes:
    """Return what was given to `deflate`, in no more memory than `limit` bytes take.

    Raises:
        DamagedError: no deflated data, or more than `limit` bytes.
    """
    decompressor = zlib.decompressobj()
    try:
        value = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise DamagedError(f"a deflated block is damaged ({error})") from None
    if not decompressor.eof or decompressor.unused_data or len(value) > limit:
        raise DamagedError("a deflated block has another length than it should")
    return value
