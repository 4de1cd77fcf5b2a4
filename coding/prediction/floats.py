"""Coding floats without loss that are no whole numbers over anything: by their bits.

As whole numbers, the bits of positive floats rise with them; those of negative ones are turned so that they do, too.
The upper bits, which follow the scene, are coded as samples, and the lower ones, which mostly are noise, after them.
"""

from __future__ import annotations

import numpy as np

from coding.base import join_blocks, split_blocks
from coding.prediction.samples import decode_samples, encode_samples

_LOW_BITS = 12


def encode_floats(cube: np.ndarray) -> bytes:
    """Finite float32 (C, H, W) to bytes."""
    bits = cube.view(np.int32)
    ordered = _turn(bits)
    low = ordered & ((1 << _LOW_BITS) - 1)
    return join_blocks([encode_samples(part, 0)[0] for part in (ordered >> _LOW_BITS, low)])


def decode_floats(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The floats of `encode_floats`.

    Raises:
        DamagedError: other bytes.
    """
    high, low = (decode_samples(block, shape, 0) for block in split_blocks(data, 2))
    # Damaged ones may be beyond their bits: these are lost, as integers of numpy lose them.
    return _turn((high << _LOW_BITS) | (low & ((1 << _LOW_BITS) - 1))).view(np.float32)


def _turn(bits: np.ndarray) -> np.ndarray:
    """int32 of floats in their order, and back: of negative numbers all bits but the sign are flipped."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
