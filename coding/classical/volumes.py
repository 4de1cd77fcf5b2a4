"""Cubes as volumes of floats, for codecs that treat the spectral axis as the spatial ones."""

from __future__ import annotations

import struct
from abc import abstractmethod

import numpy as np

from coding.base import Codec, CodingError, DamagedError
from coding.classical.header import pack_cube_header
from coding.classical.streams import seal, unseal

_DTYPES = ("uint16", "int16", "float32")


class VolumeCodec(Codec):
    """Cubes of uint16, int16 and float32 as volumes of float32, which holds all of them exactly."""

    max_error: int | None = None

    def encode(self, cube: np.ndarray) -> bytes:
        header = pack_cube_header(cube, _DTYPES)
        volume = cube.astype(np.float32)
        if not np.isfinite(volume).all():
            raise CodingError("the cube holds NaN or infinite values: replace them before coding")
        try:
            body = self.encode_volume(volume, cube.dtype)
        except (RuntimeError, ValueError) as error:
            raise CodingError(f"a cube of {cube.shape} cannot be coded ({error}): try another codec") from None
        if self.max_error is not None:
            # The library keeps its bound in its own arithmetic; float32, in which volumes come back, rounds once more.
            decoded = _restore(self.decode_volume(body, cube.shape, cube.dtype), cube.dtype)
            largest = np.abs(decoded.astype(np.float64) - cube).max()
            if largest > self.max_error:
                raise CodingError(f"an error of {largest:g} where {self.max_error} was asked for: ask for a larger one")
        return seal(header, body)

    def decode(self, data: bytes) -> np.ndarray:
        dtype, shape, body = unseal(data, _DTYPES)
        try:
            volume = self.decode_volume(body, shape, dtype)
        except (RuntimeError, ValueError, struct.error) as error:
            raise DamagedError(f"the volume of a cube of {shape} is damaged ({error})") from None
        if volume.shape != shape:
            raise DamagedError(f"a volume of {volume.shape} where {shape} should be")
        return _restore(volume, dtype)

    @abstractmethod
    def encode_volume(self, volume: np.ndarray, dtype: np.dtype) -> bytes:
        """A volume float32 (C, H, W) of finite values that were of type `dtype` to bytes."""

    @abstractmethod
    def decode_volume(self, body: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
        """The bytes of `encode_volume` to about the same volume."""


def tolerance_of(max_error: int, dtype: np.dtype) -> float:
    """How far a volume may be off so that the restored cube is off by no more than `max_error`.

    Whole numbers are rounded to the nearest, so half a unit more is allowed; a hundredth is left to float32, whose
    values near 2^16 are 2^-8 apart.

    Raises:
        CodingError: floats without any error.
    """
    if dtype.kind != "f":
        return max_error + 0.49
    if max_error == 0:
        raise CodingError("floats need a largest error of 1 or more")
    return 0.99 * max_error


def _restore(volume: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return volume.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(volume), limits.min, limits.max).astype(dtype)
