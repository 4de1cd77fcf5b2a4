"""JPEG-LS (ISO/IEC 14495-1; Weinberger, Seroussi and Sapiro, doi 10.1109/83.855427) by CharLS, each band an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, bound_of_step, check_max_error
from coding.classical.images import BandCodec

_MOST_NEAR = 255  # largest bound that the format has room for


@dataclass(frozen=True)
class JpegLs(BandCodec):
    """JPEG-LS by band, lossless or near-lossless, with the standard's default thresholds.

    Attributes:
        max_error: no sample's error exceeds it, 0 to 255.

    Raises:
        CodingError: another bound.
    """

    max_error: int = 0

    def __post_init__(self):
        check_max_error(self.max_error)
        if self.max_error > _MOST_NEAR:
            raise CodingError(
                f"a largest error of {self.max_error}: JPEG-LS takes at most {_MOST_NEAR}, a step of "
                f"{2 * _MOST_NEAR + 1}: ask for a smaller one or another codec"
            )

    @classmethod
    def of_step(cls, step: float) -> JpegLs:
        """The lossless or near-lossless codec of a step, see `bound_of_step`.

        Raises:
            CodingError: a step that is no number from 1e-9 to 1e9, or from 513 on.
        """
        return cls(bound_of_step(step))

    def encode_band(self, image: np.ndarray) -> bytes:
        import imagecodecs

        return imagecodecs.jpegls_encode(image, level=self.max_error)

    def decode_band(self, stream: bytes) -> np.ndarray:
        import imagecodecs

        return imagecodecs.jpegls_decode(stream)
