"""The place of this process among several: started by torchrun, by srun or mpirun, or alone.

A launcher tells each process its place in environment variables. A process that is one of several, but does not know
its place or the address of the first one, would train a run of its own: it is refused.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from utils.errors import UsageError

_TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_LAUNCHERS = {
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
"""Variables of other launchers, each in the order of `_TORCH`."""
_INTERACTIVE_STEP = "4294967290"  # Slurm's number of the shell that salloc opens
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000  # below the ports that systems give to clients


@dataclass(frozen=True)
class Place:
    """The place of a process among those that were started together.

    Attributes:
        rank: its number, counted from 0.
        world_size: number of processes.
        local_rank: its number among those on its node.
        local_world_size: number of processes on its node, None if unknown.
        address: name or IP address of the node of process 0.
        port: port on that node at which the processes find each other.
        is_torchrun: whether torchrun started it.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int | None
    address: str
    port: int
    is_torchrun: bool


def find_place(num_devices: int) -> Place | None:
    """Return the place of this process, None if it is alone.

    Args:
        num_devices: devices of this node, for the advice in the error.

    Raises:
        UsageError: this process is one of several and the environment does not say enough, or is wrong.
    """
    is_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    values = _values()
    if not values or (values.get("WORLD_SIZE") == 1 and not is_torchrun):
        return None
    address, port = _address(values)
    known = {**values, "MASTER_ADDR": address, "MASTER_PORT": port}
    missing = [name for name in (*_TORCH[:3], "MASTER_ADDR", "MASTER_PORT") if known.get(name) is None]
    if missing or not 0 <= values["RANK"] < values["WORLD_SIZE"]:
        raise UsageError(
            f"the environment says that this process is one of several ({_shown(values)}), but "
            + (f"not {', '.join(missing)}" if missing else "RANK is out of range")
            + f": start one process on each node by torchrun --nnodes NODES --nproc-per-node {num_devices} "
            "--rdzv-backend c10d --rdzv-endpoint HOST:29500 train.py ..."
        )
    assert address is not None and port is not None
    rank, world_size, local_rank = (values[name] for name in _TORCH[:3])
    return Place(rank, world_size, local_rank, values.get("LOCAL_WORLD_SIZE"), address, port, is_torchrun)


def _values() -> dict[str, int]:
    """Return what the environment says under the names of `_TORCH`; empty if this process is alone."""
    given = {name: _number(name, os.environ[name]) for name in _TORCH if name in os.environ}
    tasks = _tasks()
    if not given.keys() & set(_TORCH[:3]):
        return tasks
    agrees = all(tasks.get(name, number) == number for name, number in given.items())
    return {**tasks, **given} if agrees else given


def _tasks() -> dict[str, int]:
    """Return what a launcher other than torchrun says, under the names of `_TORCH`."""
    environment = _slurm_environment()
    for names in _LAUNCHERS.values():
        if all(name in environment for name in names[:2]):
            texts = {key: environment[name] for key, name in zip(_TORCH, names, strict=True) if name in environment}
            return {key: _number(key, text) for key, text in texts.items()}
    return {}


def _slurm_environment() -> Mapping[str, str]:
    """Return the environment without Slurm's variables where they do not describe tasks of srun.

    These are a batch script, an interactive shell, and what is started in them without srun.
    """
    environment = dict(os.environ)
    is_batch = environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_NUM_TASKS" not in environment
    is_shell = environment.get("SLURM_STEP_ID") == _INTERACTIVE_STEP or (sys.stdin is not None and sys.stdin.isatty())
    if is_batch or is_shell:
        return {name: text for name, text in environment.items() if not name.startswith(("SLURM_", "PMI_"))}
    if "SLURM_NTASKS" in environment:  # of the job, where a step does not say its own
        environment.setdefault("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"])
    per_node = re.fullmatch(r"(\d+)(\(x\d+\))?", environment.pop("SLURM_STEP_TASKS_PER_NODE", ""))
    if per_node:  # 4 or 4(x2), not 4,2
        environment["SLURM_STEP_TASKS_PER_NODE"] = per_node[1]
    return environment


def _address(values: Mapping[str, int]) -> tuple[str | None, int | None]:
    """Return address and port of process 0, None where unknown; tasks of srun on one node need no variables for it."""
    environment = os.environ
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    num_nodes = environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES"))
    if address is None and port is None and num_nodes == "1" and "SLURM_JOB_ID" in environment:
        numbers = (_number(name, environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        return "127.0.0.1", _FIRST_PORT + sum(numbers) % _NUM_PORTS
    return address, None if port is None else _number("MASTER_PORT", port)


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise UsageError(f"the environment variable {name} must be a number, got {text!r}")
    return int(text)


def _shown(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={number}" for name, number in values.items())
