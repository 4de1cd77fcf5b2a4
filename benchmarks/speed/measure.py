"""Measure time, memory and arithmetic, and the limits of the machine.

These tools depend on no model and no data set. Only Linux reports the peak memory of a process; elsewhere the memory of
work on the CPU is not measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from utils.evaluation import timed
from utils.processes import PROCESS, process_bytes

SEED = 0
"""Seed of all weights, images and patches that are generated to be measured."""
MATMUL_SIDES = {"cuda": 8192, "cpu": 2048}
COPY_VALUES = {"cuda": 2**28, "cpu": 2**26}


# -- time ---------------------------------------------------------------------------------------


def interleaved(
    functions: Sequence[Callable],
    repeats: int,
    device: torch.device | None = None,
    before: Callable[[], None] | None = None,
) -> list[list[float]]:
    """Time functions that are called in turn, so that all meet the same state of the machine.

    Args:
        functions: warmed up by the caller.
        repeats: calls of each.
        device: to synchronize with; None is the CPU.
        before: called before every call, and not timed.

    Returns:
        `repeats` times in seconds for each function.
    """
    device = device or torch.device("cpu")
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, times in zip(functions, seconds, strict=True):
            if before:
                before()
            times.append(timed(function, device)[1])
    return seconds


# -- memory -------------------------------------------------------------------------------------


def peak_growth(function: Callable, device: torch.device) -> int | None:
    """Return the bytes by which memory grows at the peak of `function`, its result included.

    On a GPU that is the memory of torch's allocator. On the CPU it is the resident memory of this process, which
    should be a fresh one: memory that earlier work returned to the C library, but not to the system, is reused
    unnoticed. None where the system does not report it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        value = function()
        torch.cuda.synchronize(device)
        grown = torch.cuda.max_memory_allocated(device) - before
        del value
        return grown
    resident = resident_bytes()
    if resident is None:
        return None
    reset_peak()
    value = function()
    peak = peak_bytes()
    del value
    return None if peak is None else max(peak - resident, 0)


def release_memory() -> None:
    """Return free memory to the system, so that memory taken next counts as growth."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other systems and C libraries do not have it
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None where the system does not report it."""
    return process_bytes("VmRSS")


def reset_peak() -> None:
    """Reset the peak that `peak_bytes` returns."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")


def peak_bytes() -> int | None:
    """Return the peak resident memory of this process since `reset_peak`; None where the system does not report it."""
    # Not ru_maxrss: a process inherits the peak of the one that started it.
    return process_bytes("VmHWM")


# -- arithmetic, and the machine's limits ---------------------------------------------------------


def count_flops(function: Callable) -> tuple[Any, int]:
    """Return the result of `function`, and the floating point operations of its products and convolutions.

    A multiplication and an addition count as two. Additions, activations and pooling are not counted.
    """
    with FlopCounterMode(display=False) as counter:
        value = function()
    return value, counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the FLOP/s of the product of two large square matrices, the best of several.

    The product is computed by the library for matrix products and, as a convolution of one tap, by the library for
    convolutions: on some processors the former does not use the fastest instructions.
    """
    side = MATMUL_SIDES[device.type]
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    image = a.reshape(1, side // 32, 32, side).movedim(-1, 1)  # channels-last
    taps = b.reshape(side, side, 1, 1)
    products = (lambda: a @ b, lambda: F.conv2d(image, taps))
    return 2 * side**3 / min(_best(product, device, repeats) for product in products)


def copy_rate(device: torch.device, repeats: int = 5) -> float:
    """Return the bytes/s of copying a large tensor, read and written ones together, the best of several."""
    source = torch.zeros(COPY_VALUES[device.type], device=device)
    target = torch.ones_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device, repeats)


def _best(function: Callable, device: torch.device, repeats: int) -> float:
    function()
    return min(interleaved([function], repeats, device)[0])


def least_seconds(
    flops: float, num_bytes: float, flops_per_second: float, bytes_per_second: float
) -> tuple[float, str]:
    """Return the least seconds that the operations and bytes can take, and their limit: "arithmetic" or "memory"."""
    arithmetic, memory = flops / flops_per_second, num_bytes / bytes_per_second
    return max(arithmetic, memory), "arithmetic" if arithmetic >= memory else "memory"
