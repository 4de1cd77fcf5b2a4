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
        ([1.5e6 + 0.1], 0.001, "too fine"),
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
