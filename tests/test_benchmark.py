"""benchmark.py: its flags, what a tiny run writes, and the tools that measure. No time is asserted."""

import csv
import functools
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.speed import measure as speed
from utils import devices as precision
from utils.errors import DatasetError, UsageError
from utils.processes import num_cores

ROOT = Path(__file__).resolve().parents[1]

SPEED = {
    "--models": ["cae1d", "cae1d_1bpppc", "cae1d_2bpppc", "cae1d_4bpppc", "sscnet", "cae3d"],
    "--devices": ["cpu"],
    "--precision": ["fp32"],
    "--size": 128,
    "--works": ["encode", "decode", "encode+decode", "train"],
    "--quick": False,
    "--repeats": 5,
    "--only": ["models", "data", "scripts", "scaling"],
    "--name": None,
    "--save-dir": "./results/benchmarks/",
    "-d/--dataset": "./datasets/sample/",
}


CODING = {
    "-m/--model": "cae1d",
    "--checkpoint": None,
    "--num-channels": 202,
    "--name": None,
    "--save-dir": "./results/benchmarks/",
}
CURVES = {"--name": None, "--save-dir": "./results/benchmarks/"}


RD = {
    "-d/--dataset": "./datasets/sample/",
    "--mode": "easy",
    "--split": "test",
    "--limit": None,
    "--codecs": [
        *("jpeg2000", "jpeg2000-mc", "htj2k", "jpegxl", "jpegls"),
        *("klt-jpeg2000", "klt-jpegxl", "klt-sperr", "klt-cm", "pca-float32"),
        *("sperr", "sz3", "zfp", "aec", "ccsds123"),
    ],
    "--checkpoints": None,
    "--num-channels": 202,
    "--rates": [0.1, 0.25, 0.5, 1, 2, 4],
    "--bounds": [10],
    "--int16": False,
    "--peak": 10000,
    "--anchor": None,
    "--band-rate": 0.5,
    "--num-workers": None,
    "--resume": False,
    "--name": None,
    "--save-dir": "./results/benchmarks/",
}


POSITIONAL = {"curves": ["runs"], "coding": ["scenes"], "rd": ["images"]}


@pytest.fixture
def make_dataset(make_dataset):
    """Make patches of 202 x 16 x 16 where a test names no size."""
    return functools.partial(make_dataset, bands=202, side=16)


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("script_benchmark", ROOT / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(benchmark, tmp_path):
    """run(*args) -> the content of the report, which is called "tiny"."""

    def start(*args):
        flags = ["speed", "--name", "tiny", "--save-dir", tmp_path, "--repeats", "1", *args]
        assert benchmark.main(list(map(str, flags))) == 0
        return json.loads((tmp_path / "tiny" / "speed.json").read_text())

    return start


def actions(benchmark, command):
    """The flags of a command."""
    (commands,) = (action for action in benchmark.build_parser()._actions if action.choices)
    return commands.choices[command]._actions


# -- flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "flags"), [("speed", SPEED), ("curves", CURVES), ("coding", CODING), ("rd", RD)])
def test_flags_and_defaults(benchmark, command, flags):
    expected = {flag.split("--")[1].replace("-", "_"): default for flag, default in flags.items()}
    positional = ["x"] if command in POSITIONAL else []
    found = vars(benchmark.parse_args([command, *positional]))
    assert found == {"command": command, **expected, **{name: positional for name in POSITIONAL.get(command, ())}}
    options = [action for action in actions(benchmark, command) if action.option_strings]
    assert {"/".join(action.option_strings) for action in options} == {"-h/--help", *flags}
    assert all(action.help for action in actions(benchmark, command))


def test_quick_changes_defaults_only(benchmark):
    quick = benchmark.parse_args(["speed", "--quick"])
    assert (quick.models, quick.size, quick.repeats) == (["cae1d", "sscnet", "cae3d", "cae1d_1bpppc@16"], 64, 2)
    assert quick.only == ["models", "data", "scripts"]
    given = benchmark.parse_args(["speed", "--quick", "--models", "cae1d", "--size", "128"])
    assert (given.models, given.size, given.repeats) == (["cae1d"], 128, 2)


def test_lists_take_commas_and_spaces(benchmark):
    args = benchmark.parse_args(
        ["speed", "--models", "cae1d,sscnet", "cae3d@32", "--devices", "cpu,0", "--precision", "fp32", "bf16"]
    )
    assert args.models == ["cae1d", "sscnet", "cae3d@32"]
    assert args.devices == ["cpu", "0"]
    assert args.precision == ["fp32", "bf16"]


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, runpy; sys.argv = ['benchmark.py', 'speed', '--help']\n"
        "try: runpy.run_path('benchmark.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'compressai', 'matplotlib', 'rasterio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--models", "vgg"], ["--models vgg", "cae1d_8bpppc"]),
        (["--models", "cae1d@"], ["MODEL@SIDE"]),
        (["--models", "sscnet", "--size", "12"], ["--size 12", "multiples of 8"]),
        (["--size", "4"], ["--size 4", "at least 8"]),
        (["--devices", "gpu"], ["--devices gpu", "cpu or the number"]),
        (["--precision", "fp8"], ["--precision fp8", "bf16"]),
        (["--only", "time"], ["--only time", "scripts"]),
        (["--works", "code"], ["--works code", "encode+decode"]),
    ],
)
def test_wrong_values_are_one_line(benchmark, flags, words, tmp_path):
    with pytest.raises(UsageError) as caught:
        benchmark.main(["speed", "--save-dir", str(tmp_path), *flags])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)
    assert not list(tmp_path.iterdir())


def test_reports_can_be_committed_and_nothing_else():
    def ignored(path):
        return subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", path]).returncode == 0

    if subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode:
        pytest.skip("no git repository")
    assert not any(ignored(f"results/benchmarks/epyc/{name}") for name in ("speed.json", "speed.md", "curves.png"))
    assert ignored("results/benchmarks/epyc/.patches-1/patches/000-DATA.npy")
    assert ignored("results/benchmarks/epyc/.speed.json.tmp")
    assert ignored("results/benchmarks/2026_01_01-10_00_00-amd/speed.json")


# -- runs -----------------------------------------------------------------------------------------


def test_models(run, capsys, tmp_path):
    content = run("--models", "cae1d@16", "cae3d", "--size", 8, "--only", "models")
    assert [(row["model"], row["work"]) for row in content["models"]] == [
        (name, work) for name in ("cae1d", "cae3d") for work in ("encode", "decode", "encode+decode", "train")
    ]
    for row in content["models"]:
        assert (row["device"], row["precision"], row["repeats"]) == ("cpu", "fp32", 1)
        assert row["side"] == (16 if row["model"] == "cae1d" else 8)
        assert row["batch"] == (2 if row["work"] == "train" else 1)
        assert 0 <= row["deviation"] < (1e-3 if row["work"] == "train" else 1e-5)
        assert 0 < row["flops"] <= row["baseline_flops"]
        assert row["limited_by"] in ("arithmetic", "memory")
        assert row["note"] is None
        for key, value in row.items():
            if isinstance(value, float):  # at 8 px a peak may not show beside that of the warm-up
                assert math.isfinite(value) and value >= 0, key
        assert row["baseline_peak_bytes"] >= 0 and row["peak_bytes"] >= 0
    (limits,) = content["limits"]
    assert limits["flops_per_second"] > 0 and limits["bytes_per_second"] > 0
    assert content["settings"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["settings"]["arguments"]["models"] == ["cae1d@16", "cae3d"]
    assert str(tmp_path) not in json.dumps(content)
    table = (tmp_path / "tiny" / "speed.md").read_text()
    assert table.count("\n| cae1d") == 4 and table.count("\n| cae3d") == 4
    assert table in capsys.readouterr().out


def test_data_and_scripts(run, monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.speed.data.PATCH_SIDE", 16)
    content = run("--only", "data,scripts", "--quick")
    assert content["models"] == [] and content["limits"] == []
    assert {row["processes"] for row in content["preprocessing"]} == {1, num_cores()}
    assert len(content["loading"]) == 16
    for row in (*content["preprocessing"], *content["loading"]):
        assert row["patches_per_second"] > 0 and row["reading_patches_per_second"] > 0 and row["share_of_reading"] > 0
    commands = [row["command"] for row in content["scripts"]]
    assert commands[1:] == ["import torch", "train.py --help", "test.py --help", "benchmark.py --help"]
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {"speed.json", "speed.md"}


def test_scaling(run, benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "SCALING_MODELS", ("cae1d",))
    monkeypatch.setattr(benchmark, "SCALING_SIDE", 8)
    (row,) = run("--only", "scaling", "--quick")["scaling"]
    assert row["model"] == "cae1d" and row["images_per_second"] > 0 and row["images_per_second_of_two"] > 0
    assert "| cae1d" in (tmp_path / "tiny" / "speed.md").read_text()


def test_curves(benchmark, scripts, make_dataset, tmp_path, capsys):
    for transform in ("none", "random_4x4", "random_4x4"):
        flags = ["--devices", "cpu", "-d", make_dataset(), "-n", 0, "-e", 2, "--transform", transform]
        scripts.train.main([*map(str, flags), "--save-dir", str(tmp_path / "runs")])
    runs = sorted((tmp_path / "runs").iterdir())
    assert benchmark.main(["curves", *map(str, runs), "--name", "both", "--save-dir", str(tmp_path)]) == 0
    rows = (tmp_path / "both" / "curves.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2 and rows[0] == "run,epoch,seconds,val_psnr"
    names = {row.rpartition('"')[0].strip('"') for row in rows[1:]}
    assert names == {"cae1d, none", "cae1d, random_4x4", f"cae1d, random_4x4, {runs[2].name}"}
    assert (tmp_path / "both" / "curves.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(UsageError, match=r"no folder of a run"):
        benchmark.main(["curves", str(tmp_path), "--save-dir", str(tmp_path)])


def test_coding(benchmark, linear, monkeypatch, tmp_path, capsys):
    import coding.learned.network

    monkeypatch.setattr(coding.learned.network, "load_network", lambda *_: linear())
    scene, threads = tmp_path / "scene.npy", torch.get_num_threads()
    cube = np.random.default_rng(0).normal(3000, 20, (12, 24, 20)).astype(np.int16)
    np.save(scene, cube)
    try:
        flags = ["coding", str(scene), "--name", "one", "--save-dir", str(tmp_path)]
        assert benchmark.main(flags) == 0
    finally:
        torch.set_num_threads(threads)
    (found,) = json.loads((tmp_path / "one" / "coding.json").read_text())["scenes"]
    rows = {row["codec"]: row for row in found["rows"]}
    assert rows["latents as float32"]["bpppc"] == pytest.approx(32 * 8 / 12)
    for name, row in rows.items():
        bound = {"lossless": 0}.get(name.rpartition(", ")[2]) if "lossless" in name else None
        if name.startswith("error at most"):
            bound = int(name.split()[-1])
        assert bound is None or row["largest_error"] <= bound, name
        assert row["bpppc"] > 0 and row["encode_seconds"] > 0 and row["decode_seconds"] > 0
    assert rows["error at most 20"]["bpppc"] < rows["error at most 1"]["bpppc"] < rows["lossless"]["bpppc"]
    assert "scene.npy, 12 x 24 x 20" in (tmp_path / "one" / "coding.md").read_text()
    assert str(tmp_path) not in (tmp_path / "one" / "coding.json").read_text()


def test_a_dataset_that_is_not_there(run, tmp_path):
    with pytest.raises(DatasetError, match="-d names one with TIFs"):
        run("--only", "data", "-d", tmp_path / "nothing")


@pytest.mark.parametrize(("flags", "is_native"), [("avx2 f16c", False), ("avx2 avx512_bf16", True)])
def test_bf16_where_the_processor_has_it(run, monkeypatch, tmp_path, flags, is_native):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    monkeypatch.setattr(precision, "CPUINFO", cpuinfo)
    monkeypatch.setattr("benchmarks.speed.models.matmul_rate", lambda *_: 1e9)  # 2048^3 emulated takes a minute
    content = run("--models", "cae1d", "--size", 8, "--precision", "bf16", "--only", "models")
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


# -- rd -------------------------------------------------------------------------------------------


@pytest.fixture
def cubes(tmp_path):
    """Paths of two small cubes of digital numbers that follow a line in their spectra."""
    rng = np.random.default_rng(0)
    paths = []
    for name in ("a", "b"):
        cube = np.linspace(500, 4000, 12)[:, None, None] * rng.random((1, 24, 24)) + rng.normal(0, 20, (12, 24, 24))
        np.save(tmp_path / f"{name}.npy", np.clip(cube, 0, 10000).astype(np.uint16))
        paths.append(tmp_path / f"{name}.npy")
    return paths


def rd_flags(tmp_path, *args):
    return ["rd", *map(str, args), "--checkpoints", "--name", "tiny", "--save-dir", str(tmp_path / "out")]


def test_all_codecs_are_in_the_help(benchmark):
    from coding.classical import classical

    assert set(benchmark.CODECS) == set(classical)
    assert all(f"\n{name}" in benchmark.RD or f", {name}" in benchmark.RD for name in classical)


def test_rd_writes_a_report(benchmark, cubes, tmp_path, capsys):
    """What `python -m compressai.utils.plot` is given, points of every image, figures, and no path of this machine."""
    from compressai.utils.plot.__main__ import parse_json_file

    names = ["jpegls", "klt-jpegxl", "sperr", "aec"]
    flags = rd_flags(tmp_path, *cubes, "--codecs", *names, "--rates", 0.5, 1, 2, 4, "--anchor", "sperr", "jpegls")
    assert benchmark.main(flags) == 0
    folder = tmp_path / "out" / "tiny"
    assert {path.name for path in (folder / "codecs").iterdir()} == {f"{name}.json" for name in names}
    content = json.loads((folder / "codecs" / "klt-jpegxl.json").read_text())
    assert content["results"]["bpppc"] == pytest.approx([0.5, 1, 2, 4], rel=0.16)
    assert content["results"]["psnr"] == sorted(content["results"]["psnr"])
    assert json.loads((folder / "codecs" / "aec.json").read_text())["results"]["psnr"] == [None]
    for name in names:
        parse_json_file(str(folder / "codecs" / f"{name}.json"), "psnr")
    with open(folder / "points.csv", newline="") as file:
        points = list(csv.DictReader(file))
    assert {(row["codec"], row["image"]) for row in points} == {(name, image) for name in names for image in "ab"}
    for row in points:
        assert float(row["bpppc"]) == pytest.approx(8 * int(row["num_bytes"]) / (12 * 24 * 24))
    with open(folder / "bd.csv", newline="") as file:
        rates = {(row["anchor"], row["codec"], row["image"]): row["bd_rate"] for row in csv.DictReader(file)}
    assert {anchor for anchor, _, _ in rates} == {"sperr", "jpegls"}
    assert float(rates["sperr", "klt-jpegxl", "a"]) < 0  # a line in the spectra is what the transform is for
    for name in ("psnr", "ssim", "spectral_angle", "encoding", "decoding", "bands"):
        for suffix in (".png", ".pdf"):
            assert (folder / (name + suffix)).stat().st_size > 1000
    text = (folder / "rd.md").read_text()
    assert text in capsys.readouterr().out and all(name in text for name in names)
    for path in folder.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


def test_rd_goes_on_only_when_asked_to(benchmark, cubes, tmp_path, capsys):
    flags = rd_flags(tmp_path, *cubes, "--codecs", "jpegls", "--rates", 1, 2)
    assert benchmark.main(flags) == 0
    points = sorted((tmp_path / "out" / "tiny" / ".points").rglob("*.jsonl"))
    before = [path.read_text() for path in points]
    with pytest.raises(UsageError, match="--resume"):
        benchmark.main(flags)
    with pytest.raises(UsageError, match="another --name"):
        benchmark.main([*flags, "--resume", "--int16"])
    assert benchmark.main([*flags, "--resume"]) == 0
    assert [path.read_text() for path in points] == before
    assert benchmark.main(rd_flags(tmp_path, *cubes, "--codecs", "jpegls", "aec", "--resume")) == 0
    assert {path.name for path in (tmp_path / "out" / "tiny" / "codecs").iterdir()} == {"jpegls.json", "aec.json"}


def test_a_killed_rd_keeps_its_points(cubes, tmp_path, start, wait_for):
    flags = rd_flags(tmp_path, *cubes, "--codecs", "jpegls", "jpegxl", "--rates", 1, 2)
    kept = tmp_path / "out" / "tiny" / ".points"
    process = start("benchmark.py", *flags)
    wait_for(lambda: any(path.stat().st_size for path in kept.rglob("*.jsonl")), process)
    process.kill()
    process.wait()
    before = {path: path.read_text().splitlines() for path in kept.rglob("*.jsonl")}
    process = start("benchmark.py", *flags, "--resume")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    for path, lines in before.items():
        whole = [line for line in lines if line.endswith("}")]
        assert path.read_text().splitlines()[: len(whole)] == whole
    assert (tmp_path / "out" / "tiny" / "rd.md").is_file()


def test_rd_of_a_learned_model(benchmark, make_dataset, tmp_path):
    """The weights of the bundled sample on floats, which codecs of integers cannot take."""
    root = make_dataset(test=1)
    flags = ["rd", "-d", str(root), "--codecs", "jpegls", "--rates", "1", "--bounds", "--name", "tiny"]
    assert benchmark.main([*flags, "--save-dir", str(tmp_path / "out")]) == 0
    folder = tmp_path / "out" / "tiny"
    assert {path.name for path in (folder / "codecs").iterdir()} == {"cae1d.json", "cae1d-float32.json"}
    (rate,) = json.loads((folder / "codecs" / "cae1d-float32.json").read_text())["results"]["bpppc"]
    assert rate == pytest.approx(8.0792, rel=1e-2)  # small images make the header show
    text = (folder / "rd.md").read_text()
    assert "jpegls" in text and "uint16" in text  # left out, and why


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--codecs", "jpeg"], ["--codecs jpeg", "jpeg2000-mc"]),
        (["--codecs"], ["nothing to compare"]),
        (["--codecs", "aec", "--anchor", "sz3"], ["--anchor sz3", "aec"]),
        (["--resume"], ["--name"]),
        (["--checkpoints", "vgg=x.pth.tar"], ["vgg", "cae1d"]),
    ],
)
def test_rd_refuses_what_cannot_be(benchmark, cubes, tmp_path, flags, words):
    given = ["rd", *map(str, cubes), "--save-dir", str(tmp_path / "out"), "--checkpoints", *flags]
    with pytest.raises(UsageError) as error:
        benchmark.main(given)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_rd_names_a_file_that_is_no_image_before_it_measures(benchmark, cubes, tmp_path):
    (tmp_path / "c.npy").write_bytes(b"no cube")
    with pytest.raises(DatasetError, match=r"c\.npy: damaged"):
        benchmark.main(rd_flags(tmp_path, *cubes, tmp_path / "c.npy", "--codecs", "aec"))
    assert not (tmp_path / "out").exists()


# -- tools ----------------------------------------------------------------------------------------


def test_flops_of_a_known_layer():
    layer = nn.Conv2d(3, 5, 3, padding=1)
    value, flops = speed.count_flops(lambda: layer(torch.zeros(2, 3, 8, 8)))
    assert value.shape == (2, 5, 8, 8)
    assert flops == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


def test_interleaved_takes_turns():
    calls = []
    times = speed.interleaved(
        [lambda: calls.append("a"), lambda: calls.append("b")], 3, before=lambda: calls.append("-")
    )
    assert "".join(calls) == "-a-b" * 3
    assert [len(seconds) for seconds in times] == [3, 3]


def test_least_seconds():
    assert speed.least_seconds(10, 1, 5, 1) == (2, "arithmetic")
    assert speed.least_seconds(1, 12, 5, 4) == (3, "memory")


def test_numbers_and_tables():
    numbers = [0.0, 0.00012345, 0.012345, 1.2345, 123.45, 12345.6, None, math.nan]
    assert [speed.short(number) for number in numbers] == ["0", "0.000123", "0.0123", "1.23", "123", "12346", "–", "–"]
    assert speed.short(2.5e9, 1e-9) == "2.50"
    assert speed.markdown_table(["model", "s"], [["cae1d", "1"], ["x", "22"]]).splitlines() == [
        "| model |  s |",
        "| :---- | -: |",
        "| cae1d |  1 |",
        "| x     | 22 |",
    ]
