"""Integer cubes as images of uint16, which is what image codecs take."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from coding.base import DamagedError, join_blocks, split_blocks
from coding.classical.codec import ClassicalCodec
from coding.classical.streams import join_streams, split_streams
from coding.entropy.integers import decode_integers, encode_integers

_HALF = 2**15


class ImageCodec(ClassicalCodec):
    """Codec of integers, each band shifted so that its mean is the middle of uint16.

    Where the range of a band does not allow for that, a quarter of what it leaves free of uint16 stays free at either
    end.

    JPEG 2000 takes half the range from its samples before it transforms them, and may drop what is left of a mean that
    is small compared with its target, though it is an error of every sample. Codecs that predict lose nothing by the
    shift.
    """

    def encode_cube(self, cube: np.ndarray) -> bytes:
        pixels = cube.reshape(len(cube), -1).astype(np.int32)
        means = np.rint(pixels.mean(axis=1)).astype(np.int32)
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        room = (2 * _HALF - 1 - (high - low)) // 4
        means = np.clip(means, high - (_HALF - 1) + room, low + _HALF - room)
        images = (pixels - (means - _HALF)[:, None]).astype(np.uint16).reshape(cube.shape)
        return join_blocks([encode_integers(means), self.encode_images(images)])

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        coded_means, body = split_blocks(data, 2)
        means = decode_integers(coded_means, (shape[0],))
        images = self.decode_images(body, shape)
        if images.dtype != np.uint16 or images.shape != shape:
            raise DamagedError(f"images must be uint16 of {shape}, got {images.dtype} of {images.shape}")
        return images + (means - _HALF)[:, None, None]

    @abstractmethod
    def encode_images(self, images: np.ndarray) -> bytes:
        """Encode images uint16 (C, H, W); errors of libraries pass through."""

    @abstractmethod
    def decode_images(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Return the images uint16 (C, H, W) of `encode_images`; errors of libraries pass through."""


class BandCodec(ImageCodec):
    """Codec with one stream for each band; their common header is stored once."""

    def encode_images(self, images: np.ndarray) -> bytes:
        return join_streams([self.encode_band(image) for image in images])

    def decode_images(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return np.stack([self.decode_band(stream) for stream in split_streams(data, shape[0])])

    @abstractmethod
    def encode_band(self, image: np.ndarray) -> bytes:
        """Encode an image uint16 (H, W)."""

    @abstractmethod
    def decode_band(self, stream: bytes) -> np.ndarray:
        """Return the image uint16 (H, W) of `encode_band`."""
