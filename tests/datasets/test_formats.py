"""Scenes in ENVI files, TIFFs of many pages, containers and cubes of any axes; side files; names of what is lost."""

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile

from datasets import gdal, npy, scenes
from datasets.base import GroundControlPoint, SceneInfo, without_statistics
from datasets.scenes import create_scene, losses_of_writing, open_scene
from utils.errors import DatasetError, ProjectError, UsageError

REPOSITORY = Path(__file__).parents[2]
CUBE = np.arange(4 * 20 * 24, dtype=np.int16).reshape(4, 20, 24)
STACK = np.concatenate([CUBE, CUBE[:2]])
ORDERS = {"bsq": "brc", "bil": "rbc", "bip": "rcb"}
HEADER = """ENVI
description = {
  a scene, of
  two lines}
samples = 24
lines = 20
bands = 4
header offset = 7
data type = 2
interleave = INTERLEAVE
byte order = 1
sensor type = HyMap
wavelength units = Nanometers
wavelength = {400.125, 500.0,
 600.0, 700.0}
fwhm = {6.5, 6.6, 6.7, 6.8}
bbl = {1, 0, 1, 1}
band names = {one, two (x), three, vier}
default bands = {3, 2, 1}
data ignore value = -5
reflectance scale factor = 10000
map info = {UTM, 1, 1, 500000, 6000000, 30, 30, 33, North, WGS-84}
"""
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def read(path, **arguments):
    with open_scene(path, **arguments) as scene:
        return scene.read(0, 0, scene.info.height, scene.info.width), scene.info, scene.losses


def write(path, cube, info, masks=None):
    with create_scene(path, info) as scene:
        for column in range(0, info.width, 10):  # windows that are contiguous in no interleave
            scene.write(0, column, cube[:, :, column : column + 10])
            if masks is not None:
                scene.write_masks(0, column, masks[:, :, column : column + 10])


def info_of(cube, **fields):
    return SceneInfo(*cube.shape[1:], len(cube), cube.dtype.name, **fields)


def save_tif(path, cube=CUBE, **profile):
    bands, height, width = cube.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=cube.dtype, **profile
    ) as tif:
        tif.write(cube)


def refused(path, match, **arguments):
    with pytest.raises(DatasetError, match=match) as caught, open_scene(path, **arguments):
        pass
    assert "\n" not in str(caught.value)


# ENVI


@pytest.fixture
def envi(tmp_path):
    """envi(interleave, data="s.img", header="s.hdr") writes CUBE, big-endian and with an offset."""

    def make(interleave, data="s.img", header="s.hdr"):
        order = ["brc".index(axis) for axis in ORDERS[interleave]]
        (tmp_path / data).write_bytes(b"1234567" + CUBE.transpose(order).astype(">i2").tobytes())
        (tmp_path / header).write_text(HEADER.replace("INTERLEAVE", interleave))
        return tmp_path / data

    return make


@pytest.mark.parametrize("interleave", ORDERS)
def test_an_envi_file_is_read_and_copied_with_all_fields(tmp_path, envi, interleave):
    samples, info, losses = read(envi(interleave))
    np.testing.assert_array_equal(samples, CUBE)
    assert losses == () and losses_of_writing("a.img", info) == losses_of_writing("a.tif", info) == []
    assert [tags["IMAGERY"]["CENTRAL_WAVELENGTH_UM"] for tags in info.band_tags][:2] == ["0.400125", "0.5000"]
    assert [tags["IMAGERY"]["FWHM_UM"] for tags in info.band_tags] == ["0.0065", "0.0066", "0.0067", "0.0068"]
    assert (info.descriptions[1], info.nodata, info.colors[:3]) == ("two (x)", -5, ("blue", "green", "red"))
    assert info.tags["ENVI"]["sensor_type"] == "HyMap" and info.transform == (30, 0, 5e5, 0, -30, 6e6)
    assert info.select_bands([3, 1]).band_tags[1]["ENVI"] == {"bbl": "0"} and info.interleave == interleave
    write(tmp_path / "copy.img", CUBE, info)
    copied, copied_info, _ = read(tmp_path / "copy.hdr")
    np.testing.assert_array_equal(copied, CUBE)
    assert replace(copied_info, crs=info.crs) == info
    header = (tmp_path / "copy.hdr").read_text()
    for line in HEADER.replace(",\n ", ", ").splitlines():
        if not line.startswith(("header offset", "byte order", "map info")):
            assert line.replace("INTERLEAVE", interleave) in header
    with rasterio.open(tmp_path / "copy.img") as raster:
        assert raster.driver == "ENVI" and raster.crs.to_epsg() == 32633
        np.testing.assert_array_equal(raster.read(), CUBE)


@pytest.mark.parametrize(
    ("data", "header", "name"),
    [("s", "s.hdr", "s"), ("s", "s.hdr", "s.hdr"), ("s.dat", "s.dat.hdr", "s.dat.hdr"), ("S.RAW", "S.HDR", "S.HDR")],
)
def test_envi_data_and_header_are_found(tmp_path, envi, data, header, name):
    envi("bil", data, header)
    np.testing.assert_array_equal(read(tmp_path / name)[0], CUBE)


def test_unfit_envi_files_are_refused(tmp_path, envi):
    path = envi("bsq")
    text = (tmp_path / "s.hdr").read_text()
    for old, new, match in (
        ("bands = 4", "bands = 3", "has 3847 bytes, but its header says 2887"),
        ("data type = 2", "data type = 6", "data type 6 and interleave bsq, expected one of 1"),
        ("lines = 20", "lines = x", "'lines' is x, expected a whole number"),
        ("WGS-84}", "WGS-84", "the list 'map info' has no closing brace"),
        ("byte order = 1", "file compression = 1", "is compressed"),
    ):
        (tmp_path / "s.hdr").write_text(text.replace(old, new))
        refused(path, match)
    (tmp_path / "s.bil").write_bytes(b"")
    refused(tmp_path / "s.hdr", r"several \(s.bil, s.img\)")


def test_an_envi_output_takes_its_interleave_from_the_suffix_and_no_header_of_another(tmp_path):
    write(tmp_path / "a.bip", CUBE, info_of(CUBE))
    assert (tmp_path / "a.bip").read_bytes() == CUBE.transpose(1, 2, 0).tobytes()
    with pytest.raises(UsageError, match=r"its header a\.hdr would replace that of a\.bip"):
        write(tmp_path / "a.bil", CUBE, info_of(CUBE))
    with pytest.raises(UsageError, match="no int8 samples"):
        write(tmp_path / "b.bil", CUBE.astype(np.int8), info_of(CUBE.astype(np.int8)))
    np.testing.assert_array_equal(read(tmp_path / "a.bip")[0], CUBE)


# Pages


def test_pages_of_one_kind_are_bands(tmp_path):
    for name, options in (
        ("pages.tif", {}),
        ("deflate.tif", {"compression": "zlib"}),
        ("imagej.tif", {"imagej": True, "metadata": {"axes": "ZYX"}}),
        ("scene.ome.tif", {"metadata": {"axes": "CYX"}}),
        ("planes.tif", {"photometric": "minisblack", "planarconfig": "separate"}),
    ):
        tifffile.imwrite(tmp_path / name, STACK, **options)
        samples, info, losses = read(tmp_path / name)
        np.testing.assert_array_equal(samples, STACK)
        assert [loss.name for loss in losses] == ["image-description"]
        write(tmp_path / "copy.tif", STACK, info)
        assert tifffile.imread(tmp_path / "copy.tif").shape == STACK.shape
    assert "<OME" in read(tmp_path / "scene.ome.tif")[1].tags["xml:OME"]["xml:OME"]


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, CUBE[0], description="Universität".encode("latin-1"), software="é".encode(), metadata=None)
    samples, info, losses = read(path)
    assert np.array_equal(samples, CUBE[:1]) and info.tags[""]["TIFFTAG_SOFTWARE"] == "é"
    assert [loss.name for loss in losses] == ["text"] and not losses[0].is_essential


def test_other_pages_are_refused_by_name(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(STACK[0])
        tif.write(STACK[0, :5])
    refused(path, f"name one of them: GTIFF_DIR:1:{path}, GTIFF_DIR:2:{path}")
    np.testing.assert_array_equal(read(f"GTIFF_DIR:2:{path}")[0], STACK[:1, :5])
    tifffile.imwrite(path, STACK, truncate=True)
    refused(path, "tifffile says that it has 2880 samples, but its pages have only 480")
    tifffile.imwrite(path, STACK[0], description="ImageJ=1.53\nimages=9\n", metadata=None)
    refused(path, "ImageJ says that it has 9 images, but its pages have only 1")


# Other formats


def test_other_rasters_are_read(tmp_path):
    save_tif(tmp_path / "a.tif", CUBE.view(np.uint16), crs="EPSG:32633")
    for name, driver in (("a.vrt", "VRT"), ("a.png", "PNG"), ("A.JP2", "JP2OpenJPEG")):
        rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / name, driver=driver, QUALITY="100", REVERSIBLE="YES")
        samples, info, _ = read(tmp_path / name)
        np.testing.assert_array_equal(samples, CUBE.view(np.uint16))
        assert info.crs == read(tmp_path / "a.tif")[1].crs
        assert info.gcps_crs is None


def test_a_header_of_the_same_stem_belongs_to_raw_samples_only(tmp_path, envi):
    data = envi("bip", data="s.sc0")
    assert np.array_equal(read(data)[0], CUBE) and read(data)[1].band_tags[0]["IMAGERY"]["FWHM_UM"] == "0.0065"
    save_tif(tmp_path / "a.tif", STACK)
    for name, driver in (("s.vrt", "VRT"), ("s.jp2", "JP2OpenJPEG")):
        rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / name, driver=driver, QUALITY="100", REVERSIBLE="YES")
        assert np.array_equal(read(tmp_path / name)[0], STACK)


def test_containers_name_their_rasters(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x/radiance"] = CUBE
    np.testing.assert_array_equal(read(path)[0], CUBE)
    with h5py.File(path, "a") as file:
        file["x/quality"] = CUBE[:1]
    refused(path, f"has several rasters, name one of them: HDF5:{path}://x/quality, HDF5:{path}://x/radiance")
    for name in (f'HDF5:"{path}"://x/radiance', f"HDF5:{path}://x/radiance"):
        np.testing.assert_array_equal(read(name)[0], CUBE)


def test_neither_network_nor_pipes_are_opened(tmp_path):
    save_tif(tmp_path / "a.tif")
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    text = (tmp_path / "a.vrt").read_text()
    os.mkfifo(tmp_path / "pipe.tif")
    for source in ("pipe.tif", "/vsicurl/http://localhost:1/a.tif", "http://localhost:1/a.tif"):
        (tmp_path / "b.vrt").write_text(text.replace("a.tif", source))
        refused(tmp_path / "b.vrt", f"its source '{source}' is not a regular file")
    (tmp_path / "c.xml").write_text('<GDAL_WMS><Service name="TMS"/></GDAL_WMS>')
    refused(tmp_path / "c.xml", "cannot be read")
    for name in ("http://localhost:1/a.tif", "/vsicurl/http://localhost:1/a.tif", 'NETCDF:"http://a/b.nc":c'):
        refused(name, "no such file")


@pytest.mark.parametrize("axes", ["brc", "rcb", "rbc", "crb"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_axes_of_an_npy(tmp_path, axes, order):
    stored = CUBE.transpose(["brc".index(axis) for axis in axes])
    np.save(tmp_path / "a.npy", np.asarray(stored, order=order))
    with open_scene(tmp_path / "a.npy", axes=axes) as scene:
        np.testing.assert_array_equal(scene.read(3, 5, 7, 9), CUBE[:, 3:10, 5:14])
    for wrong in ("abc", "rc", "brr"):
        with pytest.raises(UsageError, match="axes must be a permutation of brc"):
            read(tmp_path / "a.npy", axes=wrong)


# Side files


def test_coefficients_of_a_side_file_are_kept_and_moved(tmp_path):
    """IKONOS and GeoEye name units in them."""
    save_tif(tmp_path / "a.tif")
    names = ("LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF")
    names += tuple(name.replace("OFF", "SCALE") for name in names)
    polynomials = [f"{axis}_{part}_COEFF" for axis in ("LINE", "SAMP") for part in ("NUM", "DEN")]
    lines = [f"{name}: +002199.80 pixels" for name in names]
    lines += [f"{name}_{number}: +1.250000000000000E+00" for name in polynomials for number in range(1, 21)]
    (tmp_path / "a_RPC.TXT").write_text("\n".join(lines) + "\n")
    info = read(tmp_path / "a.tif")[1]
    assert (info.tags["RPC"]["LINE_OFF"], info.tags["RPC"]["LINE_NUM_COEFF"]) == ("2199.8", " ".join(["1.25"] * 20))
    assert info.window(3, 0, 2, 2).tags["RPC"]["LINE_OFF"] == "2196.8"
    for name in ("b.tif", "b.img"):
        assert not losses_of_writing(tmp_path / name, info)
        write(tmp_path / name, CUBE, info)
        assert read(tmp_path / name)[1].tags["RPC"].items() >= info.tags["RPC"].items()


def test_a_new_file_has_no_side_files_of_the_old_one(tmp_path):
    for name in ("a.tif", "a.img"):
        path = tmp_path / name
        write(path, CUBE, info_of(CUBE, nodata=1))
        for suffix in (".aux.xml", ".ovr", ".msk"):
            path.with_name(name + suffix).write_text("<PAMDataset><SRS>EPSG:32650</SRS></PAMDataset>")
        masks = np.ones((1, *CUBE.shape[1:]), bool)
        write(path, CUBE, info_of(CUBE, nodata=2, masks=1), masks)
        assert read(path)[1].nodata == 2 and read(path)[1].crs is None
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {"a.tif", "a.img", "a.hdr", "a.img.msk"}


def test_no_file_that_others_need_is_removed(tmp_path):
    for band in (1, 2):
        save_tif(tmp_path / f"LC08_B{band}.TIF", CUBE[:1])
    (tmp_path / "LC08_MTL.txt").write_text("GROUP = L1_METADATA_FILE\nEND_GROUP = L1_METADATA_FILE\nEND\n")
    with rasterio.open(tmp_path / "LC08_B1.TIF") as tif:
        assert any(name.endswith("MTL.txt") for name in tif.files)
    write(tmp_path / "LC08_B1.TIF", CUBE, info_of(CUBE))
    assert {file.name for file in tmp_path.iterdir()} == {"LC08_B1.TIF", "LC08_B2.TIF", "LC08_MTL.txt"}


def test_a_header_that_a_lost_file_left_is_removed(tmp_path):
    (tmp_path / "a.dat.hdr").write_text("ENVI\nsamples = 3\nlines = 4\nbands = 5\ndata type = 2\n")
    write(tmp_path / "a.dat", CUBE, info_of(CUBE))
    assert np.array_equal(read(tmp_path / "a.dat")[0], CUBE)


def test_masks_of_bands_are_kept(tmp_path):
    masks = np.random.default_rng(0).random(CUBE.shape) > 0.5
    for name in ("a.tif", "a.img"):
        write(tmp_path / name, CUBE, info_of(CUBE, masks=4), masks)
        with open_scene(tmp_path / name) as scene:
            np.testing.assert_array_equal(scene.read_masks(3, 4, 5, 6), masks[:, 3:8, 4:10])
            assert scene.losses == ()


def test_an_xmp_packet_is_kept(tmp_path):
    save_tif(tmp_path / "a.tif")
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    packet = '<Metadata domain="xml:XMP" format="xml"><x:xmpmeta xmlns:x="adobe:ns"><a>b</a></x:xmpmeta></Metadata>'
    text = (tmp_path / "a.vrt").read_text().replace("<VRTRasterBand", packet + "<VRTRasterBand", 1)
    (tmp_path / "a.vrt").write_text(text)
    rasterio.shutil.copy(tmp_path / "a.vrt", tmp_path / "b.tif", driver="GTiff")
    info = read(tmp_path / "b.tif")[1]
    assert "<a>b</a>" in info.tags["xml:XMP"]["xml:XMP"] and losses_of_writing("c.tif", info) == []
    write(tmp_path / "c.tif", CUBE, info)
    assert "<a>b</a>" in read(tmp_path / "c.tif")[1].tags["xml:XMP"]["xml:XMP"]


def test_what_is_lost_has_a_name(tmp_path):
    path = tmp_path / "a.tif"
    save_tif(path, CUBE.astype(np.uint8), tiled=True, blockxsize=16, blockysize=16)
    with rasterio.open(path, "r+") as tif:
        tif.build_overviews([2])
    with rasterio.open(f"{path}.msk", "w", driver="GTiff", count=1, height=20, width=24, dtype="uint8") as masks:
        masks.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": "2" for band in range(1, 5)})
        masks.write(np.full((1, 20, 24), 128, np.uint8))
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><SRS coordinateEpoch="2021.3">EPSG:9057</SRS><PAMRasterBand band="1"><NoDataValue>-1</NoDataValue>'
        "<CategoryNames><Category>a</Category></CategoryNames><Histograms/>"
        "<GDALRasterAttributeTable/></PAMRasterBand></PAMDataset>"
    )
    losses = {loss.name: loss.is_essential for loss in read(path)[2]}
    expected = ["nodata", "mask-values", "category-names", "attribute-table", "histograms", "overviews"]
    assert losses == {name: False for name in expected} | {"epoch": True}


def test_what_a_format_does_not_keep_has_a_name():
    info = info_of(
        CUBE,
        nodata=0,
        crs=rasterio.CRS.from_epsg(4979).to_wkt(version="WKT2_2019"),
        transform=(1.0, 0.5, 0.0, 0.0, -1.0, 0.0),
        gcps=(GroundControlPoint(0, 0, 1, 2, 3, "a", "b"),),
        masks=1,
        tags={"": {"a": "b"}, "RPC": {"LINE_OFF": "0"}},
        colors=("gray", "undefined", "undefined", "alpha"),
        color_tables=(((0, 1, 2, 3, 4),), (), (), ()),
    )
    bare = losses_of_writing("a.npy", info)
    names = {"nodata", "masks", "crs", "transform", "gcps", "colors", "color-tables", "RPC", "tags"}
    assert {loss.name for loss in bare} == names and not any(loss.is_essential for loss in bare)
    names = [loss.name for loss in losses_of_writing("a.img", replace(info, tags={}))]
    assert names == ["crs", "transform", "colors", "color-tables"]
    table = replace(info, tags={}, gcps=(), colors=(), color_tables=((), ((0, 1, 2, 3, 4),), (), ()))
    assert [loss.name for loss in losses_of_writing("a.tif", table)] == ["color-tables"]
    assert losses_of_writing("a.npy", info_of(CUBE, compression="lzw", interleave="bip")) == []


def test_metadata_that_cannot_be_stored_name_the_output():
    with pytest.raises(ProjectError, match=r"^out\.tif: cannot be created \("):
        losses_of_writing("out.tif", info_of(CUBE, crs="garbage"))


def test_statistics_are_left_out():
    band_tags = ({"": {"STATISTICS_MINIMUM": "0"}},) * 4
    info = info_of(CUBE, tags={"": {"STATISTICS_MEAN": "1", "a": "b"}}, band_tags=band_tags)
    assert without_statistics(info) == info_of(CUBE, tags={"": {"a": "b"}})


# GDAL's own data


def test_data_of_another_installation_are_not_used(tmp_path):
    database = Path(rasterio.__file__).parent / "proj_data" / "proj.db"
    shutil.copy(database, tmp_path)
    connection = sqlite3.connect(tmp_path / "proj.db")
    connection.execute("update metadata set value='0' where key='DATABASE.LAYOUT.VERSION.MINOR'")
    connection.commit()
    save_tif(tmp_path / "a.tif", crs="EPSG:3035")
    code = "import sys; from datasets.scenes import open_scene\nwith open_scene(sys.argv[1]) as a: print(a.info.crs)"
    foreign = dict.fromkeys(("PROJ_DATA", "PROJ_LIB", "GDAL_DATA"), str(tmp_path))
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.tif"],
        cwd=REPOSITORY,
        env=os.environ | foreign,
        capture_output=True,
        text=True,
    )
    assert process.stderr == "" and process.stdout.endswith('ID["EPSG",3035]]\n')


def test_a_database_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def fail(code):
        raise rasterio.errors.CRSError("The EPSG code is unknown.\nproj.db")

    save_tif(tmp_path / "a.tif")
    monkeypatch.setattr(gdal, "CRS", type("CRS", (), {"from_epsg": staticmethod(fail)}))
    gdal._check_proj.cache_clear()
    with pytest.raises(ProjectError, match=r"cannot read its database .*: unset PROJ_DATA and PROJ_LIB"):
        read(tmp_path / "a.tif")


def test_a_registered_format_is_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setitem(scenes.FORMATS, ".cube", npy.FORMAT._replace(suffixes=(".cube",)))
    path = tmp_path / "a.cube"
    write(path, CUBE, SceneInfo(20, 24, 4, "int16"))
    assert np.array_equal(read(path)[0], CUBE)
