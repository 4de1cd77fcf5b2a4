import numpy as np
import pandas as pd
import pytest
import rasterio

from datasets import HySpecNet11k, preprocess, split, tile
from datasets.enmap import KEPT_INDICES
from datasets.tile import best_offset, main, reasons_to_leave_out
from utils.errors import BusyError, ProjectError, UsageError
from utils.files import locked
from utils.workers import Outcome

NAME = "ENMAP01-____L2A-DT00000{:05}_20221103T162438Z_001_V010110_20221118T145147Z"
LAYERS = ("CLOUD", "CLOUDSHADOW", "HAZE", "CIRRUS", "SNOW")


@pytest.fixture
def save_product(tmp_path, save_tif, save_metadata):
    """save_product(number, size=(40, 50), cog="", **layers) -> samples of a product in tmp_path/products.

    Water vapor bands hold no data. Two columns on the left and one row at the top are background.
    """

    def save(number=1, size=(40, 50), cog="", **layers):
        name = NAME.format(number)
        folder = tmp_path / "products" / f"dims_op_oc_{number}" / name
        samples = np.random.default_rng(number).integers(0, 11000, (224, *size)).astype(np.int16)
        samples[sorted(set(range(224)) - set(KEPT_INDICES))] = -32768
        samples[:, :, :2] = samples[:, :1] = -32768
        save_tif(folder / f"{name}-SPECTRAL_IMAGE{cog}.TIF", samples)
        save_metadata(folder / f"{name}-METADATA.XML")
        layers = {layer: np.zeros(size, np.uint8) for layer in LAYERS} | layers
        for layer, values in layers.items():
            if values is not None:
                save_tif(folder / f"{name}-QL_QUALITY_{layer}{cog}.TIF", values[None], nodata=None)
        return samples

    return save


@pytest.fixture(autouse=True)
def _in_this_process(request, monkeypatch):
    """Run jobs in this process, as starting others takes a second, except where a test is for them."""
    if "processes" not in request.node.name:
        for module in (tile, preprocess):
            monkeypatch.setattr(module, "run_with_bar", in_this_process)


def in_this_process(function, jobs, *_args, **_kwargs):
    for job in jobs:
        try:
            yield Outcome(job, function(job))
        except (ProjectError, OSError) as error:
            yield Outcome(job, error=str(error))


def patches(root):
    return sorted((root / "patches").rglob("*.TIF"))


def where(path):
    """Return the first row and column of a patch from its name."""
    rows, columns = path.name.removesuffix("-SPECTRAL_IMAGE.TIF").split("-")[-1].split("_")
    return int(rows[1:5]), int(columns[1:5])


def run(root, *flags):
    return main([str(root.parent / "products"), "-o", str(root), "--size", "16", "--num-workers", "1", *flags])


def test_products_become_patches_in_the_layout_of_hyspecnet_by_processes(tmp_path, save_product, capsys):
    cloud = np.zeros((40, 50), np.uint8)
    cloud[20:30, 40:] = 1
    samples = save_product(1, CLOUD=cloud), save_product(2, cog="_COG")
    root = tmp_path / "data"
    assert run(root) == 0
    out = capsys.readouterr()
    assert f"tile_001: 5 patches, left out: cloud 1: {NAME.format(1)}" in out.out
    assert "11 patches of 2 scenes, 0 scenes skipped, 0 failed" in out.out and not out.err

    first = patches(root)[0]
    assert first.relative_to(root).as_posix() == (
        f"patches/tile_001/tile_001-patch_01/{NAME.format(1)}-Y00010016_X00020017-SPECTRAL_IMAGE.TIF"
    )
    for path in patches(root):
        cube = samples[int(path.parent.name[7]) - 1]
        row, column = where(path)
        with rasterio.open(path) as tif:
            np.testing.assert_array_equal(tif.read(), cube[:, row : row + 16, column : column + 16])
            assert (tif.transform.c, tif.transform.f) == (688005 + 30 * column, 4561935 - 30 * row)
            assert tif.tags(224, ns="IMAGERY") == {"CENTRAL_WAVELENGTH_UM": "2.64", "FWHM_UM": "0.00824"}
            assert tif.nodata == -32768 and tif.compression.name == "deflate"

    assert preprocess.main([str(root), "--num-workers", "1"]) == 0
    assert split.main([str(root)]) == 0
    assert "nodata" not in capsys.readouterr().err
    assert HySpecNet11k(root).file_shape == (202, 16, 16)


@pytest.mark.parametrize(("flags", "count"), [((), 5), (("--max-snow", "20"), 6), (("--max-snow", "0"), 4)])
def test_shares_of_the_quality_layers_are_bounded(tmp_path, save_product, flags, count):
    snow, cirrus = np.zeros((2, 33, 50), np.uint8)  # the grid has one place only
    snow[1:4, 2:18] = 1  # 18.75 % of the first patch
    snow[1:3, 18:22] = 1  # 3.125 % of the second
    cirrus[:] = 1  # thin
    save_product(size=(33, 50), SNOW=snow, CIRRUS=cirrus)
    assert run(tmp_path / "data", *flags) == 0
    assert len(patches(tmp_path / "data")) == count


def test_missing_layers_are_named_and_other_sizes_refused(tmp_path, save_product, capsys):
    save_product(1, HAZE=None, SNOW=None)
    save_product(2, HAZE=np.zeros((40, 49), np.uint8))
    assert run(tmp_path / "data") == 1
    err = capsys.readouterr().err
    assert f"{NAME.format(1)}-SPECTRAL_IMAGE.TIF: no layer of haze, snow: not checked" in err
    assert f"{NAME.format(2)}-QL_QUALITY_HAZE.TIF: 40 x 49 pixels, but the image beside it has 40 x 50" in err
    assert len(patches(tmp_path / "data")) == 6


def test_background_and_gaps_are_left_out(tmp_path, save_product):
    classes = np.ones((40, 50), np.uint8)
    classes[:, 45:] = 3
    save_product(CLASSES=classes)
    assert run(tmp_path / "data") == 0
    assert {where(path)[1] for path in patches(tmp_path / "data")} <= set(range(2, 30))
    assert len(patches(tmp_path / "data")) == 4


def test_other_scenes_are_cut_and_preprocessed(tmp_path, save_tif, capsys):
    """Bands without any data do not count, scale and offset make reflectances."""
    bands = np.random.default_rng(0).integers(1, 60000, (5, 20, 33)).astype(np.uint16)
    bands[3] = 0
    bands[1, 0, 0] = 0
    save_tif(tmp_path / "strip.tif", bands, nodata=0)
    with rasterio.open(tmp_path / "strip.tif", "r+") as tif:
        tif.scales, tif.offsets = (2e-5,) * 5, (-0.1,) * 5
    root = tmp_path / "data"
    assert main([str(tmp_path / "strip.tif"), "-o", str(root), "--size", "10", "--num-workers", "1"]) == 0
    assert "no layer of cloud, shadow, haze, cirrus, snow" in capsys.readouterr().err
    assert len(patches(root)) == 6, "the grid avoids the gap in the corner"

    path = patches(root)[0]
    row, column = where(path)
    npy_path = path.with_name(path.name.replace("-SPECTRAL_IMAGE.TIF", "-DATA.npy"))
    window = bands[:, row : row + 10, column : column + 10]
    expected = np.where(window == 0, 0, window * 2e-5 - 0.1).clip(0, 1)
    for dtype, values in (("float32", expected.astype(np.float32)), ("uint16", np.rint(expected * 10000))):
        flags = [str(root), "--num-bands", "5", "--num-workers", "1", "--dtype", dtype, "--overwrite"]
        assert preprocess.main(flags) == 0
        np.testing.assert_array_equal(np.load(npy_path), values)
    assert preprocess.main([*flags[:5]]) == 0 and "0 made, 6 skipped" in capsys.readouterr().out
    assert preprocess.main([str(root), "--num-workers", "1"]) == 1
    assert "5 bands of uint16, expected 224 bands of int16 as in EnMAP L2A; of another sensor: --num-bands 5" in (
        capsys.readouterr().err
    )


def test_scenes_are_added_and_settings_kept(tmp_path, save_product, capsys):
    root = tmp_path / "data"
    save_product(5)
    assert run(root) == 0
    before = {path: path.stat().st_mtime_ns for path in patches(root)}
    save_product(3)
    assert run(root) == 0
    assert "6 patches of 1 scenes, 1 scenes skipped, 0 failed" in capsys.readouterr().out
    assert main([str(tmp_path), "-o", str(root), "--size", "16"]) == 0
    assert "0 patches of 0 scenes, 2 scenes skipped" in capsys.readouterr().out, "patches are no scenes"
    assert before.items() <= {path: path.stat().st_mtime_ns for path in patches(root)}.items()
    table = pd.read_csv(root / "tiles.csv")
    assert table["product"].tolist() == [NAME.format(5), NAME.format(3)]
    assert table["tile"].tolist() == ["tile_001", "tile_002"] and table["patches"].tolist() == [6, 6]
    with pytest.raises(UsageError, match=r"tiles.csv: its tiles were made with max_cloud 10.0, not 5: give the same"):
        run(root, "--max-cloud", "5")
    with locked(root / ".tiles.csv.lock", "busy"), pytest.raises(BusyError, match="another process is cutting scenes"):
        run(root)


def test_an_unfinished_tile_is_finished_under_its_number(tmp_path, save_product, monkeypatch):
    save_product(1)
    save_product(2)
    root, write = tmp_path / "data", tile._write_patch

    def stop(scene, job, number, *spot):
        if (job.tile, number) == ("tile_001", 4):
            raise OSError("disk full")
        write(scene, job, number, *spot)

    with monkeypatch.context() as patch:
        patch.setattr(tile, "_write_patch", stop)
        assert run(root) == 1
    assert len(patches(root)) == 9
    assert run(root) == 0
    assert len(patches(root)) == 12 and {path.parts[-3] for path in patches(root)} == {"tile_001", "tile_002"}


def test_wrong_input_is_refused(tmp_path, save_tif, capsys):
    with pytest.raises(UsageError, match="nothing: no such file or folder"):
        main([str(tmp_path / "nothing")])
    with pytest.raises(UsageError, match=r"no \*-SPECTRAL_IMAGE.TIF in it or below"):
        main([str(tmp_path)])
    for folder in "ab":
        save_tif(tmp_path / folder / "scene.tif", np.ones((2, 8, 8), np.int16))
    with pytest.raises(UsageError, match=r"b/scene.tif: has the same name as .*a/scene.tif: rename one"):
        main([str(tmp_path / folder / "scene.tif") for folder in "ab"])
    assert main([str(tmp_path / "a/scene.tif"), "-o", str(tmp_path / "data"), "--num-workers", "1"]) == 0
    assert "tile_001: 0 patches, left out: smaller than a patch 1: scene" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--max-cloud", "101"])


# The grid


def test_reasons_are_those_of_counting_pixels():
    rng = np.random.default_rng(0)
    flags = {"nodata": rng.random((9, 12)) < 0.05, "cloud": rng.random((9, 12)) < 0.3}
    reasons = reasons_to_leave_out(flags, {"cloud": 0.25}, 4)
    assert reasons.shape == (6, 9)
    for row, column in np.ndindex(reasons.shape):
        nodata, cloud = (pixels[row : row + 4, column : column + 4] for pixels in flags.values())
        assert reasons[row, column] == (0 if nodata.any() else 1 if cloud.mean() > 0.25 else -1)
    assert set(np.unique(reasons)) == {-1, 0, 1}


def test_the_grid_has_most_good_positions():
    is_good = np.random.default_rng(1).random((11, 14)) < 0.4
    counts = {(i, j): is_good[i::4, j::4].sum() for i in range(4) for j in range(4)}
    assert counts[best_offset(is_good, 4)] == max(counts.values())
    assert best_offset(np.ones((2, 3), bool), 4) == (0, 0)
