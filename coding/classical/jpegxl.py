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
from dataclasses import dataclass

import numpy as np

from coding.base import Codec, CodingError, DamagedError, check_step
from coding.classical.header import pack_cube_header
from coding.classical.images import BandCodec
from coding.classical.streams import join_streams, seal, split_streams, unseal

_DTYPES = ("uint16", "int16", "float32")
_EFFORT = 5  # of 1 to 9: without loss land came out smallest at 4, water at 7, at a third and at twice the time
_RANGE = struct.Struct("<ff")  # lowest value, range
_BIAS = 0.0037930732552754493
_LOW_ROOT = np.cbrt(_BIAS)
_ROOTS = np.cbrt(1 + _BIAS) - _LOW_ROOT
# Root mean squared error at distance 1, as a share of the range: fitted to cubes of land and of water.
_ERROR = 0.0095
_DISTANCES = (0.01, 25.0)  # least and largest that libjxl has


class JpegXlLossless(BandCodec):
    """JPEG XL by band without loss: the modular mode, at effort 5."""

    def encode_band(self, image: np.ndarray) -> bytes:
        import imagecodecs

        return imagecodecs.jpegxl_encode(image, lossless=True, effort=_EFFORT, numthreads=1)

    def decode_band(self, stream: bytes) -> np.ndarray:
        import imagecodecs

        return imagecodecs.jpegxl_decode(stream, numthreads=1)


@dataclass(frozen=True)
class JpegXlLossy(Codec):
    """JPEG XL by band, its variable block size transform, one `distance` for all bands.

    Takes uint16, int16 and float32. The finest step is about 1/3000 of the cube's range, beyond which `encode` refuses;
    from 0.8 of the range on all steps give the coarsest image that there is.

    Attributes:
        step: see `Family.lossy`; the squared error is between half and twice step^2 / 12 at fine steps.

    Raises:
        CodingError: a step that is no number from 1e-9 to 1e9.
    """

    step: float

    def __post_init__(self):
        check_step(self.step)

    def encode(self, cube: np.ndarray) -> bytes:
        import imagecodecs

        header = pack_cube_header(cube, _DTYPES)
        if not np.isfinite(cube).all():
            raise CodingError("the cube holds NaN or infinite values: replace them before coding")
        lowest = float(cube.min())
        span = float(np.float32(float(cube.max()) - lowest)) or 1.0
        distance = self.step / (_ERROR * span * 12**0.5)
        if distance < _DISTANCES[0] and cube.min() < cube.max():
            finest = self.step * _DISTANCES[0] / distance
            raise CodingError(
                f"a step of {self.step:g}: JPEG XL's finest is {finest:.3g} for samples in a range of {span:g}: "
                "ask for a larger step or no loss"
            )
        distance = min(max(distance, _DISTANCES[0]), _DISTANCES[1])
        z = (cube.astype(np.float64) - lowest) / span
        light = ((z * _ROOTS + _LOW_ROOT) ** 3 - _BIAS).astype(np.float32)
        streams = [
            imagecodecs.jpegxl_encode(band, lossless=False, distance=distance, effort=_EFFORT, numthreads=1)
            for band in light
        ]
        return seal(header, _RANGE.pack(lowest, span) + join_streams(streams))

    def decode(self, data: bytes) -> np.ndarray:
        import imagecodecs

        dtype, shape, body = unseal(data, _DTYPES)
        if len(body) < _RANGE.size:
            raise DamagedError(f"{len(body)} bytes are too few for images")
        lowest, span = _RANGE.unpack_from(body)
        light = np.empty(shape, np.float32)
        for band, stream in zip(light, split_streams(body[_RANGE.size :], shape[0]), strict=True):
            try:
                imagecodecs.jpegxl_decode(stream, out=band, numthreads=1)
            except (RuntimeError, ValueError) as error:
                raise DamagedError(f"an image of JPEG XL is damaged ({str(error) or type(error).__name__})") from None
        cube = (np.cbrt(light.astype(np.float64) + _BIAS) - _LOW_ROOT) / _ROOTS * span + lowest
        if dtype.kind == "f":
            return cube.astype(dtype)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(cube), limits.min, limits.max).astype(dtype)
