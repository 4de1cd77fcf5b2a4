"""Coding of an image or a tile of integers of up to 32 bits, without loss or with a bound on the error.

Each band is predicted linearly from what is decoded before it, with coefficients that are stored, and the prediction
errors are coded with mixed contexts. With a bound, these errors are quantized within the prediction loop (near-lossless
coding, as in ITU-T T.87 and CCSDS 123.0-B-2), so that no sample's error exceeds the bound.

The decoder uses integers only, so that every machine decodes the same samples.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np

from coding.base import DamagedError, join_blocks, take_block
from coding.entropy.integers import decode_integers, encode_integers
from coding.entropy.neighbors import PAD
from coding.entropy.range_coder import Coder, check_decoder, finish_encoder, new_decoder, new_encoder, take_bytes
from coding.prediction.adaptive import next_band
from coding.prediction.bands import (
    ALL_DIGITS,
    GAP,
    LEVEL_BITS,
    NARROW,
    TERMS,
    Band,
    code_band,
    fill_plane,
    lattice_place,
    new_state,
)
from coding.prediction.phases import Phases, find_phases, is_first_of_group, unpack_phases
from coding.prediction.regression import KINDS, Regression, dequantize_coefficients, regressors

_RANGE = struct.Struct("<ii")  # smallest and largest sample
_MAX_BYTES = 96  # of a sample: some 40 decisions of at most 2 bytes each


class Known(NamedTuple):
    """Samples that are not coded.

    Attributes:
        kinds: uint8 (C, H, W), 0 for a sample to code, `GAP` for one without a meaning, else 1 + the index of its value
            in `values`; or of size 0.
        values: integers.
    """

    kinds: np.ndarray = np.zeros((0, 0, 0), np.uint8)
    values: tuple[int, ...] = ()

    @classmethod
    def gaps(cls, valid: np.ndarray) -> Known:
        """Return the gaps of a tile, where `valid`, bool (C, H, W), is False."""
        return cls() if valid.all() else cls(np.where(valid, np.uint8(0), np.uint8(GAP)))


_NONE_KNOWN = Known()


def encode_samples(
    cube: np.ndarray, bound: int, digits: int = ALL_DIGITS, known: Known = _NONE_KNOWN
) -> tuple[bytes, np.ndarray]:
    """Encode integers (C, H, W).

    Args:
        cube: any integer type; values within the range of int32.
        bound: largest error of a sample; 0 is lossless.
        digits: largest number of significant bits of a sample, see `coding.prediction.bands`; fewer than `ALL_DIGITS`
            only without loss.
        known: samples to leave out.

    Returns:
        The bytes, and the samples as `decode_samples` returns them.
    """
    low, high = int(cube.min()), int(cube.max())
    head = _RANGE.pack(low, high)
    if high - low <= bound:
        return head, np.full(cube.shape, (low + high) // 2, np.int32)
    means = np.rint(cube.mean(axis=(1, 2))).astype(np.int64)
    is_coded = known.kinds != GAP if known.kinds.size else None
    phases = find_phases(cube, is_coded) if high - low < NARROW else None
    bands = _BandCoder(cube.shape, means, _Limits.of(low, high, bound, digits), phases, known)
    regression = Regression(cube, 2 * bound + 1, is_coded)
    table, exponents = np.zeros(bands.table_shape, np.int64), np.zeros((KINDS, len(cube)), np.int64)
    coder, parts = new_encoder(_MAX_BYTES * cube[0].size), []
    for band, samples in enumerate(cube):
        fill_plane(bands.state.planes, band, samples.astype(bands.planes.dtype) - means[band])
        numbers, exponents[:, band] = regression.fit(bands.planes, band)
        table[bands.rows(band), band] = numbers
        bands.code(coder, band, numbers, exponents[:, band])
        parts.append(take_bytes(coder))
    stream = finish_encoder(coder, parts)
    settings = np.vstack([means, exponents])
    blocks = [phases.pack() if phases else b"", encode_integers(settings), encode_integers(table)]
    return head + join_blocks(blocks) + stream, bands.samples()


def decode_samples(
    data: bytes, shape: tuple[int, ...], bound: int, digits: int = ALL_DIGITS, known: Known = _NONE_KNOWN
) -> np.ndarray:
    """Return the samples (C, H, W) that `encode_samples` encoded, int32.

    Args:
        data: the bytes.
        shape: (C, H, W).
        bound: the bound that they were encoded with.
        digits: likewise.
        known: likewise.

    Raises:
        DamagedError: `data` is damaged.
    """
    if len(data) < _RANGE.size:
        raise DamagedError(f"coded samples must have {_RANGE.size} bytes or more, got {len(data)}")
    low, high = _RANGE.unpack_from(data)
    if high < low:
        raise DamagedError(f"the largest of coded samples must be at least {low}, the smallest, got {high}")
    if high - low <= bound:
        if len(data) > _RANGE.size:
            raise DamagedError(f"coded samples within one bin must have {_RANGE.size} bytes, got {len(data)}")
        return np.full(shape, (low + high) // 2, np.int32)
    packed_phases, rest = take_block(data[_RANGE.size :])
    settings, rest = take_block(rest)
    coded_table, stream = take_block(rest)
    means, exponents = np.split(decode_integers(settings, (1 + KINDS, shape[0])).astype(np.int64), [1])
    phases = unpack_phases(packed_phases, shape[0])
    bands = _BandCoder(shape, np.clip(means[0], low, high), _Limits.of(low, high, bound, digits), phases, known)
    table = decode_integers(coded_table, bands.table_shape)
    coder = new_decoder(stream)
    for band in range(shape[0]):
        bands.code(coder, band, table[bands.rows(band), band], exponents[:, band])
    check_decoder(coder)
    return bands.samples()


class _Limits(NamedTuple):
    """What `Band` holds for all bands alike."""

    lowest: int
    highest: int
    first_place: int
    last_place: int
    level_shift: int
    bound: int
    digits: int

    @classmethod
    def of(cls, low: int, high: int, bound: int, digits: int) -> _Limits:
        first, last = lattice_place(low, digits), lattice_place(high, digits)
        return cls(low, high, first, last, max((last - first).bit_length() - LEVEL_BITS, 0), bound, digits)


class _BandCoder:
    """Encodes or decodes the bands of an image one after another.

    Attributes:
        state: state of the kernels.
        planes: int32 or int64 (C, H + 4, W + 4), a view of the planes of the state.
        table_shape: shape (R, C) of the stored table of the coefficients of all bands.

    Args:
        shape: (C, H, W).
        means: int64 (C,), means of the bands.
        limits: of the samples.
        phases: of the pixels, or None.
        known: samples to leave out.
    """

    def __init__(
        self, shape: tuple[int, ...], means: np.ndarray, limits: _Limits, phases: Phases | None, known: Known
    ) -> None:
        bands, height, width = shape
        self.state = new_state(shape, limits.highest - limits.lowest)
        self.planes = self.state.planes.reshape(bands, height + 2 * PAD, width + 2 * PAD)
        self._means, self._limits, self._shape = means, limits, (height, width)
        self._phases, self._classes = phases, np.zeros(height * width, np.uint8)
        self._kinds = known.kinds.reshape(bands, -1) if known.kinds.size else np.zeros((bands, 0), np.uint8)
        self._known = np.clip(np.array(known.values, np.int64), limits.lowest, limits.highest)
        places = map(tuple, regressors(bands - 1, height * width)[0].tolist())
        self._rows = {place: row for row, place in enumerate(places)}
        self.table_shape = len(self._rows), bands
        self._layouts: dict[int, tuple[np.ndarray, ...]] = {}

    def rows(self, band: int) -> list[int]:
        """Return the rows of the table with the coefficients of a band; a regressor has the same row in all bands."""
        return [self._rows[tuple(place)] for place in regressors(band, math.prod(self._shape))[0].tolist()]

    def code(self, coder: Coder, band: int, numbers: np.ndarray, exponents: np.ndarray) -> None:
        """Encode or decode a band; for `numbers` and `exponents` see `dequantize_coefficients`."""
        if self._phases is not None and is_first_of_group(band):
            self._classes = self._phases.classes(band, *self._shape)
        if band:
            next_band(self.state.filter)
        places, kinds = regressors(band, math.prod(self._shape))
        terms = self._terms(places, dequantize_coefficients(numbers, exponents, kinds))
        shared = (self._classes, self._phases is not None, self._kinds[band], self._known)
        code_band(coder, self.state, Band(band, *terms, int(self._means[band]), *self._limits, *shared))

    def _terms(self, places: np.ndarray, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return `offsets`, `factors`, `left` and `second_left` of a `Band`."""
        key = len(places)  # which has one value for each set of regressors
        if key not in self._layouts:
            lag, dy, dx = places.T
            in_row = (lag == 0) & (dy == 0)
            offsets = dy * self.state.stride + dx - lag * self.state.planes.shape[1]
            self._layouts[key] = offsets, ~in_row, in_row & (dx == -1), in_row & (dx == -2)
        offsets, others, is_left, is_second = self._layouts[key]
        used = np.flatnonzero(others & (coefficients != 0))
        count = -(-len(used) // TERMS) * TERMS
        padded, factors = np.zeros(count, np.int64), np.zeros(count, self.state.predictions.dtype)
        padded[: len(used)], factors[: len(used)] = offsets[used], coefficients[used]
        return padded, factors, int(coefficients[is_left].sum()), int(coefficients[is_second].sum())

    def samples(self) -> np.ndarray:
        """Return the decoded samples (C, H, W), int32."""
        return self.state.samples.reshape(-1, *self._shape)
