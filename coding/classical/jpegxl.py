"""JPEG XL (ISO/IEC 18181-1) by libjxl, each band an image.

With loss it codes what people see, and takes the cube root of the light before it quantizes. Samples of bands are no
light that anybody looks at, and a squared error counts alike at all values. The image is therefore that of which the
samples are the roots::

    z = (v - lowest) / range                                 in [0, 1]
    light = (z (cbrt(1 + b) - cbrt(b)) + cbrt(b))^3 - b      b: the opsin bias of the standard

A gray image's root channels, cbrt(light + b) - cbrt(b), are then linear in v. This took 0.5 bits a sample off land at
equal error. What remains of human vision are the quantizer's weights, coarser at high spatial frequencies.
"""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np

from coding.base import CodingError, join_blocks, take_block
from coding.classical.codec import ANY, INTEGERS, ClassicalCodec, Modes
from coding.classical.streams import join_streams, split_streams
from coding.entropy.integers import decode_integers, encode_integers

_EFFORT = 5  # of 1 to 9: without loss land came out smallest at 4, water at 7, at a third and at twice the time
_RANGE = struct.Struct("<ff")  # lowest value, range
_BIAS = 0.0037930732552754493
_LOW_ROOT = np.cbrt(_BIAS)
_ROOTS = np.cbrt(1 + _BIAS) - _LOW_ROOT
ERROR_AT_1 = 0.0095
"""Root mean squared error at distance 1, as a share of the range: fitted to cubes of land and of water."""
LEAST_DISTANCE, MOST_DISTANCE = 0.01, 25.0
"""Of libjxl."""


class JpegXl(ClassicalCodec):
    """JPEG XL by band: without loss in the modular mode, with loss by the variable block size transform.

    With loss all bands have one `distance`. The finest step is about 1/3000 of the cube's range, beyond which `encode`
    refuses; from 0.8 of the range on all steps give the coarsest image that there is. The squared error is between half
    and twice step^2 / 12 at fine steps.
    """

    modes = Modes(lossy=ANY, lossless=INTEGERS)

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
        distance = step / (ERROR_AT_1 * span * 12**0.5)
        if distance < LEAST_DISTANCE and cube.min() < cube.max():
            finest = step * LEAST_DISTANCE / distance
            raise CodingError(
                f"the step must be at least {finest:.3g} for JPEG XL and samples in a range of {span:g}, got {step:g}: "
                "ask for a larger one or no loss"
            )
        distance = min(max(distance, LEAST_DISTANCE), MOST_DISTANCE)
        z = (cube.astype(np.float64) - lowest) / span
        light = ((z * _ROOTS + _LOW_ROOT) ** 3 - _BIAS).astype(np.float32)
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
        return (np.cbrt(light.astype(np.float64) + _BIAS) - _LOW_ROOT) / _ROOTS * span + lowest
