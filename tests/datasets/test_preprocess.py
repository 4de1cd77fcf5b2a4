import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from datasets import HySpecNet11k, preprocess
from datasets.enmap import to_digital_numbers, to_reflectance
from datasets.preprocess import is_finished, main, preprocess_file
from datasets.scenes import open_scene
from datasets.transforms import get_transform
from utils.errors import DatasetError, UsageError
from utils.files import atomic_path

SAMPLE = Path(__file__).parents[2] / "datasets" / "sample"


def expected_cube(bands):
    """Apply the published rule, written independently."""
    kept = [bands[band - 1] for band in range(1, 225) if not (127 <= band <= 141 or 161 <= band <= 167)]
    return np.clip(np.array(kept, dtype=np.float32), 0, 10000) / np.float32(10000)


def read_tif(path):
    with rasterio.open(path) as tif:
        return tif.read()


def tifs(root):
    return sorted(root.rglob("*-SPECTRAL_IMAGE.TIF"))


def npy_of(tif_path):
    return tif_path.with_name(tif_path.name.replace("-SPECTRAL_IMAGE.TIF", "-DATA.npy"))


def contents(root):
    """Return path -> bytes of all files below `root` except TIFs, including temporary files in hidden folders."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.suffix != ".TIF"}


def assert_made(root, count):
    assert len(tifs(root)) == count == len(contents(root))
    for path in tifs(root):
        np.testing.assert_array_equal(np.load(npy_of(path)), expected_cube(read_tif(path)))


# One file


def test_digital_numbers_are_clipped_and_zero_without_data():
    samples = np.array([-32768, -1, 1, 10000, 32767, 5000], np.int16)
    before = samples.copy()
    numbers = to_digital_numbers(samples, valid=np.arange(6) < 5)
    assert numbers.dtype == np.uint16 and numbers.tolist() == [0, 0, 1, 10000, 10000, 0]
    np.testing.assert_array_equal(samples, before)
    assert to_digital_numbers(np.array([65535], np.uint16), np.array([True])).tolist() == [10000]


def test_reflectances_are_the_nearest_float32():
    """For all 10,001 values, the quotient in float64 rounded to float32."""
    numbers = np.arange(10001, dtype=np.uint16)
    x = to_reflectance(numbers)
    assert x.dtype == np.float32 and x.min() == 0 and x.max() == 1
    np.testing.assert_array_equal(x, (numbers.astype(np.float64) / 10000).astype(np.float32))
    times = numbers.astype(np.float32) * np.float32(1e-4)
    assert np.count_nonzero(times != x) == 3186  # so it must be a division


def test_uint16_holds_the_same_data_in_half_the_space(tif_root, capsys):
    from datasets.split import main as split

    assert main([str(tif_root)]) == 0
    split([str(tif_root)])
    full = HySpecNet11k(tif_root, transform=get_transform("random_4x4"), seed=3)
    samples, sizes = [full[i] for i in range(len(full))], [path.stat().st_size for path in full.paths]
    capsys.readouterr()

    assert main([str(tif_root), "--dtype", "uint16"]) == 0
    assert "0 made, 3 skipped" in capsys.readouterr().out  # finished is finished, whatever its type
    assert main([str(tif_root), "--dtype", "uint16", "--overwrite"]) == 0
    half = HySpecNet11k(tif_root, transform=get_transform("random_4x4"), seed=3)
    for i, sample in enumerate(samples):
        assert half[i].dtype == torch.float32 and torch.equal(half[i], sample)
        assert half.paths[i].stat().st_size - 128 == (sizes[i] - 128) / 2
    assert torch.equal(HySpecNet11k(tif_root)[0], torch.from_numpy(to_reflectance(np.load(half.paths[0]))))
    assert full.fingerprint() == half.fingerprint()


@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"interleave": "pixel"},
        {"blockysize": 5},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "pixel"},
    ],
)
@pytest.mark.parametrize("window_rows", [1, 7, 16, 1000])
def test_windows_of_any_size_and_layout_give_the_same_file(tmp_path, save_tif, monkeypatch, profile, window_rows):
    height, width = 37, 21
    monkeypatch.setattr(preprocess, "WINDOW_BYTES", window_rows * width * 224 * 2)
    bands = save_tif(tmp_path / "in.tif", size=(height, width), **profile)
    assert preprocess_file(tmp_path / "in.tif", tmp_path / "out.npy") == 0
    np.save(tmp_path / "expected.npy", expected_cube(bands))
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_windows_are_bounded_and_aligned_to_blocks(tmp_path, save_tif, monkeypatch):
    save_tif(tmp_path / "in.tif", size=(40, 10), blockysize=6)
    with open_scene(tmp_path / "in.tif") as scene:
        for rows, expected in ((15, 12), (6, 6), (4, 4), (0.5, 1), (1000, 40)):
            monkeypatch.setattr(preprocess, "WINDOW_BYTES", int(rows * 10 * 224 * 2))
            windows = list(preprocess.row_windows(scene.info, scene.block_height))
            assert windows[0] == (0, expected)
            assert [row for row, _ in windows] == list(range(0, 40, expected))
            assert sum(height for _, height in windows) == 40


@pytest.mark.parametrize("tag", [-32768, None, -9999, 32767])
def test_nodata_becomes_zero_and_is_counted(tmp_path, save_tif, tag):
    bands = np.full((224, 4, 5), 20000, dtype=np.int16)
    bands[100, 0, :2] = -32768 if tag is None else tag
    bands[101, 0, 0] = -32768
    bands[126:141] = -32768  # dropped anyway
    save_tif(tmp_path / "in.tif", bands, nodata=tag)
    assert preprocess_file(tmp_path / "in.tif", tmp_path / "out.npy") == pytest.approx(3 / (202 * 4 * 5))
    x = np.load(tmp_path / "out.npy")
    assert np.argwhere(x == 0).tolist() == [[100, 0, 0], [100, 0, 1], [101, 0, 0]]
    assert (x[x != 0] == 1).all()


def test_unfit_tifs_are_refused_and_leave_the_old_file(tmp_path, save_tif):
    npy_path = tmp_path / "out.npy"
    npy_path.write_bytes(b"what was there")
    bands = save_tif(tmp_path / "good.tif", size=(64, 64))
    save_tif(tmp_path / "three.tif", bands[:3])
    save_tif(tmp_path / "unsigned.tif", bands.astype(np.uint16), nodata=None)
    content = (tmp_path / "good.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.tif").write_text("<html>404</html>")
    for name, expected in (
        ("three.tif", "3 bands of int16, expected 224 bands of int16"),
        ("unsigned.tif", "224 bands of uint16, expected"),
        ("cut.tif", "window of 64 x 64 at row 0, column 0 cannot be read"),
        ("text.tif", "cannot be read"),
        ("none.tif", "no such file"),
    ):
        with pytest.raises(DatasetError) as info:
            preprocess_file(tmp_path / name, npy_path)
        assert str(info.value).startswith(f"{tmp_path / name}: {expected}")
        assert "\n" not in str(info.value)
        assert npy_path.read_bytes() == b"what was there"
    assert not list(tmp_path.glob(".*"))


def test_only_complete_files_are_finished(tmp_path, save_cube):
    path = tmp_path / "x-DATA.npy"
    assert not is_finished(path)
    save_cube(path, (202, 3, 4))
    assert is_finished(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_finished(path)
    save_cube(path, (224, 3, 4))
    assert not is_finished(path)
    np.save(path, np.zeros((202, 3, 4), np.float64))
    assert not is_finished(path)


# The script


def run(capfd, *argv):
    """Run the script here; return its status and what it and its workers printed."""
    capfd.readouterr()
    status = main([str(argument) for argument in argv])
    return (status, *capfd.readouterr())


def test_the_sample_becomes_tensors(tmp_path, capfd):
    root = tmp_path / "sample"
    shutil.copytree(SAMPLE, root, ignore=shutil.ignore_patterns("*-DATA.npy"))
    with pytest.raises(DatasetError, match=r"python -m datasets\.preprocess"):
        HySpecNet11k(root)
    status, stdout, stderr = run(capfd, root)
    assert (status, stderr) == (0, ""), "quiet: no progress bar without a terminal, no nodata in kept bands"
    assert re.fullmatch(r"2 made, 0 skipped, 0 failed, [\d.]+ patches/s\n", stdout)
    for split, path in zip(("train", "val"), tifs(root), strict=True):
        x = HySpecNet11k(root, split=split)[0].numpy()
        assert x.shape == (202, 128, 128)
        np.testing.assert_array_equal(x, expected_cube(read_tif(path)))
        assert 0.40 < (x == 0).mean() < 0.44 and 0.05 < x.max() < 0.08


def test_makes_skips_and_overwrites(tif_root, capsys):
    assert main([str(tif_root), "--num-workers", "2"]) == 0
    assert_made(tif_root, 3)
    paths = [npy_of(path) for path in tifs(tif_root)]
    stamps = [path.stat().st_mtime_ns for path in paths]
    paths[1].write_bytes(paths[1].read_bytes()[:-4])
    assert main([str(tif_root)]) == 0
    assert "1 made, 2 skipped, 0 failed" in capsys.readouterr().out.splitlines()[-1]
    assert_made(tif_root, 3)
    assert [path.stat().st_mtime_ns == stamp for path, stamp in zip(paths, stamps, strict=True)] == [
        True,
        False,
        True,
    ]
    assert main([str(tif_root), "--overwrite"]) == 0
    assert "3 made, 0 skipped" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns != stamp for path, stamp in zip(paths, stamps, strict=True))


def test_a_dry_run_lists_and_writes_nothing(tif_root, capsys):
    missing = [str(npy_of(path)) for path in tifs(tif_root)]
    assert main([str(tif_root), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [*missing, "3 to make, 0 to skip"]
    assert not contents(tif_root)


def test_a_single_tif_of_any_name_is_converted(tmp_path, save_tif):
    bands = save_tif(tmp_path / "scene.tif")
    assert main([str(tmp_path / "scene.tif")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "scene-DATA.npy"), expected_cube(bands))


def test_bad_files_do_not_stop_the_rest(tif_root, save_tif, entry, capfd):
    bad = [tif_root / "patches" / entry(9, i).replace("-DATA.npy", "-SPECTRAL_IMAGE.TIF") for i in (1, 2)]
    bands = save_tif(bad[0], size=(64, 64))
    bad[0].write_bytes(bad[0].read_bytes()[:300_000])
    save_tif(bad[1], bands[:100, :8, :8])
    status, stdout, stderr = run(capfd, tif_root, "--num-workers", 2)
    assert status == 1
    assert stdout.splitlines()[-1].startswith("3 made, 0 skipped, 2 failed, ")
    lines = stderr.splitlines()
    assert len(lines) == 2, "noise of GDAL's, or a traceback"
    assert lines[0].startswith(f"error: {bad[0]}: window of 64 x 64 at row 0, column 0 cannot be read")
    assert lines[1].startswith(f"error: {bad[1]}: 100 bands of int16, expected 224")
    for path in bad:
        path.unlink()
    assert_made(tif_root, 3)


def test_nodata_is_a_warning(tif_root, save_tif, capfd):
    path = tifs(tif_root)[1]
    bands = read_tif(path)
    bands[:, :3, :5] = -32768
    save_tif(path, bands, transform=None)  # which rasterio warns about
    status, stdout, stderr = run(capfd, tif_root, "--num-workers", 1)
    assert status == 0 and stdout.startswith("3 made")
    assert stderr == f"warning: {path}: 12.50% of the values in kept bands are nodata, written as 0\n"


def test_a_file_that_another_process_makes_is_left_to_it(tif_root, capfd):
    """The command fails while that file is missing, so that no training starts on half of the data."""
    npy_path = npy_of(tifs(tif_root)[1])
    with atomic_path(npy_path) as temporary:
        status, stdout, stderr = run(capfd, tif_root, "--num-workers", 1)
        assert status == 1 and stdout.startswith("2 made, 0 skipped, 0 failed")
        assert stdout.endswith("; 1 left to another process\n")
        assert stderr == (
            f"error: another process is still making 1 of the files, such as {npy_path}: "
            "run the same command again when it has ended\n"
        )
        preprocess_file(tifs(tif_root)[1], temporary)
    assert run(capfd, tif_root)[:2] == (0, "0 made, 3 skipped, 0 failed, 0.0 patches/s\n")
    assert_made(tif_root, 3)


def test_wrong_roots_are_refused(tmp_path):
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        main([str(tmp_path / "nowhere")])
    with pytest.raises(DatasetError, match=r"no \*-SPECTRAL_IMAGE\.TIF in it"):
        main([str(tmp_path)])
    with pytest.raises(SystemExit) as info:
        main([str(tmp_path), "--num-workers", "0"])
    assert info.value.code == 2


# Stopped runs


@pytest.fixture
def big_root(tmp_path, save_tif, entry):
    """Return a root of 60 equal patches of 48 x 48: enough to be stopped in the middle."""
    root = tmp_path / "big"
    paths = [root / "patches" / entry(1, i).replace("-DATA.npy", "-SPECTRAL_IMAGE.TIF") for i in range(60)]
    save_tif(paths[0], size=(48, 48), compress=None)
    for path in paths[1:]:
        path.parent.mkdir()
        path.hardlink_to(paths[0])
    return root


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for 30 s"
        time.sleep(0.002)


def session_members(session):
    """Return the living processes of a session; `start` gives each run its own."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            alive.append(int(stat.parent.name))
    return alive


def start_and_wait(start, root, workers):
    process = start("datasets.preprocess", root, "--num-workers", workers)
    wait_for(lambda: any(root.glob("*/*/*/*-DATA.npy")) or process.poll() is not None)
    return process


def assert_stopped_in_the_middle(root):
    finished = [path for path in contents(root) if ".tmp/" not in str(path)]
    assert 0 < len(finished) < 60
    expected = expected_cube(read_tif(tifs(root)[0])).tobytes()
    assert all(path.read_bytes()[-len(expected) :] == expected and is_finished(path) for path in finished)


def assert_next_run_completes(root):
    assert main([str(root)]) == 0
    assert len(contents(root)) == 60, "a file is missing or a temporary one is left over"
    bodies = set(contents(root).values())
    assert len(bodies) == 1
    np.testing.assert_array_equal(np.load(npy_of(tifs(root)[7])), expected_cube(read_tif(tifs(root)[0])))


@pytest.mark.slow
def test_a_killed_run_leaves_whole_files_and_no_orphans_and_resumes(big_root, start):
    process = start_and_wait(start, big_root, workers=2)
    process.kill()
    process.wait()
    wait_for(lambda: not session_members(process.pid))
    assert_stopped_in_the_middle(big_root)
    temporary = npy_of(tifs(big_root)[-1])
    temporary.with_name(f".{temporary.name}.tmp").write_bytes(b"half a file")
    assert_next_run_completes(big_root)


@pytest.mark.slow
def test_two_runs_at_once_share_the_work_and_one_may_be_killed(big_root, start):
    processes = [start("datasets.preprocess", big_root, "--num-workers", 1) for _ in range(2)]
    wait_for(lambda: any(big_root.glob("*/*/*/*-DATA.npy")))
    processes[1].kill()
    stdout, stderr = processes[0].communicate(timeout=30)
    wait_for(lambda: not session_members(processes[1].pid))
    if processes[0].returncode:  # the other run was making the last file when it was killed
        assert "another process is still making" in stderr
    assert " 0 failed" in stdout
    assert_next_run_completes(big_root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_stop_signals_leave_whole_files_and_name_the_remedy(big_root, start, number, status, word):
    process = start_and_wait(start, big_root, workers=2)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to the workers too
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == status
    assert re.fullmatch(rf"{word} after \d+ of 60 files: the same command resumes\n", stderr)
    assert stdout == ""
    wait_for(lambda: not session_members(process.pid))
    assert_stopped_in_the_middle(big_root)
    assert not list(big_root.rglob(".*")), "a temporary file is left over"
    if number == signal.SIGINT:
        assert_next_run_completes(big_root)


def test_a_killed_worker_is_a_one_line_error(big_root, start):
    process = start_and_wait(start, big_root, workers=1)
    for child in session_members(process.pid):
        cmdline = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"spawn_main" in cmdline:
            os.kill(child, signal.SIGKILL)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 1
    assert stderr.startswith("error: a worker process was killed") and "--num-workers" in stderr
    assert stderr.count("\n") == 1
    wait_for(lambda: not session_members(process.pid))
