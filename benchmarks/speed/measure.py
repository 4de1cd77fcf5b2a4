"""Measuring time, memory and arithmetic, and what the machine could do at best.

General tools: nothing here knows a model or a data set. Linux tells a process's own peak of memory; elsewhere
the memory of work on the CPU is not measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import math
import multiprocessing
import os
import re
import resource
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from utils.evaluation import timed

MEMINFO = Path("/proc/meminfo")
CGROUP_MEMORY = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")
SEED = 0
"""Of all weights, images and patches that are made up to be measured."""


class OutOfMemory(Exception):
    """Work in a process of its own needs more memory than the machine has to give."""


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
    if not (PROCESS / "status").exists():
        return None
    before = resident_bytes()
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
    return _process_bytes("VmRSS") if (PROCESS / "status").exists() else None


def reset_peak() -> None:
    """Let `peak_bytes` count from now."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")


def peak_bytes() -> int | None:
    """The most resident memory of this process since `reset_peak`; None where the system does not tell."""
    # Not ru_maxrss: a process inherits the peak of the one that started it.
    return _process_bytes("VmHWM") if (PROCESS / "status").exists() else None


def in_fresh_process(target: str, *args, preload: Iterable[str] = ()):
    """What `target`, "module:function", returns when called with `args` in a process of its own.

    The process is forked from one that has imported `preload` and done nothing else. It may take nine tenths
    of the memory that is free; beyond that an allocation fails instead of the system killing processes.

    Raises:
        OutOfMemory: it needs more, or was killed.
        RuntimeError: any other exception, with the traceback as text.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, target, args), daemon=True)
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        kind, value = "memory", None
    finally:
        receiver.close()
        process.join()
    if kind == "memory":
        raise OutOfMemory(target)
    if kind == "error":
        raise RuntimeError(f"in a process of its own:\n{value}")
    return value


def _answer(sender, target: str, args: Sequence) -> None:
    _limit_memory()
    module, _, function = target.partition(":")
    try:
        answer = ("value", getattr(importlib.import_module(module), function)(*args))
    except Exception as error:
        answer = ("memory", None) if is_out_of_memory(error) else ("error", traceback.format_exc())
    sender.send(answer)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is one by which Python, torch or oneDNN says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(
        re.search(r"can't allocate memory|bad_alloc|out of memory|could not create a", str(error))
    )


def _limit_memory() -> None:
    free = available_memory()
    if free is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_process_bytes("VmSize") + int(0.9 * free), hard))


def available_memory() -> int | None:
    """Bytes that this process could still take, of the machine and of its control group; None if unknown."""
    try:
        free = _field(MEMINFO.read_text(), "MemAvailable")
    except OSError:
        return None
    with contextlib.suppress(OSError, ValueError):
        limit = int((CGROUP_MEMORY / "memory.max").read_text())  # "max" where there is none
        free = min(free, limit - int((CGROUP_MEMORY / "memory.current").read_text()))
    return max(free, 0)


def _process_bytes(name: str) -> int:
    return _field((PROCESS / "status").read_text(), name)


def _field(text: str, name: str) -> int:
    return 1024 * int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1])


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


def read_raster(path: Path) -> None:
    """Read and decode all bands of a TIF and do nothing with them."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as tif:
            tif.read()


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
