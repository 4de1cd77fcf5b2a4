"""Rounding that is the same on all machines, and residuals within the bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.base import DamagedError
from coding.learned.bounds import MARGIN, choose_grid, quantize, round_as_listed, round_to_grid


@settings(max_examples=100, deadline=None)
@given(
    grid=st.sampled_from([1, 2, 3, 7, 64]),
    size=st.integers(0, 400),
    scale=st.sampled_from([0.3, 30, 3000]),
    seed=st.integers(0, 999),
)
def test_predictions_within_the_margin_round_alike(grid, size, scale, seed):
    rng = np.random.default_rng(seed)
    prediction = rng.normal(0, scale, (1, 1, size))
    near = rng.random(size) < 0.5  # many right at a boundary
    prediction[0, 0, near] = (np.rint(prediction[0, 0, near]) + 0.5) * grid + rng.normal(0, MARGIN / 3, near.sum())
    rounded, listed = round_to_grid(prediction, grid)
    assert np.abs(rounded - prediction).max(initial=0) <= grid / 2 + 1e-9 and not (rounded % grid).any()
    for _ in range(3):
        other = prediction + rng.uniform(-0.99 * MARGIN, 0.99 * MARGIN, prediction.shape)
        assert np.array_equal(round_as_listed(other, grid, listed), rounded)


def test_predictions_round_differently_without_a_list():
    """So the test above does test the list."""
    prediction = np.full((1, 1, 100), 0.5)
    rounded, listed = round_to_grid(prediction, 1)
    empty = round_to_grid(np.zeros((1, 1, 100)), 1)[1]
    assert not np.array_equal(round_as_listed(prediction - 0.01, 1, empty), rounded)
    assert np.array_equal(round_as_listed(prediction - 0.01, 1, listed), rounded)


def test_a_coarse_grid_has_a_short_list():
    prediction = np.random.default_rng(0).uniform(0, 10000, (10, 50, 50))
    lists = [len(round_to_grid(prediction, grid)[1]) for grid in (1, 10)]
    assert lists[1] < lists[0] / 3


@given(residuals=st.lists(st.integers(-70000, 70000), min_size=1), bound=st.integers(0, 300))
def test_quantized_residuals_are_within_the_bound(residuals, bound):
    residuals = np.array(residuals)
    assert np.abs(residuals - quantize(residuals, bound) * (2 * bound + 1)).max() <= bound


def test_the_grid_grows_with_bound_and_errors():
    samples, valid = np.zeros((1, 4, 4), np.int64), np.ones((1, 4, 4), bool)
    assert choose_grid(samples.astype(float), samples, valid, 0) == 1
    assert choose_grid(samples.astype(float), samples, valid, 20) == 6
    assert choose_grid(samples + 600.0, samples, valid, 0) == 100
    assert choose_grid(samples + 600.0, samples, ~valid, 0) == 1


@pytest.mark.parametrize("listed", [b"", b"\0" * 8, b"\1\0\0\0x\0\0\0\0"])
def test_damaged_lists_are_refused(listed):
    with pytest.raises(DamagedError):
        round_as_listed(np.zeros((1, 2, 2)), 1, listed)


def test_a_list_with_positions_outside_is_refused():
    listed = round_to_grid(np.full((1, 1, 9), 0.5), 1)[1]
    with pytest.raises(DamagedError):
        round_as_listed(np.full((1, 1, 8), 0.5), 1, listed)
