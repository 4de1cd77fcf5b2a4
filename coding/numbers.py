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

_UINT32_MIDDLE = 2**31  # subtracted, so that all numbers fit into int32
_RANGES = {
    **INTEGER_RANGES,
    "uint32": (-_UINT32_MIDDLE, _UINT32_MIDDLE - 1),
    "float16": (-(2**24), 2**24),
    "float32": (-(2**24), 2**24),  # float32 represents every integer in this range
    "float64": (-(2**31) + 1, 2**31 - 1),
}
_DIVISORS = (1, 10, 100, 1000, 10_000, 100_000, 1_000_000)
"""Of floats that are rounded decimals; 10,000 is that of DATA.npy and other reflectances."""
_FRACTION_BITS = {"float16": 20, "float32": 20, "float64": 24}
"""Most binary places of the numbers of floats that have no exact divisor."""
_EXACT_INTEGERS = {"float16": 2**11, "float32": 2**24, "float64": 2**31 - 1}
"""Largest numbers of rounded decimals: beyond them floats are farther apart than decimals. Numbers fit into int32."""
_TESTED_FIRST = 4096  # samples; most divisors fail on them


@dataclass(frozen=True)
class Numbers:
    """A map between samples and integers: sample = number / divisor; of uint32, sample = number + 2^31.

    Attributes:
        dtype: type of the samples.
        divisor: 1 for integers; 0 for floats that are coded by their bits, for which the methods are undefined.
        bound: largest error, in numbers; None without a bound.
        has_short_quotient: whether the quotient is rounded to float32 first, which only matters for float64.
        has_negative_zeros: whether some samples are -0.0, which numbers do not tell from 0.
    """

    dtype: str
    divisor: int = 1
    bound: int | None = None
    has_short_quotient: bool = False
    has_negative_zeros: bool = False

    def of(self, samples: np.ndarray) -> np.ndarray:
        """Return the numbers of `samples`, int32."""
        if self.dtype == "uint32":
            return (samples.astype(np.int64) - _UINT32_MIDDLE).astype(np.int32)
        if self.dtype in INTEGER_RANGES:
            return samples.astype(np.int32)
        return np.rint(samples.astype(np.float64) * self.divisor).astype(np.int32)

    def samples(self, numbers: np.ndarray) -> np.ndarray:
        """Return the samples of `numbers`, of type `dtype`."""
        if self.dtype == "uint32":
            return (numbers.astype(np.int64) + _UINT32_MIDDLE).astype(np.uint32)
        if self.dtype in INTEGER_RANGES:
            return numbers.astype(self.dtype)
        quotient = "float64" if self.dtype == "float64" and not self.has_short_quotient else "float32"
        # Dividing gives the nearest float; multiplying by the inverse would not.
        samples = np.divide(numbers, self.divisor, dtype=quotient, casting="same_kind")
        largest = float(np.finfo(self.dtype).max)
        return (samples.clip(-largest, largest) if self.dtype == "float16" else samples).astype(self.dtype, copy=False)

    def clip(self, numbers: np.ndarray) -> np.ndarray:
        """Return `numbers` clipped to those of the samples' type; for floats to -2^24 to 2^24, float64 below 2^31."""
        return np.clip(numbers, *_RANGES[self.dtype])


def numbers_of(dtype: str, max_error: float | None, blocks: Iterable[np.ndarray], codes_bits: bool = False) -> Numbers:
    """Choose the map from samples to integers.

    Args:
        dtype: type of the samples.
        max_error: bound on the error, in the samples' units; None without a bound.
        blocks: arrays with all valid samples, iterated at most once, and only for floats with a bound.
        codes_bits: whether the codec can code floats by their bits, for a bound that no divisor allows.

    Raises:
        CodingError: no divisor keeps the bound, or a sample is NaN or infinite.
    """
    if dtype in INTEGER_RANGES:
        return Numbers(dtype, 1, None if max_error is None else min(int(max_error), MAX_BOUND))
    if max_error is None:
        return Numbers(dtype)
    exact, largest, has_negative_zeros = _exact_numbers(dtype, blocks)
    if exact is not None and (max_error == 0 or dtype != "float16"):
        bound = _exact_bound(max_error, exact.divisor, largest)
        signs = has_negative_zeros and bound == 0
        return Numbers(dtype, exact.divisor, bound, exact.has_short_quotient, signs)
    # Decoded samples of float16 are rounded, by up to half of the distance of the largest ones.
    spare = max_error - (2.0 ** (math.frexp(largest)[1] - 12) if dtype == "float16" else 0)
    is_too_fine = spare < max_error / 2 or spare * 2.0 ** _FRACTION_BITS[dtype] < 8
    bits = 0 if is_too_fine else max(math.ceil(math.log2(8 / spare)), 0)
    if not is_too_fine and largest * 2.0**bits <= _RANGES[dtype][1]:
        # Rounding to integers takes half a number of the bound.
        return Numbers(dtype, 2**bits, min(math.floor(spare * 2**bits - 0.5), MAX_BOUND))
    if codes_bits:
        return Numbers(dtype, 0, 0)
    if max_error == 0:
        raise CodingError(
            "a bound of 0 needs integers, or floats that are rounded to at most six decimals, got other floats: "
            "choose a larger --max-error"
        )
    raise CodingError(f"a bound of {max_error:g} is too fine for floats of up to {largest:g}: choose a larger one")


def _exact_bound(max_error: float, divisor: int, largest: float) -> int:
    """Return the bound, in numbers, of floats of up to `largest` that are numbers divided by `divisor`."""
    bound = min(math.floor(max_error * divisor + 1e-6), MAX_BOUND)
    # Samples and decoded samples are rounded, to float32 at worst, and may exceed the bound by a little.
    rounding = 1.5 * 2.0 ** (math.frexp(math.nextafter(largest, 0))[1] - 24)
    if bound / divisor + rounding <= max_error * (1 + 1e-6) + 1e-7:
        return bound
    return max(bound - math.ceil(rounding * divisor), 0)


def _exact_numbers(dtype: str, blocks: Iterable[np.ndarray]) -> tuple[Numbers | None, float, bool]:
    """Find the map with the smallest divisor that makes all floats integers.

    Returns:
        The map, None if there is none; the largest magnitude of a float; and whether some are -0.0.
    """
    quotients = (False, True) if dtype == "float64" else (False,)
    maps = [Numbers(dtype, divisor, 0, is_short) for is_short in quotients for divisor in _DIVISORS]
    largest, has_negative_zeros = 0.0, False
    for block in blocks:
        check_finite(block)
        largest = max(largest, float(np.abs(block).max(initial=0)))
        has_negative_zeros = has_negative_zeros or bool(np.signbit(block[block == 0]).any())
        maps = [numbers for numbers in maps if _is_exact(numbers, block, largest)]
    return maps[0] if maps else None, largest, has_negative_zeros


def _is_exact(numbers: Numbers, block: np.ndarray, largest: float) -> bool:
    """Return whether a map restores floats (N,) of up to `largest`."""
    most = _EXACT_INTEGERS["float32" if numbers.has_short_quotient else numbers.dtype]
    return largest * numbers.divisor <= most and all(
        np.array_equal(numbers.samples(numbers.of(part)), part) for part in (block.ravel()[:_TESTED_FIRST], block)
    )
