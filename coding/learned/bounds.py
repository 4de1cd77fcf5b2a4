r"""A guaranteed error bound with a floating-point prediction: all machines round it to the same integers.

::

    prediction x_hat ─► rounded to a multiple of the grid: p ─┐
    samples v ─────────────────────────────► r = v - p ─► q = round(r / (2 E + 1)) ─► coded
    decoded: p + q (2 E + 1), within E of v

The decoder computes x_hat again, perhaps on a machine whose sums round differently, and a prediction near a rounding
boundary may then fall on the other side. The encoder therefore lists the predictions within `MARGIN` of a boundary,
with their side: machines whose predictions differ by less than that all round alike. A coarse grid has few boundaries,
and costs little if it is fine compared with the prediction errors.
"""

from __future__ import annotations

import numpy as np

from coding.base import DamagedError, deflate, inflate, join_blocks, split_blocks

MARGIN = 0.02
"""Largest distance of listed predictions from a rounding boundary, in numbers (see `coding.numbers`)."""

_ESCAPE = 255
MAX_GRID = 2**15


def choose_grid(prediction: np.ndarray, samples: np.ndarray, valid: np.ndarray, bound: int) -> int:
    """Return a grid, 1 to `MAX_GRID`, that is fine compared with the residuals' step or with the prediction errors.

    Args:
        prediction: float64 (C, H, W), in numbers.
        samples: integers (C, H, W).
        valid: bool (C, H, W), False where there is no data.
        bound: E, at least 0.
    """
    errors = np.abs(prediction - samples)[valid]
    typical = float(errors.mean()) if errors.size else 0.0
    return int(np.clip(max(2 * bound + 1, typical) / 6, 1, MAX_GRID))


def round_to_grid(prediction: np.ndarray, grid: int) -> tuple[np.ndarray, bytes]:
    """Return the multiples of `grid` nearest to `prediction`, int32, and the list for `round_as_listed`."""
    scaled = prediction / grid
    rounded = np.floor(scaled + 0.5)
    # Boundaries are halfway between integers, so the distance from one is 0.5 - distance.
    distance = np.abs(scaled - rounded)
    close = np.flatnonzero(distance > 0.5 - MARGIN / grid)
    upper = rounded.ravel()[close] > np.floor(scaled.ravel()[close])
    listed = join_blocks([_pack_positions(close), np.packbits(upper).tobytes()])
    return rounded.astype(np.int32) * np.int32(grid), listed


def round_as_listed(prediction: np.ndarray, grid: int, listed: bytes) -> np.ndarray:
    """Return the multiples of `round_to_grid` for a prediction that differs by less than `MARGIN`.

    Raises:
        DamagedError: `listed` is damaged.
    """
    scaled = prediction / grid
    rounded = np.floor(scaled + 0.5)
    packed, sides = split_blocks(listed, 2)
    close = _unpack_positions(packed, prediction.size)
    if len(sides) != -(-len(close) // 8):
        raise DamagedError("the list of samples at rounding boundaries is damaged")
    upper = np.unpackbits(np.frombuffer(sides, np.uint8), count=len(close))
    # The integer below the boundary is the same for predictions on either side.
    below = np.floor(2 * scaled.ravel()[close] + 0.5) // 2
    rounded.ravel()[close] = below + upper
    return rounded.astype(np.int32) * np.int32(grid)


def quantize(residual: np.ndarray, bound: int) -> np.ndarray:
    """Return integers q with |residual - q (2 bound + 1)| <= bound."""
    step = 2 * bound + 1
    return (residual + bound) // step


def _pack_positions(positions: np.ndarray) -> bytes:
    """Pack rising positions as gaps of a byte each; a byte of 255 adds 255 to the next byte."""
    gaps = np.diff(positions, prepend=-1) - 1
    escapes, rest = np.divmod(gaps, _ESCAPE)
    content = np.full(len(gaps) + int(escapes.sum()), _ESCAPE, np.uint8)
    content[np.cumsum(escapes + 1) - 1] = rest
    return deflate(content.tobytes())


def _unpack_positions(data: bytes, size: int) -> np.ndarray:
    content = np.frombuffer(inflate(data, limit=size + size // _ESCAPE + 1), np.uint8).astype(np.int64)
    ends = np.flatnonzero(content != _ESCAPE)
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        raise DamagedError("the list of samples at rounding boundaries is damaged")
    sums = np.cumsum(content)
    positions = sums[ends] + np.arange(len(ends))
    if len(positions) and positions[-1] >= size:
        raise DamagedError("the list of samples at rounding boundaries is damaged")
    return positions
