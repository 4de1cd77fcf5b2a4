"""JPEG-LS (ISO/IEC 14495-1; Weinberger, Seroussi and Sapiro, doi 10.1109/83.855427) by CharLS, one image per band."""

from __future__ import annotations

import imagecodecs
import numpy as np

from coding.classical.codec import INTEGERS, Modes
from coding.classical.images import BandCodec


class JpegLs(BandCodec):
    """JPEG-LS by band, lossless or near-lossless, with the standard's default thresholds.

    The format limits bounds to 255, and so steps to below 513.
    """

    modes = Modes(lossy=INTEGERS, bounded=INTEGERS, lossless=INTEGERS)
    max_bound = 255
    bounds_steps = True

    def encode_band(self, image: np.ndarray) -> bytes:
        return bytes(imagecodecs.jpegls_encode(image, level=int(self.max_error)))

    def decode_band(self, stream: bytes) -> np.ndarray:
        return imagecodecs.jpegls_decode(stream)
