"""Lossy coding of the components of a transform along the bands, as planes: `klt-cm` without a bound.

    planes -> minus their prediction -> 9/7 wavelet -> trellis-coded quantization -> mixed contexts -> bytes
              from preceding planes

The stream is read with integers only; floating point is used to reconstruct the planes.
"""

from __future__ import annotations

import math

import numpy as np

from coding.base import CodingError, join_blocks, split_blocks
from coding.entropy.compiled import compiled
from coding.entropy.integers import decode_integers, encode_integers
from coding.entropy.mixing import MAGNITUDE_BITS
from coding.entropy.range_coder import check_decoder, finish_encoder, new_decoder, new_encoder, take_bytes
from coding.kltcm.contexts import ComponentCoder
from coding.kltcm.expectation import UNIT_BITS
from coding.kltcm.features import Predictor, count_features
from coding.kltcm.trellis import Trellis
from coding.kltcm.wavelet import Subbands, analyze, subbands, synthesize

_MAX_BYTES = 96  # of a coefficient: 40 decisions of at most 2 bytes each, and bits that are stored as they are
# Distances in steps from the values of the quantizers to the means of the coefficients: of those that are half a step,
# of larger ones, and of 0 where at least half a step is expected.
_OFFSET_OF_HALF, _OFFSET, _OFFSET_OF_ZERO = 1 / 16, 1 / 64, 3 / 64


def encode_coefficients(planes: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Encode planes with a squared error of about 1 / 12 in each.

    Args:
        planes: (K, H, W), float64, in steps, by falling variance. Overwritten, to save the memory of a copy.

    Returns:
        The bytes, and `planes`, which now hold what `decode_coefficients` returns.

    Raises:
        CodingError: the planes are too large for the step.
    """
    count, height, width = planes.shape
    layout = subbands(height, width)
    components, trellis, predictor = ComponentCoder(layout), Trellis(layout), Predictor(height, width)
    factors = np.zeros((count, count_features(count - 1)), np.int64)
    coder, parts = new_encoder(_MAX_BYTES * height * width), []
    for k in range(count):
        chosen = predictor.fit(planes[k:])
        factors[k, : len(chosen)] = chosen
        predicted = predictor.predict(factors[k])
        coefficients = np.zeros(layout.size)
        coefficients[layout.places] = analyze((planes[k] - predicted)[None])[0]
        if not np.abs(coefficients).max() < 2**MAGNITUDE_BITS - 2:
            raise CodingError("the samples are too large for the step: choose a larger one")
        magnitudes = trellis.quantize(coefficients, components.history)
        signs = np.where(magnitudes > 0, 1 + (coefficients < 0), 0).astype(np.int8)
        expected = components.code(coder, magnitudes, signs)
        parts.append(take_bytes(coder))
        planes[k] = _reconstruct(magnitudes, signs, expected, layout) + predicted
        predictor.add(planes[k], fitting=True)
    return join_blocks([encode_integers(factors), finish_encoder(coder, parts)]), planes


def decode_coefficients(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the planes (K, H, W) that `encode_coefficients` encoded, float64, in steps.

    Args:
        data: the bytes.
        shape: (K, H, W).

    Raises:
        DamagedError: `data` is damaged.
    """
    count, height, width = shape
    side, stream = split_blocks(data, 2)
    factors = decode_integers(side, (count, count_features(count - 1)))
    layout = subbands(height, width)
    components, predictor, coder = ComponentCoder(layout), Predictor(height, width), new_decoder(stream)
    decoded = np.empty(shape)
    for k in range(count):
        magnitudes, signs = np.zeros(layout.size, np.int32), np.zeros(layout.size, np.int8)
        expected = components.code(coder, magnitudes, signs)
        decoded[k] = _reconstruct(magnitudes, signs, expected, layout) + predictor.predict(factors[k])
        predictor.add(decoded[k], fitting=False)
    check_decoder(coder)
    return decoded


def _reconstruct(magnitudes: np.ndarray, signs: np.ndarray, expected: np.ndarray, layout: Subbands) -> np.ndarray:
    """Return the plane (H, W) of buffers with the magnitudes of its coefficients, in half steps, and their signs."""
    values = np.zeros(layout.places.shape)
    _fill(values.reshape(-1), layout.places.reshape(-1), magnitudes, signs, expected)
    return synthesize(values[None])[0]


@compiled
def _fill(values, places, magnitudes, signs, expected):
    """Fill in the coefficients, in steps."""
    for i in range(len(values)):
        p = places[i]
        magnitude = magnitudes[p]
        if magnitude:
            value = 0.5 * magnitude + (_OFFSET_OF_HALF if magnitude == 1 else _OFFSET)
            values[i] = value if signs[p] == 1 else -value
        elif expected[p]:
            value = _OFFSET_OF_ZERO * math.sqrt(min(abs(expected[p]) / (1 << UNIT_BITS), 1.0))
            values[i] = value if expected[p] > 0 else -value
