"""Operations on vectors, compared with numpy and with integers of any size."""

import numpy as np
import pytest

from coding.entropy.compiled import compiled
from coding.entropy.vectors import LANES, add_products, weighted_sum


@compiled
def sum_of(weights, first, values, places, found):
    found[0] = weighted_sum(weights, first, values, places)


@compiled
def add(weights, first, values, places, factor, shift):
    add_products(weights, first, values, places, factor, shift)


def numbers(count, seed, largest=2**31 - 1):
    return np.random.default_rng(seed).integers(-largest - 1, largest, count, np.int32, endpoint=True)


def wrapped(number):
    """Return the lowest 32 bits of a number as int32."""
    return (number + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize("places", [(0,), (3, 1), (21, 4, 4), (5, 22, 0, 13)])
@pytest.mark.parametrize("first", [0, 3])
def test_weighted_sums_are_exact(places, first):
    weights, values, found = numbers(40, 0, 2**29 - 1), numbers(30, 1), np.zeros(1, np.int64)
    sum_of(weights, first, values, places, found)
    gathered = np.concatenate([values[place : place + LANES] for place in places]).tolist()
    used = weights[first : first + len(gathered)].tolist()
    assert found[0] == sum(weight * value for weight, value in zip(used, gathered, strict=True))


@pytest.mark.parametrize("places", [(0,), (21, 4, 4)])
@pytest.mark.parametrize(("factor", "shift"), [(1, 1), (-1, 1), (3, 2), (-(2**20), 17), (2**31, 40), (-5, 63)])
def test_products_are_rounded_and_added(places, factor, shift):
    weights, values = numbers(40, 0, 2**29 - 1), numbers(30, 1)
    values[:8] = -3, -2, -1, 0, 1, 2, 3, -(2**31)  # halves with a shift of 1
    before = weights.tolist()
    add(weights, 2, values, places, factor, shift)
    gathered = np.concatenate([values[place : place + LANES] for place in places]).tolist()
    # Halves are rounded up, towards positive numbers.
    changes = [0, 0, *((factor * value + 2 ** (shift - 1)) // 2**shift for value in gathered)]
    changes += [0] * (40 - len(changes))
    assert weights.tolist() == [wrapped(old + change) for old, change in zip(before, changes, strict=True)]


def test_weights_wrap_around():
    weights = np.array([2**31 - 1, -(2**31), 0, 5, 2**31 - 1, 0, 0, 0], np.int32)
    add(weights, 0, np.array([2, -2, 2**31 - 1, 0, -2, 1, -1, 3], np.int32), (0,), 2**10, 11)
    assert weights.tolist() == [-(2**31), 2**31 - 1, 2**30, 5, 2**31 - 2, 1, 0, 2]
    add(weights, 0, np.full(8, 2**31 - 1, np.int32), (0,), 2**31, 20)
    change = ((2**31 - 1) * 2**31 + 2**19) // 2**20
    assert weights[3] == wrapped(5 + change) != 5 + change
