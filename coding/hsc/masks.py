"""Masks of samples and special values: their lossless coding, and the filling of gaps for codecs."""

from __future__ import annotations

import math

import numpy as np
import scipy

from coding.base import DamagedError, deflate, inflate
from datasets.base import SceneInfo

_NONE, _ALL = 0, 1  # kinds of planes without and with True only; larger kinds are numbers of planes
_MAX_PALETTE = 255
_INDEX_BYTES = 2


def fill_values(info: SceneInfo, default: float | None = None) -> np.ndarray:
    """Return the values of missing samples, (bands, 1, 1) of the scene's type: the nodata value of each band.

    Args:
        info: metadata of the scene.
        default: value for bands without a nodata value; None for an unlikely sample value of the type.
    """
    dtype = np.dtype(info.dtype)
    if default is None:
        unlikely = {"i": "min", "u": "max"}
        default = math.nan if dtype.kind == "f" else getattr(np.iinfo(dtype), unlikely[dtype.kind])
    nodata = (info.nodata_of(band) for band in range(info.bands))
    return np.array([default if value is None else value for value in nodata], dtype)[:, None, None]


# -- planes of bits -------------------------------------------------------------------------------


def pack_planes(planes: np.ndarray) -> bytes:
    """Return bool planes (P, H, W) as bytes: each different one once, one bit for each pixel, and their numbers.

    Most bands of a scene have the same gaps.
    """
    packed: dict[bytes, int] = {}
    kinds = []
    for plane in planes:
        if not plane.any():
            kinds.append(_NONE)
        elif plane.all():
            kinds.append(_ALL)
        else:
            kinds.append(packed.setdefault(np.packbits(plane).tobytes(), len(packed) + 2))
    return np.array(kinds, "<u2").tobytes() + b"".join(packed)


def unpack_planes(content: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, bytes]:
    """Return the planes (P, H, W) of `pack_planes`, and the bytes after them.

    Raises:
        DamagedError: `content` ends too early.
    """
    count, height, width = shape
    plane_bytes = -(-height * width // 8)
    if len(content) < _INDEX_BYTES * count:
        raise DamagedError("the mask of a tile is damaged")
    kinds = np.frombuffer(content, "<u2", count)
    num_planes = max(int(kinds.max(initial=0)) - 1, 0)
    end = _INDEX_BYTES * count + num_planes * plane_bytes
    if len(content) < end:
        raise DamagedError("the mask of a tile is damaged")
    planes = np.empty((num_planes + 2, height, width), bool)
    planes[_NONE], planes[_ALL] = False, True
    if num_planes:
        packed = np.frombuffer(content[_INDEX_BYTES * count : end], np.uint8).reshape(num_planes, plane_bytes)
        planes[2:] = np.unpackbits(packed, axis=1, count=height * width).reshape(num_planes, height, width)
    return planes[kinds], content[end:]


# -- the mask of a tile ---------------------------------------------------------------------------


def encode_mask(planes: np.ndarray, specials: bytes = b"") -> bytes:
    """Encode the mask of a tile.

    Args:
        planes: bool (P, H, W), True where there is data. If all are True and there are no `specials`, they take no
            bytes.
        specials: bytes of `encode_specials`.
    """
    if planes.all() and not specials:
        return b""
    return deflate(pack_planes(planes) + specials)


def decode_mask(data: bytes, shape: tuple[int, ...], max_specials: int = 0) -> tuple[np.ndarray, bytes]:
    """Return the planes and the special values that `encode_mask` encoded.

    Args:
        data: the bytes.
        shape: (P, H, W).
        max_specials: largest number of bytes of special values.

    Raises:
        DamagedError: `data` is damaged.
    """
    if not data:
        return np.ones(shape, bool), b""
    planes, specials = unpack_planes(inflate(data, limit=_most_bytes(shape) + max_specials), shape)
    if len(specials) > max_specials:
        raise DamagedError("the mask of a tile is damaged")
    return planes, specials


def _most_bytes(shape: tuple[int, ...]) -> int:
    """Return the largest size of `pack_planes`."""
    count, height, width = shape
    return count * (_INDEX_BYTES + -(-height * width // 8))


# -- special values -------------------------------------------------------------------------------


def encode_specials(cube: np.ndarray, is_special: np.ndarray, missing: np.ndarray) -> bytes:
    """Encode the special values of a tile, bit by bit: samples such as NaN that no codec takes.

    Args:
        cube: (N, H, W).
        is_special: bool (N, H, W), True where samples have a special value.
        missing: bool (N, H, W), True where samples are not valid and no mask hides them; everywhere where
            `is_special` is True.

    Returns:
        The bytes; none if no sample is special.
    """
    if not is_special.any():
        return b""
    # A band whose missing samples are all special needs no plane.
    planes = (is_special | ~missing) & is_special.any(axis=(1, 2), keepdims=True)
    bits = np.ascontiguousarray(cube[is_special]).view(f"u{cube.dtype.itemsize}")
    palette, indices = np.unique(bits, return_inverse=True)
    if len(palette) > _MAX_PALETTE:
        palette, values = palette[:0], bits.astype(bits.dtype.newbyteorder("<")).tobytes()
    else:
        values = indices.astype(np.uint8).tobytes() if len(palette) > 1 else b""
    stored = palette.astype(palette.dtype.newbyteorder("<")).tobytes()
    return pack_planes(planes) + bytes([len(palette)]) + stored + values


def decode_specials(data: bytes, missing: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what `encode_specials` encoded: `is_special`, and the special values in raster order.

    Args:
        data: the bytes.
        missing: as for `encode_specials`.
        dtype: type of the samples.

    Raises:
        DamagedError: `data` is damaged.
    """
    samples = np.dtype(dtype).newbyteorder("<")
    if not data:
        return np.zeros(missing.shape, bool), np.zeros(0, samples)
    planes, rest = unpack_planes(data, missing.shape)
    is_special = planes & missing
    count = int(is_special.sum())
    size = rest[0] if rest else 0
    end = 1 + size * samples.itemsize
    value_bytes = count * samples.itemsize if size == 0 else count if size > 1 else 0
    if len(rest) != end + value_bytes:
        raise DamagedError("the special values of a tile are damaged")
    palette, values = np.frombuffer(rest[1:end], samples), rest[end:]
    if size == 0:
        return is_special, np.frombuffer(values, samples)
    indices = np.frombuffer(values, np.uint8) if size > 1 else np.zeros(count, np.uint8)
    if indices.max(initial=0) >= size:
        raise DamagedError("the special values of a tile are damaged")
    return is_special, palette[indices]


def max_special_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Return the largest size of `encode_specials` for a tile (N, H, W)."""
    itemsize = np.dtype(dtype).itemsize
    return _most_bytes(shape) + 1 + _MAX_PALETTE * itemsize + math.prod(shape) * itemsize


# -- gaps -----------------------------------------------------------------------------------------


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
            # scipy loads `ndimage`, which takes long, when it is first used: most scenes have no gaps.
            edt = scipy.ndimage.distance_transform_edt
            nearest[key] = tuple(edt(~mask, return_distances=False, return_indices=True))
        plane[~mask] = plane[nearest[key]][~mask]
    return filled
