"""Training with several processes on CPUs (gloo): the same as one process on the same batches."""

import csv
import functools
import signal

import pytest
import torch

from training.distributed import check_share, join
from utils.devices import get_device, parse_devices
from utils.errors import UsageError

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FLAGS = ["--devices", "cpu", "-n", "0", "-lr", "0.001"]


@pytest.fixture
def make_dataset(make_dataset):
    """Make patches of 202 x 16 x 16 where a test names no size."""
    return functools.partial(make_dataset, bands=202, side=16)


@pytest.mark.parametrize(
    "flags",
    [
        # 5 patches in batches of 2: the second process has no image in the last one, the first two chunks of pixels.
        ["-m", "cae1d"],
        ["-m", "cae1d", "--loss", "ssim"],
        ["-m", "sscnet_1bpppc", "--loss", "sa", "--train-batch-size", "4"],
    ],
)
def test_two_processes_do_what_one_does(start, make_dataset, tmp_path, run_of, scripts, flags):
    root = make_dataset(train=5, val=3, test=1)
    flags = [*FLAGS, "-d", str(root), "-e", "2", *flags]
    process = start([*TORCHRUN, "train.py"], *flags, "--save-dir", tmp_path / "two")
    scripts.train.main([*flags, "--save-dir", str(tmp_path / "one")])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("epoch 2/2") == 1  # one process talks and writes

    one, two = run_of(tmp_path / "one"), run_of(tmp_path / "two")
    for a, b in zip(one.rows(), two.rows(), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert float(b[key]) == pytest.approx(float(a[key]), rel=2e-4, nan_ok=True), key
    for key, tensor in one.checkpoint("final")["state_dict"].items():
        # Adam turns a gradient's rounding at 0 into a step of the learning rate: a weight in ten thousand may.
        apart = (two.checkpoint("final")["state_dict"][key] - tensor).abs() > 1e-4
        assert apart.double().mean() < 1e-4, key
    assert two.settings()["starts"][0]["processes"] == 2


def test_a_run_stopped_with_two_processes_goes_on_with_one(start, wait_for, make_dataset, tmp_path, run_of, scripts):
    save_dir = tmp_path / "runs"
    root = make_dataset(train=5, val=2, test=1)
    process = start([*TORCHRUN, "train.py"], *FLAGS, "-d", root, "-e", 10000, "--save-dir", save_dir)
    wait_for(lambda: list(save_dir.glob("*/last.pth.tar")), process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert "go on with" in out
    progress = run_of(save_dir).checkpoint("last")["progress"]
    last = run_of(save_dir).dir / "last.pth.tar"
    assert scripts.train.main(["--checkpoint", str(last), "-e", str(progress["epoch"] + 1)]) == 0
    with open(last.parent / "metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == progress["epoch"] + 1


def test_batch_norm_on_several_cpus_is_refused(start, make_dataset, tmp_path):
    process = start(
        [*TORCHRUN, "train.py"], *FLAGS, "-m", "cae3d", "-d", make_dataset(), "--save-dir", tmp_path / "runs"
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "error: cae3d has batch norm, which torch cannot synchronize on CPUs: train it with one process" in err
    assert not (tmp_path / "runs").exists()


def test_the_script_starts_its_processes_itself(start, wait_for, terminate, make_dataset, tmp_path):
    """As for `--devices 0,1`, which needs GPUs. A status and a signal come through; no word but the processes' own."""
    code = (
        "import sys; from training.distributed import launch; "
        "sys.exit(launch('train.py', sys.argv[1:], ['cpu', 'cpu']))"
    )
    flags = [*FLAGS, "-d", make_dataset(train=2, val=1, test=1)]
    long = start(["-c", code], *flags, "-e", "10000", "--save-dir", tmp_path / "long")
    wait_for(lambda: list((tmp_path / "long").glob("*/last.pth.tar")), long)
    status, out, err = terminate(long)
    assert status == 128 + signal.SIGTERM and "go on with" in out and "Traceback" not in err

    done = start(["-c", code], *flags, "-e", "1", "--save-dir", tmp_path / "runs")
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0 and out.count("epoch 1/1") == 1 and err == ""

    refused = start(["-c", code], *flags, "--train-batch-size", "3", "--save-dir", tmp_path / "no")
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 2
    assert all("--train-batch-size 3 is the total over all devices" in line for line in err.splitlines())


def test_devices():
    assert parse_devices("cpu") == ["cpu"]
    assert parse_devices("0") == ["0"]
    assert parse_devices("0,2,5,7") == ["0", "2", "5", "7"]
    for wrong in ("", "cuda", "cpu,0", "0,", "1,1", "-1", "0;1"):
        with pytest.raises(UsageError, match="--devices"):
            parse_devices(wrong)


def test_get_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert get_device("cpu", "--device") == torch.device("cpu")
    assert get_device("1", "--device") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="--device 2: this machine has GPUs 0 to 1"):
        get_device("2", "--device")
    for wrong in ("cuda", "cuda:0", "0,1", "-1", ""):
        with pytest.raises(UsageError, match="give cpu or the number of a GPU"):
            get_device(wrong, "--device")


def test_batch_sizes_are_totals():
    check_share(8, 4, "--train-batch-size")
    for total, advice in ((2, 4), (9, 8), (11, 12)):
        with pytest.raises(UsageError, match=f"size {total} is the total over all devices.*divide by 4: use {advice}"):
            check_share(total, 4, "--train-batch-size")


def test_processes_and_devices_must_agree(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"torchrun started 2 processes on this node for --devices 0: .*per-node 1"):
        join(["0"])
