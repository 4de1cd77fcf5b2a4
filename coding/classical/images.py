"""Cubes of integers as uint16 images, for image codecs."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from coding.base import DamagedError, join_blocks, split_blocks
from coding.classical.codec import ClassicalCodec
from coding.classical.streams import join_streams, split_streams
from coding.entropy.integers import decode_integers, encode_integers

_MIDDLE = 2**15


class ImageCodec(ClassicalCodec):
    """Base of codecs of integers that shift each band so that its mean is the middle of uint16.

    If the range of a band does not allow for that, at least a quarter of the unused range of uint16 is left at either
    end.

    The shift helps JPEG 2000, which subtracts half the range before its transform, and may drop a remaining mean that
    is small compared with its target, although it is an error of every sample. Predictive codecs lose nothing by it.
    """

    def encode_cube(self, cube: np.ndarray) -> bytes:
        pixels = cube.reshape(len(cube), -1).astype(np.int32)
        means = np.rint(pixels.mean(axis=1)).astype(np.int32)
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        room = (2 * _MIDDLE - 1 - (high - low)) // 4
        means = np.clip(means, high - (_MIDDLE - 1) + room, low + _MIDDLE - room)
        images = (pixels - (means - _MIDDLE)[:, None]).astype(np.uint16).reshape(cube.shape)
        return join_blocks([encode_integers(means), self.encode_images(images)])

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        coded_means, body = split_blocks(data, 2)
        means = decode_integers(coded_means, (shape[0],))
        images = self.decode_images(body, shape)
        if images.dtype != np.uint16 or images.shape != shape:
            raise DamagedError(f"images must be uint16 {shape}, got {images.dtype} {images.shape}")
        return images + (means - _MIDDLE)[:, None, None]

    @abstractmethod
    def encode_images(self, images: np.ndarray) -> bytes:
        """Encode uint16 images (C, H, W); may raise errors of libraries."""

    @abstractmethod
    def decode_images(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Decode the bytes of `encode_images`: uint16 images (C, H, W); may raise errors of libraries."""


class BandCodec(ImageCodec):
    """Base of codecs with one stream for each band; the streams' common header is stored once."""

    def encode_images(self, images: np.ndarray) -> bytes:
        return join_streams([self.encode_band(image) for image in images])

    def decode_images(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return np.stack([self.decode_band(stream) for stream in split_streams(data, shape[0])])

    @abstractmethod
    def encode_band(self, image: np.ndarray) -> bytes:
        """Encode a uint16 image (H, W)."""

    @abstractmethod
    def decode_band(self, stream: bytes) -> np.ndarray:
        """Decode the bytes of `encode_band`: a uint16 image (H, W)."""
