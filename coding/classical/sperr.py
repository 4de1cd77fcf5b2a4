"""SPERR (Li, Lindstrom and Clyne, IPDPS 2023, doi 10.1109/IPDPS54959.2023.00104), the cube as one volume."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, check_max_error, check_step
from coding.classical.volumes import VolumeCodec, tolerance_of


class _Sperr(VolumeCodec):
    def encode_as(self, volume: np.ndarray, level: float, mode: str) -> bytes:
        """A volume to SPERR's stream, by one of its modes."""
        import imagecodecs

        if volume.size == 1:
            raise CodingError("SPERR takes no single sample")
        return imagecodecs.sperr_encode(volume.reshape(_long_axes_first(volume.shape)), level, mode, numthreads=1)

    def decode_volume(self, body: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
        import imagecodecs

        volume = imagecodecs.sperr_decode(body, shape=_long_axes_first(shape), dtype=np.float32, numthreads=1)
        return volume.reshape(shape)


def _long_axes_first(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """`shape` with its ones at the end, where they change nothing: a first one makes libsperr end the process."""
    return tuple(sorted(shape, key=lambda length: length == 1))


@dataclass(frozen=True)
class SperrLossy(_Sperr):
    """SPERR on the whole cube as one chunk, to a PSNR: wavelet 9/7 on three axes, set partitioning.

    SPERR looks for the coarsest quantizer whose squared error, measured, is no larger than asked for.

    Attributes:
        step: see `Family.lossy`.

    Raises:
        CodingError: a step that is no number from 1e-9 to 1e9.
    """

    step: float

    def __post_init__(self):
        check_step(self.step)

    def encode_volume(self, volume: np.ndarray, dtype: np.dtype) -> bytes:
        span = float(volume.max()) - float(volume.min())
        # SPERR's peak is the range of the volume. It takes no PSNR below 0, where the mean alone would do.
        psnr = 10 * math.log10(span**2 / (self.step**2 / 12)) if span else 1.0
        return self.encode_as(volume, max(psnr, 1.0), "psnr")


@dataclass(frozen=True)
class SperrBounded(_Sperr):
    """SPERR on the whole cube as one chunk, to a largest error: outliers of the wavelet coding are corrected.

    Attributes:
        max_error: no sample's error exceeds it.

    Raises:
        CodingError: no whole number from 0 to 65535; from `encode`, 0 for floats.
    """

    max_error: int

    def __post_init__(self):
        check_max_error(self.max_error)

    def encode_volume(self, volume: np.ndarray, dtype: np.dtype) -> bytes:
        return self.encode_as(volume, tolerance_of(self.max_error, dtype), "pwe")
