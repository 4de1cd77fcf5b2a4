"""Lossless coding of planes of integers, such as quantized latents, by a registered codec.

The coders of `coding.PLANE_CODERS`:

context      codec `klt-cm`, lossless: each plane is predicted from the preceding planes and from itself, and the errors
             are coded with mixed contexts
jpegxl       codec `jpegxl`, lossless: the planes are stacked vertically and coded as one band
factorized   codec `factorized`: one distribution for each plane, no contexts

None of them uses floating point where encoder and decoder must agree.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from coding import PLANE_CODERS, codecs
from coding.base import Codec, DamagedError
from coding.samples import Samples

SMALL_PLANE_PIXELS = 32 * 32
"""Largest plane for which `encode_planes` also tries JPEG XL: on it, `context` may not pay for what it must learn."""

_HEADER = struct.Struct("<Bi")  # the codec's number, lowest value
_SPLIT_FLAG = 0x80
"""Set in the codec's number where values are split into upper and lower halves of 16 bits."""
_STACKED_CODECS = (codecs["jpegxl"].number,)
"""Numbers of the codecs that code each band alone, and so do better on one band with all planes."""


def encode_planes(planes: np.ndarray, coder: str) -> bytes:
    """Encode planes without loss.

    Args:
        planes: (P, H, W), integers within the range of int32.
        coder: one of `PLANE_CODERS`; `context` codes small planes by JPEG XL if that takes fewer bytes.
    """
    low = int(planes.min()) if planes.size else 0
    span = int(planes.max()) - low if planes.size else 0
    if not span:
        return _HEADER.pack(0, low)
    shifted = planes.astype(np.int64) - low
    halves = 0
    if span >= 2**16:
        shifted, halves = np.concatenate([shifted >> 16, shifted & 0xFFFF]), _SPLIT_FLAG
    is_small = planes[0].size <= SMALL_PLANE_PIXELS
    tried = ("context", "jpegxl") if coder == "context" and is_small else (coder,)
    numbers = [codecs[PLANE_CODERS[name]].number for name in tried]
    coded = {number: _encode(number, shifted.astype(np.uint16)) for number in numbers}
    number = min(coded, key=lambda number: len(coded[number]))
    return _HEADER.pack(number | halves, low) + coded[number]


def decode_planes(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the planes (P, H, W) that `encode_planes` encoded, int64.

    Args:
        data: the bytes.
        shape: (P, H, W).

    Raises:
        DamagedError: `data` is damaged.
    """
    if len(data) < _HEADER.size:
        raise DamagedError(f"coded planes must have at least {_HEADER.size} bytes, got {len(data)}")
    number, low = _HEADER.unpack_from(data)
    if number == 0:
        return np.full(shape, low, np.int64)
    if math.prod(shape) == 0:
        raise DamagedError(f"coded planes of shape {shape} must be empty, got codec number {number}")
    count, height, width = shape
    if not number & _SPLIT_FLAG:
        return low + _decode(number, data[_HEADER.size :], shape).astype(np.int64)
    halves = _decode(number ^ _SPLIT_FLAG, data[_HEADER.size :], (2 * count, height, width)).astype(np.int64)
    return low + (halves[:count] << 16) + halves[count:]


def _encode(number: int, planes: np.ndarray) -> bytes:
    """Encode planes (P, H, W) of uint16."""
    cube = planes.reshape(1, -1, planes.shape[2]) if number in _STACKED_CODECS else planes
    return _codec(number).encode(cube, np.broadcast_to(True, cube.shape))


def _decode(number: int, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the planes (P, H, W) that `_encode` encoded."""
    stacked = (1, shape[0] * shape[1], shape[2]) if number in _STACKED_CODECS else shape
    return _codec(number).decode(data, np.broadcast_to(True, stacked)).reshape(shape)


def _codec(number: int) -> Codec:
    for name in PLANE_CODERS.values():
        if codecs[name].number == number:
            make = codecs[name].make_factory(Samples("uint16")).lossless
            assert make is not None  # all of these codecs have the mode
            return make()
    raise DamagedError(f"planes are coded by codec number {number}, which is unknown")
