"""Sizes of numbers and sums of neighbors, compared with their definitions."""

import numpy as np
import pytest

from coding.entropy.compiled import compiled
from coding.entropy.neighbors import (
    PAD,
    bit_length,
    causal_sum,
    cross_sum,
    half,
    surround_below,
    surround_left,
    surround_right,
)


@compiled
def sizes(numbers, halves, bits):
    for i in range(len(numbers)):
        halves[i], bits[i] = half(numbers[i]), bit_length(numbers[i])


@compiled
def sums(plane, p, stride, found):
    found[0], found[1] = causal_sum(plane, p, stride), cross_sum(plane, p, stride)


@compiled
def surround(plane, stride):
    for p in range(PAD * stride + PAD, len(plane) - PAD * stride, stride):
        surround_left(plane, p, stride)
        surround_right(plane, p, stride)
    surround_below(plane, stride)


def test_sizes_match_their_definitions():
    large = (2**bits + d for bits in range(13, 63) for d in (-1, 0, 1, 2 ** (bits - 1) - 1, 2 ** (bits - 1)))
    numbers = np.array([*range(5000), *large, 2**63 - 1])
    halves, bits = np.zeros_like(numbers), np.zeros_like(numbers)
    sizes(numbers, halves, bits)
    assert bits.tolist() == [number.bit_length() for number in numbers.tolist()]
    for number, size in zip(numbers.tolist(), halves.tolist(), strict=True):
        # The smallest numbers of a size are 2^i and 3 * 2^(i - 1).
        assert size == (
            number if number < 2 else 2 * number.bit_length() - 2 + (4 * number >= 3 << number.bit_length())
        )


def test_sums_match_their_definitions():
    plane, found = np.array([10**i for i in range(15)], np.int64), np.zeros(2, np.int64)
    sums(plane, 8, 4, found)
    # Rows of 4: place 8 has 7 and 6 to its left, 4 above, 3 and 5 next to 4, 0 two rows above, 9 right and 12 below.
    assert found.tolist() == [2 * (10**7 + 10**4) + 10**6 + 10**3 + 10**5 + 1, 10**7 + 10**9 + 10**4 + 10**12]


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_margins_are_filled_from_the_plane(size):
    inner = np.arange(1, 1 + size[0] * size[1]).reshape(size)
    plane = np.pad(inner, PAD, constant_values=-1)
    plane[:PAD] = 50 + np.arange(plane.shape[1])
    filled = plane.ravel().copy()
    surround(filled, plane.shape[1])
    filled = filled.reshape(plane.shape)
    assert np.array_equal(filled[:PAD], plane[:PAD]) and np.array_equal(filled[PAD:-PAD, PAD:-PAD], inner)
    assert (filled[PAD, :PAD] == 50 + PAD).all() and (filled[PAD + 1 : -PAD, :PAD] == inner[:-1, :1]).all()
    assert (filled[PAD:-PAD, -PAD:] == inner[:, -1:]).all() and (filled[-PAD:] == filled[-PAD - 1]).all()
