"""Devices by their names on the command line, and the precision of networks."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from utils.errors import UsageError

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CPUINFO = Path("/proc/cpuinfo")
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags in /proc/cpuinfo; the last is Arm's


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context to run a network in.

    Enter a new one for every forward pass: it caches converted weights with their graph.

    Args:
        precision: one of `utils.options.PRECISIONS`.
        device: of the network.
    """
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


def check_precision(precision: str, device: torch.device, quiet: bool = False) -> None:
    """Refuse a precision that the device does not support, and warn on stderr about a slow one.

    Args:
        precision: one of `utils.options.PRECISIONS`.
        device: of the network.
        quiet: do not warn; for all processes but one.

    Raises:
        UsageError: fp16 on a CPU.
    """
    if device.type != "cpu":
        return
    if precision == "fp16":
        raise UsageError("--precision fp16 is for GPUs: give bf16 or fp32 on a CPU")
    if precision == "bf16" and not quiet and not has_native_bf16():
        print("--precision bf16: this CPU has no bf16 arithmetic, fp32 is many times faster", file=sys.stderr)


def has_native_bf16() -> bool:
    """Return whether this processor computes in bf16; others emulate it, hundreds of times slower than float32."""
    try:
        return not _NATIVE_BF16.isdisjoint(re.findall(r"\w+", CPUINFO.read_text()))
    except OSError:  # not Linux: no warning
        return True


def parse_devices(text: str) -> list[str]:
    """Parse a list of devices: `cpu` gives ["cpu"], `0,2` gives ["0", "2"].

    Raises:
        UsageError: neither `cpu` nor distinct GPU numbers.
    """
    if text == "cpu":
        return ["cpu"]
    devices = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d+", device) for device in devices) or len(set(devices)) < len(devices):
        raise UsageError(f"--devices {text}: give cpu, or different GPU numbers such as 0 or 0,2,5,7")
    return devices


def get_device(name: str, flag: str) -> torch.device:
    """Return the torch device of a name. Never falls back to another device.

    Args:
        name: `cpu` or the number of a GPU.
        flag: the option that it was given by, for messages.

    Raises:
        UsageError: an invalid name, or this machine has no such GPU.
    """
    if name == "cpu":
        return torch.device("cpu")
    if not re.fullmatch(r"\d+", name):
        raise UsageError(f"{flag} {name}: give cpu or the number of a GPU, such as 0")
    if not torch.cuda.is_available():
        raise UsageError(f"{flag} {name}: this machine has no GPU that torch can use; run on the CPU with {flag} cpu")
    if int(name) >= torch.cuda.device_count():
        raise UsageError(f"{flag} {name}: this machine has GPUs 0 to {torch.cuda.device_count() - 1}")
    return torch.device("cuda", int(name))


def use_device(name: str, flag: str) -> torch.device:
    """Return the device of `get_device` and make it torch's current one: otherwise pinning memory would use GPU 0."""
    device = get_device(name, flag)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
