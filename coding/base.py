"""What all codecs share: cube in, bytes out, and the errors on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.errors import ProjectError


class CodingError(ProjectError, ValueError):
    """A cube that a codec cannot code as it was asked to."""


class DamagedError(ProjectError, ValueError):
    """Bytes that are no coded scene, or no longer what was written."""


class Codec(ABC):
    """Turns cubes into bytes and back.

    Learned or classical, everything that is compared is a codec, and its rate is 8 * len(bytes) / cube.size:
    whatever the decoder needs beside the weights is in the bytes.
    """

    @abstractmethod
    def encode(self, cube: np.ndarray) -> bytes:
        """Cube (C, H, W) to bytes.

        Raises:
            CodingError: a cube that this codec cannot take.
        """

    @abstractmethod
    def decode(self, data: bytes) -> np.ndarray:
        """The bytes of `encode` to a cube (C, H, W) of the type that went in.

        Raises:
            DamagedError: other bytes.
        """


@dataclass(frozen=True)
class Family:
    """A codec whose fineness is still open: what each setting makes of it, None where it has none.

    Attributes:
        lossy: codec of a step, in units of the samples: about that of a uniform quantiser with the same squared
            error, step^2 / 12. As it grows the rate falls.
        bounded: codec of a whole number E that no sample's error exceeds, in units of the samples.
        lossless: codec that returns what it was given.
        fixed: codec with nothing to set, at whatever rate and error it has.
    """

    lossy: Callable[[float], Codec] | None = None
    bounded: Callable[[int], Codec] | None = None
    lossless: Callable[[], Codec] | None = None
    fixed: Callable[[], Codec] | None = None


class BoundNotGuaranteed(DamagedError):
    """A tile whose decoder arrived at other numbers than its encoder, so that its error is not known to be bounded.

    Attributes:
        samples: what it arrived at.
    """

    def __init__(self, samples: np.ndarray):
        super().__init__("this machine rounds differently than the one that encoded it: bound not guaranteed")
        self.samples = samples


class TileCoder(ABC):
    """Codes the tiles of one scene, each on its own; what all of them need lies in the file once.

    Attributes:
        codec: the codec's name in the registry.
        clips_to_scale: whether samples come back within 0 and the scale, wherever they were: errors count against
            samples that were clipped to it, too.
    """

    codec: str
    clips_to_scale: bool

    @abstractmethod
    def parameters(self) -> dict:
        """Plain JSON values for the header."""

    @abstractmethod
    def shared(self) -> bytes:
        """Side information for the file."""

    @abstractmethod
    def encode_tile(self, samples: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """Code a tile.

        Args:
            samples: (C, H, W), the coded bands of the scene, in its type.
            valid: bool (C, H, W), False where there is no data.

        Returns:
            The bytes, and what `decode_tile` will make of them.
        """

    @abstractmethod
    def decode_tile(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        """The tile (C, H, W) in the scene's type; what it holds where nothing is valid means nothing.

        Raises:
            DamagedError: other bytes than `encode_tile` returned.
            BoundNotGuaranteed: decoded, but not to the numbers that the encoder had.
        """
