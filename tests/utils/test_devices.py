"""Precisions that devices support, and the settings of torch's backends."""

import os
from pathlib import Path

import pytest
import torch

from utils.devices import autocast, check_precision
from utils.environment import configure_backends
from utils.errors import UsageError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_autocast():
    weight = torch.rand(3, 3)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast(precision, CPU):
            assert (weight @ weight).dtype == dtype


def test_fp16_is_for_gpus():
    check_precision("fp16", GPU)
    with pytest.raises(UsageError, match=r"--precision fp16 is for GPUs: give bf16 or fp32 on a CPU"):
        check_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("flags", "warns"), [("fpu avx2", True), ("avx2 avx512_bf16", False), ("amx_bf16", False), ("asimd bf16", False)]
)
def test_bf16_on_a_cpu_without_it_gives_a_warning(monkeypatch, capsys, flags, warns):
    monkeypatch.setattr(Path, "read_text", lambda self: f"model name : x\nflags : {flags}\n")
    check_precision("bf16", GPU)
    check_precision("fp32", CPU)
    check_precision("bf16", CPU, quiet=True)
    assert capsys.readouterr().err == ""
    check_precision("bf16", CPU)
    assert ("no bf16 arithmetic" in capsys.readouterr().err) == warns


@pytest.fixture
def backends(monkeypatch):
    """Leave torch as it was."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    configure_backends(deterministic=False, tf32=False)


@pytest.mark.parametrize(("deterministic", "tf32"), [(True, False), (False, True), (False, False)])
def test_backends(backends, deterministic, tf32):
    configure_backends(deterministic, tf32)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.backends.cudnn.deterministic == deterministic
    assert not torch.backends.cudnn.benchmark
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
