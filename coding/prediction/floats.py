"""Lossless coding of floats by their bits, for floats that are not integer multiples of a unit.

The bits of positive floats, read as integers, rise with the floats; for negative floats they do once they are flipped.
The upper bits, which follow the scene, are coded first, then the lower bits, which are mostly noise.
"""

from __future__ import annotations

import numpy as np

from coding.base import join_blocks, split_blocks
from coding.prediction.samples import decode_samples, encode_samples

_LOW_BITS = 12
_LOW_MASK = (1 << _LOW_BITS) - 1


def encode_floats(cube: np.ndarray) -> bytes:
    """Encode a cube (C, H, W) of finite float32 without loss."""
    ordered = _order(cube.view(np.int32))
    return join_blocks([encode_samples(part, 0)[0] for part in (ordered >> _LOW_BITS, ordered & _LOW_MASK)])


def decode_floats(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the cube (C, H, W) that `encode_floats` encoded, float32.

    Args:
        data: the bytes.
        shape: (C, H, W).

    Raises:
        DamagedError: `data` is damaged.
    """
    high, low = (decode_samples(block, shape, 0) for block in split_blocks(data, 2))
    # Damaged lower parts may have more than `_LOW_BITS` bits.
    return _order((high << _LOW_BITS) | (low & _LOW_MASK)).view(np.float32)


def _order(bits: np.ndarray) -> np.ndarray:
    """Flip all bits but the sign of negative numbers, so that int32 order is float order; the inverse of itself."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
