"""SPERR (Li, Lindstrom and Clyne, IPDPS 2023, doi 10.1109/IPDPS54959.2023.00104) on the cube as one volume."""

from __future__ import annotations

import math

import imagecodecs
import numpy as np

from coding.base import CodingError
from coding.classical.codec import ANY, Modes
from coding.classical.volumes import BOUNDED, VolumeCodec


class Sperr(VolumeCodec):
    """SPERR on the whole cube as one chunk: 9/7 wavelet along three axes, set partitioning.

    With a step, SPERR codes to a PSNR: it searches for the coarsest quantizer whose measured squared error is small
    enough. With a bound, it corrects the outliers of the wavelet coding.
    """

    modes = Modes(lossy=ANY, bounded=BOUNDED)

    def encode_volume(self, volume: np.ndarray) -> bytes:
        if volume.size == 1:
            raise CodingError("SPERR takes cubes of 2 samples or more, got 1")
        volume = volume.reshape(_long_axes_first(volume.shape))
        if self.step is None:
            return bytes(imagecodecs.sperr_encode(volume, self.tolerance(), "pwe", numthreads=1))
        psnr = psnr_of(self.step, float(volume.max()) - float(volume.min()))
        return bytes(imagecodecs.sperr_encode(volume, psnr, "psnr", numthreads=1))

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        volume = imagecodecs.sperr_decode(data, shape=_long_axes_first(shape), dtype=self.held, numthreads=1)
        return volume.reshape(shape)


def psnr_of(step: float, span: float) -> float:
    """Return the PSNR in dB to request from SPERR for a squared error of step^2 / 12; the peak is `span`.

    It is at least 1, since SPERR takes none below 0, where the mean alone would do.
    """
    return max(10 * math.log10(span**2 / (step**2 / 12)), 1.0) if span else 1.0


def _long_axes_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return `shape` with axes of length 1 moved to the end: libsperr aborts if the first axis has length 1."""
    return tuple(sorted(shape, key=lambda length: length == 1))
