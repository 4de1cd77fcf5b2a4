"""Cubes as volumes of floats, for codecs that treat the spectral axis as the spatial ones."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from coding.base import CodingError, to_dtype
from coding.classical.codec import ClassicalCodec


class VolumeCodec(ClassicalCodec):
    """Codec of cubes as volumes of float32, which holds integers of 16 bits exactly."""

    def encode_cube(self, cube: np.ndarray) -> bytes:
        """See `ClassicalCodec.encode_cube`.

        Raises:
            CodingError: a bound that the library does not keep.
        """
        data = self.encode_volume(cube.astype(np.float32))
        if self.step is None:
            # The library keeps its bound in its own arithmetic; float32, in which volumes come back, rounds once more.
            decoded = to_dtype(self.decode_cube(data, cube.shape), self.dtype)
            largest = np.abs(decoded.astype(np.float64) - cube).max()
            if largest > self.max_error:
                raise CodingError(
                    f"the error must be at most {self.max_error:g}, got {largest:g}: ask for a larger one"
                )
        return data

    @abstractmethod
    def encode_volume(self, volume: np.ndarray) -> bytes:
        """Encode a volume float32 (C, H, W) of samples of type `dtype`; errors of libraries pass through."""

    def tolerance(self) -> float:
        """Return how far a volume may be off so that the cube is off by no more than `max_error`.

        Whole numbers are rounded to the nearest, so half a unit more is allowed; a hundredth is left to float32, whose
        values near 2^16 are 2^-8 apart.

        Raises:
            CodingError: floats without any error.
        """
        if self.dtype != "float32":
            return self.max_error + 0.49
        if self.max_error == 0:
            raise CodingError("floats need a largest error above 0")
        return 0.99 * self.max_error
