"""JPEG 2000 in three ways, of which none transforms along the spectrum.

jpeg2000      ISO/IEC 15444-1 by OpenJPEG, each band an image
jpeg2000-mc   the same with the bands as components of one file, which share the rate
htj2k         High-Throughput JPEG 2000, ISO/IEC 15444-15, by OpenJPH, each band an image
"""

from __future__ import annotations

import math
from typing import Any

import imagecodecs
import numpy as np

from coding.base import CodingError
from coding.classical.codec import INTEGERS, Modes
from coding.classical.images import BandCodec, ImageCodec

MOST_COMPONENTS = 16384
LEAST_PIXELS = 64
"""Of an image coded with loss: on smaller ones OpenJPEG's errors have nothing to do with its target."""

_LEVELS = 2**16  # of the images
_ROOM = 16  # steps, a quarter of them at either end: HTJ2K's errors reached 2.1 steps either way
_SHARE = 0.8
"""Share of the step that HTJ2K is given. Its quantizer has a zero bin twice as wide as its step: where most
coefficients fall into it, the squared error is twice that of equal bins. Measured on land and on water, the share evens
that out."""


class Jpeg2000(BandCodec):
    """JPEG 2000 by band: wavelet 9/7 with one target of squared error for all bands, or 5/3 without loss.

    Bands are coded in 6 resolutions (fewer where they are small), code blocks of 64x64, one quality layer. Bands of
    less than 64 pixels are coded without loss. Below a step of about 1.5 the error stays at that of the rounding.
    """

    modes = Modes(lossy=INTEGERS, lossless=INTEGERS)

    def encode_band(self, image: np.ndarray) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(image, **_options(self.step, image.size)))

    def decode_band(self, stream: bytes) -> np.ndarray:
        return imagecodecs.jpeg2k_decode(stream, numthreads=1)


class Jpeg2000Components(ImageCodec):
    """JPEG 2000 with all bands, at most 16384, as components of one codestream, without a component transform.

    OpenJPEG shares the rate over all bands by one slope of squared error against rate, which asks the least rate for a
    squared error over the cube; that of a single band may be above or below it. Below a step of about 1.5 the error
    stays at that of the rounding.
    """

    modes = Modes(lossy=INTEGERS, lossless=INTEGERS)

    def encode_images(self, images: np.ndarray) -> bytes:
        if len(images) > MOST_COMPONENTS:
            raise CodingError(f"JPEG 2000 has at most {MOST_COMPONENTS} components, got {len(images)} bands")
        options = _options(self.step, images[0].size)
        return bytes(imagecodecs.jpeg2k_encode(images, planar=True, colorspace=0, **options))

    def decode_images(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return imagecodecs.jpeg2k_decode(data, planar=True, numthreads=1).reshape(shape)


class Htj2k(BandCodec):
    """High-Throughput JPEG 2000 by band: wavelet 9/7 with one quantizer, or 5/3 without loss.

    With loss it takes cubes whose range is 16 steps short of that of uint16, at least: samples that leave that range
    come back from its other end. On land and on water the squared error was 0.8 to 1.4 times step^2 / 12. Below 0.82 a
    step counts as 0.82.
    """

    modes = Modes(lossy=INTEGERS, lossless=INTEGERS)

    def encode_images(self, images: np.ndarray) -> bytes:
        span = int(np.ptp(images, axis=(1, 2)).max())
        if self.step is not None and span + _ROOM * self.step >= _LEVELS:
            raise CodingError(f"a range of {span} leaves HTJ2K no room for errors of a step of {self.step:g}")
        return super().encode_images(images)

    def encode_band(self, image: np.ndarray) -> bytes:
        if self.step is None:
            return bytes(imagecodecs.htj2k_encode(image, reversible=True))
        # Below 1e-5 of the range imagecodecs takes OpenJPH's own default.
        level = max(_SHARE * self.step / _LEVELS, 1e-5)
        return bytes(imagecodecs.htj2k_encode(image, level=level, reversible=False))

    def decode_band(self, stream: bytes) -> np.ndarray:
        return imagecodecs.htj2k_decode(stream)


def _options(step: float | None, pixels: int) -> dict[str, Any]:
    """Return arguments for `imagecodecs.jpeg2k_encode` on images of uint16 of so many pixels."""
    options = {"codecformat": "J2K", "mct": False, "numthreads": 1}
    if step is None or pixels < LEAST_PIXELS:
        return {**options, "level": 0, "reversible": True}
    # OpenJPEG cuts its code blocks off where the squared error, by the norms of the wavelet's subbands, comes to a
    # PSNR, whose peak is the highest value of the type. It takes none below 1.
    psnr = 10 * math.log10((_LEVELS - 1) ** 2 / (step**2 / 12))
    return {**options, "level": max(psnr, 1.0), "reversible": False}
