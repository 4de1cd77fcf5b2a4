"""Cubes as volumes of floats, for codecs that treat the spectral axis like the spatial ones."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from coding.base import SHORT, CodingError, to_dtype
from coding.classical.codec import ANY, ClassicalCodec
from datasets.base import INTEGER_RANGES

BOUNDED = tuple(dtype for dtype in ANY if dtype != "float16")
"""Types with a bound: rounding to float16 could exceed it."""


class VolumeCodec(ClassicalCodec):
    """Base of codecs of volumes of float32, or of float64 for samples that float32 does not represent exactly."""

    def encode_cube(self, cube: np.ndarray) -> bytes:
        """See `ClassicalCodec.encode_cube`.

        Raises:
            CodingError: the library does not keep the bound.
        """
        data = self.encode_volume(cube.astype(self.held))
        if self.step is None:
            # The library keeps the bound in its own arithmetic, but what it returns is rounded once more.
            decoded = to_dtype(self.decode_cube(data, cube.shape), self.dtype)
            largest = np.abs(decoded.astype(np.float64) - cube).max()
            if largest > self.max_error:
                raise CodingError(
                    f"the error must be at most {self.max_error:g}, got {largest:g}: choose a larger bound"
                )
        return data

    @property
    def held(self) -> type[np.floating]:
        """Type of the volume."""
        return np.float32 if self.dtype in SHORT else np.float64

    @abstractmethod
    def encode_volume(self, volume: np.ndarray) -> bytes:
        """Encode a volume (C, H, W) of samples of type `dtype`; may raise errors of libraries."""

    def tolerance(self) -> float:
        """Return the largest error of the volume for which the cube keeps `max_error`.

        Decoded integers are rounded, which allows for almost half a unit more; a hundredth is left for float32, whose
        values near 2^16 are 2^-8 apart.

        Raises:
            CodingError: the samples are floats and the bound is 0.
        """
        if self.dtype in INTEGER_RANGES:
            return self.max_error + 0.49
        if self.max_error == 0:
            raise CodingError("floats need a largest error above 0, got 0")
        return 0.99 * self.max_error
