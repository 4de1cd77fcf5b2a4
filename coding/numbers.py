"""Samples as integers, for codecs that must keep a bound exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, check_finite
from datasets.base import INTEGER_RANGES

MAX_DIVISOR = 2**24
MAX_BOUND = 2**24 - 1

_RANGES = {**INTEGER_RANGES, "float32": (-(2**24), 2**24)}  # float32 represents every integer in this range
_DECIMAL_DIVISOR = 10_000
"""Divisor of DATA.npy and other reflectances, which are integer multiples of 1e-4."""
_MAX_FRACTION_BITS = 20
"""Of the numbers of floats that have no exact divisor."""
_MAX_LOSSLESS_NUMBER = 2**21 - 1
"""Floats with larger numbers are coded losslessly by their bits, where the codec can do that."""


@dataclass(frozen=True)
class Numbers:
    """A map between samples and integers: sample = number / divisor.

    Attributes:
        dtype: type of the samples.
        divisor: 1 for integers; 0 for floats that are coded by their bits, for which the methods are undefined.
        bound: largest error, in numbers; None without a bound.
    """

    dtype: str
    divisor: int = 1
    bound: int | None = None

    def of(self, samples: np.ndarray) -> np.ndarray:
        """Return the numbers of `samples`, int32."""
        if self.dtype != "float32":
            return samples.astype(np.int32)
        return np.rint(samples.astype(np.float64) * self.divisor).astype(np.int32)

    def samples(self, numbers: np.ndarray) -> np.ndarray:
        """Return the samples of `numbers`, of type `dtype`."""
        if self.dtype != "float32":
            return numbers.astype(self.dtype)
        # Dividing gives the nearest float32; multiplying by the inverse would not.
        return (numbers.astype(np.float32) / np.float32(self.divisor)).astype(np.float32)

    def clip(self, numbers: np.ndarray) -> np.ndarray:
        """Return `numbers` clipped to the range of the samples' type; float32: -2^24 to 2^24."""
        return np.clip(numbers, *_RANGES[self.dtype])


def numbers_of(dtype: str, max_error: float | None, blocks: Iterable[np.ndarray], codes_bits: bool = False) -> Numbers:
    """Choose the map from samples to integers.

    Args:
        dtype: type of the samples.
        max_error: bound on the error, in the samples' units; None without a bound.
        blocks: arrays with all valid samples, iterated at most once, and only for floats with a bound.
        codes_bits: whether the codec can code floats by their bits, for a bound of 0 that no divisor allows.

    Raises:
        CodingError: no divisor keeps the bound, or a sample is NaN or infinite.
    """
    if dtype != "float32":
        return Numbers(dtype, 1, None if max_error is None else min(int(max_error), MAX_BOUND))
    if max_error is None:
        return Numbers(dtype)
    divisor, largest = _exact_divisor(blocks)
    most = _MAX_LOSSLESS_NUMBER if codes_bits and max_error == 0 else _RANGES[dtype][1]
    if divisor and largest * divisor <= most:
        return Numbers(dtype, divisor, min(math.floor(max_error * divisor + 1e-6), MAX_BOUND))
    if max_error == 0 and codes_bits:
        return Numbers(dtype, 0, 0)
    if max_error == 0:
        raise CodingError(
            "a bound of 0 needs integers, or floats that are integer multiples of 1e-4, got other floats: "
            "choose a larger --max-error"
        )
    is_too_fine = max_error * 2.0**_MAX_FRACTION_BITS < 8
    bits = 0 if is_too_fine else max(math.ceil(math.log2(8 / max_error)), 0)
    if is_too_fine or largest * 2.0**bits > _RANGES[dtype][1]:
        raise CodingError(f"a bound of {max_error:g} is too fine for floats of up to {largest:g}: choose a larger one")
    # Rounding to integers takes half a number of the bound.
    return Numbers(dtype, 2**bits, min(math.floor(max_error * 2**bits - 0.5), MAX_BOUND))


def _exact_divisor(blocks: Iterable[np.ndarray]) -> tuple[int | None, float]:
    """Return the divisor that makes all floats integers, None if there is none, and their largest magnitude."""
    is_whole, is_decimal, largest = True, True, 0.0
    decimals = Numbers("float32", _DECIMAL_DIVISOR)
    for block in blocks:
        check_finite(block)
        largest = max(largest, float(np.abs(block).max(initial=0)))
        is_whole = is_whole and bool((block == np.rint(block)).all())
        is_decimal = is_decimal and largest * _DECIMAL_DIVISOR <= _RANGES["float32"][1]
        is_decimal = is_decimal and bool(np.array_equal(decimals.samples(decimals.of(block)), block))
    return 1 if is_whole else _DECIMAL_DIVISOR if is_decimal else None, largest
