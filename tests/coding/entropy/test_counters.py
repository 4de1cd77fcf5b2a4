"""Counters: their updates compared with the plain formula, and decisions that they code restored."""

import math

import numpy as np
import pytest

from coding.entropy.compiled import compiled
from coding.entropy.counters import COUNT_BITS, PROBABILITY_BITS, adapt, code_counted, goal_of, mix, new_counters
from coding.entropy.range_coder import check_decoder, finish_encoder, new_decoder, new_encoder
from coding.entropy.vectors import LANES

LARGEST_COUNT = 255


@compiled
def mix_and_adapt(counters, places, offset, table, bits, weights, first, scratch, decision):
    total = mix(counters, places, offset, table, bits, weights, first, scratch)
    adapt(counters, places, offset, np.int64(goal_of(decision)), scratch)
    return total


@compiled
def code_all(coder, counters, places, bits):
    for t in range(len(bits)):
        bits[t] = code_counted(coder, counters, places[t], bits[t])


def updated(counter, decision):
    """Return a counter after a decision, as the text of the format has it."""
    probability, count = counter >> COUNT_BITS, counter % 2**COUNT_BITS
    goal = (2**PROBABILITY_BITS - 1) * decision
    probability += (goal - probability) * (2**17 // (2 * count + 3)) // 2**16
    return probability << COUNT_BITS | min(count + 1, LARGEST_COUNT)


def all_counts(seed=0):
    """Return counters with each count, and probabilities of all sizes."""
    generator = np.random.default_rng(seed)
    largest = 2**PROBABILITY_BITS - 1
    probabilities = generator.integers(0, largest, (6, LARGEST_COUNT + 1), endpoint=True)
    probabilities[0], probabilities[1], probabilities[2] = 0, largest, probabilities[2] >> 12
    return (probabilities << COUNT_BITS | np.arange(LARGEST_COUNT + 1)).ravel().astype(np.int32)


@pytest.mark.parametrize("decision", [0, 1])
def test_vectors_of_counters_are_updated_by_the_formula(decision):
    counters = all_counts()
    expected = [updated(counter, decision) for counter in counters.tolist()]
    table, weights, scratch = np.zeros(2**12, np.int32), np.zeros(LANES, np.int32), np.zeros(2 * LANES, np.int32)
    for start in range(0, counters.size, 3):
        mix_and_adapt(counters, (0, 2, 1), start, table, 12, weights, 0, scratch, decision)
    assert counters.tolist() == expected


@pytest.mark.parametrize("decision", [0, 1])
def test_single_counters_are_updated_by_the_formula(decision):
    counters = all_counts()
    expected = [updated(counter, decision) for counter in counters.tolist()]
    coder, places = new_encoder(10_000), np.arange(counters.size)
    code_all(coder, counters, places, np.full(counters.size, decision))
    assert counters.tolist() == expected


@pytest.mark.parametrize("places", [(4,), (7, 0, 3), tuple(range(8, 0, -1))])
def test_mixed_inputs_are_looked_up_and_weighted(places):
    generator = np.random.default_rng(0)
    counters, offset, first, bits = all_counts(1), 600, 2, 12
    table = generator.integers(-(2**31), 2**31, 2**bits, np.int64).astype(np.int32)
    weights, scratch = generator.integers(-(2**24), 2**24, 12).astype(np.int32), np.full(2 * LANES, -1, np.int32)
    found = [counters[offset + place] for place in places]
    inputs = [int(table[counter >> COUNT_BITS + PROBABILITY_BITS - bits]) for counter in found]
    total = mix_and_adapt(counters, places, offset, table, bits, weights, first, scratch, 1)
    used = weights[first : first + len(places)].tolist()
    assert total == sum(number * weight for number, weight in zip(inputs, used, strict=True))
    unused = [0] * (LANES - len(places))
    assert scratch.tolist() == [*inputs, *unused, *found, *unused]
    assert counters[[offset + place for place in places]].tolist() == [updated(int(counter), 1) for counter in found]


@pytest.mark.parametrize("probability", [0, 0.001, 0.2, 0.5, 0.97, 1])
def test_decisions_are_restored_and_take_about_their_entropy(probability):
    generator = np.random.default_rng(0)
    bits = (generator.random(20_000) < probability).astype(np.int64)
    places = generator.integers(0, 3, bits.size)
    bits[places == 2] ^= 1  # each counter has a probability of its own
    coder = new_encoder(100_000)
    code_all(coder, new_counters(3), places, bits.copy())
    stream = finish_encoder(coder)
    entropy = sum(-p * math.log2(p) for p in (probability, 1 - probability) if p)
    assert 8 * len(stream) < bits.size * (1.02 * entropy + 0.0005) + 100
    decoder, decoded = new_decoder(stream), np.zeros_like(bits)
    code_all(decoder, new_counters(3), places, decoded)
    check_decoder(decoder)
    assert np.array_equal(decoded, bits)
