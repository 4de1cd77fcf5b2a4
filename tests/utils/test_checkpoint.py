"""Checkpoints of others: what they hold beside the weights, and under which names."""

import argparse
import datetime
import pathlib
import pickle
import shlex
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoint import load_checkpoint, load_state_dict, load_weights
from utils.errors import CheckpointError

STATE = {"encoder.0.weight": torch.arange(6.0).reshape(2, 3), "decoder.0.bias": torch.ones(2)}


def assert_weights(state_dict):
    assert state_dict.keys() == STATE.keys()
    assert all(torch.equal(state_dict[key], tensor) for key, tensor in STATE.items())


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.25),
        np.float32(0.25),
        np.int64(3),
        np.bool_(True),
        np.dtype("int16"),
        np.arange(3.0),
        argparse.Namespace(lr=1e-4, nested=argparse.Namespace(name="x")),
        SimpleNamespace(lr=1e-4),
        pathlib.PurePosixPath("/data/x"),
        pathlib.Path("data/x"),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        OrderedDict(a=1),
        Counter(a=1),
        torch.torch_version.TorchVersion("2.9.1"),
        torch.Size([1, 2]),
        torch.float16,
        {1, 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_beside_the_weights_load(tmp_path, value):
    path = tmp_path / "a.pth.tar"
    torch.save({"state_dict": STATE, "more": [value]}, path)
    (loaded,) = load_checkpoint(path)["more"]
    assert type(loaded) is type(value) and np.array_equal(loaded, value)
    assert_weights(load_state_dict(path))


def test_files_of_numpy_2_windows_and_newer_pythons_load(tmp_path):
    for name, other, expected in (
        (b"cnumpy.core.multiarray\nscalar", b"cnumpy._core.multiarray\nscalar", np.float64(0.25)),
        (b"cpathlib\nPurePosixPath", b"cpathlib._local\nPurePosixPath", pathlib.PurePosixPath("a", "b")),
        (b"cpathlib\nPurePosixPath", b"cpathlib\nWindowsPath", pathlib.PurePath("a", "b")),
    ):
        path = tmp_path / "a.pth.tar"
        torch.save({"more": expected, **STATE}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        assert name in content
        path.write_bytes(content.replace(name, other))
        assert load_checkpoint(path)["more"] == expected


@pytest.mark.parametrize("key", ["state_dict", "network", "model_state_dict", "model", "net"])
def test_weights_are_found_under_their_usual_names(tmp_path, key):
    path = tmp_path / "a.pth.tar"
    torch.save({"model": "cae1d", "epoch": 3, key: STATE}, path)
    assert_weights(load_state_dict(path))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "model.module.", "module.model."])
def test_prefixes_of_wrappers_are_removed(tmp_path, prefix):
    path = tmp_path / "a.pth.tar"
    torch.save({"state_dict": {prefix + key: tensor for key, tensor in STATE.items()}}, path)
    assert_weights(load_state_dict(path))


def test_no_weights_are_lost_by_removing_prefixes(tmp_path):
    path = tmp_path / "a.pth.tar"
    twice = {**STATE, **{f"model.{key}": -tensor for key, tensor in STATE.items()}}
    torch.save(twice, path)
    assert load_state_dict(path).keys() == twice.keys()


class Config(dict):
    pass


@pytest.mark.parametrize("value", [Config(a=1), defaultdict(int, a=1), nn.Linear(2, 2), print, np.array([Config()])])
def test_a_refused_file_is_converted_by_the_line_of_the_message(tmp_path, value):
    path = tmp_path / "some folder" / "a.pth.tar"
    path.parent.mkdir()
    torch.save({"state_dict": STATE, "more": value}, path)
    with pytest.raises(CheckpointError, match="runs any code that it holds; if you trust its origin") as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path} holds more than tensors and plain values") and "\n" not in message
    if isinstance(value, nn.Module):
        assert "(torch.nn.modules.linear.Linear)" in message
        python, *arguments = shlex.split(message.partition(" alone by ")[2])
        assert python == "python"
        subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True)
        assert_weights(load_state_dict(tmp_path / "weights.pth.tar"))


def test_code_never_runs(tmp_path, capfd):
    class Code:
        def __reduce__(self):
            return print, ("this ran",)

    path = tmp_path / "a.pth.tar"
    for value in (Code(), argparse.Namespace(a=Code()), [Code()]):
        torch.save({"state_dict": STATE, "more": value}, path)
        with pytest.raises(CheckpointError, match="holds more than tensors"):
            load_checkpoint(path)
    path.write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert "this ran" not in capfd.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    model = nn.Linear(3, 2)
    state_dict = model.state_dict()
    state_dict["bias"][1] = value
    with pytest.raises(
        CheckpointError, match=r"^a\.pth\.tar: 1 of its 2 tensors hold NaN or infinite .* such as bias: "
    ):
        load_weights(model, state_dict, "a.pth.tar")
