"""Products in their real layouts, small: values, wavelengths and coordinates of what becomes of them."""

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
from rasterio.crs import CRS

from datasets import products
from datasets.base import Loss
from datasets.convert import main
from datasets.scenes import FORMATS, open_scene
from utils.errors import DatasetError, UsageError

WGS84 = CRS.from_epsg(4326).to_wkt()


def read(path):
    """Return info and samples of a scene."""
    with open_scene(path) as scene:
        return scene.info, scene.read(0, 0, scene.info.height, scene.info.width)


def check_compression(scripts, path):
    """Compress a converted product as it is, restore it, and compare all of it."""
    assert not path.with_name(f"{path.name}.aux.xml").exists(), "a side file for what the file itself can hold"
    packed, restored = path.with_suffix(".hsc"), path.with_name(f"restored{path.suffix}")
    assert scripts.compress.main([str(path), str(packed), "-n", "1"]) == 0
    assert scripts.decompress.main([str(packed), str(restored), "-n", "1"]) == 0
    (info, samples), (new_info, new_samples) = read(path), read(restored)
    assert new_info == info
    np.testing.assert_array_equal(new_samples, samples)


def micrometers(info):
    """Return the wavelengths and widths of the bands in micrometers."""
    names = ("CENTRAL_WAVELENGTH_UM", "FWHM_UM")
    return np.array([[float(tags["IMAGERY"][name]) for tags in info.band_tags] for name in names])


def epsg(info):
    return CRS.from_wkt(info.crs).to_epsg()


# PRISMA


@pytest.fixture
def save_prisma(tmp_path):
    """save_prisma(level="L2D", corner_shift=0) -> path and cubes (rows, bands, columns) of 9 x 7 pixels.

    The wavelengths fall; the last two of VNIR and the first of SWIR were not acquired.
    """

    def save(level="L2D", corner_shift=0.0):
        path = tmp_path / f"PRS_{level}_STD_20230601100000_20230601100004_0001.he5"
        rng = np.random.default_rng(0)
        cubes = [rng.integers(0, 65536, (9, bands, 7)).astype(np.uint16) for bands in (6, 5)]
        with h5py.File(path, "w") as file:
            file.attrs["List_Cw_Vnir"] = np.array([980, 800, 600, 402, 0, 0], np.float32)
            file.attrs["List_Fwhm_Vnir"] = np.array([13, 12, 11.5, 11, 0, 0], np.float32)
            file.attrs["List_Cw_Vnir_Flags"] = np.array([1, 1, 1, 1, 0, 0], np.uint8)
            file.attrs["List_Cw_Swir"] = np.array([0, 2490, 1700, 1200, 943], np.float32)
            file.attrs["List_Fwhm_Swir"] = np.array([0, 7, 8, 9, 10], np.float32)
            file.attrs["List_Cw_Swir_Flags"] = np.array([0, 1, 1, 1, 1], np.uint8)
            for arm, high in (("Vnir", 1.0), ("Swir", 0.8)):
                file.attrs[f"L2Scale{arm}Min"], file.attrs[f"L2Scale{arm}Max"] = np.float32(0), np.float32(high)
            file.attrs["Product_StartTime"] = np.bytes_("2023-06-01T10:00:00.000")
            file.attrs["Sun_zenith_angle"] = np.float32(30.5)
            swath = f"HDFEOS/SWATHS/PRS_{level}_HCO"
            for arm, cube in zip(("VNIR", "SWIR"), cubes, strict=True):
                file[f"{swath}/Data Fields/{arm}_Cube"] = cube
                file[f"{swath}/Data Fields/{arm}_PIXEL_L2_ERR_MATRIX"] = np.zeros(cube.shape, np.uint8)
            rows, columns = np.indices((9, 7))
            file[f"{swath}/Geolocation Fields/Latitude"] = (45 - 0.001 * rows - 0.0002 * columns).astype(np.float32)
            file[f"{swath}/Geolocation Fields/Longitude"] = (9 + 0.001 * columns).astype(np.float32)
            if level == "L2D":
                file.attrs["Epsg_Code"] = np.array([32632])
                left, right = 500000 + corner_shift, 500000 + 7 * 30 - corner_shift
                top, bottom = 4900000 - corner_shift, 4900000 - 9 * 30 + corner_shift
                for name, x, y in (("UL", left, top), ("UR", right, top), ("LL", left, bottom), ("LR", right, bottom)):
                    file.attrs[f"Product_{name}corner_easting"] = np.float32(x)
                    file.attrs[f"Product_{name}corner_northing"] = np.float32(y)
        return path, cubes

    return save


@pytest.mark.parametrize("corner_shift", [15.0, 0.0], ids=["corners are centers", "corners are edges"])
def test_prisma(tmp_path, save_prisma, corner_shift, capsys, scripts):
    path, (vnir, swir) = save_prisma(corner_shift=corner_shift)
    output = tmp_path / "scene.tif"
    assert main([str(path), str(output)]) == 0
    info, samples = read(output)
    expected = np.concatenate([vnir[:, [3, 2, 1, 0]], swir[:, [4, 3, 2, 1]]], 1).transpose(1, 0, 2)
    np.testing.assert_array_equal(samples, expected)
    assert (info.dtype, info.nodata) == ("uint16", 0)
    np.testing.assert_allclose(
        micrometers(info),
        [[0.402, 0.6, 0.8, 0.98, 0.943, 1.2, 1.7, 2.49], [0.011, 0.0115, 0.012, 0.013, 0.01, 0.009, 0.008, 0.007]],
    )
    np.testing.assert_allclose(info.scales, [1 / 65535] * 4 + [0.8 / 65535] * 4, rtol=1e-6)
    assert epsg(info) == 32632 and info.transform == (30, 0, 500000, 0, -30, 4900000)
    assert info.tags[""]["Sun_zenith_angle"] == "30.5"
    assert info.tags[""]["Product_StartTime"] == "2023-06-01T10:00:00.000"
    err = capsys.readouterr().err
    assert ": left out: 3 bands that were not acquired" in err
    assert ": not converted: SWIR_PIXEL_L2_ERR_MATRIX, VNIR_PIXEL_L2_ERR_MATRIX, Latitude, Longitude" in err
    check_compression(scripts, tmp_path / "scene.tif")


def test_prisma_with_coordinates_per_pixel(tmp_path, save_prisma, capsys):
    path, _ = save_prisma("L2C")
    assert main([str(path), str(tmp_path / "scene.tif")]) == 0
    info, _ = read(tmp_path / "scene.tif")
    assert len(info.gcps) == 63 and CRS.from_wkt(info.gcps_crs).to_epsg() == 4326 and info.transform is None
    point = next(point for point in info.gcps if (point.row, point.column) == (8.5, 2.5))
    assert (point.x, point.y) == pytest.approx((9.002, 44.9916), abs=1e-6)
    assert "written as 63 ground control points on a regular grid" in capsys.readouterr().err


def test_prisma_of_level_1_is_refused(tmp_path):
    path = tmp_path / "PRS_L1_STD.he5"
    with h5py.File(path, "w") as file:
        file["HDFEOS/SWATHS/PRS_L1_HCO/Data Fields/VNIR_Cube"] = np.zeros((2, 2, 2), np.uint16)
    with pytest.raises(DatasetError, match=r"PRS_L1_STD.he5: no reflectances, expected .* level L2B, L2C or L2D"):
        main([str(path), str(tmp_path / "scene.tif")])


# EMIT


@pytest.fixture
def emit(tmp_path):
    """Return the path of an EMIT product of 70 x 6 pixels and 4 bands, its cube, and its lookup table.

    The pixels of the map, 80 x 9, go through the cube obliquely; its last two columns are empty.
    """
    path = tmp_path / "EMIT_L2A_RFL_001_20230316T045133_2307503_005.nc"
    cube = np.random.default_rng(0).random((70, 6, 4), dtype=np.float32)
    cube[:, :, 3] = -0.01
    rows, columns = np.indices((80, 9))
    lines, samples = rows - columns, np.clip(columns, 0, 5)
    lines[(lines < 0) | (lines >= 70) | (columns >= 7)] = -1
    with h5py.File(path, "w") as file:
        file["reflectance"] = cube
        file["reflectance"].attrs["_FillValue"] = np.array([-9999], np.float32)
        file["sensor_band_parameters/wavelengths"] = np.array([381.00558, 388.4092, 395.81583, 1380], np.float32)
        file["sensor_band_parameters/fwhm"] = np.array([8.415, 8.415, 8.415, 8.8], np.float32)
        file["sensor_band_parameters/good_wavelengths"] = np.array([1, 1, 1, 0], np.uint8)
        rows, columns = np.indices((70, 6))
        file["location/lat"], file["location/lon"] = 30 - 0.0005 * rows, 70 + 0.0005 * columns
        file["location/elev"] = np.zeros((70, 6))
        file["location/glt_y"] = np.where(lines < 0, 0, lines + 1).astype(np.int32)
        file["location/glt_x"] = np.where(lines < 0, 0, samples + 1).astype(np.int32)
        file.attrs["geotransform"] = np.array([69.9, 0.000542, 0, 30.1, 0, -0.000542])
        file.attrs["spatial_ref"] = WGS84
        file.attrs["time_coverage_start"] = "2023-03-16T04:51:33+0000"
    return path, cube, lines, samples


def test_emit_as_it_was_seen(tmp_path, emit, capsys, scripts):
    path, cube, *_ = emit
    assert main([str(path), str(tmp_path / "scene.tif")]) == 0
    info, samples = read(tmp_path / "scene.tif")
    np.testing.assert_array_equal(samples, cube.transpose(2, 0, 1))
    assert (info.dtype, info.nodata) == ("float32", -9999)
    np.testing.assert_allclose(micrometers(info)[:, 1], [0.3884092, 0.008415])
    assert [tags[""]["good_wavelength"] for tags in info.band_tags] == ["1", "1", "1", "0"]
    assert info.tags[""]["time_coverage_start"] == "2023-03-16T04:51:33+0000"
    assert len(info.gcps) == 21 * 6 and CRS.from_wkt(info.gcps_crs).to_epsg() == 4326
    point = info.gcps[-1]
    assert (point.row, point.column) == (69.5, 5.5) and (point.x, point.y) == pytest.approx((70.0025, 29.9655))
    err = capsys.readouterr().err
    assert "126 ground control points on a regular grid; --ortho arranges the pixels as a map instead" in err
    assert "not converted: elev, glt_x, glt_y, lat, lon" in err
    check_compression(scripts, tmp_path / "scene.tif")


@pytest.mark.parametrize("memory", [None, 2**40], ids=["from the file", "from memory"])
def test_emit_by_its_lookup_table(tmp_path, emit, memory, monkeypatch, capsys):
    path, cube, lines, columns = emit
    monkeypatch.setattr(products, "available_memory", lambda: memory)
    monkeypatch.setattr("datasets.preprocess.WINDOW_BYTES", 9 * 4 * 4 * 33)
    assert main([str(path), str(tmp_path / "scene.tif"), "--ortho"]) == 0
    info, samples = read(tmp_path / "scene.tif")
    expected = np.where(lines >= 0, cube[lines, columns].transpose(2, 0, 1), np.float32(-9999))
    np.testing.assert_array_equal(samples, expected)
    assert epsg(info) == 4326 and not info.gcps
    assert info.transform == pytest.approx((0.000542, 0, 69.9, 0, -0.000542, 30.1))
    assert "arranged by the product's lookup table" in capsys.readouterr().err


# NEON


def test_neon(tmp_path, capsys, scripts):
    path = tmp_path / "NEON_D02_SERC_DP3_368000_4306000_reflectance.h5"
    cube = np.random.default_rng(0).integers(-100, 10000, (5, 4, 3)).astype(np.int16)
    cube[0, 0] = -9999
    with h5py.File(path, "w") as file:
        group = file.create_group("SERC/Reflectance")
        group["Reflectance_Data"] = cube
        group["Reflectance_Data"].attrs["Scale_Factor"] = np.float64(10000)
        group["Reflectance_Data"].attrs["Data_Ignore_Value"] = np.float64(-9999)
        group["Metadata/Spectral_Data/Wavelength"] = np.array([383.884, 388.8917, 393.8995])
        group["Metadata/Spectral_Data/FWHM"] = np.array([5.8, 5.81, 5.82])
        group["Metadata/Coordinate_System/EPSG Code"] = b"32618"
        group["Metadata/Coordinate_System/Map_Info"] = (
            b"UTM,  1.000,  1.000,       368000.000,       4307000.000,       1.000,       1.000,  18,  North,  WGS-84"
        )
        group["Metadata/Ancillary_Imagery/Slope"] = np.zeros((5, 4))
    assert main([str(path), str(tmp_path / "scene.tif")]) == 0
    info, samples = read(tmp_path / "scene.tif")
    np.testing.assert_array_equal(samples, cube.transpose(2, 0, 1))
    assert (info.dtype, info.nodata, info.scales) == ("int16", -9999, (1e-4,) * 3)
    np.testing.assert_allclose(micrometers(info)[:, 2], [0.3938995, 0.00582])
    assert epsg(info) == 32618 and info.transform == (1, 0, 368000, 0, -1, 4307000)
    assert "not converted: Slope" in capsys.readouterr().err
    check_compression(scripts, tmp_path / "scene.tif")


# DESIS and EnMAP


def test_desis_by_its_metadata(tmp_path, save_tif, scripts):
    stem = "DESIS-HSI-L2A-DT0322915736_003-20190629T091323-V0210"
    cube = save_tif(tmp_path / f"{stem}-SPECTRAL_IMAGE.tif", seed=1, interleave="pixel")[:4]
    save_tif(tmp_path / f"{stem}-SPECTRAL_IMAGE.tif", cube, interleave="pixel")
    bands = "".join(
        f"<band><bandNumber>{k}</bandNumber><wavelengthCenterOfBand>{400 + 2.5 * k}</wavelengthCenterOfBand>"
        "<wavelengthWidthOfBand>3.5</wavelengthWidthOfBand><gainOfBand>0.0001</gainOfBand></band>"
        for k in range(1, 5)
    )
    (tmp_path / f"{stem}-METADATA.xml").write_text(
        f"<hsi_doc><specific><bandCharacterisation>{bands}</bandCharacterisation></specific></hsi_doc>"
    )
    assert main([str(tmp_path / f"{stem}-METADATA.xml"), str(tmp_path / "scene.tif")]) == 0
    info, samples = read(tmp_path / "scene.tif")
    np.testing.assert_array_equal(samples, cube)
    np.testing.assert_allclose(micrometers(info)[0], [0.4025, 0.405, 0.4075, 0.41])
    assert info.scales == (1e-4,) * 4 and info.transform == (30, 0, 688005, 0, -30, 4561935)
    check_compression(scripts, tmp_path / "scene.tif")


# MATLAB and other arrays


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab(tmp_path, version, capsys, scripts):
    cube = np.random.default_rng(0).integers(0, 9000, (5, 4, 3)).astype(np.uint16)
    path = tmp_path / "Indian_pines.mat"
    if version == "5":
        scipy.io.savemat(path, {"indian_pines": cube, "gt": cube[:, :, 0], "other": cube[:2]})
    else:
        with h5py.File(path, "w", userblock_size=512) as file:
            file["indian_pines"], file["gt"], file["other"] = cube.T, cube[:, :, 0].T, cube[:2].T
    output = tmp_path / "scene.npy"
    with pytest.raises(UsageError, match=r"give --variable; arrays of three dimensions: .*indian_pines ") as caught:
        main([str(path), str(output)])
    assert "indian_pines (5, 4, 3)" in str(caught.value)
    assert main([str(path), str(output), "--variable", "indian_pines"]) == 0
    np.testing.assert_array_equal(np.load(output), cube.transpose(2, 0, 1))
    assert "the file names neither wavelengths nor coordinates" in capsys.readouterr().err
    check_compression(scripts, output)
    assert main([str(path), str(output), "--variable", "indian_pines", "--order", "bcr", "--overwrite"]) == 0
    np.testing.assert_array_equal(np.load(output), cube.transpose(0, 2, 1))
    with pytest.raises(UsageError, match="no --variable gt; arrays of three dimensions: indian_pines"):
        main([str(path), str(output), "--variable", "gt", "--overwrite"])


def test_arrays_of_hdf5(tmp_path):
    cube = np.arange(-30, 30).reshape(3, 5, 4)
    with h5py.File(tmp_path / "any.h5", "w") as file:
        file["a/cube"] = cube
    assert main([str(tmp_path / "any.h5"), str(tmp_path / "scene.npy"), "--order", "brc"]) == 0
    result = np.load(tmp_path / "scene.npy")
    np.testing.assert_array_equal(result, cube)
    assert result.dtype == np.int8, "the smallest type that holds 64-bit integers"


# What is refused


def test_what_the_output_cannot_keep_is_named_or_refused(tmp_path, save_prisma, monkeypatch, capsys):
    path, _ = save_prisma()
    output = tmp_path / "scene.npy"
    losses = [Loss("crs", "the reference system", True), Loss("tags", "tags")]
    monkeypatch.setitem(FORMATS, ".npy", FORMATS[".npy"]._replace(losses=lambda info: losses))
    with pytest.raises(UsageError, match=r"scene.npy: would lose the reference system: permit it by --drop crs"):
        main([str(path), str(output)])
    assert not output.exists()
    assert main([str(path), str(output), "--drop", "crs"]) == 0
    assert f"note: {output}: not kept: tags" in capsys.readouterr().err


def test_unusable_files_and_flags_are_one_line(tmp_path, save_prisma, emit, monkeypatch):
    path, _ = save_prisma()
    cases = [
        ([tmp_path / "none.he5", "a.tif"], "none.he5: no such file"),
        ([path, tmp_path / "a.jpg"], "a.jpg: unknown file format to write, the suffix must be one of .tif"),
        ([path, path], "is the input"),
    ]
    for content in (b"", b"\x89HDF\r\n\x1a\n", path.read_bytes()[:3000]):
        (tmp_path / f"{len(content)}.h5").write_bytes(content)
        (tmp_path / f"{len(content)}.mat").write_bytes(content)
        cases += [([tmp_path / f"{len(content)}.h5", tmp_path / "a.tif"], rf"{len(content)}\.h5: damaged")]
        cases += [([tmp_path / f"{len(content)}.mat", tmp_path / "a.tif"], rf"{len(content)}\.mat: damaged")]
    with h5py.File(tmp_path / "short.he5", "w") as file, h5py.File(path) as whole:
        whole.copy("HDFEOS", file)
        file.attrs.update(whole.attrs)
        file.attrs["List_Fwhm_Vnir"] = np.ones(2)
    cases.append(([tmp_path / "short.he5", tmp_path / "a.tif"], r"short\.he5: damaged, or not a known product"))
    with h5py.File(emit[0], "r+") as file:
        del file.attrs["geotransform"]
    cases.append(
        ([emit[0], tmp_path / "a.tif", "--ortho"], r"_005.nc: damaged, or not a known product \(.*geotransform")
    )
    for argv, message in cases:
        with pytest.raises((DatasetError, UsageError), match=message) as caught:
            main([*map(str, argv)])
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(products, "h5py", None)
    with pytest.raises(UsageError, match=r"he5: is read through h5py, which is not installed: pip install h5py"):
        main([str(path), str(tmp_path / "a.tif")])
    assert not (tmp_path / "a.tif").exists()


@pytest.mark.parametrize("suffix", [".tif", ".img"])
def test_gdal_reads_wavelengths_and_place_of_the_output(tmp_path, save_prisma, suffix):
    path, (vnir, _) = save_prisma()
    assert main([str(path), str(tmp_path / f"scene{suffix}"), "--drop", "scales"]) == 0
    with rasterio.open(tmp_path / f"scene{suffix}") as raster:
        assert raster.crs.to_epsg() == 32632 and raster.transform.to_gdal() == (500000, 30, 0, 4900000, 0, -30)
        assert float(raster.tags(1, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"]) == 0.402
        np.testing.assert_array_equal(raster.read(1), vnir[:, 3])
