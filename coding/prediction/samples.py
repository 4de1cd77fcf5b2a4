"""Coding whole numbers without loss, or with an error that is bounded: the samples of an image or of one of its tiles.

Band after band is predicted linearly from what is decoded before it, with coefficients that are in the bytes, and the
errors of the prediction are coded by mixed contexts. Where an error is allowed, it is those errors that are quantized,
in the loop (near-lossless coding as in ITU-T T.87 and CCSDS 123.0-B-2), so that no sample's error exceeds it.

Decoding takes whole numbers alone, so that every machine decodes the same samples.
"""

from __future__ import annotations

import struct

import numpy as np

from coding.base import CodingError, DamagedError, join_blocks, split_blocks
from coding.entropy.integers import decode_integers, encode_integers
from coding.entropy.neighbors import PAD
from coding.entropy.range_coder import check_decoder, finish_encoder, new_decoder, new_encoder, take_bytes
from coding.prediction.bands import Band, code_band, fill_plane, new_state
from coding.prediction.regression import KINDS, Regression, coefficients, regressors

_RANGE = struct.Struct("<ii")
_MOST_BITS = 22  # of the difference of two samples
_MOST_BYTES = 96  # of a sample: some 40 decisions of at most 2 bytes each
_FIRST_SIZE = 4  # magnitude that the errors of the first band are expected to have


def encode_samples(cube: np.ndarray, bound: int) -> tuple[bytes, np.ndarray]:
    """Whole numbers (C, H, W) to bytes.

    Args:
        cube: any integer type; values that int32 holds, in a range of less than 2^22.
        bound: what no sample's error shall exceed; 0 codes without loss.

    Returns:
        The bytes, and the samples as `decode_samples` will return them.

    Raises:
        CodingError: values further apart.
    """
    low, high = int(cube.min()), int(cube.max())
    if high - low >= 1 << _MOST_BITS:
        raise CodingError(f"samples from {low} to {high}: differences are to be less than {1 << _MOST_BITS}")
    head = _RANGE.pack(low, high)
    if high - low <= bound:
        return head, np.full(cube.shape, (low + high) // 2, np.int32)
    bands, pixels = len(cube), cube[0].size
    means = np.rint(cube.mean(axis=(1, 2))).astype(np.int64)
    regression = Regression(cube, 2 * bound + 1)
    coder = new_encoder(_MOST_BYTES * pixels + 8)
    walk, parts = _Walk(cube.shape, low - means, high - means, bound), []
    table, exponents = np.zeros((_width(bands, pixels), bands), np.int64), np.zeros((KINDS, bands), np.int64)
    for band in range(bands):
        fill_plane(walk.state.planes, band, (cube[band] - means[band]).astype(np.int32))
        numbers, exponents[:, band] = regression.fit(walk.planes, band)
        table[_rows(bands, band, pixels), band] = numbers
        walk.code(coder, band, numbers, exponents[:, band])
        parts.append(take_bytes(coder))
    stream = finish_encoder(coder, parts)
    coded = head + join_blocks([encode_integers(np.vstack([means, exponents])), encode_integers(table), stream])
    return coded, walk.samples(means)


def decode_samples(data: bytes, shape: tuple[int, int, int], bound: int) -> np.ndarray:
    """The samples (C, H, W) of `encode_samples`, int32.

    Args:
        bound: that they were coded with.

    Raises:
        DamagedError: other bytes.
    """
    if len(data) < _RANGE.size:
        raise DamagedError("coded samples without a range")
    low, high = _RANGE.unpack_from(data)
    if high < low or high - low >= 1 << _MOST_BITS:
        raise DamagedError("the range of coded samples is damaged")
    if high - low <= bound:
        if len(data) > _RANGE.size:
            raise DamagedError("coded samples that are all the same have bytes too many")
        return np.full(shape, (low + high) // 2, np.int32)
    bands, pixels = shape[0], shape[1] * shape[2]
    settings, table, stream = split_blocks(data[_RANGE.size :], 3)
    means, exponents = np.split(decode_integers(settings, (1 + KINDS, bands)).astype(np.int64), [1])
    means = np.clip(means[0], low, high)
    table = decode_integers(table, (_width(bands, pixels), bands))
    walk = _Walk(shape, low - means, high - means, bound)
    coder = new_decoder(stream)
    for band in range(bands):
        walk.code(coder, band, table[_rows(bands, band, pixels), band], exponents[:, band])
    check_decoder(coder)
    return walk.samples(means)


def _width(bands, pixels):
    """Regressors that any band has."""
    return len(regressors(bands - 1, pixels)[0])


def _rows(bands, band, pixels):
    """Where in the table of all coefficients those of a band are: a regressor has the same row in all bands."""
    everywhere = {place: row for row, place in enumerate(map(tuple, regressors(bands - 1, pixels)[0].tolist()))}
    return [everywhere[tuple(place)] for place in regressors(band, pixels)[0].tolist()]


class _Walk:
    """What encoder and decoder have while they go from band to band.

    Attributes:
        planes: see `code_band`.
    """

    def __init__(self, shape, lows, highs, bound):
        self.state = new_state(*shape)
        self.planes = self.state.planes.reshape(shape[0], shape[1] + 2 * PAD, shape[2] + 2 * PAD)
        self._lows, self._highs, self._bound = lows, highs, bound

    def samples(self, means):
        return self.planes[:, PAD:-PAD, PAD:-PAD] + means[:, None, None].astype(np.int32)

    def code(self, coder, band, numbers, exponents):
        places, kinds = regressors(band, self.planes[0, PAD:-PAD, PAD:-PAD].size)
        factors = coefficients(numbers, exponents, kinds)
        code_band(
            coder, self.state, Band(band, places, factors, int(self._lows[band]), int(self._highs[band]), self._bound)
        )
