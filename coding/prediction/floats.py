"""Lossless coding of floats that are not integer multiples of a unit, by their bits.

Read as integers, the bits of positive floats rise with the floats; those of negative ones are flipped so that they do,
too. The upper bits, which follow the scene, are coded as samples, and then the lower ones, which mostly are noise.
"""

from __future__ import annotations

import numpy as np

from coding.base import join_blocks, split_blocks
from coding.prediction.samples import decode_samples, encode_samples

_LOW_BITS = 12
_LOW_MASK = (1 << _LOW_BITS) - 1


def encode_floats(cube: np.ndarray) -> bytes:
    """Encode finite float32 (C, H, W)."""
    ordered = _order(cube.view(np.int32))
    return join_blocks([encode_samples(part, 0)[0] for part in (ordered >> _LOW_BITS, ordered & _LOW_MASK)])


def decode_floats(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the floats (C, H, W) of `encode_floats`.

    Args:
        data: the bytes.
        shape: (C, H, W).

    Raises:
        DamagedError: other bytes.
    """
    high, low = (decode_samples(block, shape, 0) for block in split_blocks(data, 2))
    # Damaged ones may be beyond their bits, which are dropped.
    return _order((high << _LOW_BITS) | (low & _LOW_MASK)).view(np.float32)


def _order(bits: np.ndarray) -> np.ndarray:
    """Return int32 that rise with the floats of `bits`, or back: all bits but the sign of negative ones are flipped."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
