from pathlib import Path

import pytest

import datasets
from datasets.enmap import KEPT_INDICES, NUM_CHANNELS, find_files, npy_path_of, tif_path_of


def test_water_vapor_bands_are_dropped():
    assert NUM_CHANNELS == len(KEPT_INDICES) == 202
    kept = [index + 1 for index in KEPT_INDICES]
    assert kept == [*range(1, 127), *range(142, 161), *range(168, 225)]


def test_paths_of_tifs_and_npys_map_to_each_other():
    assert npy_path_of(Path("a/X-SPECTRAL_IMAGE.TIF")) == Path("a/X-DATA.npy")
    assert npy_path_of(Path("a/scene.tif")) == Path("a/scene-DATA.npy")
    assert tif_path_of(Path("a/X-DATA.npy")) == Path("a/X-SPECTRAL_IMAGE.TIF")


def test_find_files_follows_links_and_skips_hidden_files(tmp_path):
    tile = tmp_path / "elsewhere" / "tile_001"
    tile.mkdir(parents=True)
    for name in ("B-DATA.npy", "A-DATA.npy", "._A-DATA.npy", ".A-DATA.npy.tmp", "A-DATA.npz"):
        (tile / name).touch()
    being_written = tile / ".C-DATA.npy.tmp" / "tmp1"
    being_written.mkdir(parents=True)
    (being_written / "C-DATA.npy").touch()
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "tile_001").symlink_to(tile)
    found = find_files(folder, "-DATA.npy")
    assert found == [folder / "tile_001" / name for name in ("A-DATA.npy", "B-DATA.npy")]


def test_the_package_has_the_data_set_lazily():
    assert datasets.HySpecNet11k.__name__ == "HySpecNet11k"
    with pytest.raises(AttributeError, match="no attribute 'HySpecNet12k'"):
        _ = datasets.HySpecNet12k
