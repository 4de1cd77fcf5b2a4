"""Adaptive entropy coding, CCSDS 121.0-B-3, by libaec."""

from __future__ import annotations

import math

import imagecodecs
import numpy as np

from coding.base import DamagedError
from coding.classical.codec import INTEGERS, Modes
from coding.classical.images import ImageCodec

_BLOCK_SIZE = 16  # samples that share a code option
_REFERENCE_INTERVAL = 4096  # blocks between reference samples
_AXIS_ORDERS = ((0, 1, 2), (1, 2, 0))  # band-sequential, band-interleaved by pixel


class Aec(ImageCodec):
    """CCSDS 121.0-B without loss: differences of neighbors, coded by Rice codes in blocks of 16.

    The cube is coded as one row of samples, band after band or pixel after pixel, whichever takes fewer bytes.
    Reference samples are as rare as libaec allows, every 4096 blocks.
    """

    modes = Modes(lossless=INTEGERS)

    def encode_images(self, images: np.ndarray) -> bytes:
        coded = (
            bytes([number])
            + imagecodecs.aec_encode(images.transpose(axes).ravel(), blocksize=_BLOCK_SIZE, rsi=_REFERENCE_INTERVAL)
            for number, axes in enumerate(_AXIS_ORDERS)
        )
        return min(coded, key=len)

    def decode_images(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        if not data or data[0] >= len(_AXIS_ORDERS):
            raise DamagedError("the stream of a cube is damaged: its order of samples is missing or unknown")
        axes = _AXIS_ORDERS[data[0]]
        size = math.prod(shape)
        # libaec codes whole blocks: without room for all of the last one it leaves bytes, and imagecodecs raises.
        row = np.zeros(-(-size // _BLOCK_SIZE) * _BLOCK_SIZE, np.uint16)
        imagecodecs.aec_decode(data[1:], blocksize=_BLOCK_SIZE, rsi=_REFERENCE_INTERVAL, out=row)
        return row[:size].reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
