"""Mixed contexts: decisions come back, in about as many bits as they are worth, and damage stays inside the arrays."""

import math

import numpy as np
import pytest

from coding.base import DamagedError
from coding.entropy.compiled import compiled
from coding.entropy.mixing import (
    MOST_BITS,
    NODES,
    POSITION,
    check_decoder,
    code_bits,
    code_magnitude,
    code_mixed,
    finish_encoder,
    new_counters,
    new_decoder,
    new_encoder,
    new_weights,
)


@compiled
def code_decisions(coder, data, bits, counters, weights, inputs):
    history = 0
    for t in range(len(bits)):
        bases = (0, 1 + (history & 1), 3 + (history & 7))
        bits[t] = code_mixed(coder, data, counters, bases, 0, inputs, weights, 0, 500, bits[t])
        history = 2 * history + bits[t]


@compiled
def code_numbers(coder, data, numbers, counters, weights, inputs):
    last = 0
    for t in range(len(numbers)):
        bases = (0, NODES * (1 + min(last, 3)))
        last = code_magnitude(coder, data, counters, bases, inputs, weights, 0, 255, numbers[t])
        numbers[t] = last


@compiled
def code_plain(coder, data, numbers, counts):
    for t in range(len(numbers)):
        numbers[t] = code_bits(coder, data, numbers[t], counts[t])


def walk_decisions(coder, data, bits):
    code_decisions(coder, data, bits, new_counters(11), new_weights(1, 3), np.zeros(3, np.int64))


def walk_numbers(coder, data, numbers):
    code_numbers(coder, data, numbers, new_counters(5 * NODES), new_weights(NODES, 2), np.zeros(2, np.int64))


def encoded(walk, values, room):
    data, coder = np.zeros(room, np.uint8), new_encoder()
    walk(coder, data, values.astype(np.int64))
    return finish_encoder(coder, data)


def decoded(walk, stream, count):
    coder, data = new_decoder(stream)
    values = np.zeros(count, np.int64)
    walk(coder, data, values)
    check_decoder(coder, data)
    return values


@pytest.mark.parametrize("probability", [0, 0.0005, 0.02, 0.3, 0.5, 0.9, 1])
def test_decisions_come_back_in_about_their_entropy(probability):
    bits = np.random.default_rng(0).random(50_000) < probability
    stream = encoded(walk_decisions, bits, 10_000)
    assert np.array_equal(decoded(walk_decisions, stream, bits.size), bits)
    entropy = sum(-p * math.log2(p) for p in (probability, 1 - probability) if p)
    assert 8 * len(stream) < bits.size * (1.02 * entropy + 0.0005) + 100


def test_what_depends_on_the_past_costs_what_it_costs_there():
    rng = np.random.default_rng(1)
    bits = np.zeros(40_000, np.int64)
    for t in range(2, bits.size):  # the second last decision comes again, nine times in ten
        bits[t] = bits[t - 2] ^ (rng.random() < 0.1)
    assert 8 * len(encoded(walk_decisions, bits, 10_000)) < 1.03 * bits.size * 0.469


@pytest.mark.parametrize("scale", [0.05, 1, 6, 400, 1e6])
def test_numbers_come_back_in_about_their_entropy(scale):
    share = math.exp(-1 / scale)
    numbers = np.minimum(np.random.default_rng(2).geometric(1 - share, 20_000) - 1, 2**MOST_BITS - 1)
    stream = encoded(walk_numbers, numbers, 60_000)
    assert np.array_equal(decoded(walk_numbers, stream, numbers.size), numbers)
    entropy = -math.log2(1 - share) - share / (1 - share) * math.log2(share)
    assert 8 * len(stream) < numbers.size * (1.03 * entropy + 0.1) + 200


def test_the_largest_numbers_come_back():
    numbers = np.array([2**MOST_BITS - 1, 0, 2**MOST_BITS - 2, 2**MOST_BITS - 1])
    assert np.array_equal(decoded(walk_numbers, encoded(walk_numbers, numbers, 200), 4), numbers)


def test_plain_bits_take_their_room():
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 17, 20_000)
    numbers = rng.integers(0, 1 << counts)

    def walk(coder, data, values):
        code_plain(coder, data, values, counts)

    stream = encoded(walk, numbers, 30_000)
    assert np.array_equal(decoded(walk, stream, numbers.size), numbers)
    assert 8 * len(stream) < counts.sum() + 50


def test_an_encoder_without_room_says_how_much_it_wants():
    bits = np.random.default_rng(4).random(8_000) < 0.5
    data, coder = np.zeros(10, np.uint8), new_encoder()
    walk_decisions(coder, data, bits.astype(np.int64))
    assert finish_encoder(coder, data) is None
    assert abs(coder[POSITION] - 1000) < 50


def test_bytes_too_many_are_damage():
    bits = np.random.default_rng(5).random(100) < 0.5
    with pytest.raises(DamagedError, match="bytes too many"):
        decoded(walk_decisions, encoded(walk_decisions, bits, 100).ljust(32, b"x"), 100)


def test_any_bytes_decode_to_decisions_and_numbers_in_range():
    rng = np.random.default_rng(6)
    for _ in range(50):
        data = rng.integers(0, 256, 300).astype(np.uint8)
        data[rng.integers(0, 300) :] = rng.choice([0, 255])
        bits, numbers = np.zeros(2000, np.int64), np.zeros(2000, np.int64)
        walk_decisions(*new_decoder(data.tobytes()), bits)
        walk_numbers(*new_decoder(data.tobytes()), numbers)
        assert set(np.unique(bits)) <= {0, 1}
        assert numbers.min() >= 0 and numbers.max() < 2**MOST_BITS
