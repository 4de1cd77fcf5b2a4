"""Samples as integers: exact or within the bound."""

import math

import numpy as np
import pytest

from coding.base import CodingError
from coding.numbers import Numbers, numbers_of


def test_integers_map_to_themselves():
    numbers = numbers_of("int16", 2.9, [])
    assert numbers == Numbers("int16", 1, 2)
    samples = np.array([-32768, 0, 32767], np.int16)
    assert np.array_equal(numbers.samples(numbers.of(samples)), samples)
    assert numbers.clip(np.array([-40000, 40000])).tolist() == [-32768, 32767]
    assert numbers_of("uint16", None, []) == Numbers("uint16", 1, None)
    assert numbers_of("int16", 1e9, []).bound == 2**24 - 1


def test_reflectances_of_data_npy_map_to_integers():
    samples = (np.arange(10001, dtype=np.float32) / np.float32(10000)).astype(np.float32)
    numbers = numbers_of("float32", 0, [samples])
    assert numbers == Numbers("float32", 10000, 0)
    assert np.array_equal(numbers.of(samples), np.arange(10001))
    assert np.array_equal(numbers.samples(np.arange(10001)), samples)
    assert numbers_of("float32", 0.001, [samples]).bound == 10


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_divisor_of_decimals_is_taken(dtype):
    generator = np.random.default_rng(0)
    for decimals in range(7):
        samples = np.round(generator.uniform(-9, 9, 5000), decimals).astype(dtype)
        assert numbers_of(dtype, 0, [samples]).divisor == 10**decimals
    short = samples.astype(np.float32).astype(np.float64)
    assert numbers_of("float64", 0, [short]) == Numbers("float64", 10**6, 0, has_short_quotient=True)


@pytest.mark.parametrize("bound", [0.001, 0.01, 1])
def test_bounds_of_large_decimals_hold(bound):
    """The distance of floats of 1000 is almost that of decimals."""
    samples = np.round(np.random.default_rng(0).uniform(-1600, 1600, 5000), 4).astype(np.float32)
    numbers = numbers_of("float32", bound, [samples])
    assert numbers.divisor == 10000
    for error in (-numbers.bound, numbers.bound):
        decoded = numbers.samples(numbers.of(samples) + error)
        assert np.abs(decoded.astype(np.float64) - samples).max() <= bound * (1 + 1e-6) + 1e-7


def test_other_types_map_to_numbers_of_32_bits():
    for dtype in ("uint8", "int8", "int32", "uint32"):
        limits = np.iinfo(dtype)
        samples = np.array([limits.min, 1, limits.max], dtype)
        numbers = numbers_of(dtype, 0, [])
        assert numbers.of(samples).dtype == np.int32
        assert np.array_equal(numbers.samples(numbers.of(samples)), samples)


def test_bits_are_coded_where_a_bound_is_too_fine():
    samples = np.random.default_rng(0).normal(0, 1, 1000)
    for dtype, bound in (("float16", 1e-4), ("float32", 1e-9), ("float64", 1e-12), ("float64", 0)):
        assert numbers_of(dtype, bound, [samples.astype(dtype)], codes_bits=True) == Numbers(dtype, 0, 0)


def test_integer_floats_have_divisor_1():
    numbers = numbers_of("float32", 0, [np.array([3.0, -7.0, 20000.0], np.float32)])
    assert numbers == Numbers("float32", 1, 0)


@pytest.mark.parametrize("bound", [0.5, 0.01, 0.0003])
def test_other_floats_keep_a_bound(bound):
    samples = np.random.default_rng(0).normal(0, 1, 10000).astype(np.float32)
    numbers = numbers_of("float32", bound, [samples])
    for error in (-numbers.bound, numbers.bound):
        decoded = numbers.samples(numbers.of(samples) + error)
        assert np.abs(decoded.astype(np.float64) - samples).max() <= bound


@pytest.mark.parametrize(
    ("samples", "bound", "words"),
    [
        ([0.12345678], 0, "a bound of 0 needs integers"),
        ([0.12345678], 1e-9, "too fine"),
        ([5e6 + 0.5], 0.001, "too fine"),
        ([0.5, 5e8], 1000, "too fine"),
        ([0.12345678], 1e-320, "too fine"),
        ([math.nan], 1, "NaN or infinity"),
        ([math.inf], 1, "NaN or infinity"),
    ],
)
def test_bounds_that_floats_cannot_keep_are_refused(samples, bound, words):
    with pytest.raises(CodingError, match=words) as caught:
        numbers_of("float32", bound, [np.array(samples, np.float32)])
    assert "\n" not in str(caught.value)
