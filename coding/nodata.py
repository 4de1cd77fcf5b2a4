"""Decoded samples that would read as nodata although they are valid: they move to the next value."""

from __future__ import annotations

import numpy as np

from .numbers import Numbers


def round_samples(values: np.ndarray, numbers: Numbers, nodata: float | None) -> np.ndarray:
    """Decoded values, without a bound on their error, in the scene's type, none of them its nodata value.

    Args:
        values: floats (C, H, W) in the samples' units.
        numbers: of the scene.
        nodata: the scene's.
    """
    samples = np.empty(values.shape, numbers.dtype)
    for band, plane in zip(samples, values, strict=True):  # one by one: little memory beside the result
        if numbers.dtype == "float32":
            band[:] = plane
            if nodata is not None:
                hit = band == np.float32(nodata)
                band[hit] = np.nextafter(band[hit], np.float32(np.inf))
            continue
        rounded = numbers.clip(np.rint(np.nan_to_num(plane))).astype(np.int32)
        if numbers.nodata is not None:
            rounded[rounded == numbers.nodata] += 1 if numbers.clip(numbers.nodata + 1) > numbers.nodata else -1
        band[:] = numbers.samples(rounded)
    return samples


def avoid_nodata(decoded: np.ndarray, targets: np.ndarray, valid: np.ndarray, nodata: int | None) -> bytes:
    """Move valid numbers off `nodata`, in place: towards the original, so that a bound still holds.

    Args:
        decoded: whole numbers (C, H, W).
        targets: the original's.
        valid: bool (C, H, W).
        nodata: None where no number reads as nodata.

    Returns:
        For `restore_moves`, where they moved.
    """
    hit = _hits(decoded, valid, nodata)
    up = targets.ravel()[hit] > nodata if len(hit) else np.zeros(0, bool)
    decoded.ravel()[hit] += np.where(up, 1, -1)
    return np.packbits(up).tobytes()


def restore_moves(decoded: np.ndarray, valid: np.ndarray, nodata: int | None, moved: bytes) -> bool:
    """Do what `avoid_nodata` did; whether there were as many numbers to move."""
    hit = _hits(decoded, valid, nodata)
    if len(moved) != -(-len(hit) // 8):
        return False
    up = np.unpackbits(np.frombuffer(moved, np.uint8), count=len(hit))
    decoded.ravel()[hit] += np.where(up, 1, -1).astype(decoded.dtype)
    return True


def _hits(decoded, valid, nodata):
    return np.flatnonzero((decoded == nodata) & valid) if nodata is not None else np.zeros(0, np.int64)
