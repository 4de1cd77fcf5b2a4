"""Runs of `benchmark.py speed`: what they write. No time is asserted."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import benchmark
from benchmarks.speed import models
from benchmarks.speed import run as speed
from benchmarks.speed.data import make_patches
from utils import devices
from utils.errors import DatasetError, UsageError
from utils.processes import num_cores

COMMITTED = Path(__file__).resolve().parents[3] / "results" / "benchmarks"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(*args) -> the content of the report, which is called "tiny"."""
    monkeypatch.setattr("benchmarks.speed.measure.MATMUL_SIDES", {"cpu": 64})
    monkeypatch.setattr("benchmarks.speed.measure.COPY_VALUES", {"cpu": 2**16})

    def start(*args):
        flags = ["speed", "--name", "tiny", "--save-dir", tmp_path, "--repeats", "1", *args]
        assert benchmark.main(list(map(str, flags))) == 0
        return json.loads((tmp_path / "tiny" / "speed.json").read_text())

    return start


@pytest.mark.slow
def test_models(run, capsys, tmp_path, monkeypatch):
    """Measure memory for one model only, as each measurement starts a process."""
    peak = models.peak
    monkeypatch.setattr(models, "peak", lambda name, *args: peak(name, *args) if name == "cae1d" else 100)
    works = ("encode", "train")
    content = run("--models", "cae1d@16", "sscnet", "--size", 8, "--only", "models", "--works", *works)
    assert [(row["model"], row["work"]) for row in content["models"]] == [
        (name, work) for name in ("cae1d", "sscnet") for work in works
    ]
    for row in content["models"]:
        assert (row["device"], row["precision"], row["repeats"]) == ("cpu", "fp32", 1)
        assert row["side"] == (16 if row["model"] == "cae1d" else 8)
        assert row["batch"] == (2 if row["work"] == "train" else 1)
        assert 0 <= row["deviation"] < (1e-3 if row["work"] == "train" else 1e-5)
        assert 0 < row["flops"] <= row["baseline_flops"]
        assert row["limited_by"] in ("arithmetic", "memory")
        for key, value in row.items():
            if isinstance(value, float):  # at 8 px a peak may be below that of the warm-up
                assert math.isfinite(value) and value >= 0, key
        assert row["baseline_peak_bytes"] >= 0 and row["peak_bytes"] >= 0
    (limits,) = content["limits"]
    assert limits["flops_per_second"] > 0 and limits["bytes_per_second"] > 0
    assert content["settings"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert "--models cae1d@16 sscnet --size 8" in content["settings"]["command"]
    assert str(tmp_path) not in json.dumps(content)
    table = (tmp_path / "tiny" / "speed.md").read_text()
    assert table.count("\n| cae1d") == 2 and table.count("\n| sscnet") == 2
    assert table in capsys.readouterr().out


@pytest.mark.slow
def test_data_and_scripts(run, monkeypatch, tmp_path):
    commands = {name: arguments for name, arguments in speed.COMMANDS.items() if name in ("python", "train.py --help")}
    assert list(speed.COMMANDS) == [
        *("python", "import torch", "train.py --help", "test.py --help", "benchmark.py --help")
    ]
    monkeypatch.setattr(speed, "COMMANDS", commands)
    monkeypatch.setattr("benchmarks.speed.data.PATCH_SIDE", 16)
    content = run("--only", "data,scripts", "--quick")
    assert content["models"] == [] and content["limits"] == []
    assert {row["processes"] for row in content["preprocessing"]} == {1, num_cores()}
    assert len(content["loading"]) == 32
    for row in (*content["preprocessing"], *content["loading"]):
        assert row["patches_per_second"] > 0 and row["reading_patches_per_second"] > 0 and row["share_of_reading"] > 0
    assert [row["command"] for row in content["scripts"]] == list(commands)
    assert all(row["seconds"] > 0 for row in content["scripts"])
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {"speed.json", "speed.md"}


def test_scaling(run, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "training_rate", lambda folder, processes, flags: 10.0 * processes**0.5)
    monkeypatch.setattr(speed, "SCALING_SIDE", 8)
    rows = run("--only", "scaling", "--quick")["scaling"]
    assert [row["model"] for row in rows] == ["cae1d", "sscnet"]
    assert rows[0]["images_per_second"] == 10 and rows[0]["share_of_twice"] == pytest.approx(2**-0.5)
    assert "| cae1d" in (tmp_path / "tiny" / "speed.md").read_text()


@pytest.mark.slow
def test_training_rate(tmp_path):
    """Train with one process; tests/training/test_distributed.py uses two."""
    make_patches(tmp_path, 8, "uint16", 8)
    flags = ["-m", "cae1d", "-d", str(tmp_path), "--allow-overlap", "-e", "2", "-n", "0"]
    assert speed.training_rate(tmp_path / "runs", 1, flags) > 0


def test_a_missing_dataset_is_refused(run, tmp_path):
    with pytest.raises(DatasetError, match="give -d a folder with TIFs"):
        run("--only", "data", "-d", tmp_path / "nothing")


@pytest.mark.parametrize(("flags", "is_native"), [("avx2 f16c", False), ("avx2 avx512_bf16", True)])
def test_bf16_where_the_processor_has_it(run, monkeypatch, tmp_path, flags, is_native):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(devices, "CPUINFO", cpuinfo)
    monkeypatch.setattr(models, "peak", lambda *_: 100)
    content = run("--models", "sscnet", "--size", 8, "--precision", "bf16", "--only", "models")
    table = (tmp_path / "tiny" / "speed.md").read_text()
    if is_native:
        assert [row["precision"] for row in content["models"]] == ["bf16"] * 4
        assert content["left_out"] == []
        assert all(0 < row["deviation"] < 0.5 for row in content["models"])
    else:
        assert content["models"] == []
        assert content["left_out"] == [
            "bf16 on cpu: this processor has no bf16 arithmetic: emulated, it would run for hours"
        ]
        assert f"Left out: {content['left_out'][0]}." in table


def test_a_dirty_tree_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.report.NAMED_REPORTS", tmp_path)
    monkeypatch.setattr("utils.environment.git_commit", lambda: "0123-dirty")
    with pytest.raises(UsageError, match="--allow-dirty"):
        run("--only", "scripts")
    assert not list(tmp_path.iterdir())


def test_a_report_is_drawn_again_from_its_json(tmp_path, capsys):
    (tmp_path / "tiny").mkdir()
    shutil.copy(COMMITTED / "speed-epyc" / "speed.json", tmp_path / "tiny")
    assert benchmark.main(["speed", "--redraw", "tiny", "--save-dir", str(tmp_path)]) == 0
    text = (tmp_path / "tiny" / "speed.md").read_text()
    assert text == (COMMITTED / "speed-epyc" / "speed.md").read_text()
    assert text in capsys.readouterr().out
