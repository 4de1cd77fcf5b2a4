"""Integer cubes as images of uint16, which is what image codecs take."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from coding.base import Codec, CodingError, DamagedError, join_blocks, split_blocks
from coding.classical.header import pack_cube_header
from coding.classical.streams import join_streams, seal, split_streams, unseal
from coding.entropy.integers import decode_integers, encode_integers
from utils.errors import one_line

_DTYPES = ("uint16", "int16")
_HALF = 2**15


class ImageCodec(Codec):
    """Cubes of uint16 and int16, each band shifted so that its mean is the middle of uint16.

    Where its range does not allow for that, a quarter of what uint16 leaves free stays free at either end.

    JPEG 2000 takes half the range from its samples before it transforms them and may drop what is left of a mean that
    is small beside its target, though it is an error of every sample. Codecs that predict lose nothing by the shift.
    """

    def encode(self, cube: np.ndarray) -> bytes:
        header = pack_cube_header(cube, _DTYPES)
        pixels = cube.reshape(len(cube), -1).astype(np.int32)
        means = np.rint(pixels.mean(axis=1)).astype(np.int32)
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        room = (2 * _HALF - 1 - (high - low)) // 4
        means = np.clip(means, high - (_HALF - 1) + room, low + _HALF - room)
        images = (pixels - (means - _HALF)[:, None]).astype(np.uint16).reshape(cube.shape)
        try:
            body = self.encode_images(images)
        except (RuntimeError, ValueError) as error:
            raise CodingError(
                f"a cube of {cube.shape} cannot be coded ({one_line(error)}): try another codec"
            ) from None
        return seal(header, join_blocks([encode_integers(means), body]))

    def decode(self, data: bytes) -> np.ndarray:
        dtype, shape, body = unseal(data, _DTYPES)
        coded_means, body = split_blocks(body, 2)
        means = decode_integers(coded_means, (shape[0],))
        try:
            images = self.decode_images(body, shape)
        except (RuntimeError, ValueError) as error:
            raise DamagedError(f"the images of a cube of {shape} are damaged ({one_line(error)})") from None
        if images.shape != shape or images.dtype != np.uint16:
            raise DamagedError(f"images of {images.dtype} and shape {images.shape} where uint16 of {shape} should be")
        limits = np.iinfo(dtype)
        return np.clip(images + (means.astype(np.int64) - _HALF)[:, None, None], limits.min, limits.max).astype(dtype)

    @abstractmethod
    def encode_images(self, images: np.ndarray) -> bytes:
        """Images uint16 (C, H, W) to bytes; what the library raises goes through."""

    @abstractmethod
    def decode_images(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """The bytes of `encode_images` to uint16 (C, H, W); what the library raises goes through."""


class BandCodec(ImageCodec):
    """One stream a band, their common header once."""

    def encode_images(self, images: np.ndarray) -> bytes:
        return join_streams([self.encode_band(image) for image in images])

    def decode_images(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        return np.stack([self.decode_band(stream) for stream in split_streams(data, shape[0])])

    @abstractmethod
    def encode_band(self, image: np.ndarray) -> bytes:
        """An image uint16 (H, W) to bytes."""

    @abstractmethod
    def decode_band(self, stream: bytes) -> np.ndarray:
        """The bytes of `encode_band` to the image uint16 (H, W)."""
