"""The environment of a run: random seeds, torch's backends, versions, the git commit, the device."""

from __future__ import annotations

import os
import platform
import random
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from utils.devices import CPUINFO
from utils.processes import limit_threads, num_cores

_PACKAGES = ("torch", "compressai", "numpy", "rasterio", "pytorch-msssim")
_ROOT = Path(__file__).resolve().parent.parent


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, all devices included."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def configure_backends(deterministic: bool, tf32: bool) -> None:
    """Set how torch computes, with no more threads than this process has cores. Call it before the GPU is first used.

    Args:
        deterministic: use only algorithms that give the same bits every time; torch raises `RuntimeError` where
            an operation has none.
        tf32: let float32 products on GPUs round their factors to 10 bits, which is several times faster.
    """
    if deterministic:  # cuBLAS reads the variable when it starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if torch.get_num_threads() > num_cores():  # torch does not know the limits of a container
        limit_threads(num_cores())
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    # cuDNN's search takes ten seconds and up to 35 GB of memory here, and finds no faster algorithms.
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def rng_state() -> dict:
    """Return the state of all random generators of this process, in values that a checkpoint may hold."""
    state = np.random.get_state(legacy=True)
    assert isinstance(state, tuple)  # as for every Mersenne Twister, numpy.random's generator
    kind, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict) -> None:
    """Restore the state from `rng_state`; GPU states only where the number of GPUs is the same."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def provenance(device: torch.device) -> dict:
    """Return the origin of a result: `device` (its name), `versions` of libraries, `git_commit`."""
    return {"device": device_name(device), "versions": versions(), "git_commit": git_commit()}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in _PACKAGES}}


def git_commit() -> str | None:
    """Return the project's commit, with the suffix `-dirty` if files differ; None without a repository or git."""
    try:
        described = subprocess.run(
            ["git", "-C", _ROOT, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None


def device_name(device: torch.device) -> str:
    """Return the GPU's product name, or the processor's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = CPUINFO.read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"
