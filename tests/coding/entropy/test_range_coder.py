"""The range coder: decisions and plain numbers are restored, at about their entropy."""

import numpy as np
import pytest

from coding.base import DamagedError
from coding.entropy.compiled import compiled
from coding.entropy.range_coder import (
    CODE,
    DECODING,
    HIGH,
    LOW,
    POSITION,
    check_decoder,
    code_bit,
    code_bits,
    finish_encoder,
    new_decoder,
    new_encoder,
    take_bytes,
)


@compiled
def code_decisions(coder, probabilities, bits):
    for t in range(len(bits)):
        bits[t] = code_bit(coder, probabilities[t], bits[t])


@compiled
def code_numbers(coder, numbers, counts):
    for t in range(len(numbers)):
        numbers[t] = code_bits(coder, numbers[t], counts[t])


def test_decisions_are_restored_and_take_about_their_entropy():
    rng = np.random.default_rng(0)
    probabilities = rng.choice([1, 400, 20_000, 2**15, 65_000, 2**16 - 1], 20_000)
    bits = (rng.random(20_000) < probabilities / 2**16).astype(np.int64)
    coder = new_encoder(20_000)
    code_decisions(coder, probabilities, bits)
    stream = finish_encoder(coder)
    decoder, decoded = new_decoder(stream), np.zeros_like(bits)
    code_decisions(decoder, probabilities, decoded)
    check_decoder(decoder)
    assert np.array_equal(decoded, bits)
    p = np.where(bits, probabilities, 2**16 - probabilities) / 2**16
    assert 8 * len(stream) < -np.log2(p).sum() * 1.001 + 64


def test_plain_numbers_take_their_number_of_bits():
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 41, 20_000)
    numbers = rng.integers(0, 1 << counts)
    coder = new_encoder(60_000)
    code_numbers(coder, numbers.copy(), counts)
    stream = finish_encoder(coder)
    decoder, decoded = new_decoder(stream), np.zeros_like(numbers)
    code_numbers(decoder, decoded, counts)
    assert np.array_equal(decoded, numbers)
    assert 8 * len(stream) < counts.sum() + 50


@pytest.mark.parametrize("shrunk", [15, 20, 30, 31, 32, 33, 50])
@pytest.mark.parametrize("count", [0, 1, 7, 16, 40])
def test_plain_numbers_are_restored_when_the_interval_is_small_around_a_carry(shrunk, count):
    """Around 2^47 the highest bits of both ends differ, however small the interval is."""
    coder, decisions = new_encoder(1000), np.zeros(1, np.int64)
    bits = []
    for _ in range(shrunk):
        low, high = int(coder.state[LOW]), int(coder.state[HIGH])
        decisions[0] = int(low + ((high - low) >> 16) * 2**15 >= 2**47)
        bits.append(int(decisions[0]))
        code_decisions(coder, np.array([2**15]), decisions)
    assert coder.state[POSITION] == 0 and coder.state[HIGH] - coder.state[LOW] < 2 ** max(49 - shrunk, 17)
    numbers = np.random.default_rng(0).integers(0, 1 << count, 20)
    code_numbers(coder, numbers.copy(), np.full(20, count))
    decoder, decoded, found = new_decoder(finish_encoder(coder)), np.zeros(shrunk, np.int64), np.zeros(20, np.int64)
    code_decisions(decoder, np.full(shrunk, 2**15), decoded)
    code_numbers(decoder, found, np.full(20, count))
    assert decoded.tolist() == bits and np.array_equal(found, numbers)


def test_taken_parts_make_up_the_stream():
    rng = np.random.default_rng(1)
    bits, probabilities = rng.integers(0, 2, 5000), np.full(5000, 2**15)
    whole, parted, parts = new_encoder(1000), new_encoder(100), []
    code_decisions(whole, probabilities, bits.copy())
    for part in np.split(bits, 10):
        code_decisions(parted, probabilities[:500], part.copy())
        parts.append(take_bytes(parted))
    assert finish_encoder(parted, parts) == finish_encoder(whole)


def test_an_encoder_without_room_says_how_much_it_needs():
    bits = np.random.default_rng(4).integers(0, 2, 8000)
    coder = new_encoder(10)
    code_decisions(coder, np.full(8000, 2**15), bits)
    assert abs(coder.state[POSITION] - 1000) < 50
    with pytest.raises(ValueError, match=f"room for its {coder.state[POSITION]} bytes, got 10"):
        finish_encoder(coder)


def test_extra_bytes_are_damage():
    bits, probabilities = np.zeros(100, np.int64), np.full(100, 2**15)
    coder = new_encoder(100)
    code_decisions(coder, probabilities, bits)
    decoder = new_decoder(finish_encoder(coder).ljust(32, b"x"))
    code_decisions(decoder, probabilities, bits)
    with pytest.raises(DamagedError, match="more bytes"):
        check_decoder(decoder)


def test_any_bytes_decode_to_decisions_and_numbers_in_range():
    rng = np.random.default_rng(6)
    for _ in range(50):
        data = rng.integers(0, 256, 300).astype(np.uint8)
        data[rng.integers(0, 300) :] = rng.choice([0, 255])
        bits, numbers = np.zeros(2000, np.int64), np.zeros(2000, np.int64)
        code_decisions(new_decoder(data.tobytes()), rng.integers(1, 2**16, 2000), bits)
        counts = rng.integers(0, 41, 2000)
        decoder = new_decoder(data.tobytes())
        code_numbers(decoder, numbers, counts)
        assert set(np.unique(bits)) <= {0, 1}
        assert (numbers >= 0).all() and (numbers < 1 << counts).all()
        assert decoder.state[DECODING] == 1 and 0 <= decoder.state[CODE] < 2**48
