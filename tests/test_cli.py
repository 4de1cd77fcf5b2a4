"""The flags of the scripts, their short forms and defaults: frozen, because shell files of users depend on them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models import HYCASS_NAMES, aliases, models
from utils.processes import num_cores

ROOT = Path(__file__).resolve().parents[1]

# For each command the flags in the order of its help, with their defaults. Positional arguments come first, with their
# `nargs`.
TRAIN = {
    "--devices": "0",
    "--train-batch-size": 2,
    "--val-batch-size": 4,
    "-n/--num-workers": 4,
    "-d/--dataset": "./datasets/hyspecnet-11k/",
    "--mode": "easy",
    "-m/--model": "cae1d",
    "-e/--epochs": 500,
    "-lr/--learning-rate": 1e-4,
    "--save-dir": "./results/trains/",
    "--seed": 10587,
    "--clip-max-norm": 1.0,
    "--checkpoint": None,
    "--loss": "mse",
    "--lmbda": None,
    "--aux-learning-rate": 1e-3,
    "--freeze": None,
    "--transform": "none",
    "--num-channels": 202,
    "--repeats": 1,
    "--early-stopping": None,
    "--scheduler": "none",
    "--precision": "fp32",
    "--compile/--no-compile": False,
    "--deterministic/--no-deterministic": False,
    "--prefetch": 2,
    "--pin-memory/--no-pin-memory": True,
    "--allow-overlap/--no-allow-overlap": False,
}
TEST = {
    "--device": "0",
    "--batch-size": 64,
    "-n/--num-workers": 0,
    "-d/--dataset": "./datasets/hyspecnet-11k/",
    "--mode": "easy",
    "--checkpoint": None,
    "--half": False,
    "--precision": "fp32",
    "--save-dir": "./results/tests/",
    "--seed": 10587,
    "-m/--model": "cae1d",
    "--num-channels": 202,
    "--split": "test",
    "--allow-overlap": False,
}
COMPRESS: dict[str, object] = {
    "scenes": "*",
    "--output-dir": None,
    "--list": None,
    "--info": None,
    "--codec": None,
    "-m/--model": None,
    "--checkpoint": None,
    "--num-channels": 202,
    "--quality": None,
    "--step": None,
    "--target-psnr": None,
    "--target-bpppc": None,
    "--max-error": None,
    "--coder": None,
    "--tile-size": 128,
    "--axes": None,
    "--nodata": None,
    "--scale": None,
    "--peak": None,
    "--drop": [],
    "--raw": False,
    "--device": "cpu",
    "-n/--num-workers": 0,
    "--scheduler": None,
    "--overwrite": False,
}
DECOMPRESS: dict[str, object] = {
    "files": "*",
    "--output-dir": None,
    "--list": None,
    "--suffix": ".tif",
    "--verify": False,
    "--info": None,
    "--checkpoint": None,
    "--window": None,
    "--bands": None,
    "--drop": [],
    "--keep-going": False,
    "--raw": False,
    "--device": "cpu",
    "-n/--num-workers": 0,
    "--scheduler": None,
    "--overwrite": False,
}
SPEED = {
    "--models": ["cae1d", "cae1d_1bpppc", "cae1d_2bpppc", "cae1d_4bpppc", "sscnet", "cae3d"],
    "--devices": ["cpu"],
    "--precision": ["fp32"],
    "--size": 128,
    "--works": ["encode", "decode", "encode+decode", "train"],
    "--quick": False,
    "--repeats": 5,
    "--only": ["models", "gpu", "data", "scripts", "scaling"],
    "-d/--dataset": "./datasets/sample/",
    "--name": None,
    "--save-dir": "./results/benchmarks/",
    "--allow-dirty": False,
    "--redraw": None,
}
CURVES = {"runs": "+", "--name": None, "--save-dir": "./results/benchmarks/"}
RD = {
    "images": "*",
    "-d/--dataset": "./datasets/sample/",
    "--mode": "easy",
    "--split": "test",
    "--limit": None,
    "--sample": None,
    "--seed": 0,
    "--codecs": [
        *("jpeg2000", "jpeg2000-mc", "htj2k", "jpegxl", "jpegls"),
        *("klt-jpeg2000", "klt-jpegxl", "klt-sperr", "klt-cm", "pca-float32"),
        *("sperr", "sz3", "zfp", "aec", "ccsds123", "ccsds123-tuned"),
    ],
    "--checkpoints": None,
    "--num-channels": 202,
    "--device": "cpu",
    "--coder": None,
    "--rates": [0.1, 0.25, 0.5, 1, 2, 4],
    "--bounds": [10],
    "--int16": False,
    "--peak": 10000,
    "--anchor": None,
    "--band-rate": 0.5,
    "--num-workers": None,
    "--scheduler": None,
    "--per-image": False,
    "--export-compressai": None,
    "--name": None,
    "--save-dir": "./results/benchmarks/",
    "--allow-dirty": False,
    "--redraw": None,
}
PREPROCESS = {
    "root": None,
    "--num-workers": num_cores(),
    "--scheduler": None,
    "--overwrite": False,
    "--dtype": "float32",
    "--num-bands": 224,
    "--dry-run": False,
}
SPLIT = {"root": None, "--seed": 10587, "--ratios": [70, 20, 10], "--overwrite": False}
TILE = {
    "products": "+",
    "-o/--output": "./datasets/my-patches/",
    "--size": 128,
    **{f"--max-{name}": 10.0 for name in ("cloud", "shadow", "haze", "cirrus", "snow")},
    "--num-workers": num_cores(),
}
CONVERT: dict[str, object] = {
    "input": None,
    "output": None,
    "--variable": None,
    "--order": "rcb",
    "--ortho": False,
    "--drop": [],
    "--overwrite": False,
}
ZOO = {"names": "*", "--save-dir": Path("results/weights/"), "--overwrite": False}
COMMANDS = {
    "train": TRAIN,
    "test": TEST,
    "compress": COMPRESS,
    "decompress": DECOMPRESS,
    "benchmark speed": SPEED,
    "benchmark curves": CURVES,
    "benchmark rd": RD,
    "datasets.preprocess": PREPROCESS,
    "datasets.split": SPLIT,
    "datasets.tile": TILE,
    "datasets.convert": CONVERT,
    "models.zoo": ZOO,
}


def long_form(flags):
    """Return `--num-workers` for `-n/--num-workers` and `--compile` for `--compile/--no-compile`."""
    return next(flag for flag in flags.split("/") if flag.startswith("--"))


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_and_defaults(actions_of, command):
    actions = actions_of(command)
    found = {key: action.default if action.option_strings else action.nargs for key, action in actions.items()}
    assert list(found.items()) == list(COMMANDS[command].items())
    for key, action in actions.items():
        assert action.dest == (long_form(key)[2:].replace("-", "_") if action.option_strings else key)


HELP = """
import contextlib, io, json, runpy, sys
helps = {}
for command in sys.argv[1:]:
    name, *subcommand = command.split()
    sys.argv = [name, *subcommand, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        if "." in name:
            runpy.run_module(name, run_name="__main__")
        else:
            runpy.run_path(f"{name}.py", run_name="__main__")
    helps[command] = text.getvalue(), list(sys.modules)
import benchmarks.rd.report, datasets, datasets.enmap, datasets.transforms, models.zoo, utils.options
with contextlib.redirect_stdout(io.StringIO()) as text:
    models.zoo.main([])
helps["listing"] = text.getvalue(), list(sys.modules)
print(json.dumps(helps))
"""
HEAVY = {"torch", "compressai", "matplotlib", "scipy", "imagecodecs", "numba", "rasterio", "pandas"}


def test_help_imports_nothing_heavy_and_explains_every_flag(actions_of):
    """Importing these libraries is what takes seconds, so that no time has to be asserted."""
    command = [sys.executable, "-c", HELP, *COMMANDS]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    helps = json.loads(done.stdout)
    for command, table in COMMANDS.items():
        text, modules = helps[command]
        assert HEAVY.isdisjoint(modules) or "." in command, command
        text = " ".join(text.split())
        for key, action in actions_of(command).items():
            assert action.help, (command, key)
            assert not action.option_strings or long_form(key) in text, (command, key)
            if command in ("train", "test"):
                assert f"(default: {table[key]})" in text, (command, key)
    assert "torch" not in helps["listing"][1]
    for command in ("train", "test", "compress", "benchmark speed", "benchmark rd"):
        assert all(name in helps[command][0] for name in (*models, *aliases) if name not in HYCASS_NAMES), command
        (line,) = (line for line in helps[command][0].splitlines() if "hycass" in line)
        assert all(ratio in line for name in HYCASS_NAMES for ratio in name.split("_")[1:2]), command
    for command in ("train", "test"):
        assert "not confirmed against published code: cae1da, cae1de" in " ".join(helps[command][0].split())


def documented(command):
    """Return the rows [(spelling, default), ...] of the table `flag of SCRIPT`, on any page; None if there is none."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        script = f"python -m {command}" if "." in command else f"{command}.py"
        text, header = page.read_text(encoding="utf-8"), f"| flag of `{script}` |"
        if header in text:
            lines = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
            cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
            return [(flag, default) for flag, default, *_ in cells if flag.startswith("-")]
    return None


DATASETS = [command for command in COMMANDS if command.startswith("datasets.")]


@pytest.mark.parametrize("command", ["train", "test", "compress", "decompress", *DATASETS])
def test_documented_flags_are_those_of_the_parser(command):
    flags = {flag: str(default) for flag, default in COMMANDS[command].items() if flag.startswith("-")}
    if command in DATASETS and "--num-workers" in flags:
        flags["--num-workers"] = "all cores"
    assert documented(command) == list(flags.items())


def test_values_are_parsed(scripts):
    args = scripts.train.parse_args(
        [
            "--devices",
            "0,2,5,7",
            "-lr",
            "0.01",
            "-e",
            "3",
            "-m",
            "sscnet_2point5bpppc",
            "-n",
            "0",
            "--clip-max-norm",
            "0",
        ]
    )
    assert args.devices == "0,2,5,7"
    assert (args.learning_rate, args.epochs, args.num_workers, args.clip_max_norm) == (0.01, 3, 0, 0.0)
    assert scripts.test.parse_args(["--device", "cpu", "--half"]).half is True


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "vgg"],
        ["-e", "0"],
        ["-lr", "-1"],
        ["-lr", "nan"],
        ["--loss", "l2"],
        ["--transform", "random_3x3"],
        ["-n", "-1"],
        ["--seed", "4294967296"],
        ["--precision", "fp8"],
        ["--prefetch", "0"],
    ],
)
def test_wrong_values_are_refused(scripts, argv, capsys):
    with pytest.raises(SystemExit) as caught:
        scripts.train.parse_args(argv)
    assert caught.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_nothing_runs_at_import(scripts):
    assert callable(scripts.train.main) and callable(scripts.test.main)


@pytest.fixture
def run_shell(tmp_path):
    """run_shell(script, *args, **environment) -> the arguments that a shell file passes to Python."""
    echo = tmp_path / "python"
    echo.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)

    def run(script, *args, **environment):
        environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(echo), **environment}
        done = subprocess.run([ROOT / script, *args], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("script", ["train.sh", "test.sh"])
def test_shell_files_set_every_flag(script, run_shell):
    """The shell files have the defaults of the scripts; environment and arguments override them."""
    table = TRAIN if script == "train.sh" else TEST
    unset = {"train.sh": "--checkpoint", "test.sh": "--allow-overlap"}
    words = run_shell(script)
    assert words[0] == script.replace(".sh", ".py")
    for flags, default in table.items():
        flag = long_form(flags)
        if flags.endswith(f"/--no-{flag[2:]}"):
            assert (flag if default else f"--no-{flag[2:]}") in words
        elif flag in ("--half", "--early-stopping", "--lmbda", "--freeze") or flag == unset[script]:
            assert flag not in words
        elif flag == "--checkpoint":
            assert words[words.index(flag) + 1] == "./results/weights/cae1d_8bpppc.pth.tar"
        else:
            value = words[words.index(flag) + 1]
            assert value == str(default) or float(value) == default

    for flags in table:
        flag = long_form(flags)
        name = flag[2:].replace("-", "_").upper()
        words = run_shell(script, **{name: "a value"})
        assert flag in words
        if flags.endswith(f"/--no-{flag[2:]}"):
            assert f"--no-{flag[2:]}" in run_shell(script, **{name: "0"})
        elif flag not in ("--half", "--allow-overlap"):
            assert words[words.index(flag) + 1] == "a value"
    assert run_shell(script, "--further", "argument")[-2:] == ["--further", "argument"]


def test_train_sh_keeps_the_settings_of_a_resumed_run(run_shell):
    words = ["train.py", "--epochs", "9", "--checkpoint", "runs/a/last.pth.tar"]
    assert run_shell("train.sh", CHECKPOINT="runs/a/last.pth.tar", EPOCHS="9") == words
    assert run_shell("train.sh", "--checkpoint", "runs/a/last.pth.tar", EPOCHS="9") == words
    assert run_shell("train.sh", "--checkpoint=a/best.pth.tar") == ["train.py", "--checkpoint=a/best.pth.tar"]
    assert "--learning-rate" in run_shell("train.sh", CHECKPOINT="results/weights/cae1d_8bpppc.pth.tar")


def test_test_sh_knows_the_published_files(run_shell):
    from models.published import read_published

    for row in read_published():
        words = run_shell("test.sh", MODEL=row.model)
        assert words[words.index("--checkpoint") + 1] == f"./results/weights/{row.file}"
