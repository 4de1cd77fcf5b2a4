"""The codecs `ccsds123` and `ccsds123-tuned`: CCSDS 123.0-B-2 with default parameters, and with those of a search."""

from __future__ import annotations

import numpy as np

from coding.base import DamagedError
from coding.classical.ccsds123.image import DTYPES, Ccsds123, decode
from coding.classical.ccsds123.tuning import encode_tuned
from coding.classical.codec import INTEGERS, ClassicalCodec, Modes


class Ccsds123Codec(ClassicalCodec):
    """CCSDS 123.0-B-2, lossless or near-lossless, with the default parameters of `Ccsds123`."""

    modes = Modes(lossy=INTEGERS, bounded=INTEGERS, lossless=INTEGERS)
    max_bound = 2**15 - 1
    bounds_steps = True

    def encode_cube(self, cube: np.ndarray) -> bytes:
        """See `ClassicalCodec.encode_cube`; the bytes are a compressed image of the standard."""
        return self._encode(cube.astype(self._held, copy=False))

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        cube = decode(data)
        if cube.dtype != self._held:
            raise DamagedError(f"samples must be {self._held}, got {cube.dtype}")
        return cube

    def _encode(self, cube: np.ndarray) -> bytes:
        return Ccsds123(int(self.max_error)).encode(cube)

    @property
    def _held(self) -> np.dtype:
        """Type of the compressed image, which tells signed from unsigned samples only."""
        return DTYPES[self.dtype.startswith("int")]


class Ccsds123TunedCodec(Ccsds123Codec):
    """The same with parameters that are searched for each cube: fewer bytes, and 5 to 50 times as long to encode.

    The search takes a second or two, however large the cube is.
    """

    def _encode(self, cube: np.ndarray) -> bytes:
        return encode_tuned(cube, int(self.max_error))
