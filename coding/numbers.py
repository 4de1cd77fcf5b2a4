"""Samples as whole numbers, for codecs that must keep a bound exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, check_finite
from datasets.base import INTEGER_RANGES

MOST_DIVISOR = 2**24
MOST_BOUND = 2**24 - 1

_RANGES = {**INTEGER_RANGES, "float32": (-(2**24), 2**24)}  # of floats: whole numbers without gaps
_DECIMAL = 10_000
"""Divisor of DATA.npy and other reflectances, which are integer multiples of 1e-4."""
_MOST_FRACTION_BITS = 20
"""Binary places of other floats."""
_MOST_OF_DECIMALS = 2**21 - 1
"""Largest number of floats without loss; larger ones are coded by their bits, where the codec can do that."""


@dataclass(frozen=True)
class Numbers:
    """A map between samples and whole numbers: sample = number / divisor.

    Attributes:
        dtype: type of the samples.
        divisor: 1 for integers; 0 for floats that are coded by their bits, which no method here knows.
        bound: largest error in numbers; None without a bound.
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
        # A true division: it gives the float32 nearest to the quotient.
        return (numbers.astype(np.float32) / np.float32(self.divisor)).astype(np.float32)

    def clip(self, numbers: np.ndarray) -> np.ndarray:
        """Return `numbers` clipped to those that samples can have."""
        return np.clip(numbers, *_RANGES[self.dtype])


def numbers_of(dtype: str, max_error: float | None, blocks: Iterable[np.ndarray], codes_bits: bool = False) -> Numbers:
    """Return the numbers that samples are coded by.

    Args:
        dtype: type of the samples.
        max_error: bound on the error in the samples' units; None without a bound.
        blocks: all valid samples as arrays, iterated at most once, where floats have to be looked at.
        codes_bits: whether the codec can code floats by their bits where no other way is without loss.

    Raises:
        CodingError: a bound that such floats cannot keep.
    """
    if dtype != "float32":
        return Numbers(dtype, 1, None if max_error is None else min(int(max_error), MOST_BOUND))
    if max_error is None:
        return Numbers(dtype)
    divisor, largest = _exact_divisor(blocks)
    most = _MOST_OF_DECIMALS if codes_bits and max_error == 0 else _RANGES[dtype][1]
    if divisor and largest * divisor <= most:
        return Numbers(dtype, divisor, min(math.floor(max_error * divisor + 1e-6), MOST_BOUND))
    if max_error == 0 and codes_bits:
        return Numbers(dtype, 0, 0)
    if max_error == 0:
        raise CodingError(
            "a bound of 0 needs integers, or floats that are integer multiples of 1e-4, got other floats: "
            "give a larger --max-error"
        )
    is_too_fine = max_error * 2.0**_MOST_FRACTION_BITS < 8
    bits = 0 if is_too_fine else max(math.ceil(math.log2(8 / max_error)), 0)
    if is_too_fine or largest * 2.0**bits > _RANGES[dtype][1]:
        raise CodingError(f"a bound of {max_error:g} is too fine for floats of up to {largest:g}: give a larger one")
    # Half a step goes into rounding to whole numbers.
    return Numbers(dtype, 2**bits, min(math.floor(max_error * 2**bits - 0.5), MOST_BOUND))


def _exact_divisor(blocks: Iterable[np.ndarray]) -> tuple[int | None, float]:
    """Return the divisor by which floats are whole numbers, None if there is none, and their largest magnitude."""
    is_whole, is_decimal, largest = True, True, 0.0
    decimals = Numbers("float32", _DECIMAL)
    for block in blocks:
        check_finite(block)
        largest = max(largest, float(np.abs(block).max(initial=0)))
        is_whole = is_whole and bool((block == np.rint(block)).all())
        is_decimal = is_decimal and largest * _DECIMAL <= _RANGES["float32"][1]
        is_decimal = is_decimal and bool(np.array_equal(decimals.samples(decimals.of(block)), block))
    return 1 if is_whole else _DECIMAL if is_decimal else None, largest
