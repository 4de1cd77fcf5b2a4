"""The range coder: decisions and plain numbers are restored, at about their entropy."""

import numpy as np
import pytest

from coding.base import DamagedError, join_blocks, take_block
from coding.entropy.compiled import compiled
from coding.entropy.range_coder import (
    CODE,
    DECODING,
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
    counts = rng.integers(0, 63, 20_000)
    numbers = rng.integers(0, 1 << counts)
    coder = new_encoder(90_000)
    code_numbers(coder, numbers.copy(), counts)
    stream = finish_encoder(coder)
    decoder, decoded = new_decoder(stream), np.zeros_like(numbers)
    code_numbers(decoder, decoded, counts)
    assert np.array_equal(decoded, numbers)
    assert 8 * len(stream) < counts.sum() + 50


def test_taken_parts_make_up_the_stream():
    rng = np.random.default_rng(1)
    bits, probabilities, counts = rng.integers(0, 2, 5000), np.full(5000, 2**15), np.full(5000, 3)
    whole, parted, parts = new_encoder(3000), new_encoder(300), []
    for part in np.split(bits, 10):
        for coder in (whole, parted):
            code_decisions(coder, probabilities[:500], part.copy())
            code_numbers(coder, part.copy(), counts[:500])
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
    plain, coded = take_block(finish_encoder(coder))
    for stream in (join_blocks([plain]) + coded.ljust(32, b"x"), join_blocks([plain + b"x"]) + coded):
        decoder = new_decoder(stream)
        code_decisions(decoder, probabilities, bits)
        with pytest.raises(DamagedError, match="more bytes"):
            check_decoder(decoder)


def test_any_bytes_decode_to_decisions_and_numbers_in_range():
    rng = np.random.default_rng(6)
    for _ in range(50):
        data = rng.integers(0, 256, 300).astype(np.uint8)
        data[rng.integers(0, 300) :] = rng.choice([0, 255])
        bits, numbers = np.zeros(2000, np.int64), np.zeros(2000, np.int64)
        stream = join_blocks([data[:150].tobytes()]) + data[150:].tobytes()
        code_decisions(new_decoder(stream), rng.integers(1, 2**16, 2000), bits)
        counts = rng.integers(0, 41, 2000)
        decoder = new_decoder(stream)
        code_numbers(decoder, numbers, counts)
        assert set(np.unique(bits)) <= {0, 1}
        assert (numbers >= 0).all() and (numbers < 1 << counts).all()
        assert decoder.state[DECODING] == 1 and 0 <= decoder.state[CODE] < 2**48
