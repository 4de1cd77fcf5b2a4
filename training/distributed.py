"""Training on several devices: DistributedDataParallel, one process for each device, started by torchrun.

`--devices 0,2,5,7` makes the script start itself once for each device; `torchrun` may do the same
from outside, on one node or several. In both cases each process finds its rank in the environment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from utils.devices import get_device, use_device
from utils.errors import UsageError


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


def is_worker() -> bool:
    """Return whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ


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
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(devices))))
    # The processes print their errors themselves.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun.main(["--standalone", f"--nproc-per-node={len(devices)}", script, *argv])
    except ChildFailedError as error:
        return abs(error.get_first_failure()[1].exitcode) or 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


def join(devices: Sequence[str]) -> Process:
    """Join the group of torchrun's processes, if torchrun started this one.

    Args:
        devices: the devices of this node, as `utils.devices.parse_devices` returns them.

    Raises:
        UsageError: the numbers of processes and devices of this node differ, or a device does not exist.
    """
    if not is_worker():
        return Process(use_device(devices[0], "--devices"))
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if devices == ["cpu"]:
        device = torch.device("cpu")
    else:
        if local_size != len(devices):
            raise UsageError(
                f"torchrun started {local_size} processes on this node for --devices {','.join(devices)}: "
                f"give as many devices as processes (--nproc-per-node {len(devices)})"
            )
        device = use_device(devices[local_rank], "--devices")
    dist.init_process_group("gloo" if device.type == "cpu" else "nccl")
    return Process(device, dist.get_rank(), dist.get_world_size())


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
