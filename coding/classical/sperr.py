"""SPERR (Li, Lindstrom and Clyne, IPDPS 2023, doi 10.1109/IPDPS54959.2023.00104), the cube as one volume."""

from __future__ import annotations

import math

import imagecodecs
import numpy as np

from coding.base import CodingError
from coding.classical.codec import ANY, Modes
from coding.classical.volumes import VolumeCodec


class Sperr(VolumeCodec):
    """SPERR on the whole cube as one chunk: wavelet 9/7 on three axes, set partitioning.

    With a step it codes to a PSNR: it looks for the coarsest quantizer whose squared error, measured, is no larger than
    asked for. With a bound the outliers of the wavelet coding are corrected.
    """

    modes = Modes(lossy=ANY, bounded=ANY)

    def encode_volume(self, volume: np.ndarray) -> bytes:
        if volume.size == 1:
            raise CodingError("SPERR takes no single sample")
        volume = volume.reshape(_long_axes_first(volume.shape))
        if self.step is None:
            return bytes(imagecodecs.sperr_encode(volume, self.tolerance(), "pwe", numthreads=1))
        psnr = psnr_of(self.step, float(volume.max()) - float(volume.min()))
        return bytes(imagecodecs.sperr_encode(volume, psnr, "psnr", numthreads=1))

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        volume = imagecodecs.sperr_decode(data, shape=_long_axes_first(shape), dtype=np.float32, numthreads=1)
        return volume.reshape(shape)


def psnr_of(step: float, span: float) -> float:
    """Return the PSNR that SPERR is asked for; its peak is the range of the samples.

    It takes no PSNR below 0, where the mean alone would do.
    """
    return max(10 * math.log10(span**2 / (step**2 / 12)), 1.0) if span else 1.0


def _long_axes_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return `shape` with its ones at the end: a one in the first place makes libsperr end the process."""
    return tuple(sorted(shape, key=lambda length: length == 1))
