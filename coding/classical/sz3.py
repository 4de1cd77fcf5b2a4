"""SZ3 (Liang et al., IEEE Transactions on Big Data 2023, doi 10.1109/TBDATA.2022.3201176), the cube as one volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coding.base import check_max_error, check_step
from coding.classical.volumes import VolumeCodec, tolerance_of


class _Sz3(VolumeCodec):
    def decode_volume(self, body: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
        import imagecodecs

        return imagecodecs.sz3_decode(body, shape, np.float32)


@dataclass(frozen=True)
class Sz3Lossy(_Sz3):
    """SZ3, interpolation on three axes, with bins of `step`: errors of at most step / 2.

    Attributes:
        step: see `Family.lossy`.

    Raises:
        CodingError: a step that is no number from 1e-9 to 1e9.
    """

    step: float

    def __post_init__(self):
        check_step(self.step)

    def encode_volume(self, volume: np.ndarray, dtype: np.dtype) -> bytes:
        import imagecodecs

        return imagecodecs.sz3_encode(volume, "abs", abs=self.step / 2)


@dataclass(frozen=True)
class Sz3Bounded(_Sz3):
    """SZ3, interpolation on three axes, to a largest error.

    Attributes:
        max_error: no sample's error exceeds it.

    Raises:
        CodingError: no whole number from 0 to 65535; from `encode`, 0 for floats.
    """

    max_error: int

    def __post_init__(self):
        check_max_error(self.max_error)

    def encode_volume(self, volume: np.ndarray, dtype: np.dtype) -> bytes:
        import imagecodecs

        return imagecodecs.sz3_encode(volume, "abs", abs=tolerance_of(self.max_error, dtype))
