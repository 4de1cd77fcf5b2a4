"""A resumed run ends with the bits of the run without interruption, or is refused."""

import os
import shutil
import signal

import pytest
import torch

from models.spectral import SpectralAutoencoder
from utils.errors import UsageError


@pytest.mark.parametrize(("stop_step", "num_workers"), [(2, 0), (3, 0), (5, 2)])
def test_resume_is_exact(reference, train_part, resume, stop_in_step, assert_same_run, capsys, stop_step, num_workers):
    """Stop in the middle of an epoch, in its last step and in a later one; resume also with other workers."""
    with stop_in_step(stop_step):
        part = train_part(status=128 + signal.SIGTERM)
    assert part.checkpoint("last")["progress"]["global_step"] == stop_step
    assert "resume with" in capsys.readouterr().out
    resume(part, "-n", num_workers)
    assert_same_run(reference, part)


def test_resume_of_batch_norm_is_exact(train, resume, data_flags, stop_in_step, assert_same_run):
    flags = [*data_flags(train=3, bands=32), "-e", 2, "-m", "cae3d_1bpppc", "--transform", "randomcrop_8x8"]
    whole = train(*flags, name="whole")
    with stop_in_step(3):
        part = train(*flags, name="part", status=128 + signal.SIGTERM)
    resume(part)
    assert_same_run(whole, part)


def test_resume_from_best_and_from_a_stop_in_validation_is_exact(
    reference, train_part, resume, scripts, monkeypatch, assert_same_run
):
    part = train_part("-e", 2)
    resume(part, "-e", 3, checkpoint="best")
    assert_same_run(reference, part)

    original = scripts.train.validate
    with monkeypatch.context() as patch:

        def validate(run):
            os.kill(os.getpid(), signal.SIGINT)
            return original(run)

        patch.setattr(scripts.train, "validate", validate)
        validating = train_part(name="validating", status=128 + signal.SIGINT)
    assert validating.checkpoint("last")["progress"]["samples"] == 5
    resume(validating)
    assert_same_run(reference, validating)


def test_resume_removes_log_entries_of_unsaved_epochs(
    reference, train_part, resume, run_of, tmp_path, monkeypatch, assert_same_run
):
    """The run died after logging epoch 2 and before saving it, with a row cut short."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from training import checkpoints, log

    original, writers = checkpoints.save_checkpoint, []

    class Writer(log.SummaryWriter):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            writers.append(self)

    def save_checkpoint(state, path):
        if state["progress"]["epoch"] == 2:
            writers[-1].flush()
            raise RuntimeError("killed")
        original(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(log, "SummaryWriter", Writer)
        patch.setattr(checkpoints, "save_checkpoint", save_checkpoint)
        with pytest.raises(RuntimeError, match="killed"):
            train_part()
    run = run_of(tmp_path / "runs")
    assert len(run.rows()) == 2 and run.checkpoint("last")["progress"]["epoch"] == 1
    with open(run.dir / "metrics.csv", "a") as file:
        file.write("3,9,0.00")

    resume(run)
    events = EventAccumulator(str(run.dir)).Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [1, 2, 3]
    assert_same_run(reference, run)


def test_resume_takes_new_flags_and_keeps_the_others(train, resume, data_flags):
    run = train(*data_flags(train=2), "-e", 1, "--clip-max-norm", 0.5)
    resume(run, "-e", 2, "-lr", "0.0005")
    arguments = run.checkpoint("last")["arguments"]
    assert (arguments["epochs"], arguments["learning_rate"], arguments["clip_max_norm"]) == (2, 0.0005, 0.5)
    assert [row["learning_rate"] for row in run.rows()] == ["0.001", "0.0005"]
    assert [start["epoch"] for start in run.settings()["starts"]] == [0, 1]


def test_resume_keeps_the_chunks_of_its_own_device(train, resume, data_flags, monkeypatch):
    with monkeypatch.context() as other_table:
        other_table.setattr(SpectralAutoencoder, "rows_per_chunk", {2: {"cpu": 50, "cuda": 60}})
        run = train(*data_flags(train=1, test=1), "-e", 1)
    resume(run, "-e", 2)
    assert run.checkpoint("last")["pixels_per_chunk"] == run.settings()["starts"][1]["pixels_per_chunk"] == 50

    torch.save({**run.checkpoint("last"), "device_type": "cuda"}, run.dir / "last.pth.tar")
    resume(run, "-e", 3)
    assert run.checkpoint("last")["pixels_per_chunk"] == SpectralAutoencoder.rows_per_chunk[2]["cpu"] != 50


def test_a_checkpoint_of_unfused_adam_resumes(train, resume, data_flags):
    """Older runs also wrote no scaler and fewer arguments."""
    run = train(*data_flags(train=4, val=1, test=1), "-e", 1)
    path = run.dir / "last.pth.tar"
    old = run.checkpoint("last")
    assert old["optimizer"]["param_groups"][0]["fused"] is True
    del old["scaler"]
    for name in ("precision", "compile", "deterministic", "prefetch", "pin_memory"):
        del old["arguments"][name]
    for group in old["optimizer"]["param_groups"]:
        group["fused"] = None
    torch.save(old, path)
    resume(run, "-e", 2)
    new = run.checkpoint("last")
    assert new["optimizer"]["param_groups"][0]["fused"] is True and new["optimizer"]["state"][0]["step"] == 4


def test_resume_refuses_another_run(train, resume, data_flags, scripts, tmp_path, monkeypatch):
    run = train(*data_flags(train=2), "-e", 1)
    before = {path.name: path.read_bytes() for path in run.dir.iterdir()}
    for flags, message in (
        (["-m", "sscnet"], "--model sscnet: the run of .* has cae1d"),
        (["--loss", "mae"], "--loss mae"),
        (["--seed", "1"], "--seed 1"),
        (["--num-channels", "200"], "--num-channels 200"),
        (["--repeats", "2"], "--repeats 2"),
        ([*data_flags(train=3, name="other"), "-e", "2"], "not the one that the run"),
        ([], "finished after 1 epochs; give a larger --epochs"),
    ):
        with pytest.raises(UsageError, match=message):
            resume(run, *flags)
    with pytest.raises(UsageError, match="finished after 1 epochs"):
        resume(run, checkpoint="best")
    assert {path.name: path.read_bytes() for path in run.dir.iterdir()} == before
    resume(run, "-m", "cae1d_8bpppc", "-e", 2)  # an alias is the same model

    shutil.copy(run.dir / "last.pth.tar", tmp_path)
    with pytest.raises(
        UsageError, match=r"must be in the folder of its run to resume it, got one without settings\.json"
    ):
        scripts.train.main(["--checkpoint", str(tmp_path / "last.pth.tar")])

    # A bare file name is in the current folder, not in the root of the file system.
    monkeypatch.chdir(run.dir)
    assert scripts.train.main(["--checkpoint", "last.pth.tar", "-e", "3"]) == 0
    assert len(run.rows()) == 3


def test_bare_weights_start_a_new_run(train, data_flags):
    flags = [*data_flags(train=2), "-e", 1]
    first = train(*flags)
    new = train(*flags, "-lr", 1e-12, "--checkpoint", first.dir / "final.pth.tar", name="new")
    assert new.dir != first.dir
    for key, tensor in first.checkpoint("final")["state_dict"].items():
        torch.testing.assert_close(new.checkpoint("last")["state_dict"][key], tensor, rtol=0, atol=1e-9)
