"""Images as codecs get them from files."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from benchmarks.rd.images import image_name, read_image, split_paths
from datasets.enmap import KEPT_INDICES, to_reflectance
from utils.errors import DatasetError


@pytest.fixture
def enmap(tmp_path):
    """Write a TIF of 224 bands with negatives, values over 10000 and two gaps, one of them in all bands."""
    cube = np.random.default_rng(0).integers(-200, 11000, (224, 6, 5), dtype=np.int16)
    cube[:, 0, 0] = -32768
    cube[3, 2, 2] = -32768
    path = tmp_path / "A-SPECTRAL_IMAGE.TIF"
    with rasterio.open(path, "w", "GTiff", 5, 6, 224, dtype="int16", nodata=-32768) as tif:
        tif.write(cube)
    return path, cube[list(KEPT_INDICES)]


def test_reflectances_of_a_tif(enmap):
    path, kept = enmap
    image = read_image(path, original=False)
    assert image.cube.dtype == np.uint16 and image.peak == 10000
    assert np.array_equal(image.valid, kept != -32768)
    assert np.array_equal(image.cube[image.valid], np.clip(kept, 0, 10000)[image.valid])
    assert not image.cube[~image.valid].any()


def test_original_integers_of_a_tif(enmap):
    path, kept = enmap
    image = read_image(path, original=True, peak=5000)
    assert np.array_equal(image.cube, kept) and image.cube.dtype == np.int16 and image.peak == 5000
    assert image.valid.sum() == kept.size - 202 - 1


def test_nodata_of_enmap_counts_where_a_tif_does_not_name_it(enmap, tmp_path):
    path, kept = enmap
    with rasterio.open(path) as tif:
        cube = tif.read()
    with rasterio.open(tmp_path / "B.tif", "w", "GTiff", 5, 6, 224, dtype="int16") as tif:
        tif.write(cube)
    assert np.array_equal(read_image(tmp_path / "B.tif", True).valid, kept != -32768)


def test_patches_of_either_kind_are_the_same_numbers(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 10001, (7, 6, 5), dtype=np.uint16)
    np.save(tmp_path / "a.npy", numbers)
    np.save(tmp_path / "b.npy", to_reflectance(numbers))
    for name in ("a.npy", "b.npy"):
        image = read_image(tmp_path / name, original=False)
        assert image.cube.dtype == np.uint16 and np.array_equal(image.cube, numbers) and image.peak == 10000
    assert read_image(tmp_path / "a.npy", original=False).valid.all()


def test_floats_that_are_no_digital_numbers_stay_floats(tmp_path):
    cube = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    cube[0, 1, 1] = np.nan
    np.save(tmp_path / "a.npy", cube)
    image = read_image(tmp_path / "a.npy", original=False)
    assert image.cube.dtype == np.float32 and image.peak == 1
    assert np.array_equal(image.valid, np.isfinite(cube)) and image.cube[0, 1, 1] == 0


def test_floats_are_clipped_as_integers_are(tmp_path):
    cube = np.array([[[-0.01, 0.5, 1.25, 0.123456]]], np.float32)
    np.save(tmp_path / "a.npy", cube)
    assert np.array_equal(read_image(tmp_path / "a.npy", original=False).cube, np.clip(cube, 0, 1))


def test_masked_pixels_and_alpha_bands_are_left_out(tmp_path):
    cube = np.random.default_rng(0).integers(1, 9, (4, 3, 5), dtype=np.uint16)
    cube[3, 0, 0] = 0
    profile = dict(driver="GTiff", width=5, height=3, count=4, dtype="uint16", photometric="MINISBLACK")
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as tif:
        tif.colorinterp = [*[ColorInterp.undefined] * 3, ColorInterp.alpha]
        tif.write(cube)
    image = read_image(tmp_path / "a.tif", original=True)
    assert np.array_equal(image.valid, np.broadcast_to(cube[3] != 0, (3, 3, 5)))


@pytest.mark.parametrize(
    ("cube", "original", "text"),
    [
        (np.full((1, 2, 2), 1.5, np.float32), False, r"in \[0, 1\], got 1.5 to 1.5: scale them"),
        (np.full((1, 2, 2), 0.5, np.float32), True, "floats"),
        (np.full((1, 2, 2), np.nan, np.float32), False, "no sample"),
    ],
)
def test_unusable_images_are_refused(tmp_path, cube, original, text):
    np.save(tmp_path / "a.npy", cube)
    with pytest.raises(DatasetError, match=text):
        read_image(tmp_path / "a.npy", original)


def test_paths_of_a_split(make_dataset):
    root = make_dataset(test=2, bands=3, side=4)
    paths = split_paths(root, "easy", "test", original=False)
    assert [path.name.endswith("-DATA.npy") for path in paths] == [True, True]
    with pytest.raises(DatasetError, match="TIFs only"):
        split_paths(root, "easy", "test", original=True)
    tif = paths[0].with_name(paths[0].name.replace("-DATA.npy", "-SPECTRAL_IMAGE.TIF"))
    tif.touch()
    assert split_paths(root, "easy", "test", original=False) == [tif, paths[1]]
    assert image_name(tif) == image_name(paths[0])
    paths[1].unlink()
    with pytest.raises(DatasetError, match="no such file"):
        split_paths(root, "easy", "test", original=False)
    with pytest.raises(DatasetError, match="--split"):
        split_paths(root, "easy", "no", original=False)
