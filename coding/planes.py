"""Planes of whole numbers without loss, such as quantized latents, by a registered codec of integers.

The coders of `coding.PLANE_CODERS`:

context      each plane predicted from those before it and from itself, the errors coded by mixed contexts: codec
             `klt-cm` without loss
jpegxl       the planes one below the other as one band of codec `jpegxl` without loss
factorized   codec `factorized`: a distribution for each plane, without any context

None computes with floating point where encoder and decoder must agree.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from coding import PLANE_CODERS, codecs
from coding.base import Codec, DamagedError
from coding.samples import Samples

SMALL_PLANE = 32 * 32
"""Pixels up to which `context` may not pay for what it stores and learns about a plane."""

_HEADER = struct.Struct("<Bi")  # the codec's number, lowest value
_HALVES = 0x80
"""Added to the codec's number where values are split into upper and lower halves of 16 bits."""
_STACKED = (codecs["jpegxl"].number,)
"""Numbers of codecs that code each band alone, and do better on all planes as one."""


def encode_planes(planes: np.ndarray, coder: str) -> bytes:
    """Encode planes.

    Args:
        planes: (P, H, W), whole numbers that int32 holds.
        coder: one of `PLANE_CODERS`; with `context`, small planes are coded by JPEG XL where that takes fewer bytes.
    """
    low = int(planes.min()) if planes.size else 0
    span = int(planes.max()) - low if planes.size else 0
    if not span:
        return _HEADER.pack(0, low)
    shifted = planes.astype(np.int64) - low
    halves = 0
    if span >= 2**16:
        shifted, halves = np.concatenate([shifted >> 16, shifted & 0xFFFF]), _HALVES
    is_small = planes[0].size <= SMALL_PLANE
    tried = ("context", "jpegxl") if coder == "context" and is_small else (coder,)
    numbers = [codecs[PLANE_CODERS[name]].number for name in tried]
    coded = {number: _encode(number, shifted.astype(np.uint16)) for number in numbers}
    number = min(coded, key=lambda number: len(coded[number]))
    return _HEADER.pack(number | halves, low) + coded[number]


def decode_planes(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the planes (P, H, W) of `encode_planes`, int64.

    Raises:
        DamagedError: other bytes.
    """
    if len(data) < _HEADER.size:
        raise DamagedError("planes without a header")
    number, low = _HEADER.unpack_from(data)
    if number == 0:
        return np.full(shape, low, np.int64)
    if math.prod(shape) == 0:
        raise DamagedError("planes where there are none")
    count, height, width = shape
    if not number & _HALVES:
        return low + _decode(number, data[_HEADER.size :], shape).astype(np.int64)
    halves = _decode(number ^ _HALVES, data[_HEADER.size :], (2 * count, height, width)).astype(np.int64)
    return low + (halves[:count] << 16) + halves[count:]


def _encode(number: int, planes: np.ndarray) -> bytes:
    """Encode planes (P, H, W) of uint16."""
    cube = planes.reshape(1, -1, planes.shape[2]) if number in _STACKED else planes
    return _codec(number).encode(cube, np.broadcast_to(True, cube.shape))


def _decode(number: int, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the planes of `_encode`."""
    stacked = (1, shape[0] * shape[1], shape[2]) if number in _STACKED else shape
    return _codec(number).decode(data, np.broadcast_to(True, stacked)).reshape(shape)


def _codec(number: int) -> Codec:
    for name in PLANE_CODERS.values():
        if codecs[name].number == number:
            make = codecs[name].make_factory(Samples("uint16")).lossless
            assert make is not None  # all of these codecs have the mode
            return make()
    raise DamagedError(f"planes by the unknown codec {number}")
