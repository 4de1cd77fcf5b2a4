"""ZFP (Lindstrom, IEEE TVCG 2014, doi 10.1109/TVCG.2014.2346458), the cube as one volume."""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np

from coding.base import CodingError
from coding.classical.codec import ANY, Modes
from coding.classical.volumes import VolumeCodec

_UNIT = struct.Struct("<d")
TOLERANCE_OF_STEP = 0.022**-0.5
"""ZFP's errors are far below its tolerance: measured on land and on water with tolerances that are powers of two, the
squared error is 0.022 tolerance^2 / 12."""


class Zfp(VolumeCodec):
    """ZFP on blocks of 4x4x4 samples, in the mode of fixed accuracy, or the reversible one for no error at all.

    The volume is coded in units of the tolerance, so that ZFP's is 1: it rounds any other down to a power of two. A
    unit of 0 stands for the reversible mode.
    """

    modes = Modes(lossy=ANY, bounded=ANY, lossless=ANY)

    def encode_volume(self, volume: np.ndarray) -> bytes:
        if self.step is None and self.max_error == 0:
            exact = volume if self.dtype == "float32" else volume.astype(np.int32)
            return _UNIT.pack(0) + imagecodecs.zfp_encode(exact, mode="reversible", header=False, numthreads=1)
        unit = np.float32(self.tolerance() if self.step is None else TOLERANCE_OF_STEP * self.step)
        with np.errstate(over="ignore"):
            scaled = volume / unit
        if not np.isfinite(scaled).all():
            raise CodingError(f"float32 cannot hold the samples in units of {unit:g}: ask for a coarser step")
        return _UNIT.pack(unit) + imagecodecs.zfp_encode(scaled, 1, mode="accuracy", header=False, numthreads=1)

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        (unit,) = _UNIT.unpack_from(data)
        held = np.float32 if unit or self.dtype == "float32" else np.int32
        volume = imagecodecs.zfp_decode(data[_UNIT.size :], shape=shape, dtype=held, numthreads=1)
        return volume * unit if unit else volume
