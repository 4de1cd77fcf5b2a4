"""Pixels that look like gaps in a scene without a nodata value."""

from __future__ import annotations

from collections import Counter

import numpy as np

from coding.hsc.records import Parts
from datasets.base import as_sample

FILL_VALUES = (-9999.0, -32768.0, 0.0, 65535.0)
"""Besides the ends of the type."""
MIN_BANDS = 4
"""In fewer bands a pixel may have such a value by chance."""


def count_fills(parts: Parts) -> Counter[float]:
    """Return the number of pixels of a tile that have the same suspicious value in all coded bands, by value."""
    cube, dtype = parts.cube, parts.cube.dtype
    fills: Counter[float] = Counter()
    if len(cube) < MIN_BANDS or any(value is not None for value in parts.nodata):
        return fills
    ends = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    for value in {*FILL_VALUES, float(ends.min), float(ends.max)}:
        if as_sample(value, dtype.name) is not None:
            pixels = (cube[0] == value) & parts.valid[0]
            fills[value] += int((cube[:, pixels] == value).all(axis=0).sum()) if pixels.any() else 0
    return fills


def fill_hint(fills: Counter[float]) -> str:
    """Return a hint at --nodata for the most frequent value, empty if there is none."""
    if not fills.total():
        return ""
    (value, count), *_ = fills.most_common(1)
    return f"{count} pixels are {value:.9g} in all bands: if that means no data, give --nodata {value:.9g}"
