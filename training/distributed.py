"""Training on several devices: DistributedDataParallel, one process a device, started by torchrun.

`--devices 0,2,5,7` makes the script start itself once for each device; `torchrun` may do the same
from outside, on one node or several. Both ways each process finds its place in the environment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from utils.devices import get_device, use_device
from utils.errors import UsageError


@dataclass(frozen=True)
class Process:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values


def is_worker() -> bool:
    """Whether torchrun started this process."""
    return "LOCAL_RANK" in os.environ


def launch(script: str, argv: Sequence[str], devices: Sequence[str]) -> int:
    """Run `script` once for each of `devices` on this node and wait; returns the exit status.

    A signal is passed on to the processes, which end their step and write their checkpoint.

    Raises:
        UsageError: one of the devices is not there.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for device in devices:
        get_device(device, "--devices")
    # torchrun would give each process one thread, and say so at length.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(devices))))
    # The processes themselves say what went wrong.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run.main(["--standalone", f"--nproc-per-node={len(devices)}", script, *argv])
    except ChildFailedError as error:
        return abs(error.get_first_failure()[1].exitcode) or 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


def join(devices: Sequence[str]) -> Process:
    """Take this process's place: the group of torchrun's processes, or alone.

    Raises:
        UsageError: the number of processes on this node is not that of the devices.
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


def leave() -> None:
    """Leave the group, if there is one, once no more sums are to be taken."""
    if dist.is_initialized():
        dist.destroy_process_group()


def check_share(total: int, num_processes: int, flag: str) -> None:
    """UsageError unless a batch size that is a total over all devices divides by their number."""
    if total % num_processes:
        raise UsageError(
            f"{flag} {total} is the total over all devices and does not divide by {num_processes}: "
            f"use {num_processes * max(1, round(total / num_processes))}"
        )
