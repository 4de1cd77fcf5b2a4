"""JPEG XL (ISO/IEC 18181-1) by libjxl, one image per band.

Lossy JPEG XL is made for human vision: it takes the cube root of the light before it quantizes. For samples of bands,
an error counts equally at all values. This codec therefore applies the inverse, so that JPEG XL's cube root restores
samples up to a linear map::

    z = (v - lowest) / range                                 in [0, 1]
    light = (z (cbrt(1 + b) - cbrt(b)) + cbrt(b))^3 - b      b: the opsin bias of the standard

The root channels of a gray image, cbrt(light + b) - cbrt(b), are then linear in v. On land this saved 0.5 bits per
sample at equal error. The quantizer's weights remain those for human vision, coarser at high spatial frequencies.
"""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np

from coding.base import SHORT, CodingError, join_blocks, take_block
from coding.classical.codec import INTEGERS, ClassicalCodec, Modes
from coding.classical.streams import join_streams, split_streams
from coding.entropy.integers import decode_integers, encode_integers

_EFFORT = 5  # of 1 to 9; lossless files were smallest at 4 for land (a third of the time), at 7 for water (twice)
_RANGE = struct.Struct("<ff")  # lowest value, range
_OPSIN_BIAS = 0.0037930732552754493
_BIAS_ROOT = np.cbrt(_OPSIN_BIAS)
_ROOT_SPAN = np.cbrt(1 + _OPSIN_BIAS) - _BIAS_ROOT
ERROR_AT_DISTANCE_1 = 0.0095
"""Root mean squared error at distance 1, as a fraction of the range; fitted to cubes of land and of water."""
MIN_DISTANCE, MAX_DISTANCE = 0.01, 25.0
"""Range of distances that libjxl takes."""


class JpegXl(ClassicalCodec):
    """JPEG XL by band: lossless in modular mode, lossy with the transform of variable block sizes.

    In lossy mode all bands have the same `distance`. The finest step is about 1/3000 of the cube's range; `encode`
    refuses finer ones. Steps of 0.8 of the range and more all give the coarsest image. At fine steps the squared error
    is between half and twice step^2 / 12.
    """

    modes = Modes(lossy=SHORT, lossless=INTEGERS)

    def encode_cube(self, cube: np.ndarray) -> bytes:
        return self._encode_lossless(cube) if self.step is None else self._encode_lossy(cube, self.step)

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return self._decode_lossless(data, shape) if self.step is None else self._decode_lossy(data, shape)

    def _encode_lossless(self, cube: np.ndarray) -> bytes:
        lows = cube.min(axis=(1, 2)).astype(np.int32)
        images = cube - lows[:, None, None]
        streams = [
            imagecodecs.jpegxl_encode(
                image.astype(np.uint8 if image.max() < 2**8 else np.uint16), lossless=True, effort=_EFFORT, numthreads=1
            )
            for image in images
        ]
        return join_blocks([encode_integers(lows)]) + join_streams(streams)

    def _decode_lossless(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        coded_lows, body = take_block(data)
        lows = decode_integers(coded_lows, (shape[0],))
        cube = np.empty(shape, np.int32)
        for band, low, stream in zip(cube, lows, split_streams(body, shape[0]), strict=True):
            band[:] = low + imagecodecs.jpegxl_decode(stream, numthreads=1).astype(np.int32)
        return cube

    def _encode_lossy(self, cube: np.ndarray, step: float) -> bytes:
        lowest = float(cube.min())
        span = float(np.float32(float(cube.max()) - lowest)) or 1.0
        distance = step / (ERROR_AT_DISTANCE_1 * span * 12**0.5)
        if distance < MIN_DISTANCE and cube.min() < cube.max():
            finest = step * MIN_DISTANCE / distance
            raise CodingError(
                f"the step must be at least {finest:.3g} for JPEG XL and samples in a range of {span:g}, got {step:g}: "
                "choose a larger one or no loss"
            )
        distance = min(max(distance, MIN_DISTANCE), MAX_DISTANCE)
        z = (cube.astype(np.float64) - lowest) / span
        light = ((z * _ROOT_SPAN + _BIAS_ROOT) ** 3 - _OPSIN_BIAS).astype(np.float32)
        streams = [
            imagecodecs.jpegxl_encode(band, lossless=False, distance=distance, effort=_EFFORT, numthreads=1)
            for band in light
        ]
        return _RANGE.pack(lowest, span) + join_streams(streams)

    def _decode_lossy(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        lowest, span = _RANGE.unpack_from(data)
        light = np.empty(shape, np.float32)
        for band, stream in zip(light, split_streams(data[_RANGE.size :], shape[0]), strict=True):
            imagecodecs.jpegxl_decode(stream, out=band, numthreads=1)
        return (np.cbrt(light.astype(np.float64) + _OPSIN_BIAS) - _BIAS_ROOT) / _ROOT_SPAN * span + lowest
