"""ZFP (Lindstrom, IEEE TVCG 2014, doi 10.1109/TVCG.2014.2346458), the cube as one volume."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, check_max_error, check_step
from coding.classical.volumes import VolumeCodec, tolerance_of

_UNIT = struct.Struct("<d")
# Of a step: ZFP's errors are far below its tolerance. Measured on land and on water with tolerances that are powers
# of two, the squared error is 0.022 tolerance^2 / 12.
_TOLERANCE = 0.022**-0.5


class _Zfp(VolumeCodec):
    """The volume in units of the tolerance, so that ZFP's is 1: it rounds any other down to a power of two."""

    def decode_volume(self, body: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
        import imagecodecs

        (unit,) = _UNIT.unpack_from(body)
        held = np.float32 if unit or dtype.kind == "f" else np.int32
        volume = imagecodecs.zfp_decode(body[_UNIT.size :], shape=shape, dtype=held, numthreads=1)
        return volume * unit if unit else volume

    def encode_to(self, tolerance: float, volume: np.ndarray) -> bytes:
        """A volume float32 to bytes: the unit and ZFP's stream in the mode of fixed accuracy."""
        import imagecodecs

        with np.errstate(over="ignore"):
            scaled = volume / np.float32(tolerance)
        if not np.isfinite(scaled).all():
            raise CodingError(f"float32 cannot hold the samples in units of {tolerance:g}: ask for a coarser step")
        return _UNIT.pack(np.float32(tolerance)) + imagecodecs.zfp_encode(
            scaled, 1.0, mode="accuracy", header=False, numthreads=1
        )

    def encode_reversible(self, volume: np.ndarray) -> bytes:
        """A volume int32 or float32 to bytes without loss, where the unit is 0."""
        import imagecodecs

        return _UNIT.pack(0) + imagecodecs.zfp_encode(volume, mode="reversible", header=False, numthreads=1)


@dataclass(frozen=True)
class ZfpLossy(_Zfp):
    """ZFP on blocks of 4x4x4 samples, in the mode of fixed accuracy.

    Attributes:
        step: see `Family.lossy`; the tolerance is 6.7 times as large, which comes to the same squared error.

    Raises:
        CodingError: a step that is no number from 1e-9 to 1e9.
    """

    step: float

    def __post_init__(self):
        check_step(self.step)

    def encode_volume(self, volume: np.ndarray, dtype: np.dtype) -> bytes:
        return self.encode_to(_TOLERANCE * self.step, volume)


@dataclass(frozen=True)
class ZfpBounded(_Zfp):
    """ZFP on blocks of 4x4x4 samples, in the mode of fixed accuracy, or the reversible one for no error at all.

    Attributes:
        max_error: no sample's error exceeds it.

    Raises:
        CodingError: no whole number from 0 to 65535.
    """

    max_error: int = 0

    def __post_init__(self):
        check_max_error(self.max_error)

    def encode_volume(self, volume: np.ndarray, dtype: np.dtype) -> bytes:
        if self.max_error == 0:
            return self.encode_reversible(volume if dtype.kind == "f" else volume.astype(np.int32))
        return self.encode_to(tolerance_of(self.max_error, dtype), volume)
