"""The flags of the scripts, their short forms and defaults: frozen, because people's shell files use them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

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
    "--persistent-workers/--no-persistent-workers": True,
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
}


def long_form(flags):
    """`-n/--num-workers` -> `--num-workers`, `--compile/--no-compile` -> `--compile`."""
    return next(flag for flag in flags.split("/") if flag.startswith("--"))


@pytest.mark.parametrize(("name", "table"), [("train", TRAIN), ("test", TEST)])
def test_flags_and_defaults(scripts, name, table):
    module = getattr(scripts, name)
    expected = {long_form(flags)[2:].replace("-", "_"): default for flags, default in table.items()}
    assert vars(module.parse_args([])) == expected
    spelled = {"/".join(action.option_strings) for action in module.build_parser()._actions}
    assert spelled == {"-h/--help", *table}


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


@pytest.mark.parametrize("name", ["train", "test"])
def test_help_does_not_wait_for_torch(name):
    """No time is asserted: what takes it is that these libraries are imported."""
    code = (
        f"import sys, runpy; sys.argv = ['{name}.py', '--help']\n"
        f"try: runpy.run_path('{name}.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'compressai', 'matplotlib', 'rasterio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["train", "test"])
def test_help_explains_every_flag_and_lists_the_models(scripts, name, capsys):
    from models import aliases, models

    module = getattr(scripts, name)
    with pytest.raises(SystemExit):
        module.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for action in module.build_parser()._actions:
        assert action.help
        if action.option_strings[-1] != "--help":
            assert f"(default: {action.default})" in text
    for model in (*models, *aliases):
        assert model in text
    assert "not confirmed against published code: cae1da, cae1de" in text


def test_nothing_runs_at_import(scripts):
    assert callable(scripts.train.main) and callable(scripts.test.main)


@pytest.mark.parametrize("script", ["train.sh", "test.sh"])
def test_shell_files_set_every_flag(script, tmp_path):
    """Defaults of the shell files are those of the scripts; the environment and arguments win."""
    table = TRAIN if script == "train.sh" else TEST
    echo = tmp_path / "python"
    echo.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)

    def run(*args, **env):
        clean = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME")}
        done = subprocess.run(
            [ROOT / script, *args],
            env={**clean, "PYTHON": str(echo), **env},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    words = run()
    assert words[0] == script.replace(".sh", ".py")
    for flags, default in table.items():
        flag = long_form(flags)
        if flags.endswith(f"/--no-{flag[2:]}"):
            assert (flag if default else f"--no-{flag[2:]}") in words
        elif flag in ("--half", "--early-stopping") or (flag == "--checkpoint" and script == "train.sh"):
            assert flag not in words
        elif flag == "--checkpoint":
            assert words[words.index(flag) + 1] == "./results/weights/cae1d_8bpppc.pth.tar"
        else:
            value = words[words.index(flag) + 1]
            assert value == str(default) or float(value) == default

    for flags in table:
        flag = long_form(flags)
        name = flag[2:].replace("-", "_").upper()
        words = run(**{name: "a value"})
        assert flag in words
        if flags.endswith(f"/--no-{flag[2:]}"):
            assert f"--no-{flag[2:]}" in run(**{name: "0"})
        elif flag != "--half":
            assert words[words.index(flag) + 1] == "a value"
    assert run("--further", "argument")[-2:] == ["--further", "argument"]


@pytest.fixture
def run_shell(tmp_path):
    """run_shell(script, *args, **environment) -> the words that Python would be started with."""
    echo = tmp_path / "python"
    echo.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)

    def run(script, *args, **environment):
        environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(echo), **environment}
        done = subprocess.run([ROOT / script, *args], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


def test_train_sh_leaves_a_resumed_run_its_settings(run_shell):
    words = ["train.py", "--epochs", "9", "--checkpoint", "runs/a/last.pth.tar"]
    assert run_shell("train.sh", CHECKPOINT="runs/a/last.pth.tar", EPOCHS="9") == words
    assert run_shell("train.sh", "--checkpoint", "runs/a/last.pth.tar", EPOCHS="9") == words
    assert run_shell("train.sh", "--checkpoint=a/best.pth.tar") == ["train.py", "--checkpoint=a/best.pth.tar"]
    assert "--learning-rate" in run_shell("train.sh", CHECKPOINT="results/weights/cae1d_8bpppc.pth.tar")


def test_test_sh_knows_the_published_files(run_shell):
    from models.zoo import published

    for row in published():
        words = run_shell("test.sh", MODEL=row.model)
        assert words[words.index("--checkpoint") + 1] == f"./results/weights/{row.file}"
