"""Arrays of integers: restored exactly, at about their entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.base import DamagedError
from coding.entropy.integers import decode_integers, encode_integers


def entropy(values):
    """Return the empirical entropy in bits per value."""
    _, counts = np.unique(values, return_counts=True)
    shares = counts / values.size
    return -(shares * np.log2(shares)).sum()


@settings(max_examples=150, deadline=None)
@given(
    shape=st.lists(st.integers(0, 12), min_size=1, max_size=3).map(tuple),
    low=st.integers(-(2**31), 2**31 - 1),
    spread=st.sampled_from([0, 1, 2, 30, 1000, 2**20, 2**32 - 1]),
    seed=st.integers(0, 99),
)
def test_arrays_are_restored_exactly(shape, low, spread, seed):
    high = min(low + spread, 2**31 - 1)
    values = np.random.default_rng(seed).integers(low, high + 1, shape)
    decoded = decode_integers(encode_integers(values), shape)
    assert decoded.dtype == np.int32 and np.array_equal(decoded, values)


def test_empty_arrays_take_no_bytes():
    for shape in [(0,), (0, 5), (5, 0)]:
        assert encode_integers(np.zeros(shape, np.int32)) == b""
        assert decode_integers(b"", shape).shape == shape


def test_the_bytes_of_an_array_never_change():
    values = np.array([[0, 1, -1, 300, 301, 305], [7, -70, 700, -7000, 2**31 - 1, -(2**31)]])
    assert encode_integers(values).hex() == "082d0d2fd6feffff3f79566e403a6d5e3780e770ea9e18c51766255c80"


@pytest.mark.parametrize("scale", [0.3, 1, 5, 40, 1000])
def test_laplacian_numbers_take_their_entropy(scale):
    rng = np.random.default_rng(0)
    values = np.rint(rng.laplace(0, scale, (80, 200))).astype(np.int64)
    bits = 8 * len(encode_integers(values)) / values.size
    expected = entropy(np.rint(rng.laplace(0, scale, 10**6)))
    assert expected * 0.97 < bits < expected * 1.03


def test_rows_of_different_sizes_take_their_own_entropy():
    """One distribution for all rows would take about one bit more for each number."""
    scales = 3000 * 0.9 ** np.arange(80)
    values = np.rint(np.random.default_rng(0).normal(0, scales[:, None], (80, 200))).astype(np.int64)
    own = np.mean([np.maximum(0.5 * np.log2(2 * np.pi * np.e * scale**2), 0) for scale in scales])
    bits = 8 * len(encode_integers(values)) / values.size
    assert bits < min(own + 0.35, entropy(values) - 0.8)


def test_smooth_rows_are_predicted():
    walk = np.cumsum(np.random.default_rng(0).integers(-3, 4, (20, 300)), axis=1)
    shuffled = np.random.default_rng(1).permuted(walk, axis=1)
    assert len(encode_integers(walk)) < 0.65 * len(encode_integers(shuffled))
    assert 8 * len(encode_integers(walk)) / walk.size < 3.1  # log2(7) is 2.8


def test_zeros_take_almost_nothing():
    assert len(encode_integers(np.zeros((100, 200), np.int32))) < 40


@pytest.mark.parametrize("scale", [1, 3000, 10**9])
def test_damaged_bytes_raise_one_line_or_give_numbers(scale):
    rng = np.random.default_rng(1)
    values = np.clip(rng.laplace(0, scale, (6, 30)), -(2**31), 2**31 - 1).astype(np.int64)
    data = encode_integers(values)
    refused = 0
    for _ in range(400):
        mutated = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        mutated = bytes(mutated[: rng.integers(1, len(data) + 1)]) if rng.random() < 0.3 else bytes(mutated)
        try:
            assert decode_integers(mutated, values.shape).shape == values.shape
        except DamagedError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused or scale < 10**9


def test_extra_bytes_are_refused():
    values = np.arange(12).reshape(3, 4)
    with pytest.raises(DamagedError):
        decode_integers(encode_integers(values) + b"\1" * 12, values.shape)
    with pytest.raises(DamagedError):
        decode_integers(b"\1", (0, 4))
