"""Read and write scenes window by window: samples, metadata, damaged files, full disks."""

import filecmp
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from datasets import gdal
from datasets.base import DTYPES, SceneInfo, as_sample, valid_mask
from datasets.gdal import CACHE_BYTES
from datasets.geotiff import LOSSLESS
from datasets.scenes import create_scene, open_scene
from utils.errors import DatasetError, ProjectError, UsageError

REPOSITORY = Path(__file__).parents[2]
SAMPLES = sorted((REPOSITORY / "datasets" / "sample").rglob("*-SPECTRAL_IMAGE.TIF"))
GRID = rasterio.Affine(30, 0, 688005, 0, -30, 4561935)
UTM = rasterio.CRS.from_wkt(rasterio.CRS.from_epsg(32633).to_wkt()).to_wkt(version="WKT2_2019")


def random_cube(bands, height, width, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal((bands, height, width)).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, (bands, height, width), dtype, endpoint=True)


def info_of(cube, **fields):
    bands, height, width = cube.shape
    return SceneInfo(height, width, bands, cube.dtype.name, **fields)


def tiles(info, side=128):
    for row in range(0, info.height, side):
        for column in range(0, info.width, side):
            yield row, column, min(side, info.height - row), min(side, info.width - column)


def save(path, cube, info=None, side=128):
    info = info or info_of(cube)
    with create_scene(path, info) as scene:
        for row, column, height, width in tiles(info, side):
            scene.write(row, column, cube[:, row : row + height, column : column + width])


def load(path):
    with open_scene(path) as scene:
        return scene.read(0, 0, scene.info.height, scene.info.width), scene.info


def save_tif(path, cube, **profile):
    """Save with rasterio alone, for layouts that `create_scene` does not write."""
    bands, height, width = cube.shape
    settings = dict(driver="GTiff", dtype=cube.dtype, count=bands, height=height, width=width, transform=GRID)
    with rasterio.open(path, "w", **(settings | profile)) as tif:
        tif.write(cube)


def assert_same_info(one, other):
    """Compare metadata; a nodata value of NaN equals NaN."""
    assert replace(one, nodata=None) == replace(other, nodata=None)
    assert one.nodata == other.nodata or (math.isnan(one.nodata) and math.isnan(other.nodata))


def assert_refused(error_class, match, path, **arguments):
    with pytest.raises(error_class, match=match) as caught, open_scene(path, **arguments):
        pass
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# Samples


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".npy", ".NPY"])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 37, 21), (2, 130, 259), (1, 1, 200)])
def test_tiles_are_written_and_odd_windows_read(tmp_path, dtype, suffix, size):
    path = tmp_path / f"scene{suffix}"
    cube = random_cube(*size, dtype)
    if cube.dtype.kind == "f":
        cube.flat[0] = np.nan
    if dtype == "float16" and suffix.lower() != ".npy":
        with pytest.raises(UsageError, match="have no float16 samples"):
            save(path, cube)
        return
    save(path, cube)
    assert list(tmp_path.iterdir()) == [path]
    _, height, width = size
    with open_scene(path) as scene:
        assert scene.info == info_of(cube)
        for row, column in ((0, 0), (height // 2, width // 3), (height - 1, width - 1), (height // 3, 0)):
            window = scene.read(row, column, height - row, (width - column + 1) // 2)
            expected = cube[:, row:, column : column + (width - column + 1) // 2]
            assert window.dtype == dtype and window.dtype.isnative and window.flags.c_contiguous
            np.testing.assert_array_equal(window, expected)


def test_npy_files_are_what_numpy_saves(tmp_path):
    cube = random_cube(3, 20, 30, "int16")
    save(tmp_path / "one.npy", cube, side=7)
    np.save(tmp_path / "other.npy", cube)
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "other.npy").read_bytes()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">u2", ">f4"])
def test_npy_of_any_byte_and_axis_order_is_read(tmp_path, order, dtype):
    cube = random_cube(4, 9, 11, np.dtype(dtype).name)
    np.save(tmp_path / "a.npy", np.asarray(cube, dtype=dtype, order=order))
    with open_scene(tmp_path / "a.npy") as scene:
        assert scene.info == info_of(cube)
        window = scene.read(2, 3, 5, 7)
    assert window.dtype.isnative and type(window) is np.ndarray
    np.testing.assert_array_equal(window, cube[:, 2:7, 3:10])


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize(
    "layout",
    [{}, {"blockysize": 7}, {"tiled": True, "blockxsize": 16, "blockysize": 32}, {"compress": "lzw", "blockysize": 5}],
)
def test_all_layouts_of_a_tif_give_the_same_samples(tmp_path, interleave, layout):
    cube = random_cube(5, 70, 45, "int16")
    save_tif(tmp_path / "a.tif", cube, interleave=interleave, **layout)
    with open_scene(tmp_path / "a.tif") as scene:
        for row in range(0, 70, 16):
            height = min(16, 70 - row)
            np.testing.assert_array_equal(scene.read(row, 0, height, 45), cube[:, row : row + height])


def test_windows_may_cut_blocks(tmp_path):
    cube = random_cube(3, 200, 300, "float32")
    save(tmp_path / "a.tif", cube, info_of(cube, compression="deflate"), side=50)
    np.testing.assert_array_equal(load(tmp_path / "a.tif")[0], cube)


def test_large_tifs_have_square_blocks(tmp_path):
    for height, width, blocks in ((128, 128, (128, 128)), (60, 100, (60, 100)), (129, 20, (128, 128))):
        cube = random_cube(2, height, width, "int16")
        save(tmp_path / "a.tif", cube, info_of(cube, transform=tuple(GRID)[:6]))
        with rasterio.open(tmp_path / "a.tif") as tif:
            assert set(tif.block_shapes) == {blocks} and tif.interleaving.name == "band"


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_wrong_windows_and_cubes_are_refused(tmp_path, suffix):
    cube = random_cube(2, 5, 6, "int16")
    path = tmp_path / f"a{suffix}"
    save(path, cube)
    with open_scene(path) as scene:
        outside = ((0, 0, 6, 6), (0, 1, 5, 6), (-1, 0, 2, 2), (0, -1, 2, 2), (5, 0, 1, 1))
        for window in (*outside, (0, 0, 0, 1), (0, 0, 1, 0)):
            with pytest.raises(ValueError, match="must be non-empty and inside the scene of 5 x 6"):
                scene.read(*window)
    for wrong in (cube[:1], cube[0], cube.astype(np.uint16), cube.astype(">i2")):
        with pytest.raises(ValueError, match=r"must be int16 \(2"), create_scene(path, info_of(cube)) as scene:
            scene.write(0, 0, wrong)
    with pytest.raises(ValueError, match="at row 1, column 0 must be"), create_scene(path, info_of(cube)) as scene:
        scene.write(1, 0, cube)
    np.testing.assert_array_equal(load(path)[0], cube)


# Metadata


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("int16", -32768.0),
        ("int16", 0.0),
        ("uint16", 65535.0),
        ("float32", math.nan),
        ("float32", -math.inf),
        ("float32", float(np.finfo("float32").min)),
        ("float32", float(np.float32(0.1))),
        ("float32", None),
    ],
)
@pytest.mark.parametrize("compression", [None, *LOSSLESS])
def test_metadata_is_kept(tmp_path, dtype, nodata, compression):
    cube = random_cube(3, 20, 140, dtype)
    info = info_of(
        cube,
        nodata=nodata,
        crs=UTM,
        transform=(30.0, 0.0, 688005.1, 0.0, -30.0, 4561935.3),
        descriptions=("band 1 (418.24 nm)", None, "Straße 紅 😀"),
        tags={
            "": {"AREA_OR_POINT": "Point", "ATTRIBUTION": "© DLR", "text": "a <b> & c=d\ne", "long": "x" * 100_000},
            "OWN": {"a": "b"},
        },
        band_tags=({"": {"wavelength": "418.24", "unit": "µm"}, "IMAGERY": {"FWHM_UM": "0.1"}}, {}, {"": {"a": "b"}}),
        scales=(1e-4, 1.0, 0.1),
        offsets=(0.0, -0.5, 1e300),
        units=("µm", None, "W/m²"),
        compression=compression,
    )
    save(tmp_path / "a.tif", cube, info)
    samples, read = load(tmp_path / "a.tif")
    assert_same_info(read, info)
    np.testing.assert_array_equal(samples, cube)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"], "GDAL wrote another file"


@pytest.mark.parametrize(
    "transform", [None, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), (30.0, 1.5, 5.0, 0.3, 20.0, 7.0), (1.000001, 0, 0, 0, 1, 0)]
)
@pytest.mark.parametrize("crs", [None, UTM])
def test_transform_and_crs_are_kept_without_each_other(tmp_path, transform, crs, recwarn):
    cube = random_cube(1, 4, 5, "int16")
    save(tmp_path / "a.tif", cube, info_of(cube, transform=transform, crs=crs))
    _, read = load(tmp_path / "a.tif")
    assert (read.transform, read.crs) == (transform, crs)
    assert not recwarn.list


@pytest.mark.parametrize("path", SAMPLES, ids=["one", "two"])
def test_enmap_scenes_are_copied_with_all_metadata(tmp_path, path):
    copy = tmp_path / "copy.tif"
    with open_scene(path) as scene, create_scene(copy, scene.info) as target:
        for window in tiles(scene.info, side=50):
            target.write(*window[:2], scene.read(*window))
    with rasterio.open(path) as one, rasterio.open(copy) as other:
        np.testing.assert_array_equal(other.read(), one.read())
        layout = ("blockxsize", "blockysize", "tiled")
        profiles = [{key: value for key, value in tif.profile.items() if key not in layout} for tif in (one, other)]
        assert profiles[0] == profiles[1] and one.crs is not None
        for name in ("descriptions", "scales", "offsets", "units", "nodatavals", "colorinterp", "mask_flag_enums"):
            assert getattr(one, name) == getattr(other, name)
        for band in range(one.count + 1):
            assert one.tags(band) == other.tags(band)


def test_lossy_compressions_become_deflate(tmp_path):
    cube = random_cube(1, 20, 20, "float32")
    save_tif(tmp_path / "a.tif", cube, compress="lerc")
    samples, info = load(tmp_path / "a.tif")
    assert info.compression == "lerc"
    save(tmp_path / "b.tif", samples, info)
    copied, info = load(tmp_path / "b.tif")
    assert info.compression == "deflate"
    np.testing.assert_array_equal(copied, samples)


def test_tags_with_names_that_rasterio_cannot_write_are_kept(tmp_path):
    cube = random_cube(1, 2, 2, "int16")
    tags = {"": {"ns": "a", "bidx": "b", "kept": "c"}}
    save(tmp_path / "a.tif", cube, info_of(cube, tags=tags))
    assert load(tmp_path / "a.tif")[1].tags == tags


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_nodata_of_the_user_must_fit_the_type(tmp_path, suffix):
    for dtype, good, bad in (
        ("int16", (-32768, 0, 32767), (-32769, 32768, 0.5, math.nan, math.inf)),
        ("uint16", (0, 65535), (-1, 65536, math.nan)),
        ("float32", (math.nan, -9999, 0.1, math.inf), (1e39, -1e300)),
    ):
        path = tmp_path / f"{dtype}{suffix}"
        cube = random_cube(1, 2, 3, dtype)
        save(path, cube)
        for nodata in good:
            with open_scene(path, nodata=nodata) as scene:
                held = np.array(nodata, dtype).astype(float)
                np.testing.assert_array_equal(scene.info.nodata, held)
        for nodata in bad:
            assert_refused(UsageError, f"must be a value of type {dtype}", path, nodata=nodata)


def test_as_sample_rounds_only_floats():
    largest = float(np.finfo(np.float32).max)
    for value, dtype, expected in (
        (-32768, "int16", -32768.0),
        (65535, "uint16", 65535.0),
        (0.1, "float32", float(np.float32(0.1))),
        (largest * (1 + 1e-9), "float32", largest),
        (math.inf, "float32", math.inf),
    ):
        assert as_sample(value, dtype) == expected
    for value, dtype in ((0.5, "int16"), (-1, "uint16"), (math.nan, "int16"), (largest * 1.001, "float32")):
        assert as_sample(value, dtype) is None
    assert math.isnan(as_sample(math.nan, "float32"))


def test_valid_mask_leaves_out_nodata():
    floats = np.array([0.1, math.nan, 5, math.inf], np.float32)
    assert valid_mask(floats, None).tolist() == valid_mask(floats, math.nan).tolist() == [True, False, True, True]
    assert valid_mask(floats, 0.1).tolist() == [False, True, True, True]
    assert valid_mask(np.array([0, 7], np.uint16), 7.0).tolist() == [True, False]
    assert valid_mask(np.array([0, 7], np.int16), None).all()


@pytest.mark.parametrize("nodata", [b"-9999", b"123.5", b"nan\0\0"])
def test_a_files_nodata_that_its_type_cannot_hold_is_none(tmp_path, nodata):
    cube = random_cube(1, 2, 2, "uint16")
    save_tif(tmp_path / "a.tif", cube, nodata=54321)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content.replace(b"54321", nodata))
    assert load(tmp_path / "a.tif")[1].nodata is None
    with open_scene(tmp_path / "a.tif", nodata=7) as scene:
        assert scene.info.nodata == 7


def test_a_world_file_must_not_place_a_scene_without_coordinates(tmp_path):
    cube, world = random_cube(1, 4, 5, "uint8"), tmp_path / "a.tfw"
    world.write_text("30\n0\n0\n-30\n100\n200\n")
    for overwrites in (False, True):
        with pytest.raises(UsageError, match=r"a\.tif: a\.tfw beside it would give it coordinates: remove it"):
            save(tmp_path / "a.tif", cube)
        assert (tmp_path / "a.tif").exists() == overwrites and world.exists()
        save(tmp_path / "a.tif", cube, info_of(cube, transform=tuple(GRID)[:6]))
        assert load(tmp_path / "a.tif")[1].transform == tuple(GRID)[:6]


def test_windows_and_bands_have_their_own_info(tmp_path):
    cube = random_cube(4, 30, 40, "int16")
    info = info_of(
        cube,
        transform=(30.0, 2.0, 100.0, 1.0, -30.0, 200.0),
        crs=UTM,
        tags={"": {"A": "b", "AREA_OR_POINT": "Area"}},
        descriptions=("0", "1", "2", None),
        band_tags=tuple({"": {"n": str(i)}} for i in range(4)),
        scales=(0.0, 1.0, 2.0, 3.0),
    )
    window = info.window(5, 7, 20, 10)
    assert (window.height, window.width) == (20, 10)
    assert window.transform == (30.0, 2.0, 100.0 + 7 * 30 + 5 * 2, 1.0, -30.0, 200.0 + 7 * 1 - 5 * 30)
    assert replace(window, height=30, width=40, transform=info.transform) == info
    assert info_of(cube).window(1, 1, 1, 1).transform is None
    arrays = {"GEOLOCATION": {"LINE_OFFSET": "0.5", "PIXEL_OFFSET": "0", "LINE_STEP": "1"}}
    moved = info_of(cube, tags=arrays).window(5, 7, 2, 2).tags["GEOLOCATION"]
    assert moved == {"LINE_OFFSET": "-4.5", "PIXEL_OFFSET": "-7", "LINE_STEP": "1"}
    places = {"ENVI": {"y_start": "21", "x_start": "11"}}
    assert info_of(cube, tags=places).window(5, 7, 2, 2).tags["ENVI"] == {"y_start": "26", "x_start": "18"}
    chosen = info.select_bands([3, 1])
    assert (chosen.bands, chosen.descriptions, chosen.scales) == (2, (None, "1"), (3.0, 1.0))
    assert (chosen.band_tags, chosen.offsets, chosen.tags) == (({"": {"n": "3"}}, {"": {"n": "1"}}), (), info.tags)
    save(tmp_path / "a.tif", cube[[3, 1], 5:25, 7:17], chosen.window(5, 7, 20, 10))
    assert load(tmp_path / "a.tif")[1] == chosen.window(5, 7, 20, 10)


# Unreadable files


def npy_bytes(descr, shape, body=b""):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.encode() + body


def test_unfit_tifs_are_refused(tmp_path):
    cube = random_cube(3, 10, 12, "int16")
    save_tif(tmp_path / "long.tif", cube.astype(np.int64))
    save_tif(tmp_path / "complex.tif", cube.astype(np.complex64))
    (tmp_path / "text.tif").write_text("<html>404</html>")
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "folder.tif").mkdir()
    os.mkfifo(tmp_path / "pipe.tif")
    for name, match in (
        ("long.tif", "3 bands of int64, expected one type for all, of uint8, int8, uint16"),
        ("complex.tif", "3 bands of complex64, expected"),
        ("text.tif", "cannot be read, unpack or download it again"),
        ("empty.tif", "cannot be read"),
        ("none.tif", "no such file"),
        ("folder.tif", "not a regular file"),
        ("pipe.tif", "not a regular file"),
    ):
        assert_refused(DatasetError, match, tmp_path / name)


def test_unfit_npys_are_refused(tmp_path, recwarn):
    for name, content, match in (
        ("flat", npy_bytes("<i2", (2, 3), bytes(12)), r"shape \(2, 3\), expected \(bands, rows, columns\)"),
        ("long", npy_bytes("<i8", (1, 1, 1), bytes(8)), "dtype int64, expected one of uint8, int8, uint16"),
        ("object", npy_bytes("|O", (1, 1, 1), bytes(8)), "damaged, or no .npy file"),
        ("short", npy_bytes("<i2", (1, 2, 2), bytes(7)), "damaged, or no .npy file"),
        ("longer", npy_bytes("<i2", (1, 2, 2), bytes(9)), "longer than its header says"),
        ("none", npy_bytes("<i2", (0, 2, 2)), "has no samples"),
        ("huge", npy_bytes("<i2", (2**40, 2**40, 2**40)), "damaged, or no .npy file"),
        ("wrapped", npy_bytes("<i2", (2**62, 4, 1)), "damaged, or no .npy file"),
        ("negative", npy_bytes("<i2", (-1, -1, 1), bytes(2)), "damaged, or no .npy file"),
        ("text", b"<html>404</html>", "damaged, or no .npy file"),
        ("empty", b"", "damaged, or no .npy file"),
    ):
        path = tmp_path / f"{name}.npy"
        path.write_bytes(content)
        assert_refused(DatasetError, match, path)
    with open(tmp_path / "archive.npy", "wb") as file:
        np.savez(file, np.zeros((1, 1, 1), np.int16))
    assert_refused(DatasetError, "damaged, or no .npy file", tmp_path / "archive.npy")
    assert_refused(DatasetError, "no such file", tmp_path / "missing.npy")
    assert not recwarn.list


def test_unknown_suffixes_are_refused(tmp_path):
    for name in ("a.jp2", "a.tif.gz"):
        (tmp_path / name).write_bytes(b"no raster")
        assert_refused(DatasetError, "not recognized as being in a supported file format", tmp_path / name)
        with (
            pytest.raises(UsageError, match=r"the suffix must be one of \.tif, \.tiff, \.npy, \.img"),
            create_scene(tmp_path / name, SceneInfo(1, 1, 1, "int16")),
        ):
            pass


@pytest.mark.parametrize("compress", [None, "deflate"])
def test_a_cut_tif_says_which_window_is_lost(tmp_path, compress):
    path = tmp_path / "a.tif"
    cube = random_cube(2, 300, 100, "int16")
    save_tif(path, cube, compress=compress, interleave="pixel", blockysize=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_scene(path) as scene:
        np.testing.assert_array_equal(scene.read(20, 0, 30, 100), cube[:, 20:50])
        with pytest.raises(DatasetError) as caught:
            scene.read(250, 3, 40, 50)
    message = str(caught.value)
    assert message.startswith(f"{path}: window of 40 x 50 at row 250, column 3 cannot be read") and "\n" not in message


def test_an_npy_cut_while_open_says_which_window_is_lost(tmp_path):
    path = tmp_path / "a.npy"
    save(path, random_cube(2, 30, 10, "int16"))
    with open_scene(path) as scene:
        os.truncate(path, 300)
        with pytest.raises(DatasetError, match="window of 3 x 4 at row 1, column 2 cannot be read"):
            scene.read(1, 2, 3, 4)


# Failed writes


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, DatasetError("another file")])
def test_a_stopped_write_leaves_the_old_file(tmp_path, suffix, error):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"what was there")
    cube = random_cube(2, 200, 100, "int16")
    with pytest.raises(error if isinstance(error, type) else type(error)), create_scene(path, info_of(cube)) as scene:
        scene.write(0, 0, cube[:, :128])
        assert {file.name for file in tmp_path.iterdir()} == {path.name, f".{path.name}.tmp"}
        raise error
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"what was there"


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_a_write_replaces_the_leftover_of_a_killed_one(tmp_path, suffix):
    path = tmp_path / "new" / f"a{suffix}"
    path.parent.mkdir()
    path.with_name(f".{path.name}.tmp").write_bytes(b"II*\0half a file")
    cube = random_cube(2, 20, 10, "int16")
    save(path, cube)
    assert list(path.parent.iterdir()) == [path]
    np.testing.assert_array_equal(load(path)[0], cube)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from utils.errors import ProjectError
from datasets.scenes import SceneInfo, create_scene

folder = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead
noise = np.random.default_rng(0).integers(0, 5000, (3, 300, 200), np.int16)

def write(path, compression, masks, limit):
    info = SceneInfo(300, 200, 3, "int16", tags={"": {"A": "b"}}, compression=compression, masks=masks)
    cube = noise * (masks == 0)  # so that masks take the most bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with create_scene(path, info) as scene:
        for row in range(0, 300, 128):
            for column in (0, 128):
                window = np.s_[:, row:row + 128, column:min(column + 128, 200)]
                scene.write(row, column, cube[window])
                scene.write_masks(row, column, noise[:masks][window] % 2 > 0)

for name, compression, masks in (
    ("a.tif", None, 0), ("b.tif", "deflate", 0), ("c.npy", None, 0), ("d.bil", None, 0),
    ("e.tif", "deflate", 1), ("f.tif", "deflate", 3),
):
    path = folder / name
    write(path, compression, masks, resource.RLIM_INFINITY)
    size = max(file.stat().st_size for file in folder.iterdir())
    for file in folder.iterdir():
        file.unlink()
    path.write_bytes(b"what was there")
    limits = [0, 1, 4, 100, 1000, *range(2000, size, size // 30), size - 100, size - 1]
    for limit in limits:
        try:
            write(path, compression, masks, limit)
        except (ProjectError, OSError) as error:
            assert str(path) in str(error) and "\\n" not in str(error), error
        else:
            raise AssertionError(f"{limit} of {size} bytes, and no error")
        others = [file.name for file in folder.iterdir() if file != path and file.suffix not in (".hdr", ".xml")]
        assert path.read_bytes() == b"what was there" and not others, others
    write(path, compression, masks, size)
    assert size == max(file.stat().st_size for file in folder.iterdir())
    for file in folder.iterdir():
        file.unlink()
    print(name, len(limits) > 30)
"""


def run_python(code, *args):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )


def test_a_full_disk_is_an_error_at_any_size(tmp_path):
    process = run_python(FULL_DISK, tmp_path)
    lines = [f"{name} True" for name in ("a.tif", "b.tif", "c.npy", "d.bil", "e.tif", "f.tif")]
    assert (process.stdout.splitlines(), process.stderr) == (lines, ""), "an error of libtiff's on stderr"


def test_metadata_that_cannot_be_stored_is_a_one_line_error(tmp_path, capfd):
    path = tmp_path / "a.tif"
    cube = random_cube(2, 3, 3, "int16")
    for fields in (
        {"crs": "garbage"},
        {"crs": 'PROJCS["unfinished'},
        {"nodata": 1e9},
        {"scales": (1.0, 2.0, 3.0)},
        {"tags": {"": {"a": "\ud800"}}},
        {"band_tags": ({}, {}, {"": {"a": "b"}})},
        {"transform": (1.0, 2.0)},
    ):
        with pytest.raises(ProjectError) as caught:
            save(path, cube, info_of(cube, **fields))
        assert str(caught.value).startswith(f"{path}: cannot be created (") and "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())
    print("still here", file=sys.stderr)
    assert capfd.readouterr().err == "still here\n"


def test_unwritable_paths_are_errors_and_folders_are_created(tmp_path):
    cube = random_cube(1, 2, 2, "int16")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(UsageError, match=r"folder\.tif: is a folder"):
        save(tmp_path / "folder.tif", cube)
    (tmp_path / "file").write_bytes(b"")
    for suffix in (".tif", ".npy"):
        with pytest.raises(OSError, match="file"):
            save(tmp_path / "file" / f"a{suffix}", cube)
    save(tmp_path / "new" / "folders" / "a.tif", cube)
    np.testing.assert_array_equal(load(tmp_path / "new" / "folders" / "a.tif")[0], cube)


# Memory

COPY = """
import re, sys
from pathlib import Path
from datasets.scenes import create_scene, open_scene

def peak():  # in MB; not ru_maxrss: a process inherits the peak of the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

for source, target in zip(sys.argv[1:], sys.argv[2:]):
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    with open_scene(source) as scene, create_scene(target, scene.info) as copy:
        before = peak()
        for row in range(0, 3000, 128):
            rows = scene.read(row, 0, min(128, 3000 - row), 500)
            for column in range(0, 500, 128):
                copy.write(row, column, rows[:, :, column:column + 128])
    print(peak() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path):
    """Copy 150 MB from npy to tif and back, in windows of 6.4 MB, with 64 MB of GDAL's cache."""
    np.save(tmp_path / "a.npy", np.arange(3000 * 500 * 50, dtype=np.int16).reshape(50, 3000, 500))
    process = run_python(COPY, *(tmp_path / name for name in ("a.npy", "b.tif", "c.npy")))
    assert process.stderr == "" and all(10 < float(line) < 100 for line in process.stdout.split())
    assert filecmp.cmp(tmp_path / "a.npy", tmp_path / "c.npy", shallow=False)
    for path in tmp_path.iterdir():  # pytest keeps the folders of three runs
        path.unlink()


def test_tall_blocks_are_cached(tmp_path, monkeypatch):
    """A row of three blocks of 256 x 64, in two bands of int16, is cached in full or not at all."""
    layout = dict(tiled=True, blockxsize=64, interleave="band")
    cube = random_cube(2, 300, 150, "int16")
    for block_height, most, expected in ((128, 2**29, 0), (256, 2**29, 256 * 192 * 2 * 2), (256, 10**5, 0)):
        save_tif(tmp_path / "a.tif", cube, blockysize=block_height, **layout)
        monkeypatch.setattr(gdal, "MAX_BLOCK_ROW_BYTES", most)
        with rasterio.open(tmp_path / "a.tif") as tif:
            assert gdal.cache_bytes_of(tif, 2) - CACHE_BYTES == expected


def test_a_name_that_is_not_utf8_is_refused_by_gdal_s_formats_only(tmp_path):
    cube = random_cube(2, 4, 5, "int16")
    name = os.fsdecode(b"sc\xe8ne")
    save(tmp_path / f"{name}.npy", cube)
    np.testing.assert_array_equal(load(tmp_path / f"{name}.npy")[0], cube)
    (tmp_path / f"{name}.tif").write_bytes(b"")
    for use in (lambda path: load(path), lambda path: save(path, cube)):
        with pytest.raises(UsageError, match="GDAL only takes names in UTF-8"):
            use(tmp_path / f"{name}.tif")
