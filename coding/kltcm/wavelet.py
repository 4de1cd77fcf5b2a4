"""The discrete wavelet transform of a plane: 9/7 by lifting, and where its subbands lie.

The filters are the irreversible ones of JPEG 2000 (ISO/IEC 15444-1, Annex F; Cohen, Daubechies and Feauveau, doi
10.1002/cpa.3160450502), with symmetric extension. Here they are scaled so that an error of a coefficient is about the
same error of the plane, whatever its subband: a single quantizer step serves all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from coding.entropy.compiled import compiled

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
        places: int64 (H, W), where in a buffer each coefficient is, for a transformed plane of `analyze`.
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


def analyze(planes: np.ndarray) -> np.ndarray:
    """Planes (P, H, W), float64, to their wavelet coefficients: LL in the upper left corner, finer subbands around."""
    planes = planes.copy()
    _analyze(planes, subbands(*planes.shape[1:]).levels)
    return planes


def synthesize(coefficients: np.ndarray) -> np.ndarray:
    """The planes (P, H, W) of the coefficients of `analyze`."""
    planes = coefficients.copy()
    _synthesize(planes, subbands(*planes.shape[1:]).levels)
    return planes


def _half(h: int, w: int) -> tuple[int, int]:
    return (h + 1) // 2, (w + 1) // 2


@compiled
def _analyze(planes, levels):
    h, w = planes.shape[1:]
    for _ in range(levels):
        for p in range(len(planes)):
            columns = _split(planes[p, :h, :w].copy())
            planes[p, :h, :w] = _split(columns.T.copy()).T
        h, w = (h + 1) // 2, (w + 1) // 2


@compiled
def _synthesize(planes, levels):
    for level in range(levels - 1, -1, -1):
        h, w = planes.shape[1:]
        for _ in range(level):
            h, w = (h + 1) // 2, (w + 1) // 2
        for p in range(len(planes)):
            columns = _join(planes[p, :h, :w].T.copy()).T.copy()
            planes[p, :h, :w] = _join(columns)


@compiled
def _split(rows):
    """Rows (N, M) to low-pass rows, then high-pass rows."""
    count = (len(rows) + 1) // 2
    split = np.empty_like(rows)
    low, high = split[:count], split[count:]
    low[:], high[:] = rows[0::2], rows[1::2]
    if len(high):
        for i in (0, 2):
            _lift_high(low, high, _LIFTS[i])
            _lift_low(low, high, _LIFTS[i + 1])
        low *= _LOW
        high *= _HIGH
    return split


@compiled
def _join(split):
    """The rows (N, M) of `_split`."""
    count = (len(split) + 1) // 2
    low, high = split[:count].copy(), split[count:].copy()
    if len(high):
        low /= _LOW
        high /= _HIGH
        for i in (2, 0):
            _lift_low(low, high, -_LIFTS[i + 1])
            _lift_high(low, high, -_LIFTS[i])
    rows = np.empty_like(split)
    rows[0::2], rows[1::2] = low, high
    return rows


@compiled
def _lift_high(low, high, weight):
    """Add the low-pass rows on both sides to each high-pass row; the last stands for one that is missing."""
    for i in range(len(high)):
        before, after = low[i], low[min(i + 1, len(low) - 1)]
        for x in range(low.shape[1]):
            high[i, x] += weight * (before[x] + after[x])


@compiled
def _lift_low(low, high, weight):
    """Add the high-pass rows on both sides to each low-pass row; at the ends the nearest stands for both."""
    for i in range(len(low)):
        before, after = high[max(i - 1, 0)], high[min(i, len(high) - 1)]
        for x in range(low.shape[1]):
            low[i, x] += weight * (before[x] + after[x])
