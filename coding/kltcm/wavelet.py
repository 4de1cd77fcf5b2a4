"""The discrete wavelet transform of a plane: 9/7 by lifting, and where its subbands lie.

The filters are the irreversible ones of JPEG 2000 (ISO/IEC 15444-1, Annex F; Cohen, Daubechies and Feauveau, doi
10.1002/cpa.3160450502), with symmetric extension. Here they are scaled so that an error of a coefficient is about the
same error of the plane, whatever its subband: a single quantiser step serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

MOST_LEVELS = 5
_LIFTS = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
_LOW = 1.139764007655  # norm of the synthesis filter of a low-pass coefficient, after lifting alone
_HIGH = 0.887277075636  # of a high-pass coefficient
PADDING = 2
"""Zeros around each subband, so that contexts may look over its edge."""
LEVEL, ORIENTATION, HEIGHT, WIDTH, FIRST, STRIDE, PARENT, SIBLING, SECOND_SIBLING = range(9)
"""What a row of `Subbands.table` holds: level (1 is the finest), orientation (0 LL, 1 HL, 2 LH, 3 HH), size, where in a
buffer its first coefficient and how far apart its rows are, and by their rows, -1 where there is none, the subband of
its orientation one level coarser (LL for the coarsest) and those of its level that precede it."""


@dataclass(frozen=True)
class Subbands:
    """How the coefficients of planes (H, W) lie in a buffer, subband by subband from coarse to fine.

    Attributes:
        levels: of the transform.
        table: int64 (B, 9), see `LEVEL`.
        size: of a buffer.
        places: int64 (H, W), where in a buffer each coefficient is, for a transformed plane of `analyse`.
        order: int64 (H * W,), the coefficients of a flattened transformed plane by subbands, rows and columns.
        counts: int64 (B,), coefficients of each subband.
    """

    levels: int
    table: np.ndarray
    size: int
    places: np.ndarray
    order: np.ndarray
    counts: np.ndarray


@cache
def subbands(height: int, width: int) -> Subbands:
    """The subbands of planes of this size: halved while a side has 4 coefficients, at most `MOST_LEVELS` times."""
    sizes = [(height, width)]
    while len(sizes) <= MOST_LEVELS and max(sizes[-1]) >= 4:
        sizes.append(_half(*sizes[-1]))
    levels = len(sizes) - 1
    corners = [(levels, 0, 0, 0, *sizes[-1])]
    for level in range(levels, 0, -1):
        (h, w), (low_h, low_w) = sizes[level - 1], sizes[level]
        corners += [
            (level, 1, 0, low_w, low_h, w - low_w),
            (level, 2, low_h, 0, h - low_h, low_w),
            (level, 3, low_h, low_w, h - low_h, w - low_w),
        ]
    corners = [corner for corner in corners if corner[4] and corner[5]]
    rows = {corner[:2]: row for row, corner in enumerate(corners)}
    table, places, size = [], np.zeros((height, width), np.int64), 0
    for level, orientation, y, x, h, w in corners:
        stride = w + 2 * PADDING
        first = size + PADDING * stride + PADDING
        size += (h + 2 * PADDING) * stride
        places[y : y + h, x : x + w] = first + np.arange(h)[:, None] * stride + np.arange(w)
        parent = rows.get((level + 1, orientation), 0) if orientation else -1
        siblings = [rows.get((level, other), -1) if orientation > other else -1 for other in (1, 2)]
        table.append((level, orientation, h, w, first, stride, parent, *siblings))
    table = np.array(table, np.int64)
    return Subbands(levels, table, size, places, places.ravel().argsort(), table[:, HEIGHT] * table[:, WIDTH])


def analyse(planes: np.ndarray) -> np.ndarray:
    """Planes (P, H, W), float64, to their wavelet coefficients: LL in the upper left corner, finer subbands around."""
    planes = planes.copy()
    h, w = planes.shape[1:]
    for _ in range(subbands(h, w).levels):
        corner = planes[:, :h, :w]
        corner[:] = _split(corner)
        corner[:] = _split(corner.swapaxes(1, 2)).swapaxes(1, 2)
        h, w = _half(h, w)
    return planes


def synthesise(coefficients: np.ndarray) -> np.ndarray:
    """The planes (P, H, W) of the coefficients of `analyse`."""
    planes = coefficients.copy()
    sizes = [planes.shape[1:]]
    for _ in range(subbands(*sizes[0]).levels):
        sizes.append(_half(*sizes[-1]))
    for h, w in reversed(sizes[:-1]):
        corner = planes[:, :h, :w]
        corner[:] = _join(corner.swapaxes(1, 2)).swapaxes(1, 2)
        corner[:] = _join(corner)
    return planes


def _half(h: int, w: int) -> tuple[int, int]:
    return (h + 1) // 2, (w + 1) // 2


def _split(planes: np.ndarray) -> np.ndarray:
    """Rows (P, N, M) to low-pass rows, then high-pass rows."""
    low, high = planes[:, 0::2].copy(), planes[:, 1::2].copy()
    if high.shape[1]:
        for i in (0, 2):
            high += _LIFTS[i] * _around_high(low, high.shape[1])
            low += _LIFTS[i + 1] * _around_low(high, low.shape[1])
        low *= _LOW
        high *= _HIGH
    return np.concatenate([low, high], axis=1)


def _join(planes: np.ndarray) -> np.ndarray:
    """The rows (P, N, M) of `_split`."""
    count = (planes.shape[1] + 1) // 2
    low, high = planes[:, :count].copy(), planes[:, count:].copy()
    if high.shape[1]:
        low /= _LOW
        high /= _HIGH
        for i in (2, 0):
            low -= _LIFTS[i + 1] * _around_low(high, low.shape[1])
            high -= _LIFTS[i] * _around_high(low, high.shape[1])
    joined = np.empty_like(planes)
    joined[:, 0::2], joined[:, 1::2] = low, high
    return joined


def _around_high(low: np.ndarray, count: int) -> np.ndarray:
    """The sum of the low-pass rows on both sides of each of `count` high-pass rows."""
    after = low[:, 1:] if low.shape[1] > count else np.concatenate([low[:, 1:], low[:, -1:]], axis=1)
    return low[:, :count] + after


def _around_low(high: np.ndarray, count: int) -> np.ndarray:
    """The sum of the high-pass rows on both sides of each of `count` low-pass rows."""
    after = high if high.shape[1] == count else np.concatenate([high, high[:, -1:]], axis=1)
    return np.concatenate([high[:, :1], high], axis=1)[:, :count] + after
