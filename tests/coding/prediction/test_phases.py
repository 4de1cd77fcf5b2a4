"""Phases of resampling: found where noise was resampled, and nowhere else; stored and restored."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy.ndimage import gaussian_filter

from coding.base import DamagedError
from coding.prediction.phases import CLASSES, Phases, find_phases, is_first_of_group, unpack_phases
from tests.coding.prediction.resampled import GRID, resampled_noise

SAMPLE = sorted((Path(__file__).resolve().parents[3] / "datasets/sample/patches").rglob("*-SPECTRAL_IMAGE.TIF"))
DISPLACEMENT = 0.3, 0.1


@pytest.fixture(scope="module")
def resampled():
    """Noise whose last 32 of 48 bands are displaced."""
    return resampled_noise((48, 64, 64), 16 * [(0, 0)] + 32 * [DISPLACEMENT])


def white_noise(shape=(24, 64, 64), seed=0):
    return np.rint(np.random.default_rng(seed).normal(0, 20, shape)).astype(np.int32)


def distance(cycles):
    """Return the distance of numbers from the nearest integers."""
    return np.abs(cycles - np.rint(cycles))


def multiples_of(phases):
    """Return how often both axes of the grid are contained in each found frequency, and how exactly."""
    pairs = list(itertools.product(range(-2, 3), repeat=2))
    found = [
        min((distance(np.array(pair) @ GRID - cycles).max(), pair) for pair in pairs)
        for cycles in phases.frequencies / 2**16
    ]
    return np.array([pair for _, pair in found]), max(error for error, _ in found)


def test_the_grid_of_the_sensor_is_found(resampled):
    phases = find_phases(resampled)
    multiples, error = multiples_of(phases)
    assert error < 0.1 / 64
    assert round(np.linalg.det(multiples)) != 0, "two frequencies, not one twice"


def test_displacements_of_bands_are_found(resampled):
    phases = find_phases(resampled)
    multiples, _ = multiples_of(phases)
    offsets = phases.offsets / 2**8
    assert distance(offsets[:, -1] - offsets[:, 0] - multiples @ DISPLACEMENT).max() < 0.06
    assert distance(offsets[:, -1] - offsets[:, -2]).max() < 0.04


def test_classes_separate_strong_from_weak_noise(resampled):
    phases = find_phases(resampled)
    # The mean of four samples is as weak as 1/4, a sample itself as strong as 1; and displaced bands alike.
    for bands in (slice(0, 8), slice(24, 48)):
        numbers = phases.classes(bands.start, 64, 64)
        assert numbers.dtype == np.uint8 and numbers.max() < CLASSES
        pixels = resampled[bands].reshape(-1, numbers.size).astype(np.float64)
        energies = np.array([np.square(pixels[:, numbers == k]).mean() for k in np.unique(numbers)])
        assert energies.max() > 2.2 * energies.min()
        assert np.array_equal(numbers, phases.classes(bands.start + 7, 64, 64))
    assert not np.array_equal(phases.classes(0, 64, 64), phases.classes(24, 64, 64))
    assert [is_first_of_group(band) for band in (0, 1, 7, 8, 9, 24)] == [True, False, False, True, False, True]


@pytest.mark.parametrize("path", SAMPLE, ids=lambda path: path.parent.name)
def test_the_bundled_scene_was_resampled(path):
    with rasterio.open(path) as file:
        cube = file.read([*range(1, 127), *range(168, 225)])
    whole, part = find_phases(cube), find_phases(cube[:, :64, 64:])
    for phases in (whole, part):
        cycles = phases.frequencies / 2**16
        assert distance(abs(np.linalg.det(cycles))) > 0.01, "two directions"
    # The strongest frequency is that of the product, whichever part of it is seen.
    strongest, again = (phases.frequencies[0] / 2**16 for phases in (whole, part))
    assert min(distance(again - strongest).max(), distance(again + strongest).max()) < 0.5 / 64


def test_images_that_were_not_resampled_have_no_phases():
    generator = np.random.default_rng(0)
    smooth = [gaussian_filter(plane, 2) for plane in generator.normal(0, 1000, (24, 64, 64))]
    rows, columns = np.mgrid[:64, :64]
    fields = 800 * ((rows // 9 + columns // 13) % 2) + 300 * ((rows - columns) // 21 % 2)
    spectrum = generator.random((24, 1, 1))
    for cube in (
        *(white_noise(seed=seed) for seed in range(5)),
        np.rint(smooth).astype(np.int32),
        np.rint(smooth).astype(np.int32) + white_noise(),
        white_noise() + np.int32(2) * white_noise(seed=9)[:, :1],
        np.rint(spectrum * fields).astype(np.int32) + white_noise() // 4,
        np.zeros((24, 64, 64), np.int32),
    ):
        assert find_phases(cube) is None


def test_small_images_have_no_phases(resampled):
    assert find_phases(resampled[:, :24]) is not None and find_phases(resampled[:3]) is not None
    for cube in (resampled[:, :23], resampled[:, :, :23], resampled[:2], resampled[:, :1, :1], resampled[:1]):
        assert find_phases(cube) is None


@pytest.mark.parametrize("period", [5, 7, 9])
@pytest.mark.parametrize("is_near", [False, True])
def test_gaps_make_no_phases(period, is_near):
    cube, (rows, columns) = white_noise(), np.mgrid[:64, :64]
    is_gap = np.broadcast_to((rows + 2 * columns) % period == 0, cube.shape)
    is_coded = ~is_gap
    cube = np.where(is_gap, np.roll(cube, -1, axis=2) if is_near else 500, cube)
    assert find_phases(cube) is not None, "the pattern of the gaps"
    assert find_phases(cube, is_coded) is None
    assert find_phases(cube, np.zeros_like(is_coded)) is None


@pytest.mark.parametrize("fill", [0, 3000])
def test_gaps_hide_no_phases(resampled, fill):
    rows, columns = np.mgrid[:64, :64]
    for is_coded in (rows + columns > 50, np.random.default_rng(0).random((64, 64)) > 0.05):
        phases = find_phases(np.where(is_coded, resampled, fill), np.broadcast_to(is_coded, resampled.shape))
        multiples, error = multiples_of(phases)
        assert error < 0.15 / 64 and round(np.linalg.det(multiples)) != 0


def test_phases_are_packed_and_restored(resampled):
    phases = find_phases(resampled)
    restored = unpack_phases(phases.pack(), 48)
    assert np.array_equal(restored.frequencies, phases.frequencies)
    assert np.array_equal(restored.offsets, phases.offsets)
    assert unpack_phases(b"", 48) is None


def test_classes_of_any_stored_phases_are_classes():
    limits = np.iinfo(np.int16).min, np.iinfo(np.int16).max
    offsets = np.array([[-(2**31), 2**31 - 1], [2**31 - 1, -1]])
    for values in itertools.product(limits, repeat=4):
        phases = unpack_phases(Phases(np.reshape(values, (2, 2)), offsets).pack(), 9)
        for band in (0, 8):
            assert phases.classes(band, 20, 30).max() < CLASSES


def test_damaged_phases_are_refused(resampled):
    data = find_phases(resampled).pack()
    for damaged in (data[:1], data[:7], data[:8], data + bytes(8)):
        with pytest.raises(DamagedError):
            unpack_phases(damaged, 48)
