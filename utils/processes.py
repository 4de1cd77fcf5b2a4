"""Processes: functions in a process of their own, memory, signals, and the cores that they share."""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any

from threadpoolctl import threadpool_limits

from utils.errors import is_out_of_memory

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
SAME_SIGNAL_SECONDS = 5.0
"""Signals that follow the first within this time count as one: a launcher may pass on one signal several times."""
FRESH_PROCESS_MEMORY_SHARE = 0.9
"""Share of the free memory that a function of `in_fresh_process` may take."""

MEMINFO = Path("/proc/meminfo")
CGROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self")
_share: list[int] = []
"""The counts of the blocks of `share_of_cores` that this process is in."""


# -- cores --------------------------------------------------------------------------------------


def num_cores() -> int:
    """Return the number of cores that this process may use; batch systems and containers may restrict it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_share, *map(math.ceil, _cpu_quotas())]))


@contextlib.contextmanager
def share_of_cores(count: int) -> Iterator[None]:
    """Let `num_cores` return at most `count` in the block, for a process that shares the cores with others."""
    _share.append(count)
    try:
        yield
    finally:
        _share.pop()


def _cpu_quotas() -> Iterator[float]:
    """Yield the limits, in cores, of the control groups that hold this process, in version 1 or 2 (`docker --cpus`)."""
    try:
        text = (PROCESS / "cgroup").read_text()
    except OSError:  # not Linux
        return
    for controllers, path in re.findall(r"^\d+:([^:]*):/(.*)$", text, re.MULTILINE):
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path)
        for folder in (group, *group.parents):  # a container may see its own group as the root
            with contextlib.suppress(OSError, ValueError):  # no such group here, or "max" without a limit
                if controllers:
                    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                    quota, period = (int((CGROUPS / "cpu" / folder / name).read_text()) for name in names)
                else:
                    quota, period = map(int, (CGROUPS / folder / "cpu.max").read_text().split())
                if quota > 0:  # -1 without a limit
                    yield quota / period


def limit_threads(count: int) -> None:
    """Limit numpy's linear algebra, and torch if it is loaded, to `count` threads."""
    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def use_cores(num_workers: int) -> int:
    """Share the cores among workers that are threads of this process.

    Args:
        num_workers: number of workers, 0 for one per core.

    Returns:
        The number of workers. The threads of libraries are limited to each worker's share of the cores.
    """
    cores = num_cores()
    num_workers = num_workers or cores
    limit_threads(max(1, cores // num_workers))
    return num_workers


# -- one function in a process of its own -------------------------------------------------------


class OutOfMemory(Exception):
    """A function in a process of its own needs more memory than is available."""


def in_fresh_process(target: str, *args: object, preload: Iterable[str] = (), forks_this: bool = False) -> Any:
    """Call a function in a process of its own and return its result.

    The process is forked from a server that has imported `preload` and done nothing else. It may take
    `FRESH_PROCESS_MEMORY_SHARE` of the free memory. Beyond that an allocation fails, before the system kills processes.

    Args:
        target: "module:function".
        args: its arguments.
        preload: modules that the server imports; only the first call in this process sets them.
        forks_this: whether to fork this process instead of a server. It must have computed nothing yet, as forked
            threads of libraries do not work.

    Raises:
        OutOfMemory: the function needs more memory, or its process was killed.
        RuntimeError: the function raised another exception; the message is its traceback.
    """
    context = multiprocessing.get_context("fork") if forks_this else multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, target, args), daemon=True)
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:
        kind, value = "memory", None
    except BaseException:  # a signal: do not wait until the function ends
        process.kill()
        raise
    finally:
        receiver.close()
        process.join()
    if kind == "memory":
        raise OutOfMemory(target)
    if kind == "error":
        raise RuntimeError(f"in a process of its own:\n{value}")
    return value


def _answer(sender: Connection, target: str, args: Sequence[object]) -> None:
    _limit_memory()
    module, _, function = target.partition(":")
    try:
        answer = ("value", getattr(importlib.import_module(module), function)(*args))
    except Exception as error:
        # If memory runs out, oneDNN reports that it could not create a primitive.
        is_memory = is_out_of_memory(error) or "could not create a" in str(error)
        answer = ("memory", None) if is_memory else ("error", traceback.format_exc())
    sender.send(answer)


def _limit_memory() -> None:
    free, used = available_memory(), process_bytes("VmSize")
    if free is not None and used is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + int(FRESH_PROCESS_MEMORY_SHARE * free), hard))


def available_memory() -> int | None:
    """Return the bytes that this process could still take from the machine and its control group, None if unknown."""
    try:
        free = _memory_field(MEMINFO.read_text(), "MemAvailable")
    except OSError:
        return None
    with contextlib.suppress(OSError, ValueError):
        limit = int((CGROUPS / "memory.max").read_text())  # "max" without a limit
        free = min(free, limit - int((CGROUPS / "memory.current").read_text()))
    return max(free, 0)


def process_bytes(name: str) -> int | None:
    """Return a memory figure of this process in bytes, such as VmRSS, VmHWM or VmSize; None outside of Linux."""
    try:
        return _memory_field((PROCESS / "status").read_text(), name)
    except OSError:
        return None


def _memory_field(text: str, name: str) -> int:
    return 1024 * int(re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[0])


# -- signals ------------------------------------------------------------------------------------


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived inside `sigterm_raises`."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM inside the block, so that it cleans up as after Ctrl-C. Main thread only."""

    def handler(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class StopRequest:
    """Turn SIGINT (Ctrl-C) and SIGTERM into a request to end the work, while entered.

    The object is true once a signal has come. A signal that comes `SAME_SIGNAL_SECONDS` or more after the first
    ends the process as usual.

    Attributes:
        signum: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def __enter__(self) -> StopRequest:
        self._previous = {n: signal.signal(n, self._note) for n in STOP_SIGNALS}
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.signum is not None

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum, self._came = signum, time.monotonic()
            name = signal.Signals(signum).name
            if sys.__stderr__:  # not print: the signal may have come in the middle of one
                seconds = f"{SAME_SIGNAL_SECONDS:.0f} seconds"
                message = f"{name}: stopping after this step; to stop at once, repeat it in {seconds}"
                sys.__stderr__.write(f"\n{message}\n")
        elif time.monotonic() - self._came >= SAME_SIGNAL_SECONDS:
            self.__exit__()
            signal.raise_signal(signum)
