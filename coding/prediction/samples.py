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
from coding.entropy.mixing import (
    POSITION,
    check_decoder,
    finish_encoder,
    new_counters,
    new_decoder,
    new_encoder,
    new_weights,
)
from coding.prediction.bands import INPUTS, LOW_SETS, SETS, code_band, counters_of, fill_plane
from coding.prediction.regression import KINDS, PAD, Regression, coefficients, regressors

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
    walk, coder = _Walk(cube.shape, low - means, high - means, bound), new_encoder()
    table, exponents = np.zeros((_width(bands, pixels), bands), np.int64), np.zeros((KINDS, bands), np.int64)
    data, parts = np.zeros(_MOST_BYTES * pixels + 8, np.uint8), []
    for band in range(bands):
        fill_plane(walk.planes, band, (cube[band] - means[band]).astype(np.int32))
        numbers, exponents[:, band] = regression.fit(walk.planes, band)
        table[_rows(bands, band, pixels), band] = numbers
        walk.code(coder, data, band, numbers, exponents[:, band])
        parts.append(data[: coder[POSITION]].tobytes())  # they are settled: the next band starts at the front again
        coder[POSITION] = 0
    parts.append(finish_encoder(coder, data))
    stream = b"".join(parts).rstrip(b"\0")
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
    coder, content = new_decoder(stream)
    for band in range(bands):
        walk.code(coder, content, band, table[_rows(bands, band, pixels), band], exponents[:, band])
    check_decoder(coder, content)
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
        bands, height, width = shape
        self.planes = np.zeros((bands, height + 2 * PAD, width + 2 * PAD), np.int32)
        self._lows, self._highs, self._bound = lows, highs, bound
        self._sizes = np.full((3, height + 2, width + 4), _FIRST_SIZE, np.int64)
        self._models = new_counters(counters_of(bands)), new_weights(SETS, INPUTS), new_weights(LOW_SETS, 2)
        self._scratch = np.zeros(INPUTS, np.int64), np.zeros(width, np.int64)

    def samples(self, means):
        return self.planes[:, PAD:-PAD, PAD:-PAD] + means[:, None, None].astype(np.int32)

    def code(self, coder, data, band, numbers, exponents):
        places, kinds = regressors(band, self.planes[0, PAD:-PAD, PAD:-PAD].size)
        factors = coefficients(numbers, exponents, kinds)
        code_band(
            coder,
            data,
            self.planes,
            band,
            places,
            factors,
            self._lows[band],
            self._highs[band],
            self._bound,
            self._sizes,
            *self._models,
            *self._scratch,
        )
