"""The block-adaptive entropy coder of CCSDS 123.0-B-2, which is that of CCSDS 121.0-B-3 without its predictor."""

from __future__ import annotations

import math

import imagecodecs
import numpy as np

from coding.base import DamagedError
from coding.classical.ccsds123.header import Header
from coding.classical.ccsds123.sample_adaptive import has_periodic_limits

_SEGMENT_BLOCKS = 64


def decode(body: bytes, header: Header) -> np.ndarray:
    """Return the mapped quantizer indices of a compressed image, uint16 (C, H, W), and fill in its error limits.

    Raises:
        DamagedError: the codewords are damaged.
    """
    image, coder, predictor = header.image, header.coder, header.predictor
    limits = [
        limit.table[:, : None if limit.per_band else 1]
        for limit in (predictor.absolute, predictor.relative)
        if limit.bits and has_periodic_limits(header)
    ]
    size = math.prod(image.shape) + sum(table.size for table in limits)
    # The last codeword may stand for the zeros of a whole segment, also after the last sample.
    blocks = -(-size // coder.block_size) + _SEGMENT_BLOCKS
    dtype = np.dtype(np.uint16 if image.range_bits > 8 else np.uint8)
    flags = imagecodecs.AEC.FLAG.RESTRICTED if coder.restricted else 0
    try:
        decoded = imagecodecs.aec_decode(
            body,
            bitspersample=image.range_bits,
            flags=flags | imagecodecs.AEC.FLAG.NOT_ENFORCE,
            blocksize=coder.block_size,
            rsi=coder.interval,
            out=blocks * coder.block_size * dtype.itemsize,
        )
    except (imagecodecs.AecError, ValueError) as error:
        raise DamagedError(f"the codewords of a compressed image are damaged ({error})") from None
    values = np.frombuffer(decoded, dtype)
    if len(values) < size:
        raise DamagedError("the codewords of a compressed image are damaged or end early")
    samples = _without_limits(values[:size], limits, image.shape, predictor.period_bits)
    return _in_order(samples.astype(np.uint16), image.shape, image.depth)


def _without_limits(
    values: np.ndarray, limits: list[np.ndarray], shape: tuple[int, int, int], period_bits: int
) -> np.ndarray:
    """Move the error limits that stand before the samples of some rows to their tables, and return the samples."""
    bands, height, width = shape
    parts = []
    for period, first in enumerate(range(0, height, 1 << period_bits)):
        for table in limits:
            table[period], values = values[: table.shape[1]], values[table.shape[1] :]
        count = min(1 << period_bits, height - first) * bands * width
        parts.append(values[:count])
        values = values[count:]
    return np.concatenate(parts)


def _in_order(values: np.ndarray, shape: tuple[int, int, int], depth: int) -> np.ndarray:
    """Return samples in the order of the stream as an array (C, H, W)."""
    bands, height, width = shape
    if not depth:
        return values.reshape(shape)
    rows = values.reshape(height, bands * width)
    parts = [
        rows[:, first * width : (first + depth) * width].reshape(height, width, -1) for first in range(0, bands, depth)
    ]
    return np.ascontiguousarray(np.concatenate(parts, 2).transpose(2, 0, 1))
