"""The ablation: its changes are of constants that exist, and its rows are relative to the unchanged codec."""

import importlib

import numpy as np
import pytest

from benchmarks import ablation
from coding.kltcm import features
from coding.prediction import regression


@pytest.mark.parametrize("change", ablation.CHANGES, ids=lambda change: change.title)
def test_changed_constants_exist(change):
    for place in change.values:
        path, _, name = place.partition(":")
        assert hasattr(importlib.import_module(path), name), place


def test_rows_are_percentages_of_the_unchanged_codec():
    lossy = [[(0.5, 50.0), (1.0, 60.0), (2.0, 70.0), (4.0, 80.0)]]
    dearer = [[(1.1 * rate, psnr) for rate, psnr in lossy[0]]]
    assert ablation.compare(ablation.Change("", True, {}), dearer, lossy, []) == pytest.approx([10], abs=0.01)
    found = ablation.compare(ablation.Change("", False, {}), [[101, 55]], [], [[100, 50]])
    np.testing.assert_allclose(found, [[1, 10]])


@pytest.fixture
def without_cached_regressors():
    """Let nothing that was computed with other constants stay in memory, before the test and after it."""
    cached = [function for function in vars(regression).values() if hasattr(function, "cache_clear")]
    assert cached
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("without_cached_regressors")
@pytest.mark.parametrize(
    "change", [change for change in ablation.CHANGES if not change.is_lossy], ids=lambda change: change.title
)
def test_prediction_works_with_other_regressors(change, tmp_path, monkeypatch):
    for place in change.values:
        path, _, name = place.partition(":")
        module = importlib.import_module(path)
        monkeypatch.setattr(module, name, getattr(module, name))  # so that it is put back
    np.save(tmp_path / "cube.npy", np.arange(4 * 32 * 32, dtype=np.uint16).reshape(4, 32, 32) % 251)
    ((exact, _),) = ablation.measure([tmp_path / "cube.npy"], change.values, is_lossy=False)
    assert exact > 0


@pytest.mark.parametrize("with_derivatives", [0, 2, 8])
@pytest.mark.parametrize("with_products", [0, 3])
def test_derivatives_and_products_are_independent(with_derivatives, with_products, monkeypatch):
    monkeypatch.setattr(features, "_WITH_DERIVATIVES", with_derivatives)
    monkeypatch.setattr(features, "_WITH_PRODUCTS", with_products)
    predictor = features.Predictor(16, 16)
    for count, plane in enumerate(np.random.default_rng(0).normal(size=(9, 16, 16)), 1):
        predictor.add(plane, fitting=True)
        assert len(predictor.fit(plane[None])) == features.count_features(count)
    cubes = 3
    assert features.count_features(9) == 4 * with_derivatives + with_products * (with_products + 1) // 2 + cubes


def test_finer_steps_raise_psnr_and_bounds_save_bytes(tmp_path):
    cube = np.random.default_rng(1).integers(0, 1000, (4, 16, 16)).astype(np.uint16)
    np.save(tmp_path / "cube.npy", cube)
    (curve,) = ablation.measure([tmp_path / "cube.npy"], {}, is_lossy=True)
    assert [psnr for _, psnr in curve] == sorted((psnr for _, psnr in curve), reverse=True)
    ((exact, bounded),) = ablation.measure([tmp_path / "cube.npy"], {}, is_lossy=False)
    assert bounded < exact
