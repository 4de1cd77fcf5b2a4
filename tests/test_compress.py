"""compress.py and decompress.py: scenes to files and back, and what is refused."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from coding import codecs
from coding.base import CodingError, DamagedError
from coding.classical.ccsds123.image import Ccsds123
from coding.hsc.container import Reader
from coding.samples import Samples
from datasets.base import SceneInfo
from datasets.enmap import DROPPED_BANDS, KEPT_INDICES
from datasets.scenes import create_scene, open_scene
from models import models
from utils.errors import DatasetError, UsageError

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = sorted((ROOT / "datasets/sample/patches").rglob("*-SPECTRAL_IMAGE.TIF"))


@pytest.fixture
def compress(scripts):
    return lambda *args: scripts.compress.main(list(map(str, args)))


@pytest.fixture
def decompress(scripts):
    return lambda *args: scripts.decompress.main(list(map(str, args)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """weights(bands, name="cae1d") -> path of a file with random weights."""

    def make(bands, name="cae1d"):
        path = tmp_path_factory.getbasetemp() / f"{name}-{bands}.pth.tar"
        if not path.exists():
            torch.manual_seed(0)
            torch.save({"state_dict": models[name](src_channels=bands).state_dict()}, path)
        return path

    return make


@pytest.fixture(scope="module")
def corner(tmp_path_factory):
    """corner(number, size) -> GeoTIFF of the first size x size pixels of a patch of the sample, with its metadata."""

    def make(number=1, size=32):
        path = tmp_path_factory.getbasetemp() / f"corner-{number}-{size}.tif"
        if not path.exists():
            with open_scene(SAMPLE[number]) as scene, create_scene(path, scene.info.window(0, 0, size, size)) as file:
                file.write(0, 0, scene.read(0, 0, size, size))
        return path

    return make


@pytest.fixture
def small(tmp_path, weights, make_cube):
    """Return the path of a .npy cube of 12 bands, and the flags that name weights for it."""
    path = tmp_path / "small.npy"
    np.save(path, make_cube((12, 40, 50)))
    return path, ["--checkpoint", weights(12), "--num-channels", 12, "--tile-size", 16]


@pytest.fixture
def make_cube():
    def make(shape, dtype="int16"):
        bands = np.arange(shape[0])[:, None, None]
        rng = np.random.default_rng(0)
        return np.rint(1500 + 900 * np.sin(bands / 3) + rng.normal(0, 50, shape)).astype(dtype)

    return make


# -- scenes to files and back ----------------------------------------------------------------------


@pytest.mark.slow
def test_sample_with_the_bundled_weights(compress, decompress, tmp_path, corner, capsys):
    scene, coded, decoded = corner(size=64), tmp_path / "scene.hsc", tmp_path / "scene.tif"
    assert compress(scene, coded, "--codec", "learned") == 0
    out, err = capsys.readouterr()
    assert "dark water" in err and "clipped before coding, as in training" in out
    assert "bpppc" in out and "PSNR" in out and "MB/s" in out and "not coded" not in out
    assert decompress(coded, decoded) == 0
    with rasterio.open(scene) as one, rasterio.open(decoded) as other:
        original, result = one.read(), other.read()
        for name in ("crs", "transform", "nodata", "descriptions", "dtypes", "shape"):
            assert getattr(one, name) == getattr(other, name), name
        assert all(other.tags()[key] == value for key, value in one.tags().items())
    assert (result[[band - 1 for band in DROPPED_BANDS]] == -32768).all()
    kept = list(KEPT_INDICES)
    error = np.clip(original[kept].astype(float), 0, 10000) - result[kept]
    psnr = -10 * np.log10(np.square(error / 10000).mean())
    assert f"PSNR {psnr:.2f} dB" in out and psnr > 50
    assert f"{8 * coded.stat().st_size / (202 * 64 * 64):.4f} bpppc" in out


@pytest.mark.slow
def test_lossless_in_all_bands(compress, decompress, tmp_path, corner):
    scene, coded, decoded = corner(0, 64), tmp_path / "scene.hsc", tmp_path / "scene.tif"
    assert compress(scene, coded, "-m", "cae1d", "--max-error", 0, "--quality", 20) == 0
    assert coded.stat().st_size < 0.6 * 2 * 202 * 64 * 64
    assert decompress(coded, decoded) == 0
    with rasterio.open(scene) as one, rasterio.open(decoded) as other:
        assert np.array_equal(one.read(), other.read())


@pytest.mark.slow
def test_a_bound_holds_in_the_dropped_bands_too(compress, decompress, tmp_path, make_cube, capsys):
    cube = make_cube((224, 20, 33))
    cube[:, :5, :6] = -32768
    cube[130, 7:] = -32768
    info = SceneInfo(20, 33, 224, "int16", nodata=-32768, transform=(30.0, 0.0, 5e5, 0.0, -30.0, 6e6))
    scene = tmp_path / "scene.tif"
    with create_scene(scene, info) as file:
        file.write(0, 0, cube)
    assert compress(scene, tmp_path / "a.hsc", "--codec", "learned", "--max-error", 7) == 0
    assert "not coded" not in capsys.readouterr().out
    assert decompress(tmp_path / "a.hsc", tmp_path / "a.npy") == 0
    decoded = np.load(tmp_path / "a.npy")
    assert np.array_equal(decoded == -32768, cube == -32768)
    assert np.abs(decoded.astype(int) - cube).max() == 7
    # Without a bound they are lost, and the summary says so.
    assert compress(scene, tmp_path / "b.hsc", "--codec", "learned") == 0
    lost = int((cube[[band - 1 for band in DROPPED_BANDS]] != -32768).sum())
    assert f"{lost} valid samples in 22 bands" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_cubes_of_any_type(compress, decompress, tmp_path, weights, make_cube, dtype):
    cube = make_cube((12, 19, 23), dtype)
    if dtype == "float32":
        cube /= np.float32(10000)
        cube[:, 3, 4] = np.nan
    np.save(tmp_path / "a.npy", cube)
    flags = ["--checkpoint", weights(12), "--num-channels", 12, "--nodata", "nan"][: 6 if dtype == "float32" else 4]
    assert compress(tmp_path / "a.npy", tmp_path / "a.hsc", "--max-error", 0, *flags) == 0
    assert decompress(tmp_path / "a.hsc", tmp_path / "b.npy", "--checkpoint", weights(12)) == 0
    decoded = np.load(tmp_path / "b.npy")
    assert decoded.dtype == cube.dtype and np.array_equal(decoded, cube, equal_nan=dtype == "float32")


def test_windows_and_bands_are_cut_out(compress, decompress, tmp_path, small):
    path, flags = small
    assert compress(path, tmp_path / "a.hsc", "--max-error", 3, *flags) == 0
    assert decompress(tmp_path / "a.hsc", tmp_path / "whole.npy", *flags[:2]) == 0
    whole = np.load(tmp_path / "whole.npy")
    window = ["--window", 9, 13, 20, 31, "--bands", 7, 1, 12]
    assert decompress(tmp_path / "a.hsc", tmp_path / "window.npy", *flags[:2], *window) == 0
    assert np.array_equal(np.load(tmp_path / "window.npy"), whole[[6, 0, 11], 9:29, 13:44])


@pytest.mark.slow
def test_results_do_not_depend_on_workers(compress, decompress, tmp_path, small):
    path, flags = small
    for workers in (1, 3):
        assert compress(path, tmp_path / f"{workers}.hsc", "--max-error", 3, *flags, "-n", workers) == 0
        assert decompress(tmp_path / f"{workers}.hsc", tmp_path / f"{workers}.npy", *flags[:2], "-n", workers) == 0
    assert (tmp_path / "1.hsc").read_bytes() == (tmp_path / "3.hsc").read_bytes()
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "3.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codec", "flags"),
    [
        pytest.param("learned", ["--max-error", 0, "--quality", 30], marks=pytest.mark.slow),
        ("klt-cm", ["--max-error", 0]),
    ],
)
@pytest.mark.parametrize("level", ["default", "avx2"])
def test_other_instruction_sets_decode_the_same(compress, tmp_path, corner, level, codec, flags):
    coded, decoded = tmp_path / "scene.hsc", tmp_path / "scene.npy"
    assert compress(corner(), coded, "--codec", codec, *flags) == 0
    done = subprocess.run(
        [sys.executable, "decompress.py", coded, decoded],
        cwd=ROOT,
        env={
            **os.environ,
            "ATEN_CPU_CAPABILITY": level,
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "OMP_NUM_THREADS": "1",
            "NUMBA_CPU_NAME": "generic" if level == "default" else "haswell",
            "OPENBLAS_CORETYPE": "Haswell",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with open_scene(corner()) as scene:
        assert np.array_equal(np.load(decoded), scene.read(0, 0, 32, 32))


# -- without a model --------------------------------------------------------------------------------


def test_sample_without_weights(compress, decompress, tmp_path, corner, capsys):
    """All bands are coded, losslessly by default."""
    scene, coded, decoded = corner(size=64), tmp_path / "scene.hsc", tmp_path / "scene.tif"
    assert compress(scene, coded) == 0
    out, err = capsys.readouterr()
    assert "largest error 0," in out and "PSNR infinite" in out and not err
    assert decompress(coded, decoded) == 0
    with rasterio.open(scene) as one, rasterio.open(decoded) as other:
        assert np.array_equal(one.read(), other.read())
        assert all(
            getattr(one, name) == getattr(other, name) for name in ("crs", "transform", "nodata", "descriptions")
        )
    lossless = coded.stat().st_size
    assert compress(scene, coded, "--max-error", 10, "--overwrite") == 0
    assert "largest error 10," in capsys.readouterr().out
    assert coded.stat().st_size < 0.25 * lossless
    with pytest.raises(CodingError, match="leave --checkpoint out"):
        decompress(coded, tmp_path / "b.tif", "--checkpoint", tmp_path / "weights")


@pytest.mark.slow
def test_torch_is_not_imported_without_a_model(tmp_path, make_cube):
    np.save(tmp_path / "a.npy", make_cube((9, 12, 40)))
    run = "runpy.run_path('{}.py', run_name='__main__')"
    for script, names in (("compress", ["a.npy", "a.hsc"]), ("decompress", ["a.hsc", "b.npy"])):
        arguments = [f"{script}.py", *(str(tmp_path / name) for name in names)]
        code = (
            f"import sys, runpy; sys.argv = {arguments}\n"
            f"try: {run.format(script)}\n"
            "except SystemExit as end: assert not end.code\n"
            "print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_windows_of_a_scene_without_weights(compress, decompress, tmp_path, make_cube):
    cube = make_cube((12, 40, 50))
    cube[:, :20, 10:30] = -32768
    np.save(tmp_path / "a.npy", cube)
    flags = ["--nodata", -32768, "--tile-size", 16]
    for workers in (1, 3):
        assert compress(tmp_path / "a.npy", tmp_path / f"{workers}.hsc", "--step", 30, *flags, "-n", workers) == 0
    assert (tmp_path / "1.hsc").read_bytes() == (tmp_path / "3.hsc").read_bytes()
    assert decompress(tmp_path / "1.hsc", tmp_path / "whole.npy") == 0
    whole = np.load(tmp_path / "whole.npy")
    assert np.array_equal(whole == -32768, cube == -32768)
    window = ["--window", 9, 13, 20, 31, "--bands", 7, 1, 12]
    assert decompress(tmp_path / "1.hsc", tmp_path / "window.npy", *window) == 0
    assert np.array_equal(np.load(tmp_path / "window.npy"), whole[[6, 0, 11], 9:29, 13:44])


def test_targets_without_weights(compress, tmp_path, make_cube, capsys):
    """On 12 small tiles, of which four are sampled."""
    np.save(tmp_path / "a.npy", make_cube((12, 40, 50)))

    def figures(*target):
        assert compress(tmp_path / "a.npy", tmp_path / "a.hsc", "--overwrite", "--tile-size", 16, *target) == 0
        out, err = capsys.readouterr()
        line = out.splitlines()[-1].partition(": ")[2]
        return float(line.split()[0]), line.partition("PSNR ")[2].split()[0], err

    rate, _, err = figures("--target-bpppc", 4)
    assert rate == pytest.approx(4, rel=0.02) and not err
    _, psnr, err = figures("--target-psnr", 55)
    assert float(psnr) == pytest.approx(55, abs=0.1) and not err
    rate, _, err = figures("--target-bpppc", 0.001)
    assert rate > 0.001 and "instead of 0.001 bpppc: klt-cm goes no lower" in err
    rate, _, err = figures("--target-bpppc", 30)
    assert rate < 30 and "klt-cm does no better with a loss; --max-error 0 has none" in err
    assert figures("--step", 25)[:2] == figures("--quality", 10 * np.log2(10000 / 256 / 25))[:2]


# -- every codec ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [name for name in codecs if name not in ("klt-cm", "learned")])
def test_every_codec_is_written_and_read_back(compress, decompress, tmp_path, make_cube, codec, capsys):
    """In all its modes, with gaps, and with a window and bands."""
    cube = make_cube((6, 24, 30))
    cube[:, :9, 10:20] = -32768
    np.save(tmp_path / "a.npy", cube)
    flags = ["--codec", codec, "--nodata", -32768, "--tile-size", 16, "--overwrite"]
    modes = codecs[codec].make_factory(Samples("int16"))
    for has_mode, wanted in (
        (modes.lossless, []),
        (modes.bounded, ["--max-error", 5]),
        (modes.lossy, ["--quality", 20]),
        (modes.lossy, ["--target-psnr", 50]),
    ):
        if not has_mode:
            continue
        assert compress(tmp_path / "a.npy", tmp_path / "a.hsc", *flags, *wanted) == 0
        out, err = capsys.readouterr()
        assert decompress(tmp_path / "a.hsc", tmp_path / "b.npy", "--overwrite") == 0
        decoded = np.load(tmp_path / "b.npy")
        assert np.array_equal(decoded == -32768, cube == -32768)
        largest = np.abs(decoded.astype(int) - cube).max()
        assert f"largest error {largest}," in out
        if not wanted:
            assert largest == 0 and not err
        elif wanted[0] == "--max-error":
            assert largest <= 5
        elif wanted[0] == "--target-psnr" and not err:
            assert float(out.partition("PSNR ")[2].split()[0]) == pytest.approx(50, abs=0.1)
        window = ["--window", 9, 5, 12, 20, "--bands", 4, 1, "--overwrite"]
        assert decompress(tmp_path / "a.hsc", tmp_path / "window.npy", *window) == 0
        assert np.array_equal(np.load(tmp_path / "window.npy"), decoded[[3, 0], 9:21, 5:25])


def test_target_rate_with_another_codec(compress, tmp_path, make_cube, capsys):
    np.save(tmp_path / "a.npy", make_cube((12, 40, 50)))
    flags = ["--codec", "klt-jpegxl", "--tile-size", 32, "--target-bpppc", 3]
    assert compress(tmp_path / "a.npy", tmp_path / "a.hsc", *flags) == 0
    out, err = capsys.readouterr()
    assert float(out.partition(": ")[2].split()[0]) == pytest.approx(3, rel=0.02) and not err


def test_bare_stream_round_trip(compress, decompress, tmp_path, corner, capsys):
    """The file is a compressed image of the standard, as other implementations read it, and nothing else."""
    stream = tmp_path / "a.bin"
    assert compress(corner(), stream, "--codec", "ccsds123", "--raw") == 0
    out, err = capsys.readouterr()
    assert "keeps samples only: no georeference, nodata value, masks, names" in err and "largest error 0," in out
    with open_scene(corner()) as scene:
        cube = scene.read(0, 0, 32, 32)
    assert stream.read_bytes() == Ccsds123().encode(cube)
    assert decompress(stream, tmp_path / "b.npy", "--raw") == 0
    assert np.array_equal(np.load(tmp_path / "b.npy"), cube)
    window = ["--window", 2, 3, 20, 10, "--bands", 7, 224]
    assert decompress(stream, tmp_path / "b.tif", "--raw", *window) == 0
    with rasterio.open(tmp_path / "b.tif") as tif:
        assert np.array_equal(tif.read(), cube[[6, 223], 2:22, 3:13])
    with pytest.raises(DamagedError, match=r"no \.hsc file"):
        decompress(stream, tmp_path / "c.npy")
    stream.write_bytes(stream.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=r"a\.bin: "):
        decompress(stream, tmp_path / "c.npy", "--raw")
    with pytest.raises(DamagedError, match="no such file"):
        decompress(tmp_path / "none.bin", tmp_path / "c.npy", "--raw")


@pytest.mark.parametrize("codec", ["ccsds123", "ccsds123-tuned"])
def test_bare_streams_with_loss(codec, compress, decompress, tmp_path, make_cube, capsys):
    cube = make_cube((9, 20, 22), "uint16")
    np.save(tmp_path / "a.npy", cube)
    flags = ["--codec", codec, "--raw", "--overwrite"]
    assert compress(tmp_path / "a.npy", tmp_path / "a.bin", *flags, "--max-error", 3) == 0
    assert decompress(tmp_path / "a.bin", tmp_path / "b.npy", "--raw") == 0
    assert np.abs(np.load(tmp_path / "b.npy").astype(int) - cube).max() == 3
    capsys.readouterr()
    assert compress(tmp_path / "a.npy", tmp_path / "a.bin", *flags, "--target-bpppc", 3) == 0
    rate = 8 * (tmp_path / "a.bin").stat().st_size / cube.size
    out, err = capsys.readouterr()
    assert f"{rate:.4f} bpppc" in out and (rate == pytest.approx(3, rel=0.02) or "comes nearer" in err)


def test_scenes_that_a_bare_stream_cannot_hold_are_refused(compress, tmp_path, make_cube):
    cube = make_cube((4, 9, 9))
    cube[:, 3, 3] = -1
    np.save(tmp_path / "gaps.npy", cube)
    np.save(tmp_path / "floats.npy", cube.astype(np.float32))
    flags = ["--codec", "ccsds123", "--raw"]
    with pytest.raises(UsageError, match="samples without data"):
        compress(tmp_path / "gaps.npy", tmp_path / "a.bin", *flags, "--nodata", -1, "--max-error", 2)
    assert compress(tmp_path / "gaps.npy", tmp_path / "a.bin", *flags, "--nodata", -1) == 0
    with pytest.raises(CodingError, match=r"samples must be .*int16 or uint16"):
        compress(tmp_path / "floats.npy", tmp_path / "b.bin", *flags)
    assert not (tmp_path / "b.bin").exists()


# -- rate control -----------------------------------------------------------------------------------


def test_targets_are_met_or_a_note_says_why_not(compress, tmp_path, small, linear, monkeypatch, capsys):
    import coding.learned.factory

    monkeypatch.setattr(coding.learned.factory, "load_network", lambda *_: linear())
    path, flags = small

    def figures(*target):
        assert compress(path, tmp_path / "a.hsc", "--overwrite", *flags, *target) == 0
        out, err = capsys.readouterr()
        line = out.splitlines()[-1].partition(": ")[2]
        return float(line.split()[0]), float(line.partition("PSNR ")[2].split()[0]), err

    # On 12 small tiles, of which eight are sampled; headers and masks count, too.
    rate, _, err = figures("--target-bpppc", 4)
    assert rate == pytest.approx(4, rel=0.02) and not err
    _, psnr, err = figures("--target-psnr", 42)
    assert psnr == pytest.approx(42, abs=0.1) and not err
    _, psnr, err = figures("--target-psnr", 90)
    assert psnr < 89 and "instead of 90 dB: cae1d with these weights does no better" in err
    rate, _, err = figures("--target-bpppc", 0.001)
    assert rate > 0.001 and "instead of 0.001 bpppc: cae1d goes no lower" in err


def test_quality_raises_the_size(compress, tmp_path, small):
    path, flags = small
    sizes = []
    for quality in (0, 30, 60):
        assert compress(path, tmp_path / "a.hsc", "--quality", quality, "--overwrite", *flags) == 0
        sizes.append((tmp_path / "a.hsc").stat().st_size)
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    assert compress(path, tmp_path / "b.hsc", "--step", 2**-6, *flags) == 0
    assert (tmp_path / "b.hsc").stat().st_size == sizes[2]


# -- files ------------------------------------------------------------------------------------------


def test_info_describes_a_file(compress, decompress, tmp_path, small, capsys):
    path, flags = small
    assert compress(path, tmp_path / "a.hsc", *flags) == 0
    capsys.readouterr()
    for script in (compress, decompress):
        assert script("--info", tmp_path / "a.hsc") == 0
        out = capsys.readouterr().out
        assert "cae1d" in out and "40 x 50" in out and "learned" in out


def test_damage_stays_in_its_tile(compress, decompress, tmp_path, small, capsys):
    path, flags = small
    assert compress(path, tmp_path / "a.hsc", "--max-error", 0, *flags) == 0
    data = bytearray((tmp_path / "a.hsc").read_bytes())
    data[-2000] ^= 16
    (tmp_path / "a.hsc").write_bytes(data)
    with pytest.raises(DamagedError, match=r"a\.hsc: tile \d+ \(row"):
        decompress(tmp_path / "a.hsc", tmp_path / "b.npy", *flags[:2])
    assert not list(tmp_path.glob("*b.npy*"))
    assert decompress(tmp_path / "a.hsc", tmp_path / "b.npy", *flags[:2], "--keep-going") == 1
    err = capsys.readouterr().err
    assert err.count("error: ") == 1 and "is damaged" in err
    cube, decoded = np.load(path), np.load(tmp_path / "b.npy")
    different = (cube != decoded).any(axis=0)
    assert 0 < different.sum() <= 16 * 16 and (decoded[:, different] == -32768).all()


def test_existing_files_are_kept_without_overwrite(compress, decompress, tmp_path, small):
    path, flags = small
    for name in ("a.hsc", "b.npy"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        compress(path, tmp_path / "a.hsc", *flags)
    assert (tmp_path / "a.hsc").read_text() == "mine"
    assert compress(path, tmp_path / "a.hsc", *flags, "--overwrite") == 0
    with pytest.raises(UsageError, match="--overwrite"):
        decompress(tmp_path / "a.hsc", tmp_path / "b.npy", *flags[:2])
    assert (tmp_path / "b.npy").read_text() == "mine"
    with pytest.raises(UsageError, match="is the input"):
        compress(path, path, *flags, "--overwrite")


@pytest.mark.slow
def test_a_signal_leaves_no_file(start, wait_for, terminate, tmp_path, weights):
    cube = np.random.default_rng(0).integers(0, 9000, (12, 400, 400), dtype=np.int16)
    np.save(tmp_path / "a.npy", cube)
    flags = ["--checkpoint", weights(12), "--num-channels", 12, "--max-error", 0, "--tile-size", 8]
    process = start("compress.py", tmp_path / "a.npy", tmp_path / "a.hsc", *flags)
    wait_for(lambda: list(tmp_path.glob("*.hsc*")), process)
    time.sleep(0.3)
    status, _, err = terminate(process, signal.SIGINT)
    assert status == 130 and "Traceback" not in err, err
    assert {file.name for file in tmp_path.iterdir()} == {"a.npy"}


def test_a_full_disk_leaves_no_file(tmp_path, small):
    path, _ = small

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = subprocess.run(
        [sys.executable, "compress.py", path, tmp_path / "a.hsc", "--tile-size", "16"],
        cwd=ROOT,
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"small.npy"}


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--codec", "learned"], "12 bands, the model takes 202"),
        (["--codec", "klt-cm", "-m", "sscnet"], "has no model"),
        (["--codec", "jpegls", "--checkpoint", "WEIGHTS"], "jpegls has no model"),
        (["--max-error", 3, "--quality", 40], "leaves klt-cm no step"),
        (["--tile-size", 7], "--tile-size must be 8 to"),
        (["--codec", "learned", "--num-channels", 12], "--checkpoint is needed"),
        (["--max-error", 3, "--target-psnr", 40], "--max-error sets the size"),
        (["--num-channels", 12, "--checkpoint", "WEIGHTS", "--tile-size", 7], "--tile-size must be 8 to"),
        (["--raw"], "--raw is for --codec ccsds123 or ccsds123-tuned, not klt-cm"),
        (["--codec", "aec", "--step", 4], "aec has no lossy mode"),
        (["--codec", "aec", "--max-error", 4], "aec cannot bound the error"),
        (["--codec", "klt-sperr"], "klt-sperr is always lossy"),
        (["--codec", "klt-sperr", "--max-error", 4], "klt-sperr is always lossy"),
        (["--codec", "jpegxl", "--max-error", 4], "jpegxl cannot bound the error"),
        (["--num-channels", 12, "--checkpoint", "WEIGHTS", "--device", "gpu"], "--device gpu"),
        (["--num-channels", 12, "--checkpoint", "WEIGHTS", "--nodata", 1e6], "nodata"),
    ],
)
def test_wrong_usage_is_one_line(compress, tmp_path, small, weights, flags, words):
    path, _ = small
    flags = [weights(12) if flag == "WEIGHTS" else flag for flag in flags]
    with pytest.raises(UsageError, match=words) as caught:
        compress(path, tmp_path / "a.hsc", *flags)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.hsc").exists()


def test_other_files_are_refused(compress, decompress, tmp_path, small):
    path, flags = small
    (tmp_path / "text.tif").write_text("no picture")
    (tmp_path / "text.hsc").write_text("no scene")
    with pytest.raises(DatasetError):
        compress(tmp_path / "text.tif", tmp_path / "a.hsc", *flags)
    with pytest.raises(DamagedError, match=r"no \.hsc file"):
        decompress(tmp_path / "text.hsc", tmp_path / "a.npy")
    with pytest.raises(DamagedError, match="no such file"):
        decompress(tmp_path / "nothing.hsc", tmp_path / "a.npy")
    with pytest.raises(UsageError, match="--window"):
        compress(path, tmp_path / "a.hsc", *flags)
        decompress(tmp_path / "a.hsc", tmp_path / "a.npy", *flags[:2], "--window", 0, 0, 41, 1)
    with pytest.raises(UsageError, match="--bands 13"):
        decompress(tmp_path / "a.hsc", tmp_path / "a.npy", *flags[:2], "--bands", 13)


def test_other_weights_are_refused(compress, decompress, tmp_path, small, weights):
    path, flags = small
    assert compress(path, tmp_path / "a.hsc", *flags) == 0
    torch.manual_seed(1)
    torch.save(models["cae1d"](src_channels=12).state_dict(), tmp_path / "other.pth.tar")
    with pytest.raises(CodingError, match=r"coded with the weights of cae1d \("):
        decompress(tmp_path / "a.hsc", tmp_path / "a.npy", "--checkpoint", tmp_path / "other.pth.tar")
    with open(tmp_path / "a.hsc", "rb") as file:
        assert Reader(file, "a").header.model["num_channels"] == 12


def test_files_truncated_anywhere_are_refused(compress, decompress, tmp_path, small):
    path, flags = small
    assert compress(path, tmp_path / "a.hsc", *flags) == 0
    data = (tmp_path / "a.hsc").read_bytes()
    for length in np.linspace(0, len(data) - 1, 25).astype(int):
        (tmp_path / "b.hsc").write_bytes(data[:length])
        with pytest.raises(DamagedError) as caught:
            decompress(tmp_path / "b.hsc", tmp_path / "b.npy", *flags[:2])
        assert "\n" not in str(caught.value) and "b.hsc" in str(caught.value)
        assert not (tmp_path / "b.npy").exists()
