"""Processes: worker pools, signals, and the cores that they share."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from utils.errors import ProjectError

Job = TypeVar("Job")
Result = TypeVar("Result")

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Terminated(KeyboardInterrupt):
    """SIGTERM, inside `sigterm_raises`."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside the block SIGTERM raises `Terminated`, so that it cleans up like Ctrl-C. Main thread only."""

    def handler(signum, frame):
        raise Terminated

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int) -> Iterator[Result]:
    """Yield `function(job)` of every job as they finish, computed by `num_workers` processes.

    Leaving the generator early, by an exception or by `close()`, stops the workers in the middle of their
    jobs: there SystemExit is raised, so that context managers clean up. Workers also end when this process
    is killed.

    Args:
        function: importable by name; its exceptions are raised here.

    Raises:
        ProjectError: a worker was killed from outside, as the kernel does when memory runs out.
    """
    others = set(multiprocessing.active_children())
    # Not fork: a forked worker inherits threads' locks and its siblings' pipes.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)
    try:
        # Workers inherit the mask, so no signal hits them before `_start_worker` is ready for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            futures = [executor.submit(_run, function, job) for job in jobs]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ProjectError(
            "a worker process was killed, most likely because memory ran out: run the same command again "
            "with fewer --num-workers; finished files are kept"
        ) from error
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to workers too; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run(function: Callable[[Job], Result], job: Job) -> Result:
    try:
        return function(job)
    except SystemExit:
        os._exit(1)  # the executor would hand SystemExit to the parent and start the next job


IMPATIENCE = 5.0  # seconds; a launcher may pass on one signal several times


class StopRequest:
    """While entered, SIGINT (Ctrl-C) and SIGTERM only leave a note that the work should end.

    Another signal, five seconds after the first or later, ends the process as it would without this.

    Attributes:
        signum: the first signal that came, or None.
    """

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self) -> StopRequest:
        self._previous = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return self.signum is not None

    def _note(self, signum: int, _frame) -> None:
        if self.signum is None:
            self.signum, self._came = signum, time.monotonic()
            name = signal.Signals(signum).name
            # Not print: the signal may have come in the middle of one.
            sys.__stderr__.write(f"\n{name}: ending after this step; once more in {IMPATIENCE:.0f} seconds: at once\n")
        elif time.monotonic() - self._came >= IMPATIENCE:
            self.__exit__()
            signal.raise_signal(signum)


def ignore_signals(_worker_id: int = 0) -> None:
    """For processes that load data: a signal that reaches them too must not end them before the trainer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_children() -> None:
    """Kill the processes that load data, which ignore the SIGTERM that would end them, and hold nothing to lose."""
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes a dead child for an accident
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    signal.signal(signal.SIGCHLD, previous)


def num_cores() -> int:
    """Cores that this process may use: those that a batch system lent, not all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Let numpy's linear algebra, and torch where it is loaded, compute on `count` threads from now on."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
