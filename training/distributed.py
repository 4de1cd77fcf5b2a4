"""Training on several devices: DistributedDataParallel, one process for each device, started by torchrun.

`--devices 0,2,5,7` makes the script start itself once for each device; `torchrun`, `srun` or `mpirun` may do the same
from outside, on one node or several. In all cases each process finds its rank in the environment.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from training.launchers import Place, find_place
from utils.devices import get_device, use_device
from utils.errors import ProjectError, UsageError, one_line
from utils.processes import num_cores

NOTE_SECONDS = 10.0
"""Time after which a process says that it waits for the others."""


@dataclass(frozen=True)
class Process:
    """This process among those that train together.

    Attributes:
        device: the device that it computes on.
        rank: its number, counted from 0.
        world_size: number of processes.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Replace `values` by their sums over all processes and return them."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: object) -> bool:
        """Return whether `flag` is true in any process, the same answer in all of them."""
        if self.world_size == 1:
            return bool(flag)
        return bool(self.sum(torch.tensor(float(bool(flag)), device=self.device)))

    def leave(self) -> None:
        """Leave the group, if there is one: neither `sum` nor `any` may be called afterwards."""
        if dist.is_initialized():
            dist.destroy_process_group()


def launch(script: str, argv: Sequence[str], devices: Sequence[str]) -> int:
    """Run `script` once for each of `devices` on this node, and wait.

    A signal is passed on to the processes, which end their step and write their checkpoint.

    Args:
        script: path of a Python script.
        argv: its arguments.
        devices: names of the devices, one for each process.

    Returns:
        The exit status: 0, that of the first process that failed, or 128 plus the number of a signal.

    Raises:
        UsageError: a device does not exist.
    """
    for device in devices:
        get_device(device, "--devices")
    # torchrun would give each process one thread, and print a long warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // len(devices))))
    # The processes print their errors themselves.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        # The name of this machine, torchrun's default address, may have no entry in DNS or /etc/hosts.
        local = ["--standalone", "--local-addr=127.0.0.1"]
        torchrun.main([*local, f"--nproc-per-node={len(devices)}", script, *argv])
    except ChildFailedError as error:
        return abs(error.get_first_failure()[1].exitcode) or 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


def join(devices: Sequence[str]) -> Process:
    """Join the group of the processes that were started together, if this one is not alone.

    Args:
        devices: the devices of this node, as `utils.devices.parse_devices` returns them.

    Raises:
        UsageError: the numbers of processes and devices of this node differ, a device does not exist, or the
            environment does not say enough.
        ProjectError: the processes do not find each other.
    """
    place = find_place(len(devices))
    if place is None:
        return Process(use_device(devices[0], "--devices"))
    device = _device(place, devices)
    if place.world_size > 1:
        _meet(place, "gloo" if device.type == "cpu" else "nccl")
    return Process(device, place.rank, place.world_size)


def _device(place: Place, devices: Sequence[str]) -> torch.device:
    if devices == ["cpu"]:
        return torch.device("cpu")
    expected = place.local_world_size or max(len(devices), place.local_rank + 1)
    if len(devices) == expected:
        return use_device(devices[place.local_rank], "--devices")
    if len(devices) == 1 and not place.is_torchrun and torch.cuda.device_count() == 1:
        return use_device(devices[0], "--devices")  # each task sees one GPU, its own
    raise UsageError(
        f"{'torchrun' if place.is_torchrun else 'the launcher'} started {expected} processes on this node for "
        f"--devices {','.join(devices)}: give as many devices as processes"
        + (f" (--nproc-per-node {len(devices)})" if place.is_torchrun else "")
    )


def _meet(place: Place, backend: str) -> None:
    """Wait for the other processes; print a note on stderr if they let this one wait."""
    where = f"process {place.rank} of {place.world_size} waits for the others at {place.address}:{place.port}"
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world_size))
    os.environ.update(MASTER_ADDR=place.address, MASTER_PORT=str(place.port))
    note = threading.Timer(NOTE_SECONDS, print, [where], {"file": sys.stderr, "flush": True})
    note.daemon = True
    note.start()
    try:
        dist.init_process_group(backend)
    except RuntimeError as error:
        first = one_line(error).partition(" Exception raised from")[0]
        raise ProjectError(f"{where}, but they do not meet: {first}; check MASTER_ADDR and MASTER_PORT") from None
    finally:
        note.cancel()


def check_share(total: int, num_processes: int, flag: str) -> None:
    """Raise UsageError unless the batch size `total` of all devices is divisible by their number.

    Args:
        total: images in a batch, over all devices.
        num_processes: number of devices.
        flag: flag that sets the batch size, for the message.
    """
    if total % num_processes:
        raise UsageError(
            f"{flag} {total} is the total over all devices and must be divisible by {num_processes}: "
            f"use {num_processes * max(1, round(total / num_processes))}"
        )
