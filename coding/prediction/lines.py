"""Floats that were made of integers by a gain and an offset for each band, as in radiances of calibrated products.

    float = integer gain + offset, rounded        plus a correction, counted in floats, that is nearly always 0

Gains and offsets are found by the distances of the values of a band. Decoding needs a product, a sum and a rounding in
float64, which IEEE 754 fixes to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coding.base import DamagedError, join_blocks, split_blocks
from coding.prediction.samples import Known, decode_samples, encode_samples

_MAX_NUMBER = 2**20
_MAX_DIVISOR = 6  # of the smallest distance of two values: not all integers occur
_TOLERANCE = {2: 2.0, 4: 2.0, 8: 64.0}  # bytes of a float -> distances of floats that a value may be off its line
_ROUNDINGS: tuple[Callable[[float], float], ...] = (
    float,
    lambda value: float(np.float32(value)),
    lambda value: float(f"{value:.7g}"),
    lambda value: float(f"{value:.12g}"),
)
"""What gains and offsets probably are."""
_NEARLY_WHOLE = 1e-2  # distance from an integer of an offset that is a multiple of the gain


def find_lines(cube: np.ndarray) -> np.ndarray | None:
    """Return the gains and offsets of the bands of a cube of floats, float64 (2, C), or None if there are none."""
    lines = np.zeros((2, len(cube)))
    for index, band in enumerate(cube):
        found = _find_line(np.unique(band).astype(np.float64), cube.dtype)
        if found is None:
            return None
        lines[:, index] = found
    return lines


def encode_lines(cube: np.ndarray, lines: np.ndarray, gaps: Known) -> bytes | None:
    """Encode a cube (C, H, W) of floats without loss, or return None if the corrections are too large."""
    gains, offsets = lines[:, :, None, None]
    numbers = np.rint((cube - offsets) / gains).astype(np.int32)
    corrections = ordered_bits(cube).astype(np.int64) - ordered_bits(_on_lines(numbers, lines, cube.dtype.name))
    if np.abs(corrections).max() > _MAX_NUMBER:
        return None
    coded = [encode_samples(integers, 0, known=gaps)[0] for integers in (numbers, corrections)]
    return join_blocks([lines.astype("<f8").tobytes(), *coded])


def decode_lines(data: bytes, shape: tuple[int, ...], dtype: str, gaps: Known) -> np.ndarray:
    """Return the cube (C, H, W) that `encode_lines` encoded.

    Raises:
        DamagedError: `data` is damaged.
    """
    packed, coded_numbers, coded_corrections = split_blocks(data, 3)
    if len(packed) != 16 * shape[0]:
        raise DamagedError(f"the lines of {shape[0]} bands must have {16 * shape[0]} bytes, got {len(packed)}")
    lines = np.frombuffer(packed, "<f8").astype(np.float64).reshape(2, -1)
    cube = _on_lines(decode_samples(coded_numbers, shape, 0, known=gaps), lines, dtype)
    ordered = ordered_bits(cube)
    ordered += decode_samples(coded_corrections, shape, 0, known=gaps).astype(ordered.dtype)
    return ordered_bits(ordered.view(dtype)).view(dtype)


def _on_lines(numbers: np.ndarray, lines: np.ndarray, dtype: str) -> np.ndarray:
    """Return the floats of integers (C, H, W)."""
    with np.errstate(all="ignore"):  # damaged lines
        values = numbers * lines[0][:, None, None]  # apart from the sum, so that nothing fuses them
        values += lines[1][:, None, None]
        return values.astype(dtype)


def ordered_bits(floats: np.ndarray) -> np.ndarray:
    """Return the bits of floats, or of such integers, as signed integers that rise with the floats: its own inverse."""
    bits = floats.view(f"i{floats.itemsize}")
    return bits ^ ((bits >> (8 * bits.itemsize - 1)) & np.iinfo(bits.dtype).max)


def _find_line(values: np.ndarray, dtype: np.dtype) -> tuple[float, float] | None:
    """Return gain and offset of the rising values of a band, float64 (V,)."""
    if len(values) == 1:
        return 1.0, float(values[0])
    with np.errstate(over="ignore"):
        error = float(np.spacing(np.abs(values[[0, -1]]).max().astype(dtype)))
        smallest, span = float(np.diff(values).min()), float(values[-1] - values[0])
    if not 8 * error <= smallest or not span <= _MAX_NUMBER * smallest:  # NaN at the largest float
        return None
    for divisor in range(1, _MAX_DIVISOR + 1):
        gain, offset = _fit(values, smallest / divisor, error)
        distances = np.abs(np.rint((values - offset) / gain) * gain + offset - values)
        if distances.max() <= _TOLERANCE[dtype.itemsize] * error:
            return _fewest_corrections(values, gain, offset, dtype)
    return None


def _fit(values: np.ndarray, gain: float, error: float) -> tuple[float, float]:
    """Return gain and offset of the line that is nearest to values, in ever larger parts of them."""
    offset, steps = float(values[0]), 4.0
    while True:
        # So many steps from the first value on, the gain is exact enough to tell the integers.
        part = values[values <= values[0] + steps * gain]
        numbers = np.rint((part - offset) / gain)
        if len(part) > 1 and numbers[-1] > numbers[0]:
            gain, offset = map(float, np.polynomial.polynomial.polyfit(numbers, part, 1)[::-1])
        if len(part) == len(values) or gain <= 2 * error:
            return gain, offset
        steps *= 2


def _fewest_corrections(values: np.ndarray, gain: float, offset: float, dtype: np.dtype) -> tuple[float, float]:
    """Return the line, of several near one, on which the most values lie exactly."""
    candidates = [(rounded(gain), rounded(offset)) for rounded in _ROUNDINGS]
    whole = offset / gain
    if abs(whole - round(whole)) < _NEARLY_WHOLE:
        numbers = np.rint(values / gain)
        slope = float(numbers @ values / (numbers @ numbers))
        candidates += [(rounded(slope), 0.0) for rounded in _ROUNDINGS]
        candidates += [(1 / rounded(1 / slope), 0.0) for rounded in _ROUNDINGS]
    right = [
        np.count_nonzero((np.rint((values - start) / slope) * slope + start).astype(dtype) == values)
        for slope, start in candidates
    ]
    return candidates[int(np.argmax(right))]
