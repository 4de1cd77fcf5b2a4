"""Operations on vectors, compared with numpy and with integers of any size."""

import numpy as np
import pytest

from coding.entropy.compiled import compiled
from coding.entropy.vectors import (
    LANES,
    add_products,
    add_products_of_words,
    sums_of_words,
    weighted_sum,
    word_at,
)


@compiled
def sum_of(weights, first, values, places, found):
    found[0] = weighted_sum(weights, first, values, places)


@compiled
def add(weights, first, values, places, factor, shift):
    add_products(weights, first, values, places, factor, shift)


@compiled
def word_sums_of(weights, first, values, places, found):
    words = (word_at(values, places[0]), word_at(values, places[1]) & 0xFFFFFF)
    found[0], found[1] = sums_of_words(weights, first, words)


@compiled
def add_words(weights, first, values, places, factor, shift):
    words = (word_at(values, places[0]), word_at(values, places[1]) & 0xFFFFFF)
    add_products_of_words(weights, first, words, factor, shift)


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


def gathered_bytes(values, places):
    """Return the numbers at two places, of which the second has only three that count."""
    return [*values[places[0] :][:LANES].tolist(), *values[places[1] :][:3].tolist(), *[0] * (LANES - 3)]


@pytest.mark.parametrize("places", [(0, 8), (13, 2), (5, 5)])
def test_sums_of_words_wrap_around(places):
    values = numbers(30, 0, 127).astype(np.int8)
    weights, found = numbers(20, 1, 2**29 - 1), np.zeros(2, np.int64)
    word_sums_of(weights, 3, values, places, found)
    expected = gathered_bytes(values, places)
    total = sum(weight * value for weight, value in zip(weights[3:19].tolist(), expected, strict=True))
    assert found.tolist() == [wrapped(total), sum(value**2 for value in expected)]
    assert wrapped(total) != total


@pytest.mark.parametrize(("factor", "shift"), [(1, 1), (-1, 1), (70_000, 6), (-(2**30), 5)])
def test_products_of_words_are_rounded_and_added(factor, shift):
    values, weights = numbers(30, 0, 127).astype(np.int8), numbers(20, 1)
    before = weights.tolist()
    add_words(weights, 2, values, (3, 20), factor, shift)
    changes = [wrapped(factor * value + 2 ** (shift - 1)) >> shift for value in gathered_bytes(values, (3, 20))]
    changes = [0, 0, *changes, 0, 0]
    assert weights.tolist() == [wrapped(old + change) for old, change in zip(before, changes, strict=True)]
