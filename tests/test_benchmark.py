"""benchmark.py: its flags, and what it refuses."""

import subprocess
from pathlib import Path

import pytest

import benchmark
from coding import COMPARED
from utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]


def test_all_codecs_are_in_the_help():
    assert all(f"\n{name}" in benchmark.RD or f", {name}" in benchmark.RD for name in COMPARED)


def test_quick_only_changes_defaults():
    quick = benchmark.parse_args(["speed", "--quick"])
    assert (quick.models, quick.size, quick.repeats) == (["cae1d", "sscnet", "cae3d", "cae1d_1bpppc@16"], 64, 2)
    assert quick.only == ["models", "gpu", "data", "scripts"]
    given = benchmark.parse_args(["speed", "--quick", "--models", "cae1d", "--size", "128"])
    assert (given.models, given.size, given.repeats) == (["cae1d"], 128, 2)


def test_lists_take_commas_and_spaces():
    args = benchmark.parse_args(
        ["speed", "--models", "cae1d,sscnet", "cae3d@32", "--devices", "cpu,0", "--precision", "fp32", "bf16"]
    )
    assert args.models == ["cae1d", "sscnet", "cae3d@32"]
    assert args.devices == ["cpu", "0"]
    assert args.precision == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--models", "vgg"], ["--models vgg", "cae1d_8bpppc"]),
        (["--models", ","], ["--models", "nothing given"]),
        (["--models", "cae1d@"], ["MODEL@SIDE"]),
        (["--models", "sscnet", "--size", "12"], ["--size 12", "multiples of 8"]),
        (["--size", "4"], ["--size", "at least 8", "4"]),
        (["--devices", "gpu"], ["--devices gpu", "cpu or the number"]),
        (["--precision", "fp8"], ["--precision fp8", "bf16"]),
        (["--only", "time"], ["--only time", "scripts"]),
        (["--works", "code"], ["--works code", "encode+decode"]),
    ],
)
def test_wrong_values_are_one_line(flags, words, tmp_path):
    with pytest.raises(UsageError) as caught:
        benchmark.main(["speed", "--save-dir", str(tmp_path), *flags])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)
    assert not list(tmp_path.iterdir())


def test_git_ignores_everything_but_named_reports():
    def ignored(path):
        return subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", path]).returncode == 0

    if subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode:
        pytest.skip("no git repository")
    names = ("speed.json", "speed.md", "rd.json", "rd.md", "psnr.png", "curves.json", "curves.md", "curves.png")
    assert not any(ignored(f"results/benchmarks/epyc/{name}") for name in names)
    assert ignored("results/benchmarks/epyc/.patches-1/patches/000-DATA.npy")
    assert ignored("results/benchmarks/epyc/.points/settings.json")
    assert ignored("results/benchmarks/epyc/.speed.json.tmp")
    assert ignored("results/benchmarks/2026_01_01-10_00_00-amd/speed.json")
