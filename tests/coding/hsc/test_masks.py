"""Masks, and the filling of gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding.base import DamagedError, deflate
from coding.hsc.masks import decode_mask, encode_mask, fill_gaps


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 20), st.integers(1, 20)),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_masks_are_restored(shape, share, seed):
    rng = np.random.default_rng(seed)
    valid = rng.random(shape) >= share
    valid[rng.integers(shape[0])] = rng.random() < 0.5  # a band of its own kind
    assert np.array_equal(decode_mask(encode_mask(valid), shape)[0], valid)


def test_simple_masks_take_few_bytes():
    valid = np.ones((200, 128, 128), bool)
    assert encode_mask(valid) == b""
    valid[:, :64, 64:] = False
    valid[17:20] = False
    assert len(encode_mask(valid)) < 100


@pytest.mark.parametrize("data", [b"x", b"\0" * 50, deflate(b"\0" * 5), encode_mask(np.zeros((3, 4, 4), bool))[:-1]])
def test_damaged_masks_are_refused(data):
    with pytest.raises(DamagedError):
        decode_mask(data, (3, 4, 4))


def test_a_mask_of_more_bands_is_refused():
    valid = np.random.default_rng(0).random((9, 8, 8)) < 0.5
    with pytest.raises(DamagedError):
        decode_mask(encode_mask(valid), (3, 8, 8))


def test_gaps_are_filled_with_the_nearest_value():
    planes = np.array([[[1.0, 99.0, 99.0, 4.0]], [[5.0, 99.0, 7.0, 8.0]], [[99.0] * 4]])
    valid = np.array([[[1, 0, 0, 1]], [[1, 0, 1, 1]], [[0] * 4]], bool)
    filled = fill_gaps(planes, valid)
    assert filled[0].tolist() == [[1, 1, 4, 4]]
    assert filled[1, 0, 1] in (5, 7) and (filled[2] == 0).all()
    assert planes[0, 0, 1] == 99  # not in place
    shared = fill_gaps(planes, valid[:1])
    assert shared[1].tolist() == [[5, 5, 8, 8]]
