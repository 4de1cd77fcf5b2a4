"""Checkpoints are written when they should be, and a bad one never replaces a good one."""

import math
import os

import pytest
import torch

from training import checkpoints
from utils.errors import ProjectError


def test_a_full_disk_keeps_the_last_checkpoint(train, resume, data_flags, monkeypatch):
    run = train(*data_flags(train=2), "-e", 1)
    before = run.checkpoint("last")
    original = os.fsync

    def full(descriptor):
        if b"pth.tar" in os.readlink(f"/proc/self/fd/{descriptor}").encode():
            raise OSError(28, "No space left on device")
        return original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ProjectError, match=r"No space left on device; make room and resume from .*last\.pth\.tar"):
            resume(run, "-e", 2)
    assert run.checkpoint("last")["progress"] == before["progress"]
    assert not list(run.dir.glob(".*"))
    resume(run, "-e", 2)


def test_a_disk_that_is_full_in_the_first_epoch_names_best_if_it_was_written(train, data_flags, monkeypatch):
    original = checkpoints.save_checkpoint

    def save_checkpoint(state, path):
        if path.name == full:
            raise OSError(28, "No space left on device", str(path))
        original(state, path)

    monkeypatch.setattr(checkpoints, "save_checkpoint", save_checkpoint)
    for full, remedy in (
        ("last.pth.tar", r"resume from .*best\.pth\.tar"),
        ("best.pth.tar", "start again: there is no"),
    ):
        with pytest.raises(ProjectError, match=rf"{full} cannot be written: No space.*; make room and {remedy}"):
            train(*data_flags(train=2), "-e", 1, name=full)


def test_a_checkpoint_is_written_every_ten_minutes(train, data_flags, monkeypatch):
    assert checkpoints.CHECKPOINT_INTERVAL == 600
    monkeypatch.setattr(checkpoints, "CHECKPOINT_INTERVAL", 0.0)
    original, saved = checkpoints.save_checkpoint, []

    def save_checkpoint(state, path):
        original(state, path)
        if "progress" in state:
            saved.append((path.name, state["progress"]["global_step"], state["progress"]["step"]))

    monkeypatch.setattr(checkpoints, "save_checkpoint", save_checkpoint)
    train(*data_flags(train=5), "-e", 1)
    assert saved == [
        ("last.pth.tar", 1, 1),
        ("last.pth.tar", 2, 2),
        ("last.pth.tar", 3, 3),
        ("best.pth.tar", 3, 0),
        ("last.pth.tar", 3, 0),
    ]


def test_a_gradient_that_is_not_finite_is_not_saved(train, data_flags, run_of, tmp_path, monkeypatch):
    """The loss of that step is finite: unless the gradient is checked, the step is taken and saved."""
    monkeypatch.setattr(checkpoints, "CHECKPOINT_INTERVAL", 0.0)
    original, steps = torch.nn.functional.mse_loss, [0]

    def mse(x_hat, x, **kwargs):
        steps[0] += 1
        if steps[0] == 2:
            x_hat.register_hook(lambda gradient: gradient * math.inf)
        return original(x_hat, x, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "mse_loss", mse)
    with pytest.raises(ProjectError, match=r"norm of the gradient is (nan|inf) in epoch 1, step 2; .*last\.pth\.tar"):
        train(*data_flags(train=6), "-e", 1, "--transform", "random_4x4")  # one chunk of pixels, one loss
    last = run_of(tmp_path / "runs").checkpoint("last")
    assert last["progress"]["global_step"] == 1
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())


@pytest.mark.parametrize("where", ["train", "val"])
def test_a_loss_that_is_not_finite_stops_the_run(train, resume, data_flags, monkeypatch, where):
    run = train(*data_flags(train=2), "-e", 1)
    good = run.checkpoint("last")
    original = torch.nn.functional.mse_loss

    def mse(x_hat, x, **kwargs):
        loss = original(x_hat, x, **kwargs)
        return loss * math.nan if x_hat.requires_grad == (where == "train") else loss

    monkeypatch.setattr(torch.nn.functional, "mse_loss", mse)
    with pytest.raises(ProjectError, match=r"loss is nan in epoch 2.*last good checkpoint is .*last\.pth\.tar"):
        resume(run, "-e", 2)
    kept = run.checkpoint("last")
    assert kept["progress"] == good["progress"]
    assert all(torch.equal(kept["state_dict"][key], good["state_dict"][key]) for key in kept["state_dict"])
