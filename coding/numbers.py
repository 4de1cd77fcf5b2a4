"""Samples of a scene as integers, for what must hold exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coding.base import CodingError
from datasets.base import INTEGER_RANGES

_RANGES = {**INTEGER_RANGES, "float32": (-(2**24), 2**24)}  # of floats: whole numbers without gaps
_DECIMAL = 10_000  # DATA.npy and other reflectances are whole numbers over this
_MAX_BOUND = 2**24 - 1
_MOST_BITS = 20  # of the fraction of other floats
MOST_DIVISOR = 2**24
_MOST_BESIDE_BITS = 2**21 - 1  # numbers of floats that are not coded by their bits where that can be chosen


@dataclass(frozen=True)
class Numbers:
    """How samples and whole numbers belong together: sample = number / divisor.

    Attributes:
        dtype: of the samples.
        divisor: 1 for integers; 0 for floats that are coded by their bits, which no method here knows.
        bound: largest error in numbers; None where none is asked for.
        nodata: no valid number comes out as this one; None where no number would.
    """

    dtype: str
    divisor: int = 1
    bound: int | None = None
    nodata: int | None = None

    def of(self, samples: np.ndarray) -> np.ndarray:
        """Samples to int32."""
        if self.dtype != "float32":
            return samples.astype(np.int32)
        return np.rint(samples.astype(np.float64) * self.divisor).astype(np.int32)

    def samples(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers to samples of the scene's type."""
        if self.dtype != "float32":
            return numbers.astype(self.dtype)
        # A true division: it gives the float32 nearest to the quotient.
        return (numbers.astype(np.float32) / np.float32(self.divisor)).astype(np.float32)

    def clip(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers that samples can have."""
        return np.clip(numbers, *_RANGES[self.dtype])


def numbers_of(dtype: str, nodata: float | None, max_error: float | None, blocks, knows_bits: bool = False) -> Numbers:
    """The `Numbers` of a scene.

    Args:
        max_error: in the samples' own units, None for no bound.
        blocks: arrays of the valid samples of the scene, iterated at most once, where floats need looking at.
        knows_bits: whether floats may be coded by their bits where nothing else is without loss.

    Raises:
        CodingError: a bound that such floats cannot keep.
    """
    if dtype != "float32":
        bound = None if max_error is None else min(int(max_error), _MAX_BOUND)
        return Numbers(dtype, 1, bound, number_of(nodata, dtype, 1))
    if max_error is None:
        return Numbers(dtype)
    is_decimal, is_whole, largest = True, True, 0.0
    for block in blocks:
        if not np.isfinite(block).all():
            raise CodingError("NaN or infinity among the samples: name it as nodata, or mend it")
        largest = max(largest, float(np.abs(block).max(initial=0)))
        is_whole = is_whole and bool((block == np.rint(block)).all())
        is_decimal = is_decimal and largest * _DECIMAL <= _RANGES[dtype][1]
        is_decimal = is_decimal and bool(np.array_equal(Numbers(dtype, _DECIMAL).samples(_decimals(block)), block))
    divisor = 1 if is_whole else _DECIMAL if is_decimal else None
    most = _MOST_BESIDE_BITS if knows_bits and max_error == 0 else _RANGES[dtype][1]
    if divisor and largest * divisor <= most:
        return Numbers(
            dtype, divisor, min(math.floor(max_error * divisor + 1e-6), _MAX_BOUND), number_of(nodata, dtype, divisor)
        )
    if max_error == 0 and knows_bits:
        return Numbers(dtype, 0, 0, None)
    if max_error == 0:
        raise CodingError(
            "a bound of 0 needs integers, or floats that are whole numbers over 10000, and these floats are neither: "
            "give a larger --max-error"
        )
    is_fine = max_error * 2.0**_MOST_BITS < 8
    bits = 0 if is_fine else max(math.ceil(math.log2(8 / max_error)), 0)
    if is_fine or largest * 2.0**bits > _RANGES[dtype][1]:
        raise CodingError(f"a bound of {max_error:g} is too fine for floats of up to {largest:g}: give a larger one")
    divisor = 2**bits
    # Half a step goes into rounding to whole numbers.
    return Numbers(
        dtype, divisor, min(math.floor(max_error * divisor - 0.5), _MAX_BOUND), number_of(nodata, dtype, divisor)
    )


def _decimals(block: np.ndarray) -> np.ndarray:
    return np.rint(block.astype(np.float64) * _DECIMAL).astype(np.int64)


def number_of(nodata: float | None, dtype: str, divisor: int) -> int | None:
    """The number whose sample is `nodata`, if there is one."""
    if nodata is None or not math.isfinite(nodata):
        return None
    number = round(nodata * divisor)
    if not _RANGES[dtype][0] <= number <= _RANGES[dtype][1]:
        return None
    is_hit = np.float32(number / divisor) == np.float32(nodata) if dtype == "float32" else number == nodata
    return number if is_hit else None


def round_samples(values: np.ndarray, numbers: Numbers, nodata: float | None) -> np.ndarray:
    """Decoded values, without a bound on their error, in the scene's type, none of them its nodata value.

    Args:
        values: floats (C, H, W) in the samples' units.
        numbers: of the scene.
        nodata: the scene's.
    """
    samples = np.empty(values.shape, numbers.dtype)
    for band, plane in zip(samples, values, strict=True):  # one by one: little memory beside the result
        if numbers.dtype == "float32":
            band[:] = plane
            if nodata is not None:
                hit = band == np.float32(nodata)
                band[hit] = np.nextafter(band[hit], np.float32(np.inf))
            continue
        rounded = numbers.clip(np.rint(np.nan_to_num(plane))).astype(np.int32)
        if numbers.nodata is not None:
            rounded[rounded == numbers.nodata] += 1 if numbers.clip(numbers.nodata + 1) > numbers.nodata else -1
        band[:] = numbers.samples(rounded)
    return samples


def avoid_nodata(decoded: np.ndarray, targets: np.ndarray, valid: np.ndarray, nodata: int | None) -> bytes:
    """Move valid numbers off `nodata`, in place: towards the original, so that a bound still holds.

    Args:
        decoded: whole numbers (C, H, W).
        targets: the original's.
        valid: bool (C, H, W).
        nodata: None where no number reads as nodata.

    Returns:
        For `restore_moves`, where they moved.
    """
    hit = _hits(decoded, valid, nodata)
    up = targets.ravel()[hit] > nodata if len(hit) else np.zeros(0, bool)
    decoded.ravel()[hit] += np.where(up, 1, -1)
    return np.packbits(up).tobytes()


def restore_moves(decoded: np.ndarray, valid: np.ndarray, nodata: int | None, moved: bytes) -> bool:
    """Do what `avoid_nodata` did; whether there were as many numbers to move."""
    hit = _hits(decoded, valid, nodata)
    if len(moved) != -(-len(hit) // 8):
        return False
    up = np.unpackbits(np.frombuffer(moved, np.uint8), count=len(hit))
    decoded.ravel()[hit] += np.where(up, 1, -1).astype(decoded.dtype)
    return True


def _hits(decoded, valid, nodata):
    return np.flatnonzero((decoded == nodata) & valid) if nodata is not None else np.zeros(0, np.int64)
