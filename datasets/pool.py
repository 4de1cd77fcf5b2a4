"""Worker processes for a long run over many files: stopped promptly and never orphaned."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
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
