"""The record of a tile, the same for every codec: mask, moves off the nodata value, exact bands, the codec's bytes.

A codec sees no gaps: they are filled before encoding, and replaced with nodata after decoding. A valid sample that is
decoded as the nodata value would become a gap. It is moved to the next value of its type, toward the original, so that
a bound on the error still holds; one bit stores the direction. NaN, infinity and the like are gaps to the codec, too,
and stored bit by bit. Alpha bands are exact: they are stored without the codec, and hide the pixels where they are 0,
unless the scene is coded without loss: what is called alpha may be an ordinary band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from coding.base import (
    BoundNotGuaranteed,
    Codec,
    DamagedError,
    check_finite,
    deflate,
    inflate,
    join_blocks,
    take_block,
)
from coding.hsc.header import Header
from coding.hsc.masks import (
    decode_mask,
    decode_specials,
    encode_mask,
    encode_specials,
    fill_gaps,
    fill_values,
    max_special_bytes,
)
from datasets.base import valid_samples


def _no_planes() -> np.ndarray:
    return np.zeros((0, 1, 1), bool)


def _all_shown() -> np.ndarray:
    return np.ones((1, 1, 1), bool)


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
        """Return the size of the record with the codec's bytes `data`, if it has nothing but a mask besides."""
        return len(join_blocks([encode_mask(self.valid), b""])) + len(data)


@dataclass(frozen=True)
class Parts:
    """The samples of a tile, as its record keeps them.

    Attributes:
        cube: (N, H, W), the coded bands.
        valid: bool (N, H, W), True where the codec keeps a sample.
        nodata: nodata value of each coded band, None if it has none.
        shown: bool, True where no mask hides a sample; of a shape that broadcasts to (N, H, W).
        masks: bool (M, H, W), the mask planes of the scene.
        exact: (E, H, W), the exact bands.
        lost: number of valid samples in bands that are dropped.
    """

    cube: np.ndarray
    valid: np.ndarray
    nodata: Sequence[float | None]
    shown: np.ndarray = field(default_factory=_all_shown)
    masks: np.ndarray = field(default_factory=_no_planes)
    exact: np.ndarray = field(default_factory=_no_planes)
    lost: int = 0

    @classmethod
    def of(cls, samples: np.ndarray, masks: np.ndarray, header: Header) -> Parts:
        """Return the parts of a tile.

        Args:
            samples: (bands, H, W), all bands of the scene.
            masks: bool (M, H, W), the mask planes of the scene.
            header: header of the file; the codec's parameters and model may be missing.
        """
        coded, exact = list(header.coded_bands), samples[[band - 1 for band in header.exact]]
        dropped = [band - 1 for bands in header.dropped.values() for band in bands]
        shown = shown_samples(masks, _hiding(exact, header))
        valid = valid_samples(samples, header.scene) & shown
        return cls(
            cube=samples[coded],
            valid=valid[coded],
            nodata=[header.scene.nodata_of(band) for band in coded],
            shown=shown[coded] if len(shown) > 1 else shown,
            masks=masks,
            exact=exact,
            lost=int(valid[dropped].sum()),
        )

    def specials(self) -> bytes:
        """Return the special values: samples without data that are neither hidden nor, bit by bit, the nodata value."""
        if self.cube.dtype.kind != "f" or self.valid.all():
            return b""
        missing = ~self.valid & self.shown
        fills = np.array([math.nan if value is None else value for value in self.nodata], self.cube.dtype)
        bits = np.dtype(f"u{self.cube.dtype.itemsize}")
        is_special = missing & (np.ascontiguousarray(self.cube).view(bits) != fills.view(bits)[:, None, None])
        return encode_specials(self.cube, is_special, missing)


def shown_samples(masks: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return where no mask hides samples: bool (1, 1, 1), (1, H, W) or (bands, H, W).

    Args:
        masks: bool (M, H, W), the mask planes of the scene.
        exact: (E, H, W), the exact bands: a pixel in which one is 0 is hidden.
    """
    shown = masks if len(masks) else _all_shown()
    return shown & (exact != 0).all(axis=0) if len(exact) else shown


def _hiding(exact: np.ndarray, header: Header) -> np.ndarray:
    """Return the exact bands that hide samples from the codec: none in lossless files."""
    return exact[:0] if header.max_error == 0 else exact


# -- encoding -------------------------------------------------------------------------------------


def encode_record(codec: Codec, parts: Parts) -> tuple[bytes, np.ndarray]:
    """Encode a tile.

    Returns:
        The record, and the coded bands that `decode_record` returns, except where `valid` is False.

    Raises:
        CodingError: the codec cannot code the cube.
    """
    cube, valid = parts.cube, parts.valid
    data, decoded = codec.encode_and_decode(*Tile.of(cube, valid))
    hit = _at_nodata(decoded, valid, parts.nodata)
    up = cube.ravel()[hit] > decoded.ravel()[hit]
    if len(hit):
        decoded = _moved(decoded, hit, up, parts.nodata)
    planes = np.concatenate([valid, parts.masks]) if len(parts.masks) else valid
    blocks = [encode_mask(planes, parts.specials()), np.packbits(up).tobytes()]
    if len(parts.exact):
        blocks.append(deflate(_little_endian(parts.exact).tobytes()))
    return join_blocks(blocks) + data, decoded


# -- decoding -------------------------------------------------------------------------------------


class Decoded(NamedTuple):
    """A decoded tile.

    Attributes:
        samples: (bands, H, W), all bands of the scene, with `fill_values` where there is no data.
        masks: bool (M, H, W), the mask planes of the scene.
        problem: message if the bound is not guaranteed, else empty.
    """

    samples: np.ndarray
    masks: np.ndarray
    problem: str = ""


def decode_record(codec: Codec, record: bytes, header: Header, size: tuple[int, int]) -> Decoded:
    """Decode a tile.

    Args:
        codec: codec opened for the file.
        record: bytes of `encode_record`.
        header: header of the file.
        size: (H, W) of the tile.

    Raises:
        DamagedError: `record` is damaged.
    """
    coded, scene = list(header.coded_bands), header.scene
    packed, rest = take_block(record)
    moves, data = take_block(rest)
    exact = np.zeros((0, *size), scene.dtype)
    if header.exact:
        stored, data = take_block(data)
        exact = _decode_exact(stored, (len(header.exact), *size), scene.dtype)
    max_specials = max_special_bytes((len(coded), *size), scene.dtype) if exact.dtype.kind == "f" else 0
    planes, specials = decode_mask(packed, (len(coded) + scene.masks, *size), max_specials)
    valid, masks = planes[: len(coded)], planes[len(coded) :]
    shown = shown_samples(masks, _hiding(exact, header))
    shown = shown[coded] if len(shown) > 1 else shown

    cube, problem = _decode_cube(codec, data, moves, valid, header)
    fills = fill_values(scene)
    gaps = fills[coded] if shown.all() else np.where(shown, fills[coded], fill_values(scene, 0)[coded])
    cube = np.where(valid, cube, gaps)
    is_special, values = decode_specials(specials, ~valid & shown, scene.dtype)
    cube[is_special] = values
    if len(coded) == scene.bands:
        return Decoded(cube, masks, problem)
    samples = np.empty((scene.bands, *size), scene.dtype)
    samples[:] = fills
    samples[coded] = cube
    samples[[band - 1 for band in header.exact]] = exact
    return Decoded(samples, masks, problem)


def _decode_cube(codec: Codec, data: bytes, moves: bytes, valid: np.ndarray, header: Header) -> tuple[np.ndarray, str]:
    """Return the codec's cube (N, H, W) with samples moved off nodata, and a message if its bound is not guaranteed."""
    problem = ""
    try:
        decoded = codec.decode(data, valid)
    except BoundNotGuaranteed as error:
        decoded, problem = error.samples, str(error)
    nodata = [header.scene.nodata_of(band) for band in header.coded_bands]
    hit = _at_nodata(decoded, valid, nodata)
    # Without a bound, another machine's floating point may decode more or fewer samples as nodata.
    if header.max_error is not None and not problem and len(moves) != -(-len(hit) // 8):
        raise DamagedError(f"the tile must have {-(-len(hit) // 8)} bytes of moves off nodata, got {len(moves)}")
    if len(hit):
        up = np.unpackbits(np.frombuffer(moves, np.uint8), count=len(hit)) if moves else np.zeros(len(hit), np.uint8)
        decoded = _moved(decoded, hit, up != 0, nodata)
    return decoded, problem


def _decode_exact(stored: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return the exact bands (E, H, W)."""
    samples = np.dtype(dtype).newbyteorder("<")
    num_bytes = math.prod(shape) * samples.itemsize
    content = inflate(stored, limit=num_bytes)
    if len(content) != num_bytes:
        raise DamagedError(f"the exact bands must have {num_bytes} bytes, got {len(content)}")
    return np.frombuffer(content, samples).reshape(shape).astype(dtype)


def _little_endian(samples: np.ndarray) -> np.ndarray:
    return samples.astype(samples.dtype.newbyteorder("<"))


# -- moves off nodata -----------------------------------------------------------------------------


def _at_nodata(decoded: np.ndarray, valid: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """Return the indices, in the flat cube, of valid samples that equal the nodata value of their band."""
    hits = []
    for band, value in enumerate(nodata):
        if value is not None and not math.isnan(value):
            at = np.flatnonzero((decoded[band] == decoded.dtype.type(value)) & valid[band])
            hits.append(at + band * valid[band].size)
    return np.concatenate(hits) if hits else np.zeros(0, np.int64)


def _moved(decoded: np.ndarray, hit: np.ndarray, up: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """Return a copy of `decoded` whose samples at the indices `hit` are next to nodata, above it where `up`."""
    dtype = decoded.dtype
    at_nodata = np.array([math.nan if value is None else value for value in nodata])[hit // decoded[0].size]
    if dtype.kind == "f":
        at_nodata = at_nodata.astype(dtype)
        below, above = (np.nextafter(at_nodata, dtype.type(end)) for end in (-math.inf, math.inf))
        lowest, highest = -math.inf, math.inf
    else:
        below, above = at_nodata - 1, at_nodata + 1
        lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    # A damaged bit must not lead out of the range of the type.
    up = (up | (at_nodata == lowest)) & (at_nodata != highest)
    decoded = decoded.copy()
    decoded.ravel()[hit] = np.where(up, above, below)
    return decoded
