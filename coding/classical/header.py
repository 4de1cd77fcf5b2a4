"""The first bytes of every classical codec: the type and the shape of the cube."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from coding.base import CodingError, DamagedError

_DTYPES = ("uint16", "int16", "float32")
_HEADER = struct.Struct("<BIII")


def pack_cube_header(cube: np.ndarray, dtypes: Sequence[str] = _DTYPES) -> bytes:
    """Type and shape of `cube` (C, H, W) in 13 bytes.

    Args:
        dtypes: names of those that the codec takes.

    Raises:
        CodingError: another type, another number of dimensions, or nothing in it.
    """
    if cube.ndim != 3 or not cube.size or cube.dtype.name not in dtypes:
        raise CodingError(f"a cube of {cube.dtype} and shape {cube.shape}: takes (C, H, W) of {' or '.join(dtypes)}")
    return _HEADER.pack(_DTYPES.index(cube.dtype.name), *cube.shape)


def unpack_cube_header(data: bytes, dtypes: Sequence[str] = _DTYPES) -> tuple[np.dtype, tuple[int, int, int], bytes]:
    """Type, shape and the bytes behind the header.

    Raises:
        DamagedError: no header of such a cube.
    """
    if len(data) < _HEADER.size:
        raise DamagedError(f"{len(data)} bytes are too few for the header of a cube")
    number, *shape = _HEADER.unpack_from(data)
    if number >= len(_DTYPES) or _DTYPES[number] not in dtypes or 0 in shape:
        raise DamagedError("the header of a cube is damaged")
    return np.dtype(_DTYPES[number]), tuple(shape), data[_HEADER.size :]
