"""Masks of valid samples: their lossless coding, and the filling of gaps for codecs."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from coding.base import DamagedError, deflate, inflate
from datasets.base import SceneInfo

_NONE, _ALL = 0, 1  # kinds of bands without and with valid samples only; larger kinds are numbers of planes
_DEFAULT_NODATA = {"int16": -(2**15), "uint16": 2**16 - 1, "float32": math.nan}


def fill_value(info: SceneInfo) -> float:
    """Return the value of missing samples: the scene's nodata value, or else an unlikely sample value of its type."""
    return _DEFAULT_NODATA[info.dtype] if info.nodata is None else info.nodata


def encode_mask(valid: np.ndarray) -> bytes:
    """Encode a mask, bool (C, H, W), True where there is data; a mask that is True everywhere takes no bytes.

    Most bands of a scene have the same gaps: each different plane is stored once, one bit for each pixel, and each band
    stores the number of its plane.
    """
    if valid.all():
        return b""
    planes: dict[bytes, int] = {}
    kinds = []
    for band in valid:
        if not band.any():
            kinds.append(_NONE)
        elif band.all():
            kinds.append(_ALL)
        else:
            kinds.append(planes.setdefault(np.packbits(band).tobytes(), len(planes) + 2))
    return deflate(np.array(kinds, "<u2").tobytes() + b"".join(planes))


def decode_mask(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask, bool (C, H, W), that `encode_mask` encoded.

    Args:
        data: the bytes.
        shape: (C, H, W).

    Raises:
        DamagedError: `data` is damaged.
    """
    bands, height, width = shape
    if not data:
        return np.ones(shape, bool)
    plane_bytes = -(-height * width // 8)
    content = inflate(data, limit=2 * bands + bands * plane_bytes)
    if len(content) < 2 * bands:
        raise DamagedError("the mask of a tile is damaged")
    kinds = np.frombuffer(content[: 2 * bands], "<u2")
    num_planes, rest = divmod(len(content) - 2 * bands, plane_bytes)
    if rest or kinds.max(initial=0) > num_planes + 1:
        raise DamagedError("the mask of a tile is damaged")
    packed = np.frombuffer(content, np.uint8, offset=2 * bands).reshape(num_planes, plane_bytes)
    planes = np.empty((num_planes + 2, height, width), bool)
    planes[_NONE], planes[_ALL] = False, True
    if num_planes:
        bits = np.unpackbits(packed, axis=1, count=height * width)
        planes[2:] = bits.reshape(num_planes, height, width)
    return planes[kinds]


def fill_gaps(planes: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return planes with each missing pixel filled by the nearest valid pixel of its plane.

    Such values cost little, and predict the neighboring samples well.

    Args:
        planes: (P, H, W), any real type. A plane without a valid pixel becomes 0.
        valid: bool (P, H, W), or (1, H, W) for all planes.
    """
    if valid.all():
        return planes
    filled = planes.copy()
    nearest: dict[bytes, tuple] = {}
    for index, plane in enumerate(filled):
        mask = valid[index if len(valid) > 1 else 0]
        if mask.all():
            continue
        if not mask.any():
            plane[:] = 0
            continue
        key = np.packbits(mask).tobytes()
        if key not in nearest:
            nearest[key] = tuple(ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True))
        plane[~mask] = plane[nearest[key]][~mask]
    return filled
