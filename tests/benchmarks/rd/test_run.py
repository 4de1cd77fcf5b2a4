"""Runs of `benchmark.py rd`: what they write, what they measure again, and what they refuse. No time is asserted."""

import json

import numpy as np
import pandas as pd
import pytest
from compressai.utils.plot.__main__ import parse_json_file
from distributed import LocalCluster

import benchmark
from benchmarks.rd import jobs
from benchmarks.rd.results import COSTS
from benchmarks.rd.run import random_part
from benchmarks.rd.store import read_rows
from utils import workers
from utils.errors import DatasetError, UsageError


@pytest.fixture
def cubes(tmp_path):
    """Return the paths of two small cubes of digital numbers whose spectra are multiples of one line, with noise."""
    rng = np.random.default_rng(0)
    paths = []
    for name in ("a", "b"):
        cube = np.linspace(500, 4000, 12)[:, None, None] * rng.random((1, 24, 24)) + rng.normal(0, 20, (12, 24, 24))
        np.save(tmp_path / f"{name}.npy", np.clip(cube, 0, 10000).astype(np.uint16))
        paths.append(tmp_path / f"{name}.npy")
    return paths


@pytest.fixture
def without_figures(monkeypatch):
    """Skip drawing, which takes seconds."""
    monkeypatch.setattr("benchmarks.rd.report.write_figures", lambda *args: [])


def rd_flags(tmp_path, *args):
    return ["rd", *map(str, args), "--checkpoints", "--name", "tiny", "--save-dir", str(tmp_path / "out")]


def points_of(folder):
    return pd.DataFrame(**json.loads((folder / "rd.json").read_text())["points"])


@pytest.mark.slow
def test_rd_writes_a_report(cubes, without_workers, tmp_path, capsys, monkeypatch):
    """Points of every image, means that CompressAI reads, figures, and no path of this machine."""
    monkeypatch.setattr("benchmarks.rd.figures.DPI", 30)
    names = ["jpegls", "klt-jpegxl", "sperr", "aec"]
    flags = ["--codecs", *names, "--rates", 0.5, 1, 2, 4, "--anchor", "sperr", "jpegls", "--bounds", 0, 10]
    assert benchmark.main(rd_flags(tmp_path, *cubes, *flags, "--export-compressai", tmp_path / "codecs")) == 0
    folder = tmp_path / "out" / "tiny"
    assert {path.name for path in (tmp_path / "codecs").iterdir()} == {f"{name}.json" for name in names}
    results = json.loads((tmp_path / "codecs" / "klt-jpegxl.json").read_text())["results"]
    assert results["bpppc"] == pytest.approx([0.5, 1, 2, 4], rel=0.16)
    assert results["psnr"] == sorted(results["psnr"])
    assert json.loads((tmp_path / "codecs" / "aec.json").read_text())["results"]["psnr"] == [None]
    for name in names:
        parse_json_file(str(tmp_path / "codecs" / f"{name}.json"), "psnr")
    points = points_of(folder)
    assert set(zip(points["codec"], points["image"], strict=True)) == {
        (name, image) for name in names for image in "ab"
    }
    assert list(points["bpppc"]) == pytest.approx(list(8 * points["num_bytes"] / (12 * 24 * 24)))
    exact = points[(points["codec"] == "jpegls") & (points["kind"] == "bounded") & (points["target"] == 0)]
    assert list(exact["largest_error"]) == [0, 0]
    content = json.loads((folder / "rd.json").read_text())
    deltas = pd.DataFrame(**content["deltas"]).set_index(["anchor", "codec", "image"])
    assert set(deltas.index.levels[0]) == {"sperr", "jpegls"}
    assert deltas.loc[("sperr", "klt-jpegxl", "a"), "bd_rate"] < 0  # its transform suits such spectra
    names = ("psnr", "ssim", "spectral_angle", "encoding", "decoding", "bands")
    assert {path.name for path in folder.iterdir()} == {
        *(".points", "rd.md", "rd.json"),
        *(f"{name}.png" for name in names),
    }
    assert (folder / "rd.md").read_text() in capsys.readouterr().out
    for path in folder.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


def figures_of(folder):
    """Return the points of a report without what differs from run to run: times and memory."""
    points = points_of(folder).drop(columns=[*COSTS, "alone"])
    return points.sort_values(["codec", "image", "kind", "target"], ignore_index=True)


def test_points_are_stored_by_content(cubes, without_figures, without_workers, tmp_path):
    """The same points are not measured again, whatever the images are called; those of other content are."""
    names = ["--codecs", "aec", "jpegls", "--bounds", 3, "--rates", 4]
    assert benchmark.main(rd_flags(tmp_path, *cubes, *names)) == 0
    folder = tmp_path / "out" / "tiny"
    before, stored = points_of(folder), set((folder / ".points").rglob("*.jsonl"))
    assert benchmark.main(rd_flags(tmp_path, *cubes, *names)) == 0
    pd.testing.assert_frame_equal(points_of(folder), before)
    cubes[0].rename(tmp_path / "renamed.npy")
    cubes[0] = tmp_path / "renamed.npy"
    assert benchmark.main(rd_flags(tmp_path, *cubes, *names)) == 0
    assert list(points_of(folder)["encoding_time"]) == list(before["encoding_time"])
    assert set(points_of(folder)["image"]) == {"renamed", "b"}
    assert set((folder / ".points").rglob("*.jsonl")) == stored
    # Another peak changes all points, other samples those of their image.
    np.save(cubes[1], np.load(cubes[1])[:, ::-1])
    assert benchmark.main(rd_flags(tmp_path, *cubes, *names)) == 0
    after = points_of(folder)
    assert len(set((folder / ".points").rglob("*.jsonl")) - stored) == 2
    assert list(after.loc[after["image"] == "renamed", "encoding_time"]) == list(
        before.loc[before["image"] == "a", "encoding_time"]
    )
    assert benchmark.main(rd_flags(tmp_path, *cubes, *names, "--int16", "--peak", 5000)) == 0
    assert len(set((folder / ".points").rglob("*.jsonl")) - stored) == 6


@pytest.mark.slow
def test_a_killed_rd_keeps_its_points(cubes, without_figures, without_workers, tmp_path, start, wait_for):
    flags = rd_flags(tmp_path, *cubes, "--codecs", "jpegls", "jpegxl", "--rates", 4, "--bounds")
    stored = tmp_path / "out" / "tiny" / ".points"
    process = start("benchmark.py", *flags, "--num-workers", "1")
    wait_for(lambda: list(stored.rglob("[!.]*.jsonl")), process, seconds=180)
    process.kill()
    process.wait()
    rows = [row for folder in stored.glob("*/*") for row in read_rows(folder) if "bpppc" in row]
    assert benchmark.main(flags) == 0
    points = points_of(tmp_path / "out" / "tiny").set_index("bpppc")
    assert len(points) == 8
    assert all(points.loc[row["bpppc"], "encoding_time"] == row["encoding_time"] for row in rows)


@pytest.mark.slow
def test_two_workers_of_a_cluster_equal_a_serial_run(without_figures, without_workers, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.npy" for number in range(12)]
    for path in paths:
        np.save(path, rng.integers(0, 4000, (5, 16, 16), dtype=np.uint16))
    flags = ["--codecs", "aec", "jpegls", "--rates", 8, "--bounds", 10]
    assert benchmark.main(rd_flags(tmp_path / "serial", *paths, *flags)) == 0
    monkeypatch.setattr(jobs, "run_with_bar", workers.run_with_bar)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = ["--scheduler", cluster.scheduler_address]
        assert benchmark.main(rd_flags(tmp_path / "cluster", *paths, *flags, *address)) == 0
    serial, parallel = (tmp_path / name / "out" / "tiny" for name in ("serial", "cluster"))
    assert len(points_of(serial)) == 12 * (1 + 3)
    pd.testing.assert_frame_equal(figures_of(parallel), figures_of(serial))
    assert points_of(serial)["alone"].all() and not points_of(parallel)["alone"].any()


def test_a_random_part_is_the_same_everywhere(tmp_path):
    paths = [tmp_path / f"{number}.npy" for number in range(50)]
    parts = [random_part(paths, count, seed=1) for count in (5, 10)]
    assert [len(part) for part in parts] == [5, 10] and set(parts[0]) < set(parts[1])
    assert parts[1] == [path for path in paths if path in parts[1]]  # in order
    assert set(random_part(paths[::-1], 5, seed=1)) == set(parts[0])
    assert set(random_part(paths, 5, seed=2)) != set(parts[0])
    assert [path.stem for path in random_part(paths, 3, seed=0)] == ["6", "38", "44"]


@pytest.mark.slow
def test_rd_of_a_learned_model(make_dataset, without_figures, tmp_path):
    """Use the bundled weights with two coders of latents, on floats, which codecs of integers refuse."""
    root = make_dataset(test=1, bands=202, side=8)
    flags = ["--codecs", "jpegls", "--rates", "0.5", "--bounds", "--coder", "context,jpegxl", "--name", "tiny"]
    assert benchmark.main(["rd", "-d", str(root), *flags, "--save-dir", str(tmp_path / "out")]) == 0
    points = points_of(tmp_path / "out" / "tiny").set_index(["codec", "kind"])
    assert {("cae1d float32", "fixed"), ("cae1d", "quantized"), ("cae1d-jpegxl", "quantized")} <= set(points.index)
    assert ("cae1d-jpegxl float32", "fixed") not in points.index
    float32 = points.loc[("cae1d float32", "fixed")]
    assert float32["bpppc"] == pytest.approx(8.0792, rel=4e-2)  # in small images the header shows
    for codec in ("cae1d", "cae1d-jpegxl"):
        quantized = points.loc[(codec, "quantized")]
        assert quantized["bpppc"] < float32["bpppc"] and quantized["psnr"] > float32["psnr"] - 0.1
    text = (tmp_path / "out" / "tiny" / "rd.md").read_text()
    assert "jpegls" in text and "uint16" in text  # left out, and why


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--codecs", "jpeg"], ["--codecs jpeg", "jpeg2000-mc"]),
        (["--codecs"], ["nothing to compare"]),
        (["--codecs", "aec", "--anchor", "sz3"], ["--anchor sz3", "aec"]),
        (["--limit", "1", "--sample", "1"], ["--limit", "--sample"]),
        (["--checkpoints", "vgg=x.pth.tar"], ["vgg", "cae1d"]),
        (["--coder", "huffman"], ["--coder huffman", "factorized"]),
        (["--redraw", "tiny"], ["rd.json", "no such file"]),
    ],
)
def test_rd_refuses_invalid_flags(cubes, tmp_path, flags, words):
    given = ["rd", *map(str, cubes), "--save-dir", str(tmp_path / "out"), "--checkpoints", *flags]
    with pytest.raises(UsageError) as error:
        benchmark.main(given)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_rd_refuses_a_dirty_tree_before_it_measures(cubes, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.report.NAMED_REPORTS", tmp_path)
    monkeypatch.setattr("utils.environment.git_commit", lambda: "0123-dirty")
    with pytest.raises(UsageError, match="--allow-dirty"):
        benchmark.main(rd_flags(tmp_path, *cubes, "--codecs", "aec"))
    assert not (tmp_path / "out").exists()


def test_rd_names_a_file_that_is_no_image_before_it_measures(cubes, tmp_path):
    (tmp_path / "c.npy").write_bytes(b"no cube")
    with pytest.raises(DatasetError, match=r"c\.npy: damaged"):
        benchmark.main(rd_flags(tmp_path, *cubes, tmp_path / "c.npy", "--codecs", "aec"))
    assert not (tmp_path / "out").exists()
