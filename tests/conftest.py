"""Share tiny data sets, finished runs and compiled kernels among the tests of the scripts."""

import argparse
import contextlib
import csv
import functools
import importlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# One thread per process, also in processes that tests start; set before numpy and torch load.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU the kernels for GPUs run in Triton's interpreter; set before Triton loads.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest
import torch
from filelock import FileLock
from scipy import fft

# A shell makes its background jobs ignore Ctrl-C, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
TRAIN_FLAGS = ["--devices", "cpu", "-n", "0", "-lr", "0.001"]
REFERENCE_FLAGS = ["-e", "3", "--transform", "random_4x4", "--early-stopping", "3", "--scheduler", "plateau"]
PRODUCT = "ENMAP01-____L2A-DT0000004950_20221103T162438Z_001_V010110_20221118T145147Z"


def pytest_configure(config):
    """Compile the kernels once, before the workers start: all processes then load them from disk."""
    if getattr(config.option, "numprocesses", None):
        compile_kernels()


def compile_kernels():
    """Run each compiled kernel on the types that the codecs give it."""
    from coding import codecs
    from coding.classical.ccsds123.image import Ccsds123, decode
    from coding.samples import CubeSamples

    cube = np.random.default_rng(0).integers(0, 4000, (12, 20, 24)).astype(np.int16)
    valid = np.ones(cube.shape, bool)
    for name in ("ccsds123", "klt-cm"):
        factory = codecs[name].make_factory(CubeSamples(cube, valid, 10000.0))
        for codec in (factory.lossy(9.0), factory.bounded(2)):
            codec.decode(codec.encode(cube, valid), valid)
    decode(Ccsds123(entropy_coder="sample-adaptive").encode(cube))


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make) -> folder that `make(folder)` filled, once for all workers. Tests must not change it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the parent of the workers' folders

    def share(name, make) -> Path:
        folder, complete = base / "shared" / name, base / "shared" / f"{name}.complete"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            if not complete.exists():
                folder.mkdir()
                make(folder)
                complete.touch()
        return folder

    return share


@pytest.fixture(autouse=True)
def torch_threads():
    """Restore torch's number of threads, by which sums are rounded."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


@pytest.fixture
def make_dataset(tmp_path):
    """make_dataset(train=5, val=2, test=3, bands=12, side=8) -> root of a data set of smooth random spectra."""

    def make(train=5, val=2, test=3, bands=12, side=8, name="tiny") -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(0)
        for split, count in (("train", train), ("val", val), ("test", test)):
            entries = []
            for index in range(count):
                stem = f"{PRODUCT}-Y{index:04}0273_X{len(split):04}0438"
                entry = f"tile_001/tile_001-patch_{index:02}/{split}-{stem}-DATA.npy"
                path = root / "patches" / entry
                path.parent.mkdir(parents=True, exist_ok=True)
                shape = np.abs(np.sin(np.linspace(0, 3, bands) + rng.random())) * 0.4
                cube = shape[:, None, None] * rng.random((1, side, side)) + 0.01 * rng.random((bands, side, side))
                np.save(path, cube.astype(np.float32))
                entries.append(entry)
            csv = root / "splits" / "easy" / f"{split}.csv"
            csv.parent.mkdir(parents=True, exist_ok=True)
            csv.write_text("".join(f"{entry}\n" for entry in entries))
        return root

    return make


@pytest.fixture
def data_flags(make_dataset):
    """data_flags(train=2, bands=12, ...) -> flags of the scripts that name a data set and its number of bands."""

    def make(*, bands=12, **kwargs) -> list[str]:
        return ["-d", str(make_dataset(bands=bands, **kwargs)), "--num-channels", str(bands)]

    return make


@pytest.fixture(scope="session")
def scripts():
    """Load the scripts as modules: `import test` could give the standard library's package of that name."""

    class Scripts:
        pass

    for name in ("train", "test", "compress", "decompress", "benchmark"):
        spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look themselves up there
        spec.loader.exec_module(module)
        setattr(Scripts, name, module)
    return Scripts


class Caught(Exception):
    """Carry a parser out of its `parse_args`."""


@pytest.fixture
def actions_of(scripts, monkeypatch):
    """actions_of("benchmark rd") -> {spelling: action} of the command, without its help."""

    def find(command):
        name, *subcommand = command.split()
        module = importlib.import_module(name) if "." in name else getattr(scripts, name)

        def catch(parser, *_args):
            raise Caught(parser)

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", catch)
            with pytest.raises(Caught) as caught:
                module.parse_args([])
        (parser,) = caught.value.args
        if subcommand:
            (commands,) = (action for action in parser._actions if action.choices)
            parser = commands.choices[subcommand[0]]
        assert parser._actions[0].option_strings == ["-h", "--help"]
        return {"/".join(action.option_strings) or action.dest: action for action in parser._actions[1:]}

    return find


class Run:
    """A finished training run: its folder and the files in it."""

    def __init__(self, save_dir: Path):
        (self.dir,) = save_dir.iterdir()

    def rows(self) -> list[dict]:
        """Read metrics.csv without the columns that hold times."""
        with open(self.dir / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        return [{key: value for key, value in row.items() if "second" not in key} for row in rows]

    def checkpoint(self, name: str) -> dict:
        return torch.load(self.dir / f"{name}.pth.tar", weights_only=True)

    def settings(self) -> dict:
        return json.loads((self.dir / "settings.json").read_text())


@pytest.fixture
def run_of():
    """run_of(save_dir) -> the only run in it."""
    return Run


@pytest.fixture
def assert_same_run():
    """assert_same_run(a, b): assert that two runs ended with the same bits, except for times."""

    def compare(one, other, where=""):
        assert type(one) is type(other), where
        if isinstance(one, dict):
            assert one.keys() == other.keys(), where
            for key in one:
                if "seconds" not in str(key):
                    compare(one[key], other[key], f"{where}/{key}")
        elif isinstance(one, list | tuple):
            assert len(one) == len(other), where
            for index, (a, b) in enumerate(zip(one, other, strict=True)):
                compare(a, b, f"{where}/{index}")
        elif isinstance(one, torch.Tensor):
            assert torch.equal(one, other), where
        else:
            assert one == other, where

    def check(one: Run, other: Run):
        for name in ("last", "best", "final"):
            a, b = one.checkpoint(name), other.checkpoint(name)
            for state in (a, b):
                state.pop("arguments", None)
            compare(a, b, name)
        assert one.rows() == other.rows()

    return check


@pytest.fixture
def start():
    """start(script, *args) -> Popen of a script from the repository's root."""
    processes = []

    def begin(script, *args, **kwargs):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **kwargs.pop("env", {})}
        process = subprocess.Popen(
            [sys.executable, *([script] if isinstance(script, str) else script), *map(str, args)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def wait_for():
    """wait_for(condition, process): wait for the condition; fail if the process ends first, or after a minute."""

    def wait(condition, process, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            if process.poll() is not None:
                out, err = process.communicate()
                pytest.fail(f"ended with {process.returncode} before its time:\n{out}\n{err}")
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.02)

    return wait


@pytest.fixture
def terminate():
    """terminate(process, signal) -> (status, stdout, stderr)."""

    def end(process, number=signal.SIGTERM):
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    return end


class LinearNetwork:
    """Stand in for a trained network by the first components of the spectra's cosine transform."""

    name, sha256, multiple, has_entropy_model = "linear", "0" * 64, 1, False

    def __init__(self, bands=12, channels=8):
        self.num_bands, self.channels = bands, channels
        self.basis = fft.dct(np.eye(bands), norm="ortho", axis=0)[:channels]

    def tiles_at_once(self, tile_size):
        return 1

    def encode(self, x):
        return np.einsum("kc,chw->khw", self.basis, x).astype(np.float32)

    def decode(self, y, height, width):
        return np.einsum("kc,khw->chw", self.basis, y).astype(np.float32)

    def sensitivity(self, y):
        return np.ones(self.channels)

    def latent_size(self, height, width):
        return self.channels, height, width


@pytest.fixture
def linear():
    return LinearNetwork


@pytest.fixture
def train(scripts, tmp_path):
    """train(*flags, name="runs", status=0) -> Run of train.py on a CPU. To save time it draws no pictures."""

    def run(*flags, name="runs", status=0):
        argv = [*TRAIN_FLAGS, "--save-dir", tmp_path / name, *flags]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.reporter.RunLog.log_image", lambda *args: None)
            assert scripts.train.main([*map(str, argv)]) == status
        return Run(tmp_path / name)

    return run


@pytest.fixture
def resume(scripts):
    """resume(run, *flags, checkpoint="last"): resume a Run and assert that it finishes."""

    def run(run, *flags, checkpoint="last"):
        argv = ["--checkpoint", run.dir / f"{checkpoint}.pth.tar", *flags]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.reporter.RunLog.log_image", lambda *args: None)
            assert scripts.train.main([*map(str, argv)]) == 0

    return run


@pytest.fixture
def reference(once, scripts, make_dataset):
    """Return a Run of three epochs with `REFERENCE_FLAGS` on `make_dataset()`; its output is in `out`."""

    def make(folder):
        data = ["-d", make_dataset(name="reference"), "--num-channels", "12"]
        argv = [*TRAIN_FLAGS, *data, "--save-dir", folder / "runs", *REFERENCE_FLAGS]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert scripts.train.main([*map(str, argv)]) == 0
        (folder / "out").write_text(out.getvalue())

    folder = once("reference", make)
    run = Run(folder / "runs")
    run.out = (folder / "out").read_text()
    return run


@pytest.fixture
def train_part(train, data_flags):
    """train_part(*flags, **kwargs) -> Run with the flags of `reference`, on the same data."""
    return functools.partial(train, *data_flags(name="part"), *REFERENCE_FLAGS)


@pytest.fixture
def stop_in_step(monkeypatch):
    """stop_in_step(n, number=SIGTERM): context in which this process gets a signal in its n-th training step."""
    from training import state

    @contextlib.contextmanager
    def stop(step, number=signal.SIGTERM):
        original, steps = state.loss_and_gradients, iter(range(1, 1000))

        def loss_and_gradients(*args):
            if next(steps) == step:
                os.kill(os.getpid(), number)
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(state, "loss_and_gradients", loss_and_gradients)
            yield

    return stop
