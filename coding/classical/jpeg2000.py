"""JPEG 2000 in three variants, none with a transform along the spectrum.

jpeg2000      ISO/IEC 15444-1 by OpenJPEG, one image per band
jpeg2000-mc   the same, with the bands as components of one image, which share the rate
htj2k         High-Throughput JPEG 2000, ISO/IEC 15444-15, by OpenJPH, one image per band
"""

from __future__ import annotations

import math
from typing import Any

import imagecodecs
import numpy as np

from coding.base import CodingError
from coding.classical.codec import INTEGERS, Modes
from coding.classical.images import BandCodec, ImageCodec

MAX_COMPONENTS = 16384
MIN_LOSSY_PIXELS = 64
"""Smaller images are coded without loss: OpenJPEG's errors on them do not follow its target."""

_NUM_LEVELS = 2**16  # of uint16
_HTJ2K_HEADROOM_STEPS = 16  # at least a quarter of them at either end; errors of HTJ2K reached 2.1 steps
_HTJ2K_STEP_SHARE = 0.8
"""Step that HTJ2K is given, relative to the requested one. Its zero bin is twice as wide as its step, and the squared
error doubles if most coefficients fall into it. This factor, measured on land and on water, compensates for that."""


class Jpeg2000(BandCodec):
    """JPEG 2000 by band: lossy (9/7 wavelet, one target squared error for all bands) or lossless (5/3 wavelet).

    Bands are coded in 6 resolutions (fewer if they are small), code blocks of 64x64, one quality layer. Bands of less
    than 64 pixels are coded without loss. For steps below about 1.5 only the rounding error remains.
    """

    modes = Modes(lossy=INTEGERS, lossless=INTEGERS)

    def encode_band(self, image: np.ndarray) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(image, **_options(self.step, image.size)))

    def decode_band(self, stream: bytes) -> np.ndarray:
        return imagecodecs.jpeg2k_decode(stream, numthreads=1)


class Jpeg2000Components(ImageCodec):
    """JPEG 2000 with all bands, at most 16384, as components of one codestream, without a component transform.

    OpenJPEG distributes the rate over all bands with one slope of squared error against rate, which minimizes the rate
    for a squared error over the cube; the error of a single band may be larger or smaller. For steps below about 1.5
    only the rounding error remains.
    """

    modes = Modes(lossy=INTEGERS, lossless=INTEGERS)

    def encode_images(self, images: np.ndarray) -> bytes:
        if len(images) > MAX_COMPONENTS:
            raise CodingError(f"JPEG 2000 has at most {MAX_COMPONENTS} components, got {len(images)} bands")
        options = _options(self.step, images[0].size)
        return bytes(imagecodecs.jpeg2k_encode(images, planar=True, colorspace=0, **options))

    def decode_images(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return imagecodecs.jpeg2k_decode(data, planar=True, numthreads=1).reshape(shape)


class Htj2k(BandCodec):
    """High-Throughput JPEG 2000 by band: lossy (9/7 wavelet, one quantizer) or lossless (5/3 wavelet).

    For lossy coding, the range of a band plus 16 steps must be below 65536, since decoded samples beyond uint16 wrap
    around. On land and on water the squared error was 0.8 to 1.4 times step^2 / 12. Steps below 0.82 count as
    0.82.
    """

    modes = Modes(lossy=INTEGERS, lossless=INTEGERS)

    def encode_images(self, images: np.ndarray) -> bytes:
        span = int(np.ptp(images, axis=(1, 2)).max())
        if self.step is not None and span + _HTJ2K_HEADROOM_STEPS * self.step >= _NUM_LEVELS:
            raise CodingError(
                f"a range of {span} leaves HTJ2K no room for errors at a step of {self.step:g}: choose a smaller one"
            )
        return super().encode_images(images)

    def encode_band(self, image: np.ndarray) -> bytes:
        if self.step is None:
            return bytes(imagecodecs.htj2k_encode(image, reversible=True))
        # Below 1e-5 of the range, imagecodecs uses OpenJPH's default.
        level = max(_HTJ2K_STEP_SHARE * self.step / _NUM_LEVELS, 1e-5)
        return bytes(imagecodecs.htj2k_encode(image, level=level, reversible=False))

    def decode_band(self, stream: bytes) -> np.ndarray:
        return imagecodecs.htj2k_decode(stream)


def _options(step: float | None, pixels: int) -> dict[str, Any]:
    """Return arguments of `imagecodecs.jpeg2k_encode` for uint16 images of `pixels` pixels; lossless without a step."""
    options = {"codecformat": "J2K", "mct": False, "numthreads": 1}
    if step is None or pixels < MIN_LOSSY_PIXELS:
        return {**options, "level": 0, "reversible": True}
    # OpenJPEG truncates code blocks where the squared error, estimated from the norms of the subbands, reaches a PSNR
    # whose peak is the largest value of the type. It takes no PSNR below 1.
    psnr = 10 * math.log10((_NUM_LEVELS - 1) ** 2 / (step**2 / 12))
    return {**options, "level": max(psnr, 1.0), "reversible": False}
