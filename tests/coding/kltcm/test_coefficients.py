"""The lossy planes of `klt-cm`: equal planes in encoder and decoder, errors, rates, and damage."""

import contextlib
import math

import numpy as np
import pytest

from coding.base import CodingError, DamagedError
from coding.kltcm.coefficients import decode_coefficients, encode_coefficients


def encode(planes):
    return encode_coefficients(planes.copy())


def smooth_planes(shape, deviations, seed=0):
    """Return noise of these standard deviations, blurred along both axes."""
    generator = np.random.default_rng(seed)
    planes = generator.standard_normal((len(deviations), *shape))
    for axis in (1, 2):
        for _ in range(2):
            planes = planes + np.roll(planes, 1, axis)
    return planes / np.maximum(planes.std(axis=(1, 2), keepdims=True), 1e-3) * np.array(deviations)[:, None, None]


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 1, 1), (2, 1, 9), (2, 7, 1), (3, 2, 2), (4, 5, 3), (12, 16, 16), (2, 33, 50)]
)
def test_decoder_returns_the_planes_of_the_encoder(shape):
    planes = smooth_planes(shape[1:], np.linspace(20, 0.5, shape[0])) if shape[1] * shape[2] > 1 else np.ones(shape)
    data, decoded = encode(planes)
    assert np.array_equal(decode_coefficients(data, shape), decoded)
    assert np.abs(decoded - planes).max() < 3
    assert encode(planes)[0] == data


def test_squared_error_is_about_that_of_a_uniform_quantizer():
    planes = smooth_planes((64, 64), [100, 50, 20])
    _, decoded = encode(planes)
    errors = np.square(decoded - planes).mean(axis=(1, 2)) * 12
    assert (errors > 0.8).all() and (errors < 1.15).all()


def test_noise_takes_little_more_than_the_rate_distortion_function():
    noise = np.random.default_rng(0).normal(0, 8, (4, 64, 64))
    data, decoded = encode(noise)
    error = np.square(decoded - noise).mean()
    # The rate-distortion function of Gaussian numbers.
    bound = 0.5 * math.log2(64 / error)
    assert bound < 8 * len(data) / noise.size < bound + 0.5


def test_empty_planes_cost_nothing():
    data, decoded = encode(np.random.default_rng(0).normal(0, 0.05, (10, 32, 32)))
    assert len(data) < 60
    assert not decoded.any()


def features(smooth, rough):
    """Yield the name and the values of each kind of feature of two planes, and a sum of features."""
    framed = np.pad(rough, 1, mode="edge")
    right, left, below, above = framed[1:-1, 2:], framed[1:-1, :-2], framed[2:, 1:-1], framed[:-2, 1:-1]
    yield "horizontal derivative", right - left
    yield "vertical derivative", below - above
    yield "second horizontal derivative", right + left - 2 * rough
    yield "second vertical derivative", below + above - 2 * rough
    yield "product", smooth * rough
    yield "square", rough**2
    yield "cube", rough**3
    yield "sum", (right - left) / np.std(right - left) + smooth * rough / np.std(smooth * rough)


SOURCES = smooth_planes((64, 64), [50.0])[0], np.random.default_rng(1).normal(0, 30, (64, 64))


@pytest.mark.parametrize("values", [pytest.param(values, id=name) for name, values in features(*SOURCES)])
def test_planes_are_predicted_from_features_of_preceding_planes(values):
    """What the plane adds to the bytes, compared with the same values at random places."""
    plane = (values - values.mean()) / values.std() * 8
    shuffled = np.random.default_rng(2).permutation(plane.ravel()).reshape(plane.shape)
    size, predicted, unpredicted = (len(encode(np.array([*SOURCES, *third]))[0]) for third in ([], [plane], [shuffled]))
    assert predicted - size < 0.12 * (unpredicted - size)


def test_energy_at_the_same_place_in_all_planes_takes_fewer_bytes():
    generator = np.random.default_rng(0)
    scattered = generator.normal(0, 0.3, (20, 64, 64))
    gathered = scattered.copy()
    for plane in range(20):
        scattered[plane].flat[generator.choice(4096, 400, replace=False)] += generator.normal(0, 6, 400)
    places = generator.integers(0, 44, 2)
    gathered[:, places[0] : places[0] + 20, places[1] : places[1] + 20] += generator.normal(0, 6, (20, 20, 20))
    assert len(encode(gathered)[0]) < 0.8 * len(encode(scattered)[0])


def test_turned_stripes_take_fewer_bytes():
    """Stripes of a detector that georeferencing has turned, which wavelets do not decorrelate."""
    generator = np.random.default_rng(0)
    columns = np.arange(64) + np.arange(64)[:, None] // 4
    striped = generator.normal(0, 1.5, (10, 80))[:, columns] + generator.normal(0, 0.5, (10, 64, 64))
    assert len(encode(striped)[0]) < 0.7 * len(encode(generator.permuted(striped, axis=2))[0])


def test_large_samples_are_coded_or_refused():
    planes = smooth_planes((16, 16), [1e5])
    data, _ = encode(planes)
    assert np.abs(decode_coefficients(data, planes.shape) - planes).max() < 3
    with pytest.raises(CodingError, match="larger"):
        encode(planes * 1e4)


def test_damage_is_reported_or_gives_other_planes():
    shape = 6, 24, 20
    planes = smooth_planes(shape[1:], [40, 20, 10, 5, 2, 1])
    data, _ = encode(planes)
    for length in (0, 3, 7, len(data) - 1):
        with pytest.raises(DamagedError):
            decode_coefficients(data[:length], shape)
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[generator.integers(8, len(data))] ^= 1 << generator.integers(8)
        try:
            wrong = decode_coefficients(bytes(damaged), shape)
        except DamagedError:
            continue
        assert wrong.shape == shape and not np.isnan(wrong).any()


def test_other_shapes_are_damage_or_other_planes():
    data, _ = encode(smooth_planes((16, 16), [20, 10, 5]))
    for shape in [(3, 8, 8), (3, 32, 16), (1, 16, 16), (60, 16, 16)]:
        with contextlib.suppress(DamagedError):
            assert decode_coefficients(data, shape).shape == shape
