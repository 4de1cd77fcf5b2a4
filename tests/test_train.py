"""train.py on tiny data: what a run writes, exact resume, signals, kills, and what is refused."""

import csv
import functools
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from training import run_folder as runs
from utils.errors import ProjectError, UsageError

FLAGS = ["--devices", "cpu", "-n", "0", "-lr", "0.001"]


@pytest.fixture
def make_dataset(make_dataset):
    """Make patches of 202 x 16 x 16 where a test names no size."""
    return functools.partial(make_dataset, bands=202, side=16)


@pytest.fixture
def train(scripts, tmp_path, run_of):
    """train(*flags, name="runs") -> Run; a new one, or the one that --checkpoint names."""

    def run(*flags, name="runs", status=0):
        save_dir = tmp_path / name
        assert scripts.train.main([*FLAGS, "--save-dir", str(save_dir), *map(str, flags)]) == status
        return run_of(save_dir)

    return run


def resume(scripts, run, *flags, name="last"):
    return scripts.train.main(["--checkpoint", str(run.dir / f"{name}.pth.tar"), *map(str, flags)])


def stop_after(monkeypatch, scripts, steps, number=signal.SIGTERM):
    """Send this process a signal in its `steps`-th training step from now on."""
    original, count = scripts.train.Training.totals, [0]

    def totals(self, *args):
        count[0] += self.model.training
        if count[0] == steps:
            os.kill(os.getpid(), number)
        return original(self, *args)

    monkeypatch.setattr(scripts.train.Training, "totals", totals)


# -- what a run writes ------------------------------------------------------------------------------


def test_a_run_from_end_to_end(train, make_dataset, capsys):
    root = make_dataset()
    run = train("-d", root, "-e", 2)
    out = capsys.readouterr().out

    assert run.dir.name.endswith("-easy-cae1d-mse-0.001")
    assert {path.name for path in run.dir.iterdir() if "tfevents" not in path.name} == {
        "last.pth.tar",
        "best.pth.tar",
        "final.pth.tar",
        "settings.json",
        "metrics.csv",
    }
    with open(run.dir / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"] and [row["step"] for row in rows] == ["3", "6"]
    for row in rows:
        assert all(math.isfinite(float(value)) for value in row.values())
        assert float(row["val_psnr"]) == pytest.approx(-10 * math.log10(float(row["val_mse"])), abs=1)
        assert float(row["train_bpppc"]) == pytest.approx(8.0792, abs=1e-4)
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert 0 < float(rows[0]["seconds"]) < float(rows[1]["seconds"])

    last, best, final = (run.checkpoint(name) for name in ("last", "best", "final"))
    assert last["epoch"] == 1 and last["loss"] == float(rows[1]["val_loss"])
    assert set(final) == {"state_dict"}
    assert all(torch.equal(final["state_dict"][key], tensor) for key, tensor in best["state_dict"].items())
    assert not any(key.startswith("module.") for key in final["state_dict"])

    settings = run.settings()
    assert settings["parameters"] == 56130
    assert settings["starts"][0]["arguments"]["epochs"] == 2
    assert settings["starts"][0]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert settings["finished"]["test"]["bpppc"] == pytest.approx(8.0792, abs=1e-4)
    assert "epoch 2/2" in out and "test split" in out and "\r" not in out


def test_events_hold_scalars_images_and_hyperparameters(train, make_dataset):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("-d", make_dataset(), "-e", 2)
    events = EventAccumulator(str(run.dir), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    for split in ("train", "val"):
        for name in ("loss", "bpppc", "mse", "psnr", "ssim", "sa", "images_per_second"):
            assert [event.step for event in events.Scalars(f"{split}/{name}")] == [1, 2]
    assert "train/learning_rate" in tags["scalars"] and "test/psnr" in tags["scalars"]
    assert {"val/original", "val/reconstruction", "val/spectra"} <= set(tags["images"])
    assert len(events.Images("val/original")) == 1 and len(events.Images("val/spectra")) == 2
    assert "_hparams_/experiment" in events.summary_metadata


def test_best_and_final_are_of_the_lowest_validation_loss(train, make_dataset, scripts, monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    original = scripts.train.Training.validate

    def validate(self):
        return {**original(self), "loss": next(losses)}

    monkeypatch.setattr(scripts.train.Training, "validate", validate)
    run = train("-d", make_dataset(train=2), "-e", 3)
    assert run.checkpoint("best")["progress"]["epoch"] == 2
    assert run.checkpoint("last")["progress"]["best_epoch"] == 2
    assert run.settings()["finished"]["best_epoch"] == 2
    best, final, last = (run.checkpoint(name)["state_dict"] for name in ("best", "final", "last"))
    assert all(torch.equal(best[key], final[key]) for key in best)
    assert not all(torch.equal(last[key], final[key]) for key in last)


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "sscnet_1bpppc", "--loss", "mae"],
        ["-m", "cae3d_1bpppc", "--loss", "sa", "--clip-max-norm", "0"],
        ["-m", "cae1da", "--loss", "ssim", "--transform", "randomcrop_16x16"],
        ["-m", "cae1d_1bpppc", "--transform", "random_2x2", "--repeats", "3"],
        ["-m", "cae1de_8bpppc", "--num-channels", "30"],
    ],
)
def test_every_family_and_loss_trains(train, make_dataset, flags):
    bands = 30 if "30" in flags else 202
    run = train("-d", make_dataset(train=2, val=1, test=1, bands=bands), "-e", 1, *flags)
    (row,) = run.rows()
    assert math.isfinite(float(row["train_loss"]))
    # random_2x2 mixes pixels up: there is no SSIM of that.
    assert math.isnan(float(row["train_ssim"])) == ("random_2x2" in flags)
    assert row["step"] == ("3" if "--repeats" in flags else "1")


def test_a_data_set_without_test_split(train, make_dataset, capsys):
    root = make_dataset(train=2)
    (root / "splits/easy/test.csv").unlink()
    run = train("-d", root, "-e", 1)
    assert run.settings()["finished"]["test"] is None
    assert "will not be tested" in capsys.readouterr().err


# -- schedules --------------------------------------------------------------------------------------


def test_early_stopping_and_going_on_after_it(train, make_dataset, scripts, monkeypatch, capsys):
    original = scripts.train.Training.validate
    monkeypatch.setattr(scripts.train.Training, "validate", lambda self: {**original(self), "loss": 1.0})
    run = train("-d", make_dataset(train=1), "-e", 9, "--early-stopping", 2)
    assert len(run.rows()) == 3
    with pytest.raises(UsageError, match="finished after 3 epochs; give a larger --early-stopping"):
        resume(scripts, run)
    assert resume(scripts, run, "--early-stopping", 4) == 0
    assert len(run.rows()) == 5


def test_schedulers(train, make_dataset, scripts, monkeypatch):
    root = make_dataset(train=1)
    rates = [float(row["learning_rate"]) for row in train("-d", root, "-e", 4, "--scheduler", "cosine").rows()]
    assert rates == pytest.approx([0.001 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])

    monkeypatch.setitem(scripts.train.PLATEAU, "patience", 0)
    original = scripts.train.Training.validate
    monkeypatch.setattr(scripts.train.Training, "validate", lambda self: {**original(self), "loss": 1.0})
    run = train("-d", root, "-e", 3, "--scheduler", "plateau", name="plateau")
    assert [float(row["learning_rate"]) for row in run.rows()] == [0.001, 0.001, 0.0005]
    # The scheduler's state resumes too: it has halved once already and halves again.
    resume(scripts, run, "-e", 5)
    assert [float(row["learning_rate"]) for row in run.rows()][3:] == [0.00025, 0.000125]


def test_learning_rates_of_a_run_that_goes_on(train, make_dataset, scripts):
    root = make_dataset(train=1)

    def rates(run):
        return [float(row["learning_rate"]) for row in run.rows()]

    run = train("-d", root, "-e", 2, "--scheduler", "cosine")
    assert resume(scripts, run, "-e", 3, "--scheduler", "none") == 0
    assert rates(run) == pytest.approx([0.001, 0.0005, 0.001])
    # A flag given wins, also where it says what the run began with and the rate has moved since.
    run = train("-d", root, "-e", 1, name="second")
    resume(scripts, run, "-e", 2, "-lr", 0.0001)
    resume(scripts, run, "-e", 3)
    assert rates(run) == pytest.approx([0.001, 0.0001, 0.0001])


def test_a_step_is_adam_with_a_clipped_gradient(train, make_dataset):
    """The first step against one taken by hand: Adam hides the gradient's scale, but not from its moments."""
    from datasets import HySpecNet11k
    from models import models

    root = make_dataset(train=2)
    run = train("-d", root, "-e", 1, "--clip-max-norm", 1e-3)
    torch.manual_seed(10587)
    model = models["cae1d"]()
    x = torch.stack([*HySpecNet11k(root)])
    (model(x)["x_hat"] - x).square().mean().backward()
    norm = torch.sqrt(sum(parameter.grad.square().sum() for parameter in model.parameters()))
    assert norm > 1e-2
    moments = run.checkpoint("last")["optimizer"]["state"]
    for index, parameter in enumerate(model.parameters()):
        clipped = parameter.grad * 1e-3 / norm
        torch.testing.assert_close(moments[index]["exp_avg"], 0.1 * clipped, rtol=1e-3, atol=1e-10)


def test_validation_uses_running_statistics(train, make_dataset):
    from datasets import HySpecNet11k
    from models import models

    root = make_dataset(train=2, val=3)
    run = train("-d", root, "-e", 2, "-m", "cae3d_1bpppc")
    model = models["cae3d_1bpppc"]().eval()
    model.load_state_dict(run.checkpoint("last")["state_dict"])
    x = torch.stack([*HySpecNet11k(root, split="val")])
    with torch.no_grad():
        expected = (model(x)["x_hat"] - x).square().mean().item()
    assert float(run.rows()[1]["val_loss"]) == pytest.approx(expected, rel=1e-5)


# -- resume -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_step", [2, 3, 5])
def test_resume_is_exact(train, make_dataset, scripts, monkeypatch, assert_same_run, capsys, stop_step):
    """Stopped in the middle of an epoch, in its last step, in a later one; other workers afterwards."""
    root = make_dataset()
    flags = ["-d", root, "-e", 3, "--transform", "random_4x4", "--early-stopping", 3, "--scheduler", "plateau"]
    whole = train(*flags, name="whole")

    with monkeypatch.context() as patch:
        stop_after(patch, scripts, stop_step)
        parts = train(*flags, name="parts", status=128 + signal.SIGTERM)
    stopped = parts.checkpoint("last")["progress"]
    assert stopped["global_step"] == stop_step
    assert "--checkpoint" in capsys.readouterr().out
    assert resume(scripts, parts, "-n", 2) == 0
    assert_same_run(whole, parts)


def test_resume_of_batch_norm_is_exact(train, make_dataset, scripts, monkeypatch, assert_same_run):
    flags = ["-d", make_dataset(train=3), "-e", 2, "-m", "cae3d_1bpppc", "--transform", "randomcrop_8x8"]
    whole = train(*flags, name="whole")
    with monkeypatch.context() as patch:
        stop_after(patch, scripts, 3)
        parts = train(*flags, name="parts", status=128 + signal.SIGTERM)
    assert resume(scripts, parts) == 0
    assert_same_run(whole, parts)


def test_bf16_trains_and_resumes_exactly(train, make_dataset, scripts, monkeypatch, assert_same_run):
    flags = ["-d", make_dataset(train=3, val=1, test=1, bands=12, side=8), "--num-channels", 12, "-e", 2]
    flags += ["--precision", "bf16", "--transform", "random_4x4"]
    whole = train(*flags, name="whole")
    with monkeypatch.context() as patch:
        stop_after(patch, scripts, 3)
        parts = train(*flags, name="parts", status=128 + signal.SIGTERM)
    assert resume(scripts, parts) == 0
    assert_same_run(whole, parts)
    last = whole.checkpoint("last")
    assert all(tensor.dtype == torch.float32 for tensor in last["state_dict"].values())
    assert last["scaler"] == {} and last["arguments"]["precision"] == "bf16"
    # It is the run's until a flag says otherwise.
    assert resume(scripts, parts, "-e", 3, "--precision", "fp32") == 0
    assert [start["arguments"]["precision"] for start in parts.settings()["starts"]] == ["bf16", "bf16", "fp32"]


@pytest.fixture
def fp16_on_a_cpu(monkeypatch):
    """Refused to users for its slowness; it works all the same, the scaler of the loss included."""
    monkeypatch.setattr("utils.devices.check_precision", lambda *args, **kwargs: None)


def test_fp16_resumes_with_the_scale_of_its_loss(
    train, make_dataset, scripts, monkeypatch, assert_same_run, fp16_on_a_cpu
):
    flags = ["-d", make_dataset(train=6, val=1, test=1, bands=12, side=8), "--num-channels", 12, "-e", 2]
    flags += ["--precision", "fp16", "--transform", "random_4x4"]
    whole = train(*flags, name="whole")
    with monkeypatch.context() as patch:
        stop_after(patch, scripts, 2)
        parts = train(*flags, name="parts", status=128 + signal.SIGTERM)
    assert parts.checkpoint("last")["scaler"]["_growth_tracker"] == 2
    assert resume(scripts, parts) == 0
    assert_same_run(whole, parts)
    scaler = whole.checkpoint("last")["scaler"]
    assert scaler["scale"] == 2.0**16 and scaler["_growth_tracker"] == 6
    # A run in another precision goes on in fp16, with a fresh scale, and the reverse.
    assert resume(scripts, parts, "-e", 3, "--precision", "fp32") == 0
    assert parts.checkpoint("last")["scaler"] == {}
    assert resume(scripts, parts, "-e", 4, "--precision", "fp16") == 0
    assert parts.checkpoint("last")["scaler"]["_growth_tracker"] == 3


def test_fp16_leaves_out_steps_whose_gradient_overflows(train, make_dataset, scripts, monkeypatch, fp16_on_a_cpu):
    original, overflows = torch.nn.functional.mse_loss, [False, True, True]

    def mse(x_hat, x, **kwargs):
        if x_hat.requires_grad and (overflows.pop(0) if len(overflows) > 1 else overflows[0]):
            x_hat.register_hook(lambda gradient: gradient * math.inf)
        return original(x_hat, x, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "mse_loss", mse)
    flags = ["-d", make_dataset(train=4, val=1, test=1, bands=12, side=8), "--num-channels", 12, "-e", 1]
    flags += ["--precision", "fp16", "--transform", "random_4x4"]
    run = train(*flags)
    last = run.checkpoint("last")
    assert last["progress"]["global_step"] == 2
    assert last["scaler"]["scale"] == 2.0**15  # halved by the second
    assert last["optimizer"]["state"][0]["step"] == 1  # Adam took the first alone
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    # Without an end to it there is no scale that would do.
    with pytest.raises(ProjectError, match=r"norm of the gradient is (nan|inf) in epoch 9, .*last good checkpoint"):
        resume(scripts, run, "-e", 100)


def test_a_checkpoint_of_adams_other_implementation_goes_on(train, make_dataset, scripts):
    """As runs wrote it before there were precisions: also without a scaler and the later arguments."""
    run = train("-d", make_dataset(train=4, val=1, test=1, bands=12), "--num-channels", 12, "-e", 1)
    path = run.dir / "last.pth.tar"
    old = run.checkpoint("last")
    assert old["optimizer"]["param_groups"][0]["fused"] is True
    del old["scaler"]
    for name in ("precision", "compile", "deterministic", "prefetch", "pin_memory", "persistent_workers"):
        del old["arguments"][name]
    for group in old["optimizer"]["param_groups"]:
        group["fused"] = None
    torch.save(old, path)
    assert resume(scripts, run, "-e", 2) == 0
    new = run.checkpoint("last")
    assert new["optimizer"]["param_groups"][0]["fused"] is True and new["optimizer"]["state"][0]["step"] == 4


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_a_compiled_run_does_what_the_others_do(train, make_dataset):
    flags = ["-d", make_dataset(train=4, val=1, test=1, bands=12, side=8), "--num-channels", 12, "-e", 2]
    flags += ["--transform", "random_4x4"]
    one, compiled = train(*flags, name="one"), train(*flags, "--compile", name="compiled")
    expected, found = one.checkpoint("last")["state_dict"], compiled.checkpoint("last")["state_dict"]
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        # Adam turns a gradient's rounding at 0 into a step of the learning rate: a weight in ten thousand may.
        assert ((found[key] - tensor).abs() > 1e-4).double().mean() < 1e-3, key


def test_backends_are_set_before_the_device_is_used(train, make_dataset, scripts, monkeypatch):
    calls = []
    monkeypatch.setattr("utils.environment.configure_backends", lambda *args, **kwargs: calls.append((args, kwargs)))
    flags = ["-d", make_dataset(train=2, val=1, test=1, bands=12), "--num-channels", 12, "-e", 1]
    run = train(*flags, "--deterministic")
    resume(scripts, run, "-e", 2)
    resume(scripts, run, "-e", 3, "--no-deterministic")
    assert calls == [((True,), {"tf32": False})] * 2 + [((False,), {"tf32": True})]


def test_flags_of_the_loader(train, make_dataset, scripts, monkeypatch):
    loaders, original = [], scripts.train.Training.loader

    def loader(self, *args, **kwargs):
        loaders.append(original(self, *args, **kwargs))
        return loaders[-1]

    monkeypatch.setattr(scripts.train.Training, "loader", loader)
    flags = ["-d", make_dataset(train=4, val=1, test=1, bands=12), "--num-channels", 12, "-e", 2]
    train(*flags, "-n", 1, "--prefetch", 3, "--no-persistent-workers")
    assert (loaders[0].prefetch_factor, loaders[0].persistent_workers, loaders[0].pin_memory) == (3, False, False)
    train(*flags, "-n", 1, name="second")
    assert (loaders[2].prefetch_factor, loaders[2].persistent_workers) == (2, True)


def test_resume_from_best_and_from_a_stop_while_validating(train, make_dataset, scripts, monkeypatch, assert_same_run):
    root = make_dataset(train=3)
    whole = train("-d", root, "-e", 3, name="whole")
    parts = train("-d", root, "-e", 2, name="parts")
    assert resume(scripts, parts, "-e", 3, name="best") == 0
    assert_same_run(whole, parts)

    original = scripts.train.Training.validate
    with monkeypatch.context() as patch:

        def validate(self):
            os.kill(os.getpid(), signal.SIGINT)
            return original(self)

        patch.setattr(scripts.train.Training, "validate", validate)
        validating = train("-d", root, "-e", 3, name="validating", status=128 + signal.SIGINT)
    assert validating.checkpoint("last")["progress"]["samples"] == 3
    assert resume(scripts, validating) == 0
    assert_same_run(whole, validating)


def test_resume_undoes_what_a_killed_run_logged(
    train, make_dataset, scripts, monkeypatch, assert_same_run, run_of, tmp_path
):
    """Died after logging epoch 3 and before saving it, in the middle of the next row."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = make_dataset(train=2)
    original = scripts.train.Training.save

    def save(self, name):
        if self.progress.epoch == 3:
            self.log.writer.flush()
            raise RuntimeError("killed")
        original(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(scripts.train.Training, "save", save)
        with pytest.raises(RuntimeError, match="killed"):
            train("-d", root, "-e", 4)
    run = run_of(tmp_path / "runs")
    assert len(run.rows()) == 3 and run.checkpoint("last")["progress"]["epoch"] == 2
    with open(run.dir / "metrics.csv", "a") as file:
        file.write("4,8,0.00")

    resume(scripts, run)
    events = EventAccumulator(str(run.dir)).Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [1, 2, 3, 4]
    assert_same_run(train("-d", root, "-e", 4, name="whole"), run)


def test_resume_takes_new_flags_and_keeps_the_others(train, make_dataset, scripts):
    run = train("-d", make_dataset(train=2), "-e", 1, "--clip-max-norm", 0.5)
    resume(scripts, run, "-e", 2, "-lr", "0.0005")
    arguments = run.checkpoint("last")["arguments"]
    assert (arguments["epochs"], arguments["learning_rate"], arguments["clip_max_norm"]) == (2, 0.0005, 0.5)
    assert [row["learning_rate"] for row in run.rows()] == ["0.001", "0.0005"]
    assert [start["epoch"] for start in run.settings()["starts"]] == [0, 1]


def test_resume_keeps_the_chunks_of_its_own_device(train, make_dataset, scripts, monkeypatch):
    from models.spectral import SpectralAutoencoder

    with monkeypatch.context() as other_table:
        other_table.setattr(SpectralAutoencoder, "rows_per_chunk", {2: {"cpu": 50, "cuda": 60}})
        run = train("-d", make_dataset(train=1, test=1), "-e", 1)
    assert resume(scripts, run, "-e", 2) == 0
    assert run.checkpoint("last")["pixels_per_chunk"] == run.settings()["starts"][1]["pixels_per_chunk"] == 50

    path = run.dir / "last.pth.tar"
    torch.save({**run.checkpoint("last"), "device_type": "cuda"}, path)
    assert resume(scripts, run, "-e", 3) == 0
    assert run.checkpoint("last")["pixels_per_chunk"] == SpectralAutoencoder.rows_per_chunk[2]["cpu"] != 50


def test_resume_refuses_another_run(train, make_dataset, scripts, tmp_path, monkeypatch):
    root = make_dataset(train=2)
    run = train("-d", root, "-e", 1)
    before = {path.name: path.read_bytes() for path in run.dir.iterdir()}
    for flags, message in (
        (["-m", "sscnet"], "--model sscnet: the run of .* has cae1d"),
        (["--loss", "mae"], "--loss mae"),
        (["--seed", "1"], "--seed 1"),
        (["--num-channels", "200"], "--num-channels 200"),
        (["--repeats", "2"], "--repeats 2"),
        (["-d", make_dataset(train=3, name="other"), "-e", "2"], "not the one that the run"),
        ([], "finished after 1 epochs; give a larger --epochs"),
    ):
        with pytest.raises(UsageError, match=message):
            resume(scripts, run, *flags)
    with pytest.raises(UsageError, match="finished after 1 epochs"):
        resume(scripts, run, name="best")
    assert {path.name: path.read_bytes() for path in run.dir.iterdir()} == before
    assert resume(scripts, run, "-m", "cae1d_8bpppc", "-e", 2) == 0  # an alias is the same model

    shutil.copy(run.dir / "last.pth.tar", tmp_path)
    with pytest.raises(UsageError, match=r"no settings.json beside it"):
        scripts.train.main(["--checkpoint", str(tmp_path / "last.pth.tar")])

    # A bare file name is in the current folder, not in the root of the file system.
    monkeypatch.chdir(run.dir)
    assert scripts.train.main(["--checkpoint", "last.pth.tar", "-e", "3"]) == 0
    assert len(run.rows()) == 3


def test_bare_weights_start_a_new_run(train, make_dataset):
    root = make_dataset(train=2)
    first = train("-d", root, "-e", 1)
    new = train("-d", root, "-e", 1, "-lr", 1e-12, "--checkpoint", first.dir / "final.pth.tar", name="new")
    assert new.dir != first.dir
    for key, tensor in first.checkpoint("final")["state_dict"].items():
        torch.testing.assert_close(new.checkpoint("last")["state_dict"][key], tensor, rtol=0, atol=1e-9)


# -- signals and kills ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_names_the_command_that_resumes(
    start, wait_for, terminate, make_dataset, tmp_path, run_of, number
):
    save_dir = tmp_path / "runs"
    flags = ["--devices", "cpu", "-n", "2", "-d", make_dataset(), "--save-dir", save_dir, "-e", 10000]
    process = start("train.py", *flags, start_new_session=True)
    wait_for(lambda: list(save_dir.glob("*/last.pth.tar")), process)
    os.killpg(process.pid, number)  # as a terminal or a batch system does: the loader's processes too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    command = out.splitlines()[-1].split()
    assert command[:3] == [runs.shown(Path(sys.executable)), "train.py", "--checkpoint"]
    progress = run_of(save_dir).checkpoint("last")["progress"]
    going_on = start(command[1:], "-e", progress["epoch"] + 1)
    out, err = going_on.communicate(timeout=120)
    assert going_on.returncode == 0, err
    assert len(run_of(save_dir).rows()) == progress["epoch"] + 1


def test_a_signal_in_the_final_test(train, make_dataset, scripts, monkeypatch, capsys):
    root = make_dataset(train=2, test=2)
    with monkeypatch.context() as patch:
        patch.setattr(scripts.train.Training, "progress_bar", bar_with_signal(scripts, "test"))
        run = train("-d", root, "-e", 1, status=128 + signal.SIGINT)
    assert "go on with" in capsys.readouterr().out and run.settings()["finished"] is None
    assert resume(scripts, run) == 0
    assert run.settings()["finished"]["test"]["psnr"] > 0 and len(run.rows()) == 1


def bar_with_signal(scripts, description):
    """A `Training.progress_bar` that sends this process SIGINT when the bar of that description begins."""
    original = scripts.train.Training.progress_bar

    def progress_bar(self, text, num_images):
        if text == description:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, text, num_images)

    return progress_bar


def test_kills_at_any_time_leave_checkpoints_that_load(start, wait_for, make_dataset, tmp_path, run_of, scripts):
    """SIGKILL, again and again at no particular moment, while checkpoints are written in every step."""
    root, save_dir = make_dataset(train=6, val=1, test=1), tmp_path / "runs"
    script = ["-c", "import train; train.CHECKPOINT_INTERVAL = 0; train.main()"]
    process = start(script, *FLAGS, "-d", root, "--save-dir", save_dir, "-e", 10000, "--transform", "random_2x2")
    rng, steps = np.random.default_rng(0), []
    for _ in range(4):
        seen = [steps[-1] if steps else 0]

        def moved_on(seen=seen):
            # Reading while it is being written must work as well.
            for path in save_dir.glob("*/last.pth.tar"):
                seen.append(torch.load(path, weights_only=True)["progress"]["global_step"])
            return seen[-1] > seen[0]

        wait_for(moved_on, process)
        time.sleep(rng.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        run = run_of(save_dir)
        for name in ("last", "best"):
            if (run.dir / f"{name}.pth.tar").exists():
                run.checkpoint(name)
        steps.append(run.checkpoint("last")["progress"]["global_step"])
        process = start(script, "--checkpoint", run.dir / "last.pth.tar")
    process.kill()
    process.wait()
    assert steps == sorted(set(steps)) and steps[0] > 0

    # And then it ends as if nothing had happened.
    epochs = run.checkpoint("last")["progress"]["epoch"] + 1
    assert resume(scripts, run, "-e", epochs) == 0
    assert [int(row["epoch"]) for row in run.rows()] == list(range(1, epochs + 1))


def test_a_full_disk_costs_no_checkpoint(train, make_dataset, scripts, monkeypatch):
    root = make_dataset(train=2)
    run = train("-d", root, "-e", 1)
    before = run.checkpoint("last")
    original = os.fsync

    def full(descriptor):
        if b"pth.tar" in os.readlink(f"/proc/self/fd/{descriptor}").encode():
            raise OSError(28, "No space left on device")
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ProjectError, match="No space left on device"):
            resume(scripts, run, "-e", 2)
    assert run.checkpoint("last")["progress"] == before["progress"]
    assert not list(run.dir.glob(".*"))
    assert resume(scripts, run, "-e", 2) == 0


def test_a_checkpoint_every_ten_minutes(train, make_dataset, scripts, monkeypatch):
    monkeypatch.setattr(scripts.train, "CHECKPOINT_INTERVAL", 0.0)
    steps = []
    original = scripts.train.Training.save

    def save(self, name):
        original(self, name)
        steps.append((name, self.progress.global_step, self.progress.step))

    monkeypatch.setattr(scripts.train.Training, "save", save)
    train("-d", make_dataset(train=5), "-e", 1)
    assert steps == [("last", 1, 1), ("last", 2, 2), ("last", 3, 3), ("best", 3, 0), ("last", 3, 0)]


def test_a_gradient_that_is_not_finite_spoils_nothing(train, make_dataset, scripts, monkeypatch):
    """The loss of that step is finite: without a look at the gradient, the step would be taken and saved."""
    monkeypatch.setattr(scripts.train, "CHECKPOINT_INTERVAL", 0.0)
    root = make_dataset(train=6)
    original, steps = torch.nn.functional.mse_loss, [0]

    def mse(x_hat, x, **kwargs):
        steps[0] += 1
        if steps[0] == 2:
            x_hat.register_hook(lambda gradient: gradient * math.inf)
        return original(x_hat, x, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "mse_loss", mse)
    with pytest.raises(ProjectError, match=r"norm of the gradient is (nan|inf) in epoch 1, step 2; .*last\.pth\.tar"):
        train("-d", root, "-e", 1, "--transform", "random_4x4")  # one chunk of pixels, one loss
    (path,) = root.parent.glob("runs/*/last.pth.tar")
    last = torch.load(path, weights_only=True)
    assert last["progress"]["global_step"] == 1
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())


@pytest.mark.parametrize("where", ["train", "val"])
def test_a_loss_that_is_not_finite_stops_the_run(train, make_dataset, scripts, monkeypatch, where):
    root = make_dataset(train=2)
    run = train("-d", root, "-e", 1)
    good = run.checkpoint("last")
    original = torch.nn.functional.mse_loss

    def mse(x_hat, x, **kwargs):
        loss = original(x_hat, x, **kwargs)
        return loss * math.nan if x_hat.requires_grad == (where == "train") else loss

    monkeypatch.setattr(torch.nn.functional, "mse_loss", mse)
    with pytest.raises(ProjectError, match=r"loss is nan in epoch 2.*last good checkpoint is .*last\.pth\.tar"):
        resume(scripts, run, "-e", 2)
    kept = run.checkpoint("last")
    assert kept["progress"] == good["progress"]
    assert all(torch.equal(kept["state_dict"][key], good["state_dict"][key]) for key in kept["state_dict"])


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_names_the_cpu(scripts, make_dataset):
    with pytest.raises(UsageError, match=r"--devices 0: this machine has no GPU.*--devices cpu"):
        scripts.train.main(["-d", str(make_dataset())])


def copy_test_patches(source, target):
    if "/test-" in source:
        shutil.copy(source, target)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices", "gpu"], "--devices gpu: give cpu, or"),
        (["--devices", "0,0"], "different GPU numbers"),
        (["-m", "sscnet", "--transform", "random_16x16"], "random_16x16 breaks the neighborhoods that sscnet codes"),
        (["--loss", "ssim", "--transform", "random_16x16"], "--loss ssim compares: use randomcrop_16x16"),
        (["--precision", "fp16"], "--precision fp16 is for GPUs: give bf16 or fp32"),
        (["--loss", "ssim", "--transform", "randomcrop_8x8"], "--loss ssim needs 11 pixels"),
        (["-m", "cae3d", "--transform", "randomcrop_4x4"], "train images: CAE3D cannot take 4 x 4 pixels"),
        (["--transform", "random_32x32"], "32x32"),
        (["--num-channels", "200"], "expected .200, 16, 16."),
        (["--mode", "hard"], "splits/hard/train.csv"),
        (["-m", "sscnet"], "test images: SSCNet cannot take 12 x 12 pixels"),
        (["--checkpoint", "nowhere.pth.tar"], "nowhere.pth.tar: no such checkpoint"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(scripts, make_dataset, tmp_path, flags, message):
    save_dir, root = tmp_path / "runs", make_dataset()
    if "test images" in message:
        other = make_dataset(side=12, name="other")
        shutil.copytree(other / "patches", root / "patches", dirs_exist_ok=True, copy_function=copy_test_patches)
    with pytest.raises(ProjectError, match=message) as caught:
        scripts.train.main([*FLAGS, "-d", str(root), "--save-dir", str(save_dir), *flags])
    assert "\n" not in str(caught.value)
    assert not save_dir.exists()


def test_compile_without_a_compiler_is_refused(scripts, make_dataset, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"--compile needs a C\+\+ compiler, and there is no no-such-compiler"):
        scripts.train.main([*FLAGS, "-d", str(make_dataset()), "--compile"])


def test_errors_are_one_line_and_an_exit_status(start, make_dataset, tmp_path):
    missing = start("train.py", *FLAGS, "-d", tmp_path / "nothing")
    root = make_dataset()
    damaged = root / "patches" / (root / "splits/easy/train.csv").read_text().splitlines()[2]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    # Found in a process that loads data, in the middle of the training.
    broken = start("train.py", "--devices", "cpu", "-n", 2, "-d", root, "--save-dir", tmp_path / "runs")
    wrong = start("train.py", "--devices", "gpu")
    for process, status, words in (
        (missing, 1, ["nothing", "hyspecnet.rsim.berlin", "datasets.preprocess", "./datasets/sample/"]),
        (broken, 1, [damaged.name]),
        (wrong, 2, ["--devices gpu"]),
    ):
        _, err = process.communicate(timeout=120)
        assert process.returncode == status
        (line,) = err.strip().splitlines()
        assert line.startswith("error: ") and all(word in line for word in words)
