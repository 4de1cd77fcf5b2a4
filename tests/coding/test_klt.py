"""The Karhunen-Loeve transform of an image: decorrelation, requested error, and the same transform from its bytes."""

import numpy as np
import pytest

from coding.base import CodingError, DamagedError
from coding.klt import fit_klt, principal_components, unpack_klt


@pytest.fixture(scope="module")
def land():
    """land(pixels=(40, 50), bands=60, noise=2.0) -> 12 components, each 0.6 times as strong as the last, plus noise."""

    def make(pixels=(40, 50), bands=60, noise=2.0):
        rng = np.random.default_rng(0)
        smooth = rng.normal(size=(12, bands)).cumsum(axis=1)
        spectra = np.linalg.qr(smooth.T)[0] @ (
            3000 * 0.6 ** np.arange(12)[:, None] * rng.normal(size=(12, *pixels)).reshape(12, -1)
        )
        cube = 4000 + 500 * np.sin(np.arange(bands) / 9)[:, None] + spectra + rng.normal(0, noise, spectra.shape)
        return cube.reshape(bands, *pixels)

    return make


def coded(cube, squared_error):
    """Return the cube decoded from components rounded to integer steps, the transform, and its bytes."""
    klt, data = fit_klt(cube, squared_error)
    return klt.inverse(np.rint(klt.forward(cube))), klt, data


def test_components_are_those_of_the_covariance(land):
    cube = land()
    spectra = cube.reshape(len(cube), -1)
    mean, variances, vectors = principal_components(cube)
    assert np.allclose(mean, spectra.mean(axis=1))
    covariance = np.cov(spectra, bias=True)
    assert np.allclose(vectors * variances @ vectors.T, covariance)
    assert np.allclose(variances, np.sort(np.linalg.eigvalsh(covariance))[::-1])
    components = vectors.T @ (spectra - mean[:, None])
    assert np.allclose(np.cov(components, bias=True), np.diag(variances), atol=1e-6 * variances[0])
    assert (vectors.max(axis=0) == np.abs(vectors).max(axis=0)).all()


def test_all_components_restore_the_cube(land):
    cube = land()
    klt, _ = fit_klt(cube, 1e-5)
    assert klt.basis.shape == (60, 60)
    assert np.allclose(klt.inverse(klt.forward(cube)), cube, rtol=0, atol=1e-3)


@pytest.mark.parametrize("squared_error", [1e-3, 1.0, 100.0, 1e4])
def test_bytes_give_the_same_transform(land, squared_error):
    klt, data = fit_klt(land(), squared_error)
    again = unpack_klt(data, 60, 2000)
    assert again.step == klt.step
    assert np.array_equal(again.mean, klt.mean) and np.array_equal(again.basis, klt.basis)


@pytest.mark.parametrize("squared_error", [0.1, 10.0, 1e3, 1e5])
def test_basis_is_orthonormal_however_coarse(land, squared_error):
    klt, _ = fit_klt(land(), squared_error)
    count = klt.basis.shape[1]
    assert count and np.allclose(klt.basis.T @ klt.basis, np.eye(count), atol=1e-12)


@pytest.mark.parametrize("squared_error", [0.1, 2.0, 10.0, 100.0, 1e3, 1e4, 1e5])
def test_rounded_components_have_the_requested_error(land, squared_error):
    cube = land()
    decoded, _, _ = coded(cube, squared_error)
    assert 0.7 < ((decoded - cube) ** 2).mean() / squared_error < 1.05


def test_components_below_the_error_are_left_out(land):
    """12 components are stronger than noise of variance 4."""
    counts = [fit_klt(land(), squared_error)[0].basis.shape[1] for squared_error in (0.1, 5.0, 500.0, 50000.0, 1e9)]
    assert counts[0] == 60 and counts[1] == 12 and counts[-1] == 0
    assert sorted(counts, reverse=True) == counts


def test_quantized_basis_costs_little_error(land):
    """The error outside the basis grows by less than a twentieth of the requested error."""
    cube = land()
    squared_error = 20.0
    klt, _ = fit_klt(cube, squared_error)
    _, variances, _ = principal_components(cube)
    left = ((klt.inverse(klt.forward(cube)) - cube) ** 2).mean()
    assert left - variances[klt.basis.shape[1] :].sum() / len(cube) < squared_error / 20


def test_basis_takes_less_than_half_of_float16(land):
    cube = land(pixels=(64, 64), bands=200)
    klt, data = fit_klt(cube, 30.0)
    assert klt.basis.shape[1] >= 8
    assert len(data) < 0.4 * 2 * klt.basis.size


@pytest.mark.parametrize("shape", [(1, 9, 8), (30, 1, 1), (30, 2, 2), (1, 1, 1), (90, 3, 4)])
def test_few_bands_or_pixels_are_coded(shape):
    cube = np.random.default_rng(0).integers(-3000, 3000, shape).astype(np.int16)
    decoded, klt, data = coded(cube, 4.0)
    assert np.abs(decoded - cube).max() < 12  # a uniform error of variance 4 ends at 3.5 in a single sample
    assert ((decoded - cube) ** 2).mean() < 6 or cube.size == 1
    again = unpack_klt(data, shape[0], shape[1] * shape[2])
    assert np.array_equal(again.basis, klt.basis)


def test_a_constant_needs_no_components():
    klt, _ = fit_klt(np.full((5, 6, 7), 1234, np.uint16), 1.0)
    assert klt.basis.shape == (5, 0)
    assert np.abs(klt.inverse(np.zeros((0, 6, 7))) - 1234).max() < 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(value):
    cube = np.zeros((3, 4, 4), np.float32)
    cube[1, 2, 3] = value
    with pytest.raises(CodingError, match="NaN"):
        fit_klt(cube, 1.0)


def test_an_error_too_small_for_the_samples_is_refused(land):
    with pytest.raises(CodingError, match="larger step"):
        fit_klt(land(), 1e-18)


def test_damaged_bytes_raise_one_line_or_give_a_transform(land):
    _, data = fit_klt(land(), 50.0)
    rng = np.random.default_rng(2)
    for _ in range(200):
        mutated = bytearray(data)
        for place in rng.integers(0, len(data) if rng.random() < 0.5 else 8, 2):
            mutated[place] = rng.integers(256)
        try:
            assert unpack_klt(bytes(mutated), 60, 2000).basis.shape[0] == 60
        except DamagedError as error:
            assert "\n" not in str(error)
    for length in range(8):
        with pytest.raises(DamagedError):
            unpack_klt(data[:length], 60, 2000)
