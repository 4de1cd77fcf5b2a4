"""train.py on tiny data: the files of a run, schedules, precisions, and combinations that are refused."""

import csv
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from datasets import HySpecNet11k
from datasets.loading import ThreadLoader
from models import models
from training import optimizers
from training.distributed import join
from utils.errors import DatasetError, ProjectError, UsageError


@pytest.fixture
def set_val_losses(scripts, monkeypatch):
    """set_val_losses(losses): replace the losses of all further validations by these."""
    original = scripts.train.validate

    def replace(losses):
        losses = iter(losses)

        def validate(run):
            metrics, example = original(run)
            return {**metrics, "loss": next(losses)}, example

        monkeypatch.setattr(scripts.train, "validate", validate)

    return replace


def learning_rates(run):
    return [float(row["learning_rate"]) for row in run.rows()]


# -- the files of a run -----------------------------------------------------------------------------


def test_a_run_from_end_to_end(reference):
    run = reference
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
    assert [row["epoch"] for row in rows] == ["1", "2", "3"] and [row["step"] for row in rows] == ["3", "6", "9"]
    for row in rows:
        # 8 x 8 pixels are too few for SSIM, and random pixels have no neighbors. There is no entropy model.
        missing = ("ssim", "aux_loss")
        assert all(math.isfinite(float(value)) != name.endswith(missing) for name, value in row.items())
        assert float(row["val_psnr"]) == pytest.approx(-10 * math.log10(float(row["val_mse"])), abs=1)
        assert float(row["train_bpppc"]) == float(row["val_bpppc"]) == 8
    assert float(rows[2]["train_loss"]) < float(rows[0]["train_loss"])
    assert 0 < float(rows[0]["seconds"]) < float(rows[1]["seconds"])

    last, best, final = (run.checkpoint(name) for name in ("last", "best", "final"))
    assert last["epoch"] == 2 and last["loss"] == float(rows[2]["val_loss"])
    assert set(final) == {"state_dict"}
    assert all(torch.equal(final["state_dict"][key], tensor) for key, tensor in best["state_dict"].items())
    assert not any(key.startswith("module.") for key in final["state_dict"])

    settings = run.settings()
    assert settings["parameters"] == sum(tensor.numel() for tensor in final["state_dict"].values())
    assert settings["starts"][0]["arguments"]["epochs"] == 3
    assert settings["starts"][0]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"time", "device", "git_commit", "processes", "pixels_per_chunk"} < set(settings["starts"][0])
    assert settings["finished"]["test"]["bpppc"] == 8
    assert "epoch 3/3" in run.out and "test split" in run.out and "\r" not in run.out


def test_events_hold_scalars_images_and_hyperparameters(reference):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(reference.dir), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    for split in ("train", "val"):
        for name in ("loss", "bpppc", "mse", "psnr", "sa", "images_per_second"):
            assert [event.step for event in events.Scalars(f"{split}/{name}")] == [1, 2, 3]
    assert "train/learning_rate" in tags["scalars"] and "test/psnr" in tags["scalars"]
    assert {"val/original", "val/reconstruction", "val/spectra"} <= set(tags["images"])
    assert len(events.Images("val/original")) == 1 and len(events.Images("val/spectra")) == 3
    assert "_hparams_/experiment" in events.summary_metadata


def test_best_and_final_are_of_the_lowest_validation_loss(train, data_flags, set_val_losses):
    set_val_losses([3.0, 1.0, 2.0])
    run = train(*data_flags(train=2), "-e", 3)
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
        ["-m", "cae1de_8bpppc", "--loss", "mse"],
    ],
)
def test_every_architecture_and_loss_trains(train, data_flags, flags):
    run = train(*data_flags(train=2, val=1, test=1, bands=32, side=16), "-e", 1, *flags)
    (row,) = run.rows()
    assert math.isfinite(float(row["train_loss"]))
    assert math.isfinite(float(row["val_ssim"]))
    # random_2x2 does not keep neighbors, so there is no SSIM.
    assert math.isnan(float(row["train_ssim"])) == ("random_2x2" in flags)
    assert row["step"] == ("3" if "--repeats" in flags else "1")


def test_a_data_set_without_a_test_split_trains(train, data_flags, capsys):
    flags = data_flags(train=2)
    os.remove(f"{flags[1]}/splits/easy/test.csv")
    run = train(*flags, "-e", 1)
    assert run.settings()["finished"]["test"] is None
    assert "will not be tested" in capsys.readouterr().err


def test_a_patch_in_two_splits_needs_a_flag(train, data_flags, tmp_path, capsys):
    flags = data_flags(train=2)
    folder = Path(flags[1]) / "splits/easy"
    (folder / "test.csv").write_text((folder / "val.csv").read_text())
    with open(folder / "train.csv", "a") as file:
        file.write((folder / "val.csv").read_text())
    with pytest.raises(DatasetError, match=r"val\.csv: 2 of its 2 patches are in train\.csv, too.*--allow-overlap"):
        train(*flags)
    assert not (tmp_path / "runs").exists()
    assert len(train(*flags, "-e", 1, "--allow-overlap").rows()) == 1
    assert "note" not in capsys.readouterr().err


# -- schedules --------------------------------------------------------------------------------------


def test_early_stopping_and_resuming_after_it(train, resume, data_flags, set_val_losses):
    set_val_losses([1.0] * 9)
    run = train(*data_flags(train=1), "-e", 9, "--early-stopping", 2)
    assert len(run.rows()) == 3
    with pytest.raises(UsageError, match="finished after 3 epochs; give a larger --early-stopping"):
        resume(run)
    resume(run, "--early-stopping", 4)
    assert len(run.rows()) == 5


def test_schedulers_lower_the_learning_rate(train, resume, data_flags, set_val_losses, monkeypatch):
    flags = data_flags(train=1)
    rates = learning_rates(train(*flags, "-e", 4, "--scheduler", "cosine"))
    assert rates == pytest.approx([0.001 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)])

    monkeypatch.setattr(optimizers, "PLATEAU_PATIENCE", 0)
    set_val_losses([1.0] * 9)
    run = train(*flags, "-e", 3, "--scheduler", "plateau", name="plateau")
    assert learning_rates(run) == [0.001, 0.001, 0.0005]
    # The scheduler's state is restored, too: it has halved the rate once and halves it again.
    resume(run, "-e", 5)
    assert learning_rates(run)[3:] == [0.00025, 0.000125]


def test_flags_set_the_learning_rate_of_a_resumed_run(train, resume, data_flags):
    flags = data_flags(train=1)
    run = train(*flags, "-e", 2, "--scheduler", "cosine")
    resume(run, "-e", 3, "--scheduler", "none")
    assert learning_rates(run) == pytest.approx([0.001, 0.0005, 0.001])
    # A given flag wins, and its rate is kept by the next resume.
    run = train(*flags, "-e", 1, name="second")
    resume(run, "-e", 2, "-lr", 0.0001)
    resume(run, "-e", 3)
    assert learning_rates(run) == pytest.approx([0.001, 0.0001, 0.0001])


def test_a_step_is_adam_with_a_clipped_gradient(train, data_flags):
    """Compare the first step with one by hand: Adam's moments show the gradient's scale, which its step hides."""
    flags = data_flags(train=2)
    run = train(*flags, "-e", 1, "--clip-max-norm", 1e-3)
    torch.manual_seed(10587)
    model = models["cae1d"](src_channels=12)
    x = torch.stack([*HySpecNet11k(flags[1], num_channels=12)])
    (model(x)["x_hat"] - x).square().mean().backward()
    norm = torch.sqrt(sum(parameter.grad.square().sum() for parameter in model.parameters()))
    assert norm > 1e-2
    moments = run.checkpoint("last")["optimizer"]["state"]
    for index, parameter in enumerate(model.parameters()):
        clipped = parameter.grad * 1e-3 / norm
        torch.testing.assert_close(moments[index]["exp_avg"], 0.1 * clipped, rtol=1e-3, atol=1e-10)


def test_validation_uses_running_statistics(train, data_flags):
    flags = data_flags(train=2, val=3, bands=32)
    run = train(*flags, "-e", 2, "-m", "cae3d_1bpppc")
    model = models["cae3d_1bpppc"](src_channels=32).eval()
    model.load_state_dict(run.checkpoint("last")["state_dict"])
    x = torch.stack([*HySpecNet11k(flags[1], split="val", num_channels=32)])
    with torch.no_grad():
        expected = (model(x)["x_hat"] - x).square().mean().item()
    assert float(run.rows()[1]["val_loss"]) == pytest.approx(expected, rel=1e-5)


# -- precision, compilation, loading ----------------------------------------------------------------


def test_bf16_trains_and_resumes_exactly(train, resume, data_flags, stop_in_step, assert_same_run):
    flags = [*data_flags(train=3, val=1, test=1), "-e", 2, "--precision", "bf16", "--transform", "random_4x4"]
    whole = train(*flags, name="whole")
    with stop_in_step(3):
        part = train(*flags, name="part", status=128 + signal.SIGTERM)
    resume(part)
    assert_same_run(whole, part)
    last = whole.checkpoint("last")
    assert all(tensor.dtype == torch.float32 for tensor in last["state_dict"].values())
    assert last["scaler"] == {} and last["arguments"]["precision"] == "bf16"
    # The precision stays that of the run until a flag changes it.
    resume(part, "-e", 3, "--precision", "fp32")
    assert [start["arguments"]["precision"] for start in part.settings()["starts"]] == ["bf16", "bf16", "fp32"]


@pytest.fixture
def fp16_flags(data_flags, monkeypatch):
    """Return flags of fp16 on a CPU, which works, loss scaler included, but is refused to users as too slow."""
    monkeypatch.setattr("training.checks.check_precision", lambda *args, **kwargs: None)
    return [*data_flags(train=6, val=1, test=1), "--precision", "fp16", "--transform", "random_4x4"]


def test_fp16_resumes_with_the_scale_of_its_loss(train, resume, fp16_flags, stop_in_step, assert_same_run):
    flags = [*fp16_flags, "-e", 2]
    whole = train(*flags, name="whole")
    with stop_in_step(2):
        part = train(*flags, name="part", status=128 + signal.SIGTERM)
    assert part.checkpoint("last")["scaler"]["_growth_tracker"] == 2
    resume(part)
    assert_same_run(whole, part)
    scaler = whole.checkpoint("last")["scaler"]
    assert scaler["scale"] == 2.0**16 and scaler["_growth_tracker"] == 6
    # A run in another precision resumes in fp16 with a fresh scale, and the reverse.
    resume(part, "-e", 3, "--precision", "fp32")
    assert part.checkpoint("last")["scaler"] == {}
    resume(part, "-e", 4, "--precision", "fp16")
    assert part.checkpoint("last")["scaler"]["_growth_tracker"] == 3


def test_fp16_skips_steps_whose_gradient_overflows(train, resume, fp16_flags, monkeypatch):
    original, overflows = torch.nn.functional.mse_loss, [False, True, False, True]

    def mse(x_hat, x, **kwargs):
        if x_hat.requires_grad and (overflows.pop(0) if len(overflows) > 1 else overflows[0]):
            x_hat.register_hook(lambda gradient: gradient * math.inf)
        return original(x_hat, x, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "mse_loss", mse)
    run = train(*fp16_flags, "-e", 1)
    last = run.checkpoint("last")
    assert last["progress"]["global_step"] == 3
    assert last["scaler"]["scale"] == 2.0**15  # halved by the second step
    assert last["optimizer"]["state"][0]["step"] == 2  # Adam only took the others
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    # If every gradient overflows, no loss scale helps.
    with pytest.raises(ProjectError, match=r"norm of the gradient is (nan|inf) in epoch 7, .*last good checkpoint"):
        resume(run, "-e", 100)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_a_compiled_run_gives_the_same_weights(train, data_flags):
    flags = [*data_flags(train=4, val=1, test=1), "-e", 2, "--transform", "random_4x4"]
    one, compiled = train(*flags, name="one"), train(*flags, "--compile", name="compiled")
    expected, found = one.checkpoint("last")["state_dict"], compiled.checkpoint("last")["state_dict"]
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        # Where a gradient is 0 up to rounding, Adam still takes a step of the learning rate: a few weights differ.
        assert ((found[key] - tensor).abs() > 1e-4).double().mean() < 1e-3, key


def test_backends_are_set_before_the_device_is_used(train, resume, data_flags, monkeypatch):
    calls = []
    monkeypatch.setattr("training.run.configure_backends", lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr("training.run.join", lambda devices: calls.append(devices) or join(devices))
    run = train(*data_flags(train=2, val=1, test=1), "-e", 1, "--deterministic")
    resume(run, "-e", 2)
    resume(run, "-e", 3, "--no-deterministic")
    assert calls == [((True,), {"tf32": False}), ["cpu"]] * 2 + [((False,), {"tf32": True}), ["cpu"]]


def test_the_loader_gets_its_flags(train, data_flags, monkeypatch):
    loaders = []

    class Loader(ThreadLoader):
        def __init__(self, dataset, batches, device, num_workers, prefetch, pin_memory):
            super().__init__(dataset, batches, device, num_workers, prefetch, pin_memory)
            loaders.append((dataset.split, num_workers, prefetch, pin_memory))

    monkeypatch.setattr("training.data.ThreadLoader", Loader)
    flags = [*data_flags(train=4, val=1, test=1), "-e", 2]
    train(*flags, "-n", 1, "--prefetch", 3, "--no-pin-memory")
    train(*flags, "-n", 0, name="second")
    splits = ("train", "val", "test")
    assert loaders == [(split, 1, 3, False) for split in splits] + [(split, 0, 2, True) for split in splits]


# -- combinations that are refused ------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_error_names_the_cpu(scripts, make_dataset):
    with pytest.raises(UsageError, match=r"--devices 0: this machine has no GPU.*--devices cpu"):
        scripts.train.main(["-d", str(make_dataset())])


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
def test_impossible_runs_are_refused_before_anything_is_written(
    train, make_dataset, data_flags, tmp_path, flags, message
):
    data = data_flags(side=16)
    if "test images" in message:
        other = make_dataset(side=12, name="other")
        for path in other.glob("patches/*/*/test-*"):
            shutil.copy(path, Path(data[1]) / path.relative_to(other))
    with pytest.raises(ProjectError, match=message) as caught:
        train(*data, *flags)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_compile_without_a_compiler_is_refused(train, data_flags, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"--compile needs a C\+\+ compiler, and there is no no-such-compiler"):
        train(*data_flags(), "--compile")
