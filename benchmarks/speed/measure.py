"""Measuring time, memory and arithmetic, and what the machine could do at best.

General tools: nothing here knows a model or a data set. Linux tells a process's own peak of memory; elsewhere
the memory of work on the CPU is not measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from utils.evaluation import timed
from utils.processes import PROCESS, process_bytes

SEED = 0
"""Of all weights, images and patches that are made up to be measured."""


# -- time ---------------------------------------------------------------------------------------


def interleaved(
    functions: Sequence[Callable],
    repeats: int,
    device: torch.device | None = None,
    before: Callable[[], None] | None = None,
) -> list[list[float]]:
    """Seconds of each of `functions`, called in turn, so that all meet the same moods of the machine.

    Args:
        functions: warmed up by the caller.
        repeats: calls of each.
        device: whose work is waited for; None is the CPU.
        before: called, untimed, before every call.

    Returns:
        `repeats` numbers for each function.
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
    """Bytes by which memory grows at the peak of `function`, what it returns included.

    On a GPU what torch's allocator hands out; on the CPU the resident memory of this process, which should
    be a fresh one: memory that earlier work gave back to the C library, but not to the system, is used again
    without a trace. None where the system does not tell.
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
    before = resident_bytes()
    if before is None:
        return None
    reset_peak()
    value = function()
    grown = peak_bytes() - before
    del value
    return max(grown, 0)


def release_memory() -> None:
    """Give memory that is free back to the system, so that what is taken next counts as growth."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not tell."""
    return process_bytes("VmRSS")


def reset_peak() -> None:
    """Let `peak_bytes` count from now."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")


def peak_bytes() -> int | None:
    """The most resident memory of this process since `reset_peak`; None where the system does not tell."""
    # Not ru_maxrss: a process inherits the peak of the one that started it.
    return process_bytes("VmHWM")


# -- arithmetic, and the machine's limits ---------------------------------------------------------


def count_flops(function: Callable) -> tuple:
    """What `function` returns, and how many floating point operations its products and convolutions take.

    A multiplication and an addition count as two. Additions, activations and pooling are not counted.
    """
    with FlopCounterMode(display=False) as counter:
        value = function()
    return value, counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of the product of two large square matrices, the best of several.

    Through the library for matrices and, as a convolution of one tap, through that for convolutions: on some
    processors the first knows half of the instructions that the second does.
    """
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    image = a.reshape(1, side // 32, 32, side).movedim(-1, 1)  # channels-last
    taps = b.reshape(side, side, 1, 1)
    products = (lambda: a @ b, lambda: F.conv2d(image, taps))
    return 2 * side**3 / min(_best(product, device, repeats) for product in products)


def copy_rate(device: torch.device, repeats: int = 5) -> float:
    """Bytes/s read and written, together, by copying a large tensor, the best of several."""
    num_values = 2**28 if device.type == "cuda" else 2**26
    source = torch.zeros(num_values, device=device)
    target = torch.ones_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device, repeats)


def _best(function: Callable, device: torch.device, repeats: int) -> float:
    function()
    return min(interleaved([function], repeats, device)[0])


def least_seconds(flops: float, num_bytes: float, flops_per_second: float, bytes_per_second: float) -> tuple:
    """Seconds that so many operations and bytes take at least, and which decides: "arithmetic" or "memory"."""
    arithmetic, memory = flops / flops_per_second, num_bytes / bytes_per_second
    return max(arithmetic, memory), "arithmetic" if arithmetic >= memory else "memory"


# -- files --------------------------------------------------------------------------------------


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Ask the system to forget the contents of files, which must be on the disk: `fsync` them when written.

    What lies below the system, such as the host of a virtual machine, may still remember them.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_files(paths: Iterable[Path]) -> None:
    """Read files from beginning to end into one buffer and do nothing with them."""
    buffer = bytearray()
    for path in paths:
        size = path.stat().st_size
        if len(buffer) < size:
            buffer = bytearray(size)
        with open(path, "rb", buffering=0) as file:
            file.readinto(buffer)


# -- tables -------------------------------------------------------------------------------------


def short(value: float | None, scale: float = 1.0) -> str:
    """`value` * `scale` to three digits, without exponent where it is no longer than that; a dash for None."""
    if value is None or not math.isfinite(value):
        return "–"
    value *= scale
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits > 6 or digits < -4:
        return f"{value:.1e}"
    return f"{value:.{max(digits, 0)}f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns padded so that it also reads as text; the first column is left-aligned."""
    rows = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        return f"| {' | '.join(padded)} |"

    ruler = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(rows[0]), f"| {' | '.join(ruler)} |", *map(line, rows[1:])])
