"""ZFP (Lindstrom, IEEE TVCG 2014, doi 10.1109/TVCG.2014.2346458) on the cube as one volume."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np

from coding.base import CodingError
from coding.classical.codec import ANY, Modes
from coding.classical.volumes import BOUNDED, VolumeCodec
from datasets.base import INTEGER_RANGES

_UNIT = struct.Struct("<d")
TOLERANCE_OF_STEP = 0.022**-0.5
"""Tolerance, in steps, for a squared error of step^2 / 12: with tolerances that are powers of two, the squared error on
land and on water was 0.022 tolerance^2 / 12."""


class Zfp(VolumeCodec):
    """ZFP on blocks of 4x4x4 samples in fixed-accuracy mode, or in reversible mode if lossless.

    The volume is scaled so that ZFP's tolerance is 1, since ZFP rounds tolerances down to a power of two. The scale is
    stored; 0 stands for the reversible mode.
    """

    modes = Modes(lossy=ANY, bounded=BOUNDED, lossless=tuple(dtype for dtype in ANY if dtype != "uint32"))

    def encode_volume(self, volume: np.ndarray) -> bytes:
        if self.step is None and self.max_error == 0:
            exact = volume.astype(self._exact)
            return _UNIT.pack(0) + imagecodecs.zfp_encode(exact, mode="reversible", header=False, numthreads=1)
        unit = self.held(self.tolerance() if self.step is None else TOLERANCE_OF_STEP * self.step)
        with np.errstate(over="ignore"):
            scaled = volume / unit
        if not np.isfinite(scaled).all():
            raise CodingError(
                f"{self.held.__name__} cannot hold the samples in units of {unit:g}: choose a larger step"
            )
        return _UNIT.pack(unit) + imagecodecs.zfp_encode(scaled, 1, mode="accuracy", header=False, numthreads=1)

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        (unit,) = _UNIT.unpack_from(data)
        held = self.held if unit else self._exact
        volume = imagecodecs.zfp_decode(data[_UNIT.size :], shape=shape, dtype=held, numthreads=1)
        return volume * unit if unit else volume

    @property
    def _exact(self) -> type[np.number]:
        """Type of the volume in the reversible mode."""
        return np.int32 if self.dtype in INTEGER_RANGES else self.held
