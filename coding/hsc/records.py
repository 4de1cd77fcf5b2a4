"""The record of a tile, the same for every codec: mask, moves off the nodata value, the codec's bytes.

A codec sees no gaps: they are filled before encoding, and replaced with nodata after decoding. A valid sample that is
decoded as the nodata value would become a gap. It is moved to the next value of its type, toward the original, so that
a bound on the error still holds; one bit stores the direction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from coding.base import BoundNotGuaranteed, Codec, DamagedError, check_finite, join_blocks, take_block
from coding.hsc.masks import decode_mask, encode_mask, fill_gaps, fill_value
from datasets.base import INTEGER_RANGES, SceneInfo


class Tile(NamedTuple):
    """A tile, ready for `Codec.encode`.

    Attributes:
        cube: (C, H, W), the coded bands, finite, with gaps filled.
        valid: bool (C, H, W), False where there is no data.
    """

    cube: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(cls, cube: np.ndarray, valid: np.ndarray) -> Tile:
        """Return the tile of a cube with gaps.

        Raises:
            CodingError: a valid sample is NaN or infinite.
        """
        filled = fill_gaps(cube, valid)
        check_finite(filled)
        return cls(filled, valid)

    def num_bytes(self, data: bytes) -> int:
        """Return the size of the record with the codec's bytes `data`, if no sample is moved off nodata."""
        return len(join_record(encode_mask(self.valid), b"", data))


def join_record(mask: bytes, moves: bytes, data: bytes) -> bytes:
    """Return the record of a tile.

    Args:
        mask: bytes of `encode_mask`.
        moves: packed bits, one for each valid sample that is decoded as nodata, in raster order; 1 moves it up.
        data: the codec's bytes.
    """
    return join_blocks([mask, moves]) + data


def encode_record(codec: Codec, cube: np.ndarray, valid: np.ndarray, nodata: float | None) -> tuple[bytes, np.ndarray]:
    """Encode a tile.

    Args:
        codec: codec for the tile's type.
        cube: (C, H, W), the coded bands.
        valid: bool (C, H, W), False where there is no data.
        nodata: value of samples without data; None if the scene has no such value.

    Returns:
        The record, and the cube that `decode_record` returns, except where `valid` is False.

    Raises:
        CodingError: a valid sample is NaN or infinite, or the codec cannot code the cube.
    """
    data, decoded = codec.encode_and_decode(*Tile.of(cube, valid))
    hit = _at_nodata(decoded, valid, nodata)
    up = cube.ravel()[hit] > decoded.ravel()[hit]
    if nodata is not None and len(hit):
        decoded = _moved(decoded, hit, up, nodata)
    return join_record(encode_mask(valid), np.packbits(up).tobytes(), data), decoded


def decode_record(codec: Codec, record: bytes, shape: tuple[int, ...], info: SceneInfo, has_bound: bool) -> np.ndarray:
    """Decode a tile.

    Args:
        codec: codec opened for the file.
        record: bytes of `encode_record`.
        shape: (C, H, W) of the tile.
        info: info of the scene.
        has_bound: whether the file has a bound on the error.

    Returns:
        The cube (C, H, W), with `fill_value` where there is no data.

    Raises:
        DamagedError: `record` is damaged.
        BoundNotGuaranteed: the decoded numbers differ from the encoder's; the error holds the cube.
    """
    packed, rest = take_block(record)
    moves, data = take_block(rest)
    valid = decode_mask(packed, shape)
    is_guaranteed = True
    try:
        decoded = codec.decode(data, valid)
    except BoundNotGuaranteed as error:
        decoded, is_guaranteed = error.samples, False
    hit = _at_nodata(decoded, valid, info.nodata)
    if len(hit) or moves:
        # Without a bound, another machine's floating point may decode more or fewer samples as nodata.
        if has_bound and is_guaranteed and len(moves) != -(-len(hit) // 8):
            raise DamagedError(f"the tile must have {-(-len(hit) // 8)} bytes of moves off nodata, got {len(moves)}")
        up = np.unpackbits(np.frombuffer(moves, np.uint8), count=len(hit)) if moves else np.zeros(len(hit), np.uint8)
        if info.nodata is not None:
            decoded = _moved(decoded, hit, up != 0, info.nodata)
    samples = np.where(valid, decoded, np.array(fill_value(info), info.dtype))
    if not is_guaranteed:
        raise BoundNotGuaranteed(samples)
    return samples


def _at_nodata(decoded: np.ndarray, valid: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return the indices, in the flat cube, of valid samples that equal `nodata`."""
    if nodata is None or math.isnan(nodata):
        return np.zeros(0, np.int64)
    return np.flatnonzero((decoded == np.array(nodata, decoded.dtype)) & valid)


def _moved(decoded: np.ndarray, hit: np.ndarray, up: np.ndarray, nodata: float) -> np.ndarray:
    """Return a copy of `decoded` whose samples at the indices `hit` are next to `nodata`, above it where `up`."""
    if decoded.dtype == np.float32:
        below, above = (np.nextafter(np.float32(nodata), np.float32(end)) for end in (-math.inf, math.inf))
        lowest, highest = -math.inf, math.inf
    else:
        below, above = int(nodata) - 1, int(nodata) + 1
        lowest, highest = INTEGER_RANGES[decoded.dtype.name]
    # A damaged bit must not lead out of the range of the type.
    values = above if nodata == lowest else below if nodata == highest else np.where(up, above, below)
    decoded = decoded.copy()
    decoded.ravel()[hit] = values
    return decoded
