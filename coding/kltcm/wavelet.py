"""The discrete wavelet transform of a plane (9/7, by lifting), and the layout of its subbands.

The filters are the irreversible ones of JPEG 2000 (ISO/IEC 15444-1, Annex F; Cohen, Daubechies and Feauveau, doi
10.1002/cpa.3160450502), with symmetric extension. They are scaled so that an error of a coefficient causes about the
same error of the plane in every subband: one quantizer step serves all subbands.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import compiled, inlined

MAX_LEVELS = 5
MARGIN = 3
"""Rows and columns of zeros on each side of a subband in a buffer."""

_MIN_SIDE = 4  # planes with a longer side below this are not split further
_LIFTING_STEPS = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
_LOW_PASS_NORM = 1.139764007655  # norms of the synthesis filters that lifting alone would give
_HIGH_PASS_NORM = 0.887277075636

LL, HL, LH, HH = range(4)
"""Orientations of subbands: low-pass in both directions, high-pass in the horizontal, the vertical, or both."""

_NOWHERE = 0  # a place in the padding, where all buffers are 0


class Subbands(NamedTuple):
    """The layout of N coefficients in a buffer: B subbands from coarse to fine, each with a margin of `MARGIN`.

    Attributes:
        levels: number of levels of the transform.
        size: length of a buffer.
        places: int64 (H, W), index in a buffer of each coefficient of `analyze`.
        order: int64 (N,), indices into a flattened transformed plane in the order of coding: by subbands, rows and
            columns.
        level: int64 (B,), level of each subband; 1 is the finest.
        orientation: int64 (B,), orientation of each subband.
        stride: int64 (B,), distance of two rows of each subband in a buffer.
        counts: int64 (B,), number of coefficients of each subband.
        scan: int64 (N,), index in a buffer of each coefficient in the order of coding.
        parents: int64 (N,), index of the coefficient one level coarser, of the same orientation or LL.
        siblings: int64 (N, 2), indices in the preceding subbands of the same level: HL twice for LH, HL and LH for HH.
            Here and in `parents`, a coefficient that has none is given an index where buffers are always 0.
    """

    levels: int
    size: int
    places: np.ndarray
    order: np.ndarray
    level: np.ndarray
    orientation: np.ndarray
    stride: np.ndarray
    counts: np.ndarray
    scan: np.ndarray
    parents: np.ndarray
    siblings: np.ndarray


@cache
def subbands(height: int, width: int) -> Subbands:
    """Return the layout of planes of this size; they are halved up to `MAX_LEVELS` times, to sides below 4."""
    sizes = [(height, width)]
    while len(sizes) <= MAX_LEVELS and max(sizes[-1]) >= _MIN_SIDE:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    levels = len(sizes) - 1
    corners = [(levels, LL, slice(sizes[-1][0]), slice(sizes[-1][1]))]
    for level in range(levels, 0, -1):
        (h, w), (low_h, low_w) = sizes[level - 1], sizes[level]
        corners += [
            (level, HL, slice(low_h), slice(low_w, w)),
            (level, LH, slice(low_h, h), slice(low_w)),
            (level, HH, slice(low_h, h), slice(low_w, w)),
        ]
    places, size = np.zeros((height, width), np.int64), 0
    found: dict[tuple[int, int], np.ndarray] = {}
    rows = []
    for level, orientation, *corner in corners:
        inside = places[tuple(corner)]
        if not inside.size:
            continue
        h, w = inside.shape
        stride = w + 2 * MARGIN
        inside[:] = size + MARGIN * (stride + 1) + np.arange(h)[:, None] * stride + np.arange(w)
        size += (h + 2 * MARGIN) * stride
        rows.append((level, orientation, stride, inside.size))
        found[level, orientation] = inside
    relatives = [_relatives(found, level, orientation) for level, orientation in found]
    parents, siblings = (np.concatenate(places) for places in zip(*relatives, strict=True))
    level, orientation, stride, counts = np.array(rows, np.int64).T.copy()
    order = places.ravel().argsort()
    scan = places.ravel()[order]
    return Subbands(levels, size, places, order, level, orientation, stride, counts, scan, parents, siblings)


def _relatives(found: dict[tuple[int, int], np.ndarray], level: int, orientation: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the parents (N,) and siblings (N, 2) of a subband; `found` has the indices of all subbands."""
    y, x = (axis.ravel() for axis in np.indices(found[level, orientation].shape))

    def at(subband: np.ndarray | None, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        if subband is None:
            return np.full(len(rows), _NOWHERE)
        return subband[np.minimum(rows, len(subband) - 1), np.minimum(columns, subband.shape[1] - 1)]

    lowest = next(iter(found.values()))
    parent = found.get((level + 1, orientation), lowest) if orientation != LL else None
    siblings = {LL: (), HL: (), LH: (HL, HL), HH: (HL, LH)}[orientation]
    places = [at(found.get((level, sibling)), y, x) for sibling in siblings] or [at(None, y, x)] * 2
    return at(parent, y >> 1, x >> 1), np.stack(places, axis=1)


def analyze(planes: np.ndarray) -> np.ndarray:
    """Return the wavelet coefficients (P, H, W) of planes (P, H, W), float64; LL is in the upper left corner."""
    planes = planes.copy()
    _analyze(planes, subbands(*planes.shape[1:]).levels)
    return planes


def synthesize(coefficients: np.ndarray) -> np.ndarray:
    """Return the planes (P, H, W), float64, of the coefficients (P, H, W) of `analyze`."""
    planes = coefficients.copy()
    _synthesize(planes, subbands(*planes.shape[1:]).levels)
    return planes


@compiled
def _analyze(planes, levels):
    height, width = planes.shape[1:]
    columns = np.empty((width, height))
    for _ in range(levels):
        for p in range(len(planes)):
            plane, turned = planes[p, :height, :width], columns[:width, :height]
            _split(plane, turned)
            _split(turned, plane)
        height, width = (height + 1) // 2, (width + 1) // 2


@compiled
def _synthesize(planes, levels):
    columns = np.empty((planes.shape[2], planes.shape[1]))
    for level in range(levels - 1, -1, -1):
        height, width = planes.shape[1:]
        for _ in range(level):
            height, width = (height + 1) // 2, (width + 1) // 2
        for p in range(len(planes)):
            plane, turned = planes[p, :height, :width], columns[:width, :height]
            _join(plane, turned)
            _join(turned, plane)


@inlined
def _split(rows, columns):
    """Filter rows (N, M) in place, and write them as columns (M, N), the low-pass ones first."""
    count = (len(rows) + 1) // 2
    for step in range(4):
        _lift(rows, 1 - step % 2, _LIFTING_STEPS[step])
    for x in range(rows.shape[1]):
        for i in range(len(rows)):
            columns[x, count * (i % 2) + i // 2] = rows[i, x] * _norm(rows, i)


@inlined
def _join(columns, rows):
    """Restore the rows (N, M) from the columns (M, N) of `_split`."""
    count = (len(rows) + 1) // 2
    for i in range(len(rows)):
        for x in range(rows.shape[1]):
            rows[i, x] = columns[x, count * (i % 2) + i // 2] / _norm(rows, i)
    for step in range(3, -1, -1):
        _lift(rows, 1 - step % 2, -_LIFTING_STEPS[step])


@inlined
def _norm(rows, i):
    if len(rows) == 1:
        return 1.0
    return _HIGH_PASS_NORM if i % 2 else _LOW_PASS_NORM


@inlined
def _lift(rows, first, weight):
    """Add the weighted rows on both sides to every second row from `first`; at the ends one row stands for both."""
    if len(rows) == 1:
        return
    for i in range(first, len(rows), 2):
        before, after = abs(i - 1), i + 1 if i + 1 < len(rows) else i - 1
        for x in range(rows.shape[1]):
            rows[i, x] += weight * (rows[before, x] + rows[after, x])
