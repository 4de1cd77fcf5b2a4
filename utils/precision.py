"""The arithmetic of a network: float32, or half precision under autocast. Weights stay float32."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from .errors import UsageError

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
CPUINFO = Path("/proc/cpuinfo")
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # as the system names them; the last is Arm's


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context to run a network in.

    Enter it anew for every forward pass: it keeps the weights it has converted, with the graph they came by.

    Args:
        precision: one of `utils.options.PRECISIONS`.
    """
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


def check_precision(precision: str, device: torch.device, quiet: bool = False) -> None:
    """Refuse a precision that the device cannot run in, warn on stderr of one that it is slow in.

    Args:
        quiet: do not warn, for all processes but one.

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
    """Whether this processor computes in bf16; others emulate it, hundreds of times slower than float32."""
    try:
        return not _NATIVE_BF16.isdisjoint(re.findall(r"\w+", CPUINFO.read_text()))
    except OSError:  # no Linux: no word about it
        return True
