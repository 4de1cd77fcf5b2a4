"""Preprocessing and loading compared with reading: generated patches, and rates. No time is asserted."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.speed import data as speed
from datasets import HySpecNet11k
from utils.errors import DatasetError


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_generated_patches_are_a_data_set(tmp_path, dtype):
    paths = speed.make_patches(tmp_path, 3, dtype, 6)
    cubes = [np.load(path) for path in paths]
    assert len(cubes) == 3 and all(cube.dtype == dtype and np.array_equal(cube, cubes[0]) for cube in cubes)
    train, val = HySpecNet11k(tmp_path), HySpecNet11k(tmp_path, split="val")
    assert (len(train), len(val)) == (3, 1)
    assert train[0].shape == (202, 6, 6) and 0 <= train[0].min() < 0.1 and 0.9 < train[0].max() <= 1


def test_both_types_of_patches_hold_the_same_reflectances(tmp_path):
    patches = []
    for dtype in ("float32", "uint16"):
        (tmp_path / dtype).mkdir()
        speed.make_patches(tmp_path / dtype, 1, dtype, 4)
        patches.append(HySpecNet11k(tmp_path / dtype)[0])
    assert patches[0].equal(patches[1])


def test_steady_rate_does_not_count_the_start(monkeypatch):
    clock = iter([50.0, 60.0, 60.5, 61.0, 61.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    outcomes = [SimpleNamespace(error=None)] * 5
    assert speed.steady_rate(outcomes, skipped=2) == 3 / 1.5


def test_an_error_ends_the_measurement():
    results = iter([SimpleNamespace(error=None), SimpleNamespace(error="a.TIF: damaged"), None])
    with pytest.raises(DatasetError, match=r"^a\.TIF: damaged$"):
        speed.steady_rate(results, skipped=1)


def test_loading_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "PATCH_SIDE", 16)
    said = []
    rows = list(speed.measure_loading(tmp_path, True, 1, said.append))
    assert len(rows) == 2 * len(said) == len({tuple(row.values())[:4] for row in rows}) == 32
    for row in rows:
        assert row["share_of_reading"] == pytest.approx(row["patches_per_second"] / row["reading_patches_per_second"])
    rows = list(speed.measure_loading_to(torch.device("cpu"), tmp_path, said.append))
    assert [row["form"] for row in rows] == ["float32, 4 threads", "uint16, 4 threads"]
    assert all(row["seconds"] > 0 and (row["batch"], row["side"]) == (2, 16) for row in rows)
    assert not list(tmp_path.iterdir())
