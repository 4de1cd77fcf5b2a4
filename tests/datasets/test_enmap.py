from pathlib import Path

import numpy as np
import pytest

import datasets
from datasets.enmap import KEPT_INDICES, NUM_CHANNELS, find_files, find_tifs, npy_path_of, tif_path_of
from datasets.scenes import open_scene


def test_water_vapor_bands_are_dropped():
    assert NUM_CHANNELS == len(KEPT_INDICES) == 202
    kept = [index + 1 for index in KEPT_INDICES]
    assert kept == [*range(1, 127), *range(142, 161), *range(168, 225)]


def test_paths_of_tifs_and_npys_map_to_each_other():
    assert npy_path_of(Path("a/X-SPECTRAL_IMAGE.TIF")) == Path("a/X-DATA.npy")
    assert npy_path_of(Path("a/scene.tif")) == Path("a/scene-DATA.npy")
    assert tif_path_of(Path("a/X-DATA.npy")) == Path("a/X-SPECTRAL_IMAGE.TIF")


@pytest.mark.parametrize("suffix", ["_COG.TIF", ".tif", ".TIFF", "_cog.tiff"])
def test_images_have_suffixes_in_any_case(tmp_path, suffix):
    tif_path, npy_path = tmp_path / f"X-SPECTRAL_IMAGE{suffix}", tmp_path / "X-DATA.npy"
    tif_path.touch()
    (tmp_path / "X-QL_VNIR.TIF").touch()
    assert npy_path_of(tif_path) == npy_path and tif_path_of(npy_path) == tif_path
    assert find_tifs(tmp_path) == [tif_path]
    (tmp_path / "X-SPECTRAL_IMAGE.TIF").touch()
    assert tif_path_of(npy_path) == tmp_path / "X-SPECTRAL_IMAGE.TIF"
    assert len(find_tifs(tmp_path)) == 1, "two files for one DATA.npy"


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


def imagery(info):
    return [tags.get("IMAGERY") for tags in info.band_tags]


@pytest.mark.parametrize("suffix", [".TIF", "_COG.TIF", ".tiff"])
def test_wavelengths_come_from_the_metadata_beside_an_image(tmp_path, save_tif, save_metadata, suffix):
    path = tmp_path / f"P-SPECTRAL_IMAGE{suffix}"
    save_tif(path)
    with open_scene(path) as scene:
        assert not scene.info.band_tags and not scene.losses
    save_metadata(tmp_path / ("P-METADATA.XML" if suffix.isupper() else "P-METADATA.xml"))
    with open_scene(path) as scene:
        info = scene.info
    assert imagery(info)[0] == {"CENTRAL_WAVELENGTH_UM": "0.41", "FWHM_UM": "0.00601"}
    assert imagery(info)[223] == {"CENTRAL_WAVELENGTH_UM": "2.64", "FWHM_UM": "0.00824"}
    assert info.scales == (0.0001,) * 224 and info.offsets == ()


def test_wavelengths_of_desis(tmp_path, save_tif):
    save_tif(tmp_path / "D-SPECTRAL_IMAGE.tif", np.zeros((2, 3, 4), np.int16))
    band = "<band><bandNumber>{}</bandNumber><wavelengthCenterOfBand>{}</wavelengthCenterOfBand>"
    band += "<wavelengthWidthOfBand>{}</wavelengthWidthOfBand><gainOfBand>0.0001</gainOfBand>"
    band += "<offsetOfBand>0.5</offsetOfBand></band>"
    (tmp_path / "D-METADATA.xml").write_text(
        '<hsi xmlns="http://www.dlr.de/hsi"><interiorOrientation><band/></interiorOrientation><bandCharacterisation>'
        f"{band.format(1, 401.9, 3.5)}{band.format(2, 404.4, 3.6)}</bandCharacterisation></hsi>"
    )
    with open_scene(tmp_path / "D-SPECTRAL_IMAGE.tif") as scene:
        assert imagery(scene.info)[1] == {"CENTRAL_WAVELENGTH_UM": "0.4044", "FWHM_UM": "0.0036"}
        assert scene.info.scales == (0.0001,) * 2 and scene.info.offsets == (0.5,) * 2


@pytest.mark.parametrize("content", [None, "<level_X>", "<level_X/>"])
def test_metadata_that_does_not_fit_is_named(tmp_path, save_tif, save_metadata, content):
    save_tif(tmp_path / "P-SPECTRAL_IMAGE.TIF")
    if content is None:
        save_metadata(tmp_path / "P-METADATA.XML", bands=3)
    else:
        (tmp_path / "P-METADATA.XML").write_text(content)
    with open_scene(tmp_path / "P-SPECTRAL_IMAGE.TIF") as scene:
        assert not scene.info.band_tags
        assert [loss.name for loss in scene.losses] == ["metadata"] and "P-METADATA.XML" in scene.losses[0].text


def test_the_package_has_the_data_set_lazily():
    assert datasets.HySpecNet11k.__name__ == "HySpecNet11k"
    with pytest.raises(AttributeError, match="no attribute 'HySpecNet12k'"):
        _ = datasets.HySpecNet12k
