"""Planes of integers: restored by every coder, and damage that ends in one line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coding import PLANE_CODERS, codecs
from coding.base import DamagedError
from coding.planes import decode_planes, encode_planes
from coding.samples import Samples


@pytest.mark.parametrize("coder", PLANE_CODERS)
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    low=st.integers(-(2**31), 2**31 - 1),
    spread=st.sampled_from([0, 1, 200, 255, 256, 5000, 65535, 65536, 2**31]),
    seed=st.integers(0, 99),
)
def test_planes_are_restored_exactly(coder, shape, low, spread, seed):
    planes = np.random.default_rng(seed).integers(low, min(low + spread, 2**31 - 1) + 1, shape)
    assert np.array_equal(decode_planes(encode_planes(planes, coder), shape), planes)


@pytest.mark.parametrize("coder", PLANE_CODERS)
def test_outliers_are_restored(coder):
    """The range of values is larger than a table of `factorized`."""
    planes = np.random.default_rng(0).laplace(0, 3, (2, 40, 40)).astype(np.int64)
    planes[0, 0, :5] = [-30000, 30000, 0, 30000, 12345]
    assert np.array_equal(decode_planes(encode_planes(planes, coder), planes.shape), planes)


def test_zero_planes_are_restored():
    planes = np.zeros((0, 4, 4), np.int64)
    assert decode_planes(encode_planes(planes, "jpegxl"), planes.shape).shape == (0, 4, 4)


def test_planes_of_one_pixel_are_restored():
    """Such are the latents of a small tile."""
    planes = np.arange(70).reshape(70, 1, 1) ** 2
    assert np.array_equal(decode_planes(encode_planes(planes, "context"), planes.shape), planes)


def test_small_planes_are_coded_by_jpegxl_if_that_is_smaller():
    """Sparse, unpredictable numbers."""
    rng = np.random.default_rng(0)
    planes = (rng.random((64, 16, 16)) < 0.3) * rng.integers(1, 4, (64, 16, 16))
    data = encode_planes(planes, "context")
    assert data == encode_planes(planes, "jpegxl")
    alone = codecs["klt-cm"].make_factory(Samples("uint16")).lossless()
    assert len(data) < len(alone.encode(planes.astype(np.uint16), np.ones(planes.shape, bool)))


def test_contexts_pay_where_neighbors_are_alike():
    ramp = np.add.outer(np.arange(64), np.arange(64))[None].repeat(3, axis=0)
    noise = np.random.default_rng(0).integers(0, 2, ramp.shape)
    sizes = {coder: len(encode_planes(ramp + noise, coder)) for coder in PLANE_CODERS}
    assert sizes["context"] < sizes["jpegxl"] < 0.5 * sizes["factorized"]
    assert sizes["factorized"] < ramp.size  # under a byte each


@pytest.mark.parametrize("coder", PLANE_CODERS)
@pytest.mark.parametrize("high", [50, 3000, 10**6])
def test_damaged_bytes_raise_one_line_or_give_planes(coder, high):
    rng = np.random.default_rng(1)
    planes = rng.integers(0, high, (3, 8, 8))
    data = encode_planes(planes, coder)
    for _ in range(150):
        mutated = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            mutated[place] = rng.integers(256)
        mutated = bytes(mutated[: rng.integers(1, len(data) + 1)]) if rng.random() < 0.3 else bytes(mutated)
        try:
            assert decode_planes(mutated, planes.shape).shape == planes.shape
        except DamagedError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("coder", PLANE_CODERS)
def test_planes_of_another_size_are_refused(coder):
    data = encode_planes(np.arange(3 * 64 * 64).reshape(3, 64, 64), coder)
    with pytest.raises(DamagedError):
        decode_planes(data, (4, 64, 64) if coder == "factorized" else (3, 8, 8))
