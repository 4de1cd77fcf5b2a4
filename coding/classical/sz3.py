"""SZ3 (Liang et al., IEEE Transactions on Big Data 2023, doi 10.1109/TBDATA.2022.3201176) on the cube as one volume."""

from __future__ import annotations

import imagecodecs
import numpy as np

from coding.classical.codec import ANY, Modes
from coding.classical.volumes import BOUNDED, VolumeCodec


class Sz3(VolumeCodec):
    """SZ3 with a largest error, by interpolation along three axes; a step is the width of the bins."""

    modes = Modes(lossy=ANY, bounded=BOUNDED)

    def encode_volume(self, volume: np.ndarray) -> bytes:
        bound = self.tolerance() if self.step is None else self.step / 2
        return bytes(imagecodecs.sz3_encode(volume, "abs", abs=bound))

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return imagecodecs.sz3_decode(data, shape, self.held)
