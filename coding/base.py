"""The codec interface, its errors, and what all codecs share: checks, rounding to a type, framing of bytes."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from datasets.base import INTEGER_RANGES
from utils.errors import ProjectError

MIN_STEP, MAX_STEP = 1e-9, 1e9
"""Range of quantizer steps; float32 samples can be divided and multiplied by any of them."""

SHORT = ("uint8", "int8", "int16", "uint16", "float16", "float32")
"""Types whose samples float32 represents exactly."""


class CodingError(ProjectError, ValueError):
    """A codec cannot code a cube as requested."""


class DamagedError(ProjectError, ValueError):
    """Bytes are not a coded scene, or have changed since they were written."""


class BoundNotGuaranteed(DamagedError):
    """A tile was decoded to other numbers than its encoder had, so its error may exceed the bound.

    Attributes:
        samples: the decoded cube.
    """

    def __init__(self, samples: np.ndarray) -> None:
        super().__init__("this machine rounds differently from the one that encoded the tile: bound not guaranteed")
        self.samples = samples


class Codec(ABC):
    """A codec with all settings fixed: it encodes a cube to bytes and decodes it.

    The bytes, `parameters` and `shared` hold all that a decoder needs except the weights of a model, and all of them
    count toward the rate.

    Attributes:
        dtype: type of the samples, one of `datasets.base.DTYPES`.
        parameters: settings of the codec in the header of a file, plain JSON values.
        shared: side information for all tiles of a scene.
        clips_to_scale: whether decoded samples are clipped to 0 and the scale; their squared error is then measured
            against samples clipped likewise.
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
            CodingError: this codec cannot code the cube.
        """

    @abstractmethod
    def decode(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        """Decode the bytes of `encode`.

        Args:
            data: the bytes.
            valid: bool (C, H, W), as given to `encode`.

        Returns:
            The cube (C, H, W) of type `dtype`; its samples have no meaning where `valid` is False.

        Raises:
            DamagedError: `data` is damaged.
            BoundNotGuaranteed: the decoded numbers differ from the encoder's; the error holds the cube.
        """

    def encode_and_decode(self, cube: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """Encode a cube; return the bytes, and the cube that `decode` returns for them."""
        data = self.encode(cube, valid)
        return data, self.decode(data, valid)

    def side_bytes(self, data: bytes) -> int | None:
        """Return how many bytes of `data` and `shared` are side information, for reports; None if that is unknown.

        Side information describes a transform, steps, or the distribution of what else is coded.
        """
        return None

    def tiles_at_once(self, tile_size: int) -> int:
        """Return how many tiles of `tile_size` x `tile_size` pixels are coded together: see `coding.groups`."""
        return 1

    def reconstruct(self, cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the cube as `decode` would, skipping entropy coding where that is faster."""
        return self.encode_and_decode(cube, valid)[1]


@dataclass(frozen=True)
class CodecFactory:
    """Makes codecs for the samples of one scene; a mode that the codec lacks is None.

    Attributes:
        lossy: takes a step and returns a codec with about the squared error of a uniform quantizer of that step,
            step^2 / 12. The rate falls as the step grows.
        bounded: takes the largest error, in the samples' units, and returns a codec that keeps it. With weights, the
            step of the latents is an optional second argument.
        lossless: returns a lossless codec.
        fixed: returns a codec without settings.
        quantized: returns the lossy codec of the default step, which costs little quality.
        finest, coarsest: smallest and largest step of a search.
        first: step that a search begins with.
        unit: size of a step of 1, in the samples' units.
        num_tiles: number of tiles sampled in a search.
        rates: takes a cube, and returns a function of a step: about the bits per sample that the lossy codec takes. It
            need not be exact, but much faster than coding the cube.
        model: field `model` of the header.
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
    rates: Callable[[np.ndarray], Callable[[float], float]] | None = None
    model: dict[str, Any] | None = None


# -- checks and rounding --------------------------------------------------------------------------


def check_step(step: float) -> None:
    """Validate a quantizer step.

    Raises:
        CodingError: `step` is not a number from 1e-9 to 1e9.
    """
    if not MIN_STEP <= step <= MAX_STEP:
        raise CodingError(f"the step must be a number from {MIN_STEP:g} to {MAX_STEP:g}, got {step:g}")


def check_max_error(max_error: float, most: float) -> None:
    """Validate a bound on the error.

    Raises:
        CodingError: `max_error` is not a number from 0 to `most`.
    """
    if not 0 <= max_error <= most:
        raise CodingError(f"the largest error must be a number from 0 to {most:g}, got {max_error:g}")


def check_finite(samples: np.ndarray) -> None:
    """Validate that all samples are finite.

    Raises:
        CodingError: a sample is NaN or infinite.
    """
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise CodingError("samples must be finite, got NaN or infinity: give that value as --nodata, or replace it")


def bound_of_step(step: float) -> int:
    """Return the largest bound E whose bins, 2 E + 1 wide, are no wider than `step`; 0 (lossless) for a step below 3.

    Raises:
        CodingError: `step` is not a number from 1e-9 to 1e9.
    """
    check_step(step)
    return max(0, math.floor((step - 1) / 2))


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return decoded values (C, ...) rounded and clipped to the type of the samples, floats to its finite range.

    Args:
        values: (C, ...), any real type. NaN becomes 0 in integers.
        dtype: one of `datasets.base.DTYPES`.
    """
    samples = np.empty(values.shape, dtype)
    for band, plane in zip(samples, values, strict=True):  # band by band, to save memory
        if dtype in INTEGER_RANGES:
            # In float32, the largest int32 would be rounded up.
            rounded = np.clip(np.rint(plane), *INTEGER_RANGES[dtype], dtype=np.float64)
            if math.isnan(rounded.sum()):
                np.nan_to_num(rounded, copy=False)
            band[:] = rounded
        else:
            largest = float(np.finfo(dtype).max)
            band[:] = np.clip(plane, -largest, largest)
    return samples


# -- framing --------------------------------------------------------------------------------------


def join_blocks(blocks: Sequence[bytes]) -> bytes:
    """Return the concatenated blocks, each preceded by its length, see `pack_length`."""
    return b"".join(pack_length(len(block)) + block for block in blocks)


def split_blocks(data: bytes, count: int) -> list[bytes]:
    """Return the `count` blocks that `join_blocks` joined.

    Raises:
        DamagedError: the lengths of the blocks do not match the bytes.
    """
    blocks = []
    for _ in range(count):
        block, data = take_block(data)
        blocks.append(block)
    if data:
        raise DamagedError(f"data must end after {count} blocks, got {len(data)} more bytes")
    return blocks


def take_block(data: bytes) -> tuple[bytes, bytes]:
    """Return the first block of bytes from `join_blocks`, and the bytes after it.

    Raises:
        DamagedError: `data` ends within the block.
    """
    length, start = unpack_length(data, 0)
    if start + length > len(data):
        raise DamagedError(f"a block must have {length} bytes, got {len(data) - start}")
    return data[start : start + length], data[start + length :]


def pack_length(length: int) -> bytes:
    """Return a length below 2^35 as LEB128: seven bits a byte, lowest first; all bytes but the last have an eighth."""
    packed = bytearray()
    while length > 0x7F:
        packed.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*packed, length])


def unpack_length(data: bytes, position: int) -> tuple[int, int]:
    """Return the length of `pack_length` that begins at `position`, and the position after it.

    Raises:
        DamagedError: the length has no end.
    """
    length = 0
    # Five bytes hold 35 bits, more than any stream.
    for shift, byte in zip(range(0, 35, 7), data[position : position + 5], strict=False):
        length |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return length, position
    raise DamagedError(f"a length at byte {position} of {len(data)} has no end")


def deflate(data: bytes) -> bytes:
    """Compress bytes in the zlib format (RFC 1950)."""
    return zlib.compress(data, 9)


def inflate(data: bytes, limit: int) -> bytes:
    """Decompress the bytes of `deflate`, without decompressing more than `limit` + 1 bytes.

    Raises:
        DamagedError: `data` is damaged, or holds more than `limit` bytes.
    """
    decompressor = zlib.decompressobj()
    try:
        value = decompressor.decompress(data, limit + 1)
    except zlib.error as error:
        raise DamagedError(f"a deflated block is damaged ({error})") from None
    if not decompressor.eof or decompressor.unused_data or len(value) > limit:
        raise DamagedError(f"a deflated block is cut, has extra bytes, or holds more than {limit} bytes")
    return value
