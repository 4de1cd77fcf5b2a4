"""Planes of a transform along the bands, quantized and coded: the lossy path of `klt-cm`.

    planes -> minus their prediction -> 9/7 wavelet -> dependent quantization -> mixed contexts -> bytes
              from planes before                        (trellis)

Whole numbers alone decide how the stream is read; floating point enters where planes are put together from them.
"""

from __future__ import annotations

import numpy as np

from coding.base import CodingError, join_blocks, split_blocks
from coding.entropy.integers import decode_integers, encode_integers
from coding.entropy.mixing import MAGNITUDE_BITS
from coding.entropy.range_coder import check_decoder, finish_encoder, new_decoder, new_encoder, take_bytes
from coding.kltcm.contexts import ComponentCoder
from coding.kltcm.features import Predictor, count_features
from coding.kltcm.trellis import Trellis
from coding.kltcm.wavelet import analyze, subbands, synthesize

_MOST_BYTES = 96  # of a coefficient: 40 decisions of at most 16 bits each, and bits that are not modeled
_CENTRE = 0.02  # steps by which numbers beside 0 are larger, on average, than the middle of what is quantized to them


def encode_coefficients(planes: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Planes to bytes, with a squared error of about 1 / 12 in each.

    Args:
        planes: (K, H, W), float64, in steps, by falling variance. Overwritten: they are as much as a tile takes.

    Returns:
        The bytes, and `planes`, now as `decode_coefficients` will return them.

    Raises:
        CodingError: planes that are too large for the step.
    """
    count, height, width = planes.shape
    layout = subbands(height, width)
    model, trellis = ComponentCoder(layout), Trellis(layout)
    predictor = Predictor(height, width)
    coder, parts = new_encoder(_MOST_BYTES * height * width + 8), []
    factors = np.zeros((count, count_features(count - 1)), np.int64)
    for k in range(count):
        chosen = predictor.fit(planes[k])
        factors[k, : len(chosen)] = chosen
        predicted = predictor.predict(factors[k])
        buffer = np.zeros(layout.size)
        buffer[layout.places] = analyze((planes[k] - predicted)[None])[0]
        if not np.abs(buffer).max() < 2**MAGNITUDE_BITS - 2:
            raise CodingError("the samples are too large for the step: ask for a larger one")
        numbers = trellis.quantize(buffer, model.history)
        signs = np.where(numbers > 0, 1 + (buffer < 0), 0)
        model.code(coder, numbers, signs)
        parts.append(take_bytes(coder))
        planes[k] = _restore(numbers, signs, layout.places) + predicted
        predictor.add(planes[k], fitting=True)
    return join_blocks([encode_integers(factors), finish_encoder(coder, parts)]), planes


def decode_coefficients(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The planes (K, H, W), float64, in steps, of `encode_coefficients`.

    Raises:
        DamagedError: other bytes.
    """
    count, height, width = shape
    side, stream = split_blocks(data, 2)
    factors = decode_integers(side, (count, count_features(count - 1)))
    layout = subbands(height, width)
    model = ComponentCoder(layout)
    predictor = Predictor(height, width)
    coder = new_decoder(stream)
    decoded = np.empty(shape)
    for k in range(count):
        numbers, signs = np.zeros(layout.size, np.int64), np.zeros(layout.size, np.int64)
        model.code(coder, numbers, signs)
        decoded[k] = _restore(numbers, signs, layout.places) + predictor.predict(factors[k])
        predictor.add(decoded[k], fitting=False)
    check_decoder(coder)
    return decoded


def _restore(numbers: np.ndarray, signs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A plane (H, W) of magnitudes in half steps and their signs."""
    values = (0.5 * numbers + _CENTRE * (numbers > 0)) * np.where(signs == 2, -1, 1)
    return synthesize(values[places][None])[0]
