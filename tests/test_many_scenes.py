"""compress.py and decompress.py on many scenes: outputs, the manifest, resuming, verifying, and what is refused."""

import csv
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coding import batch
from utils.errors import BusyError, CheckpointError, ProjectError, UsageError
from utils.files import locked
from utils.workers import Outcome

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Run jobs in this process, as starting others takes a second."""

    def run(function, jobs, *_args, **_kwargs):
        for job in jobs:
            try:
                yield Outcome(job, function(job))
            except (ProjectError, OSError) as error:
                yield Outcome(job, error=str(error))

    monkeypatch.setattr(batch, "run_with_bar", run)


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """Return the paths of three scenes, relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("scenes").mkdir()
    for number in range(3):
        save_scene(f"scenes/s{number}.npy", number)
    return [f"scenes/s{number}.npy" for number in range(3)]


def save_scene(path, seed, noise=20):
    rng = np.random.default_rng(seed)
    cube = 2000 + 500 * np.sin(np.arange(8))[:, None, None] + rng.normal(0, noise, (8, 20, 24))
    np.save(path, cube.astype(np.int16))
    os.utime(path, (1, 1))  # older than what is made of it, whatever the clock's resolution


@pytest.fixture
def compress(scripts):
    """compress(*args) -> exit status of compress.py with --output-dir archive."""
    return lambda *args: scripts.compress.main([*map(str, args), "--output-dir", "archive"])


@pytest.fixture
def decompress(scripts):
    return lambda *args: scripts.decompress.main(list(map(str, args)))


def manifest(folder="archive"):
    """Return the rows of a manifest by output, without the times."""
    with open(Path(folder) / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["output"]: {key: value for key, value in row.items() if key != "seconds"} for row in rows}


def test_each_scene_gets_an_output_and_a_row(compress, decompress, scripts, scenes, capsys):
    assert compress(*scenes, "--max-error", "2") == 0
    out, err = capsys.readouterr()
    assert out.startswith("archive: 3 made, 0 skipped, 0 failed") and err.startswith("workers: ")
    assert scripts.compress.main([scenes[0], "single.hsc", "--max-error", "2"]) == 0
    row = manifest()["s0.hsc"]
    single = Path("single.hsc").read_bytes()
    assert Path("archive/s0.hsc").read_bytes() == single
    assert (row["scene"], int(row["bytes"])) == (os.path.abspath(scenes[0]), len(single))
    assert row["sha256"] == batch.file_sha256("single.hsc") and row["largest_error"] == "2"
    text = capsys.readouterr().out
    assert f"{float(row['rate']):.4f} bpppc" in text and f"PSNR {float(row['psnr']):.2f} dB" in text
    files = [f"archive/s{number}.hsc" for number in range(3)]
    assert decompress(*files, "--output-dir", "restored", "--suffix", ".npy") == 0
    for scene in scenes:
        decoded = np.load(Path("restored") / Path(scene).name).astype(int)
        assert np.abs(decoded - np.load(scene)).max() == 2
    assert len(manifest("restored")) == 3


def test_finished_outputs_are_skipped_and_others_made_again(compress, scenes, capsys):
    Path("names.txt").write_text(f"{scenes[1]}\n\n{scenes[2]}\n")
    assert compress(scenes[0], "--list", "names.txt") == 0
    before = manifest()
    Path("archive/s0.hsc").unlink()
    Path("archive/s1.hsc").write_bytes(b"half a file")
    path = Path("archive/manifest.csv")
    path.write_text(path.read_text() + "s9.hsc,cut off")  # by a kill
    capsys.readouterr()
    assert compress(*scenes) == 0
    assert capsys.readouterr().out.startswith("archive: 2 made, 1 skipped, 0 failed")
    assert manifest() == before
    os.utime(scenes[2])  # a new version of the scene
    os.utime("archive/s2.hsc", (2, 2))
    compress(*scenes)
    assert capsys.readouterr().out.startswith("archive: 1 made, 2 skipped, 0 failed")
    path.write_text(path.read_text().replace("s1.hsc", "t1.hsc"))  # killed before the row of s1 was written
    assert compress(*scenes) == 0


def test_other_outputs_are_replaced_only_if_asked_to(compress, scenes):
    assert compress(*scenes) == 0
    before = {path.name: path.read_bytes() for path in Path("archive").iterdir()}
    with pytest.raises(UsageError, match=r"^3 of the outputs exist, .*archive/s0\.hsc: give --overwrite"):
        compress(*scenes, "--max-error", "5")
    save_scene("s0.npy", 7)
    with pytest.raises(UsageError, match=r"^1 of the outputs exist"):
        compress("s0.npy")
    assert {path.name: path.read_bytes() for path in Path("archive").iterdir()} == before
    assert compress(*scenes, "--max-error", "5", "--overwrite") == 0
    assert {row["largest_error"] for row in manifest().values()} == {"5"}
    Path("archive/manifest.csv").unlink()
    with pytest.raises(UsageError, match=r"^3 of the outputs exist"):
        compress(*scenes)


def test_failures_are_listed_and_the_rest_is_made(compress, scenes, capsys):
    Path("scenes/bad.tif").write_bytes(b"no scene")
    assert compress("scenes/vanished.npy", "scenes/bad.tif", *scenes) == 1
    out, err = capsys.readouterr()
    assert out.startswith("archive: 3 made, 0 skipped, 2 failed")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "bad.tif" in errors[0] and "vanished.npy: no such file" in errors[1]
    assert len(manifest()) == 3
    assert not [path for path in Path("archive").iterdir() if path.name.startswith(".")]


def test_notes_of_workers_are_shown(compress, scenes, capsys):
    np.save("scenes/wide.npy", np.full((30, 8, 40), 7, np.int16))
    assert compress("scenes/wide.npy") == 0
    assert "note: " in capsys.readouterr().err


def test_what_cannot_work_is_refused_before_anything_is_written(compress, decompress, scripts, scenes):
    Path("other").mkdir()
    save_scene("other/s0.npy", 0)
    with pytest.raises(UsageError, match=r"scenes/s0\.npy and .*other/s0\.npy would both be written to"):
        compress(*scenes, "other/s0.npy")
    with pytest.raises(UsageError, match="no input"):
        compress()
    with pytest.raises(UsageError, match=r"--list none\.txt: .*No such file"):
        compress("--list", "none.txt")
    with pytest.raises(CheckpointError, match=r"none\.pth\.tar"):
        compress(scenes[0], "--checkpoint", "none.pth.tar")
    for args in (scenes, scenes[:1], [*scenes[:2], "--list", "names.txt"]):
        with pytest.raises(UsageError, match="--output-dir DIR"):
            scripts.compress.main(args)
    with pytest.raises(UsageError, match="leave the other flags out"):
        decompress("a.hsc", "a.npy", "--verify", "--output-dir", "b")
    with pytest.raises(UsageError, match=r"--suffix must be one of .*\.npy"):
        decompress("a.hsc", "--output-dir", "archive", "--suffix", "npy")
    assert not Path("archive").exists()


def test_a_folder_has_one_run_at_a_time(compress, scenes):
    Path("archive").mkdir()
    with (
        locked(Path("archive/.manifest.csv.lock"), "busy"),
        pytest.raises(BusyError, match="archive: another run is at work there"),
    ):
        compress(*scenes)
    Path("archive/manifest.csv").write_text("my,own,table\n")
    with pytest.raises(ProjectError, match="not a manifest"):
        compress(*scenes)


def test_a_full_disk_leaves_whole_files_only(scenes):
    save_scene("scenes/noise.npy", 0, noise=5000)  # takes more than the limit; the others, and the manifest, less

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    command = [sys.executable, ROOT / "compress.py", *scenes, "scenes/noise.npy", "--output-dir", "archive", "-n", "1"]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "archive/noise.hsc" in done.stderr
    assert {path.name for path in Path("archive").iterdir()} == {"s0.hsc", "s1.hsc", "s2.hsc", "manifest.csv"}


def test_verifying_names_what_differs(compress, decompress, scenes, capsys):
    assert compress(*scenes, "--step", "40") == 0
    assert decompress("archive", "--verify") == 0
    assert "archive: 3 verified, 0 failed" in capsys.readouterr().out
    data = bytearray(Path("archive/s0.hsc").read_bytes())
    data[-200] ^= 1
    Path("archive/s0.hsc").write_bytes(data)
    save_scene(scenes[1], 9)
    Path(scenes[2]).unlink()
    assert decompress("archive", "--verify") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "s0.hsc: its SHA-256" in errors[0] and "s1.npy was changed" in errors[1] and "s2.npy" in errors[2]
    with pytest.raises(UsageError, match="manifest"):
        decompress("scenes", "--verify")


def test_verifying_a_single_file(scripts, decompress, scenes, capsys):
    cube = np.load(scenes[0])
    cube[:, :3] = -1
    np.save("gaps.npy", cube)
    scripts.compress.main(["gaps.npy", "a.hsc", "--max-error", "3", "--nodata", "-1"])
    assert decompress("a.hsc", "gaps.npy", "--verify") == 0
    assert "largest error 3" in capsys.readouterr().out
    for values, word in ((cube + 4, "bound"), (np.where(cube == -1, 5, cube), "nodata")):
        np.save("other.npy", values.astype(np.int16))
        with pytest.raises(ProjectError, match=f"a.hsc: differs from other.npy: .*{word}"):
            decompress("a.hsc", "other.npy", "--verify")
    with pytest.raises(ProjectError, match="must be"):
        np.save("other.npy", cube[:4])
        decompress("a.hsc", "other.npy", "--verify")
