"""Mixed contexts: decisions are restored at about their entropy, and damage never leads out of the arrays."""

import math

import numpy as np
import pytest

from coding.base import join_blocks
from coding.entropy.compiled import compiled
from coding.entropy.mixing import MAGNITUDE_BITS, NODES, code_magnitude, code_mixed, new_mixer
from coding.entropy.range_coder import check_decoder, finish_encoder, new_decoder, new_encoder


@compiled
def code_decisions(coder, mixer, bits):
    history = 0
    for t in range(len(bits)):
        contexts = (0, 1 + (history & 1), 3 + (history & 7))
        bits[t] = code_mixed(coder, mixer, contexts, 0, 0, bits[t])
        history = 2 * history + bits[t]


@compiled
def code_numbers(coder, mixer, numbers):
    last = 0
    for t in range(len(numbers)):
        last = code_magnitude(coder, mixer, (0, NODES * (1 + min(last, 3))), 0, numbers[t])
        numbers[t] = last


def walk_decisions(coder, bits):
    code_decisions(coder, new_mixer(11, 1, 3), bits)


def walk_numbers(coder, numbers):
    code_numbers(coder, new_mixer(5 * NODES, NODES, 2), numbers)


def encoded(walk, values, room):
    coder = new_encoder(room)
    walk(coder, values.astype(np.int64))
    return finish_encoder(coder)


def decoded(walk, stream, count):
    coder, values = new_decoder(stream), np.zeros(count, np.int64)
    walk(coder, values)
    check_decoder(coder)
    return values


@pytest.mark.parametrize("probability", [0, 0.0005, 0.02, 0.3, 0.5, 0.9, 1])
def test_decisions_are_restored_and_take_about_their_entropy(probability):
    bits = np.random.default_rng(0).random(50_000) < probability
    stream = encoded(walk_decisions, bits, 10_000)
    assert np.array_equal(decoded(walk_decisions, stream, bits.size), bits)
    entropy = sum(-p * math.log2(p) for p in (probability, 1 - probability) if p)
    assert 8 * len(stream) < bits.size * (1.02 * entropy + 0.0005) + 100


def test_contexts_exploit_preceding_decisions():
    rng = np.random.default_rng(1)
    bits = np.zeros(40_000, np.int64)
    for t in range(2, bits.size):  # nine decisions in ten repeat the one before the last
        bits[t] = bits[t - 2] ^ (rng.random() < 0.1)
    assert 8 * len(encoded(walk_decisions, bits, 10_000)) < 1.03 * bits.size * 0.469


@pytest.mark.parametrize("scale", [0.05, 1, 6, 400, 1e6])
def test_numbers_are_restored_and_take_about_their_entropy(scale):
    share = math.exp(-1 / scale)
    numbers = np.minimum(np.random.default_rng(2).geometric(1 - share, 20_000) - 1, 2**MAGNITUDE_BITS - 1)
    stream = encoded(walk_numbers, numbers, 60_000)
    assert np.array_equal(decoded(walk_numbers, stream, numbers.size), numbers)
    entropy = -math.log2(1 - share) - share / (1 - share) * math.log2(share)
    assert 8 * len(stream) < numbers.size * (1.03 * entropy + 0.1) + 200


def test_the_largest_numbers_are_restored():
    numbers = np.array([2**MAGNITUDE_BITS - 1, 0, 2**MAGNITUDE_BITS - 2, 2**MAGNITUDE_BITS - 1])
    assert np.array_equal(decoded(walk_numbers, encoded(walk_numbers, numbers, 200), 4), numbers)


def test_any_bytes_decode_to_decisions_and_numbers_in_range():
    rng = np.random.default_rng(6)
    for _ in range(50):
        data = rng.integers(0, 256, 300).astype(np.uint8)
        data[rng.integers(0, 300) :] = rng.choice([0, 255])
        bits, numbers = np.zeros(2000, np.int64), np.zeros(2000, np.int64)
        stream = join_blocks([data[:100].tobytes()]) + data[100:].tobytes()
        walk_decisions(new_decoder(stream), bits)
        walk_numbers(new_decoder(stream), numbers)
        assert set(np.unique(bits)) <= {0, 1}
        assert numbers.min() >= 0 and numbers.max() < 2**MAGNITUDE_BITS
