"""Prediction of samples as integers: errors within the bound, rates, and damage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.base import DamagedError
from coding.prediction import bands, samples
from coding.prediction.adaptive import new_filter
from coding.prediction.bands import NARROW
from coding.prediction.samples import Known, decode_samples, encode_samples
from tests.coding.prediction.resampled import resampled_noise


def scene(shape, noise=3.0, seed=0, contrast=300):
    """Return bands that are mixtures of three pictures, with noise."""
    bands, height, width = shape
    generator = np.random.default_rng(seed)
    pictures = generator.normal(0, contrast, (3, height, width)).cumsum(axis=1).cumsum(axis=2) / 30
    mixed = np.tensordot(generator.random((bands, 3)), pictures, axes=1)
    return np.rint(2000 + mixed + generator.normal(0, noise, shape)).astype(np.int32)


SIDES = st.one_of(st.integers(1, 40), st.just(70))


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), SIDES, SIDES),
    bound=st.sampled_from([0, 1, 2, 7, 300, 2**20]),
    spread=st.sampled_from([0, 1, 3, 500, 2**21 - 1]),
    seed=st.integers(0, 99),
)
def test_no_error_exceeds_the_bound(shape, bound, spread, seed):
    generator = np.random.default_rng(seed)
    cube = scene(shape, seed=seed) if spread == 3 else generator.integers(-spread, spread + 1, shape)
    data, expected = encode_samples(cube, bound)
    decoded = decode_samples(data, shape, bound)
    assert np.array_equal(decoded, expected)
    assert np.abs(decoded - cube).max() <= bound
    assert encode_samples(cube, bound)[0] == data


def test_noise_takes_about_its_entropy():
    noise = np.rint(np.random.default_rng(0).normal(0, 20, (4, 64, 64))).astype(np.int32)
    data, _ = encode_samples(noise, 0)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 400)
    assert entropy - 0.05 < 8 * len(data) / noise.size < entropy + 0.2


def test_predictable_bands_take_about_the_entropy_of_their_noise():
    cube = scene((30, 64, 64))
    data, _ = encode_samples(cube, 0)
    noise = 0.5 * math.log2(2 * math.pi * math.e * 9)
    apart = sum(len(encode_samples(band[None], 0)[0]) for band in cube)
    # Three of the thirty bands determine the pictures, the others add noise only; coefficients take bytes, too.
    assert 8 * len(data) / cube.size < noise + 1.2
    assert len(data) < 0.75 * apart


def test_bands_that_differ_little_are_predicted_well_at_any_contrast():
    """Sums of products in float32 would be too coarse here."""
    cube = scene((30, 64, 64), contrast=30000)
    data, _ = encode_samples(cube, 0)
    assert np.ptp(cube) > 150_000
    assert 8 * len(data) / cube.size < 8


def test_a_larger_bound_costs_less():
    cube = scene((10, 48, 48), noise=20)
    sizes = [len(encode_samples(cube, bound)[0]) for bound in (0, 1, 3, 10, 40)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 3


def test_rare_jumps_take_few_bytes_with_a_bound():
    """Most errors are far below the bound: predicting from the centers of bins would take 4 % more."""
    generator = np.random.default_rng(0)
    shape = 40, 64, 64
    jumps = np.where(generator.random(shape) < 0.1, generator.normal(0, 30, shape), generator.normal(0, 2, shape))
    cube = np.rint(1000 + jumps.cumsum(axis=0)).astype(np.int32)
    data, _ = encode_samples(cube, 4)
    assert 8 * len(data) / cube.size < 1.46


def test_constant_bands_take_almost_nothing():
    assert len(encode_samples(np.full((50, 30, 30), -7), 0)[0]) == 8
    cube = np.arange(50)[:, None, None] * np.ones((1, 30, 30), np.int32)
    assert len(encode_samples(cube, 0)[0]) < 400


@pytest.mark.parametrize("bound", [0, 1000])
def test_all_integers_of_32_bits_are_kept(bound):
    limits = np.iinfo(np.int32)
    generator = np.random.default_rng(0)
    cube = np.where(generator.random((5, 20, 30)) < 0.1, limits.max, generator.integers(limits.min, 0, (5, 20, 30)))
    cube[0, 0, 0] = limits.min
    data, expected = encode_samples(cube, bound)
    assert np.array_equal(decode_samples(data, cube.shape, bound), expected)
    assert np.abs(expected.astype(np.int64) - cube).max() <= bound


@pytest.mark.parametrize("bound", [0, 3])
def test_resampled_images_take_fewer_bytes_with_phases(bound, monkeypatch):
    cube = resampled_noise((9, 80, 80))
    data, expected = encode_samples(cube, bound)
    assert np.array_equal(decode_samples(data, cube.shape, bound), expected)
    assert np.abs(expected - cube).max() <= bound
    shuffled = np.random.default_rng(1).permuted(cube.reshape(9, -1), axis=1).reshape(cube.shape)
    assert len(data) < 0.98 * len(encode_samples(shuffled, bound)[0])
    monkeypatch.setattr(samples, "find_phases", lambda *_: None)
    assert len(data) < 0.996 * len(encode_samples(cube, bound)[0])


@pytest.mark.parametrize(("lag", "left"), [(1, 0), (0, 1)])
def test_prediction_adapts_to_changes_within_a_band(lag, left):
    """Samples equal others in the upper half of a band, and their opposite in the lower one: the fit sees nothing."""
    shape, similarity = (6, 96, 64), 0.95
    noise = np.random.default_rng(0).normal(0, 20, shape)
    for band in range(lag, shape[0]):
        for x in range(left, shape[2]):
            other = similarity * noise[band - lag, :, x - left] * np.repeat([1, -1], shape[1] // 2)
            noise[band, :, x] = other + math.sqrt(1 - similarity**2) * noise[band, :, x]
    cube = np.rint(noise).astype(np.int32)
    data, _ = encode_samples(cube, 0)
    assert np.array_equal(decode_samples(data, shape, 0), cube)
    without = 0.5 * math.log2(2 * math.pi * math.e * 400)
    assert 8 * len(data) / cube.size < without - 0.5


def guarded_filter(height, width):
    """Return a filter whose arrays are followed by others, all of 77, and the latter."""
    state, behind = new_filter(height, width), []

    def guarded(array):
        buffer = np.full(array.size + 10_000, 77, array.dtype)
        buffer[: array.size] = array.ravel()
        behind.append(buffer[array.size :])
        return buffer[: array.size].reshape(array.shape)

    return state._make(guarded(item) if isinstance(item, np.ndarray) else item for item in state), behind


@pytest.mark.parametrize("spread", [NARROW - 1, NARROW, 2**32 - 1])
@pytest.mark.parametrize("bound", [0, 5])
def test_wide_differences_leave_other_memory_alone(spread, bound, monkeypatch):
    generator = np.random.default_rng(0)
    shape = 4, 20, 30
    kinds = generator.choice([0, 0, 1, bands.GAP], shape).astype(np.uint8)
    cube = np.where(kinds == 1, -(2**31) + spread // 3, generator.integers(0, spread, shape, endpoint=True) - 2**31)
    cube[0, 0, :2] = -(2**31), -(2**31) + spread
    kinds[0, 0, :2] = 0
    known = Known(kinds, (-(2**31) + spread // 3,))
    memory = []

    def new_guarded(*size):
        state, behind = guarded_filter(*size)
        memory.extend(behind)
        return state

    monkeypatch.setattr(bands, "new_filter", new_guarded)
    data, expected = encode_samples(cube, bound, known=known)
    assert np.array_equal(decode_samples(data, shape, bound, known=known), expected)
    assert np.abs(expected.astype(np.int64) - cube)[kinds == 0].max() <= bound
    assert np.array_equal(expected[kinds == 1], cube[kinds == 1])
    assert memory and all((numbers == 77).all() for numbers in memory)


@pytest.mark.parametrize("bound", [0, 4])
def test_gaps_take_no_bytes_and_do_not_disturb(bound):
    cube = scene((20, 64, 64), noise=20)
    rows, columns = np.mgrid[:64, :64]
    valid = np.broadcast_to(columns > rows, cube.shape)
    whole = len(encode_samples(cube, bound)[0])
    filled = np.where(valid, cube, 4000)
    data, expected = encode_samples(filled, bound, known=Known.gaps(valid))
    decoded = decode_samples(data, cube.shape, bound, known=Known.gaps(valid))
    assert np.array_equal(decoded, expected) and np.abs(decoded - cube)[valid].max() <= bound
    assert len(data) < 0.55 * whole
    assert len(encode_samples(filled, bound, known=Known.gaps(np.zeros_like(valid)))[0]) < 2000


def test_known_samples_take_no_bytes():
    noise = np.random.default_rng(0).integers(-50000, 50000, (4, 40, 40))
    kinds = np.random.default_rng(1).integers(0, 3, noise.shape).astype(np.uint8)
    cube = np.choose(kinds, [noise, 7, -60000])
    known = Known(kinds, (7, -60000))
    data, _ = encode_samples(cube, 0, known=known)
    assert np.array_equal(decode_samples(data, cube.shape, 0, known=known), cube)
    assert len(data) < 0.4 * len(encode_samples(noise, 0)[0])


def test_damage_is_reported_or_gives_other_samples():
    shape = 8, 20, 23
    cube = scene(shape)
    data, _ = encode_samples(cube, 0)
    for length in (0, 5, 12, len(data) // 2):
        with pytest.raises(DamagedError):
            decode_samples(data[:length], shape, 0)
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[generator.integers(len(data))] ^= 1 << generator.integers(8)
        try:
            wrong = decode_samples(bytes(damaged), shape, 0)
        except DamagedError:
            continue
        assert wrong.shape == shape
