"""compress.py and decompress.py keep all of a scene that GDAL reads, or say what they do not keep."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.control
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp, MaskFlags

import coding.decompressing
import coding.learned.codec
import coding.learned.factory
from coding.base import CodingError
from datasets.base import Loss
from datasets.rasters import GdalReader
from tests.scenes_of_all_kinds import content_of, scenes
from utils.errors import BusyError, UsageError
from utils.files import atomic_write


@pytest.fixture(scope="module")
def run(scripts):
    """run(scene, decoded, *flags): compress and decompress."""

    def both(source, target, *flags, window=()):
        coded = Path(target).with_suffix(".hsc")
        assert scripts.compress.main([str(source), str(coded), *map(str, flags), "-n", "1", "--overwrite"]) == 0
        argv = [str(coded), str(target), *map(str, window), "-n", "1", "--overwrite"]
        assert scripts.decompress.main(argv) == 0

    return both


def without_hidden(path):
    """Return the samples of a file as they are restored without loss: those that a mask hides are nodata, or else 0."""
    with rasterio.open(path) as raster:
        samples, shown = raster.read(), raster.read_masks() > 0
        shown[[MaskFlags.alpha in flags for flags in raster.mask_flag_enums]] = True
        shown[[color.name == "alpha" for color in raster.colorinterp]] = True
        fills = [0 if value is None else value for value in raster.nodatavals]
    return np.where(shown, samples, np.array(fills, samples.dtype)[:, None, None])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scene=scenes(), tile_size=st.sampled_from([16, 128]))
def test_a_geotiff_is_restored_with_all_that_gdal_reads(run, scene, tile_size):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.tif"), Path(folder, "out.tif")
        scene.write(source)
        run(source, target, "--tile-size", tile_size)
        expected = content_of(source) | {"samples": without_hidden(source).tobytes()}
        restored = content_of(target)
        if scene.colors == "alpha":  # GDAL does not say that alpha hides samples if there is a nodata value, too
            del expected["masks"], restored["masks"]
        assert restored == expected


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return a folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def smooth(bands=6, height=20, width=24, dtype="int16", seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cube = (np.sin(x / 5) + np.cos(y / 7) + 3) * np.linspace(300, 900, bands)[:, None, None]
    cube += rng.normal(0, 10, cube.shape)
    return (cube / 1e4).astype(dtype) if dtype.startswith("float") else np.rint(cube).astype(dtype)


def write_tif(path, cube, mask=None, has_alpha=False, **changes):
    bands, height, width = cube.shape
    profile = dict(driver="GTiff", count=bands, height=height, width=width, dtype=cube.dtype, photometric="minisblack")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile, **changes) as tif:
        if has_alpha:
            tif.colorinterp = [*[ColorInterp.undefined] * (bands - 1), ColorInterp.alpha]
        tif.write(cube)
        if mask is not None:
            tif.write_mask(mask)


# -- masks, alpha, special values -----------------------------------------------------------------


@pytest.mark.parametrize("flags", [["--target-psnr", 50], ["--max-error", 5], []])
def test_what_a_mask_hides_is_neither_coded_nor_measured(run, files, capsys, flags):
    cube, mask = smooth(), np.ones((20, 24), bool)
    mask[:6] = False
    noisy = cube.copy()
    noisy[:, ~mask] = np.random.default_rng(1).integers(-30000, 30000, noisy[:, ~mask].shape)
    write_tif("a.tif", noisy, mask, crs="EPSG:32633", transform=rasterio.Affine(1, 0, 0, 0, -1, 0))
    run("a.tif", "b.tif", *flags)
    out, err = capsys.readouterr()
    assert "note: a.tif: not kept: values of masked samples, which are decoded as 0" in err
    with rasterio.open("b.tif") as tif:
        assert np.array_equal(tif.read_masks(1) > 0, mask)
        decoded = tif.read()
    assert not decoded[:, ~mask].any()
    largest = np.abs(decoded.astype(int) - cube)[:, mask].max()
    assert largest < 300 and f"largest error {largest}," in out
    assert Path("b.hsc").stat().st_size < 0.7 * cube.nbytes


@pytest.mark.parametrize("flags", [["--target-psnr", 50], ["--max-error", 5], ["--codec", "jpegxl", "--quality", 20]])
def test_alpha_is_exact_and_hides_pixels(run, files, capsys, flags):
    alpha = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint16), (1, 20, 24))
    cube = smooth(dtype="uint16")
    cube[:, alpha[0] == 0] = np.random.default_rng(1).integers(0, 65535, (6, int((alpha == 0).sum())))
    write_tif("a.tif", np.concatenate([cube, alpha]), has_alpha=True)
    run("a.tif", "b.tif", *flags)
    assert "values of masked samples" in capsys.readouterr().err
    with rasterio.open("b.tif") as tif:
        decoded = tif.read()
        assert tif.colorinterp[-1].name == "alpha" and np.array_equal(decoded[-1], alpha[0])
    assert not decoded[:-1, alpha[0] == 0].any()
    shown = alpha[0] != 0
    assert np.abs(decoded[:-1].astype(int) - cube)[:, shown].max() < 200
    # Without the alpha band, a mask says which pixels it hid.
    run("a.tif", "c.tif", *flags, window=["--bands", 2, 1])
    with rasterio.open("c.tif") as tif:
        assert np.array_equal(tif.read_masks(1) > 0, shown) and np.array_equal(tif.read(), decoded[[1, 0]])


def test_what_alpha_hides_is_kept_without_loss(run, files, capsys):
    """GDAL may call the fourth band of a file of bytes alpha, whatever it is."""
    cube = np.random.default_rng(0).integers(0, 3, (4, 20, 24)).astype(np.uint8)
    write_tif("a.tif", cube, has_alpha=True)
    run("a.tif", "b.tif")
    with rasterio.open("a.tif") as source, rasterio.open("b.tif") as tif:
        assert source.colorinterp == tif.colorinterp and tif.colorinterp[-1].name == "alpha"
        assert np.array_equal(tif.read(), cube)
    assert "not kept" not in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--max-error", 5], ["--quality", 30]])
def test_a_model_does_not_see_alpha(run, files, linear, monkeypatch, flags):
    monkeypatch.setattr(linear, "name", "cae1d")  # a name of the registry
    for module in (coding.learned.factory, coding.learned.codec):
        monkeypatch.setattr(module, "load_network", lambda *_: linear())
    cube = np.concatenate([np.full((1, 20, 24), 7, np.int16), smooth(12)])
    cube[0, :5] = 0
    write_tif("a.tif", cube)
    with rasterio.open("a.tif", "r+") as tif:
        tif.colorinterp = [ColorInterp.alpha, *[ColorInterp.undefined] * 12]
    run("a.tif", "b.tif", "--codec", "learned", "--num-channels", 12, *flags)
    with rasterio.open("b.tif") as tif:
        decoded = tif.read()
    assert np.array_equal(decoded[0], cube[0]) and not decoded[1:, :5].any()
    assert np.abs(decoded - cube)[1:, 5:].max() <= (5 if "--max-error" in flags else 300)


def test_masks_hide_damaged_tiles(scripts, run, files):
    write_tif("a.tif", smooth(), np.ones((20, 24), bool))
    run("a.tif", "b.tif", "--tile-size", 16)
    data = bytearray(Path("b.hsc").read_bytes())
    data[-9] ^= 1  # in the last tile
    Path("b.hsc").write_bytes(data)
    assert scripts.decompress.main(["b.hsc", "c.tif", "--keep-going"]) == 1
    with rasterio.open("c.tif") as tif:
        mask = tif.read_masks(1) > 0
    assert mask[:16].all() and mask[:, :16].all() and not mask[16:, 16:].any()


def test_an_output_must_not_be_the_data_of_a_header(scripts, files):
    smooth().tofile("a.img")
    lines = ["ENVI", "samples = 24", "lines = 20", "bands = 6", "data type = 2", "interleave = bsq", "byte order = 0"]
    Path("a.hdr").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="is the input"):
        scripts.compress.main(["a.hdr", "a.img", "--overwrite"])


@pytest.mark.parametrize(
    "flags", [[], ["--max-error", 0.001], ["--target-psnr", 60], ["--codec", "zfp", "--step", 1e-3]]
)
def test_nan_and_infinity_beside_nodata_are_restored(run, files, flags):
    cube = smooth(dtype="float32")
    special = np.array([0x7FC00000, 0xFFC00000, 0x7FABCDEF, 0x7F800000, 0xFF800000], np.uint32).view(np.float32)
    cube[:, :4] = -9999
    cube[:, 6:8] = np.nan
    cube[2, 10, :5] = special
    write_tif("a.tif", cube, nodata=-9999)
    run("a.tif", "b.tif", *flags)
    with rasterio.open("b.tif") as tif:
        decoded = tif.read()
        assert tif.nodata == -9999
    gaps = ~np.isfinite(cube) | (cube == -9999)
    assert np.array_equal(decoded[gaps].view(np.uint32), cube[gaps].view(np.uint32))
    assert np.isfinite(decoded[~gaps]).all() and (decoded[~gaps] != -9999).all()
    # nan adds to the nodata value of the file
    run("a.tif", "c.tif", *flags, "--nodata", "nan")
    assert Path("c.tif").read_bytes() == Path("b.tif").read_bytes()


def test_each_band_has_its_own_nodata(run, files):
    cube = smooth(3)
    for band, value in enumerate((-5, -7)):
        cube[band, band : band + 4] = value
    write_tif("a.tif", cube)
    bands = "".join(
        f'<PAMRasterBand band="{n}"><NoDataValue>{v}</NoDataValue></PAMRasterBand>' for n, v in ((1, -5), (2, -7))
    )
    Path("a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    run("a.tif", "b.tif", "--max-error", 60)
    with rasterio.open("b.tif") as tif:
        assert tif.nodatavals == (-5, -7, None)
        for band, value in enumerate((-5, -7)):
            assert np.array_equal(tif.read(band + 1) == value, cube[band] == value)
    run("a.tif", "c.tif", "--nodata", 300)
    with rasterio.open("c.tif") as tif:
        assert tif.nodatavals == (300, 300, 300) and np.array_equal(tif.read(), cube)


def test_bands_without_what_others_have_lose_nothing(run, files, capsys):
    write_tif("a.tif", smooth(3))
    bands = "".join(
        f'<PAMRasterBand band="{n}"><NoDataValue>-{n}</NoDataValue><Scale>{scale}</Scale>{color}</PAMRasterBand>'
        for n, scale, color in ((1, 1, ""), (2, 1, ""), (3, 0.5, "<ColorInterp>Red</ColorInterp>"))
    )
    Path("a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    for numbers, nodata, scales in (([2], (-2,), (1,)), ([1, 1], (-1, -1), (1, 1)), ([3, 2], (-3, -2), (0.5, 1))):
        run("a.tif", "b.tif", window=["--bands", *numbers])
        with rasterio.open("b.tif") as tif:
            assert (tif.nodatavals, tif.scales) == (nodata, scales)
    assert "not kept" not in capsys.readouterr().err


# -- metadata -------------------------------------------------------------------------------------


def test_windows_move_what_places_a_scene(run, files):
    gcps = [
        rasterio.control.GroundControlPoint(2.5, 3.5, 10.0, 45.0, 7.0),
        rasterio.control.GroundControlPoint(9, 9, 11, 44),
    ]
    write_tif("a.tif", smooth(), np.random.default_rng(0).random((20, 24)) > 0.2)
    with rasterio.open("a.tif", "r+") as tif:
        tif.gcps = gcps, rasterio.crs.CRS.from_epsg(4326)
        mask = tif.read_masks(1)
    run("a.tif", "b.tif", window=["--window", 2, 3, 10, 12, "--bands", 5, 1])
    with rasterio.open("b.tif") as tif:
        assert [(point.row, point.col, point.x) for point in tif.gcps[0]] == [(0.5, 0.5, 10.0), (7, 6, 11)]
        assert np.array_equal(tif.read_masks(1), mask[2:12, 3:15]) and tif.count == 2
    write_tif("a.tif", smooth())
    numbers = " ".join(["1", *["0.25"] * 19])
    rpcs = {f"{axis}_{part}_COEFF": numbers for axis in ("LINE", "SAMP") for part in ("NUM", "DEN")}
    rpcs |= {f"{name}_{part}": "7" for name in ("LAT", "LONG", "HEIGHT") for part in ("OFF", "SCALE")}
    rpcs |= {"LINE_OFF": "20.3", "SAMP_OFF": "3", "LINE_SCALE": "9", "SAMP_SCALE": "9"}
    with rasterio.open("a.tif", "r+") as tif:
        tif.update_tags(ns="RPC", **rpcs)
    run("a.tif", "b.tif", window=["--window", 2, 3, 10, 12])
    with rasterio.open("b.tif") as tif:
        assert tif.tags(ns="RPC")["LINE_OFF"] == "18.3" and tif.tags(ns="RPC")["SAMP_OFF"] == "0"


@pytest.mark.parametrize(
    ("flags", "window", "is_kept"),
    [
        ([], [], True),
        ([], ["--bands", 2], True),
        ([], ["--window", 0, 0, 20, 23], False),
        (["--max-error", 1], [], False),
        (["--step", 9], [], False),
    ],
)
def test_statistics_are_kept_only_while_they_hold(run, files, flags, window, is_kept):
    write_tif("a.tif", smooth(2))
    with rasterio.open("a.tif", "r+") as tif:
        tif.update_tags(2, STATISTICS_MAXIMUM="7", STATISTICS_VALID_PERCENT="100", name="x")
    run("a.tif", "b.tif", *flags, window=window)
    with rasterio.open("b.tif") as tif:
        tags = tif.tags(tif.count)
    assert tags["name"] == "x" and ("STATISTICS_MAXIMUM" in tags) == ("STATISTICS_VALID_PERCENT" in tags) == is_kept


def test_losses_are_named_and_essential_ones_refused(scripts, run, files, monkeypatch, capsys):
    write_tif("a.tif", smooth())
    with rasterio.open("a.tif", "r+") as tif:
        tif.build_overviews([2])
    run("a.tif", "b.tif")
    assert "note: a.tif: not kept: overviews" in capsys.readouterr().err
    essential = Loss("epoch", "the epoch 2020.5 of the coordinates", is_essential=True)
    monkeypatch.setattr(GdalReader, "losses", (essential, Loss("views", "views")))
    monkeypatch.setattr(coding.decompressing, "losses_of_writing", lambda *_: [essential])
    for main, names in ((scripts.compress.main, ["a.tif", "c.hsc"]), (scripts.decompress.main, ["b.hsc", "c.tif"])):
        with pytest.raises(
            UsageError, match=r"would lose the epoch 2020\.5 of the coordinates: .* --drop epoch$"
        ) as caught:
            main(names)
        assert "\n" not in str(caught.value) and not Path(names[1]).exists()
        assert main([*names, "--drop", "epoch", "views"]) == 0
        assert "not kept: the epoch 2020.5 of the coordinates" in capsys.readouterr().err


def test_one_output_has_one_writer(scripts, run, files):
    write_tif("a.tif", smooth())
    run("a.tif", "b.tif")
    for main, names in ((scripts.compress.main, ["a.tif", "c.hsc"]), (scripts.decompress.main, ["b.hsc", "c.tif"])):
        with (
            atomic_write(names[1]),
            pytest.raises(BusyError, match=rf"^{names[1]}: another process is writing it") as caught,
        ):
            main(names)
        assert "\n" not in str(caught.value)


# -- hints and targets ----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "value"), [("int16", -9999), ("uint16", 65535), ("float32", -9999), ("int16", 0)])
def test_a_value_that_fills_pixels_is_named(scripts, run, files, capsys, dtype, value):
    cube = smooth(dtype=dtype)
    cube[:, :5] = value
    np.save("a.npy", cube)
    run("a.npy", "b.npy")
    hint = f"120 pixels are {value} in all bands: if that means no data, give --nodata {value}"
    assert f"note: {hint}" in capsys.readouterr().err
    run("a.npy", "b.npy", "--nodata", value)
    assert "pixels are" not in capsys.readouterr().err
    if dtype == "float32":
        with pytest.raises(CodingError, match=rf"^a\.npy: samples must be .*; {hint}$"):
            scripts.compress.main(["a.npy", "c.hsc", "--codec", "jpegls"])


def test_other_axes_are_named(run, files, capsys):
    cube = smooth()
    np.save("a.npy", np.moveaxis(cube, 0, 2))
    run("a.npy", "b.npy")
    hint = "a.npy: shape (20, 24, 6) is taken as (bands, rows, columns): give --axes rcb if the smallest is the bands"
    assert f"note: {hint}" in capsys.readouterr().err and np.load("b.npy").shape == (20, 24, 6)
    run("a.npy", "b.npy", "--axes", "rcb")
    assert "--axes" not in capsys.readouterr().err and np.array_equal(np.load("b.npy"), cube)


def test_the_peak_of_a_psnr_is_that_of_the_samples(scripts, run, files, capsys):
    cube = smooth(dtype="float32") * np.float32(1e-3)
    np.save("a.npy", cube)
    with pytest.raises(
        UsageError, match=r"^a\.npy: --target-psnr 60 with a peak of 1 allows errors .* --peak, such as"
    ):
        scripts.compress.main(["a.npy", "b.hsc", "--target-psnr", "60"])
    peak = float(cube.max())
    run("a.npy", "b.npy", "--target-psnr", 50, "--peak", peak)
    error = np.square(np.load("b.npy").astype(float) - cube).mean()
    psnr = 10 * np.log10(peak**2 / error)
    assert psnr == pytest.approx(50, abs=0.1) and f"PSNR {psnr:.2f} dB" in capsys.readouterr().out
    run("a.npy", "b.npy", "--quality", 0)
    assert not np.load("b.npy").any() and "next to nothing is left of these" in capsys.readouterr().err
