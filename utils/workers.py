"""Independent jobs on many workers: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import platform
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

from tqdm import tqdm

from utils.errors import ProjectError, one_line, user_message
from utils.processes import STOP_SIGNALS, Terminated, available_memory, sigterm_raises

if TYPE_CHECKING:
    from dask.typing import Key
    from distributed import Client, Future

Job = TypeVar("Job")
Value = TypeVar("Value")

SCHEDULER_VARIABLE = "DASK_SCHEDULER_ADDRESS"
CONNECT_SECONDS = 10
JOBS_IN_FLIGHT = 1000
"""Most jobs that a scheduler holds at a time: enough for as many threads, and little for its memory."""
_ROOT = Path(__file__).resolve().parent.parent
_LIBRARIES = ("numpy", "numba", "rasterio", "imagecodecs", "torch", "compressai")
"""Libraries whose version may change results."""


@dataclass(frozen=True)
class Outcome(Generic[Job, Value]):
    """The result of a job.

    Attributes:
        job: the job.
        value: what the function returned; None after an error.
        error: message in one line; None if there was no error.
        traceback: of an error that only a bug can cause, else empty.
    """

    job: Job
    value: Value | None = None
    error: str | None = None
    traceback: str = ""


def add_scheduler_option(parser: argparse.ArgumentParser) -> None:
    """Add `--scheduler`."""
    parser.add_argument(
        "--scheduler",
        default=os.environ.get(SCHEDULER_VARIABLE),
        metavar="ADDRESS",
        help=f"Dask scheduler whose workers do the work, such as tcp://node1:8786 or a scheduler file; "
        f"if not given, ${SCHEDULER_VARIABLE}, or processes of this machine",
    )


def run(
    function: Callable[[Job], Value],
    jobs: Iterable[Job],
    *,
    num_workers: int,
    scheduler: str | None = None,
    job_bytes: int = 0,
) -> Generator[Outcome[Job, Value], None, None]:
    """Yield the outcome of `function(job)` for each job in the order of completion.

    A job that raises does not stop the others. Close the generator to stop early. Local workers are then stopped in
    the middle of their jobs: SystemExit is raised in them, so that context managers clean up. They also end when this
    process is killed. Workers of a cluster finish the jobs that they have begun, and get no more.

    Args:
        function: importable by name, or a partial of such a function.
        jobs: arguments of the calls.
        num_workers: number of processes, unless there is a scheduler.
        scheduler: address of a Dask scheduler, or path of its scheduler file.
        job_bytes: memory that a job needs, which each of the cluster's workers must have.

    Raises:
        ProjectError: a local worker was killed from outside, as the kernel does when memory runs out; or the cluster
            cannot be reached, goes away, or has workers with other versions of the code or too little memory. (Dask
            itself gives a killed worker's job to another one.)
    """
    if scheduler is None:
        return _run_in_processes(function, jobs, num_workers)
    return _run_on_cluster(function, jobs, scheduler, job_bytes)


def run_with_bar(
    function: Callable[[Job], Value],
    jobs: Sequence[Job],
    unit: str,
    *,
    num_workers: int,
    scheduler: str | None = None,
    job_bytes: int = 0,
) -> Iterator[Outcome[Job, Value]]:
    """Yield what `run` does, with a progress bar on terminals; SIGTERM raises `Terminated`. Main thread only.

    Args:
        function: see `run`, as for the arguments that are not here.
        jobs: arguments of the calls.
        unit: what a job is, for the bar.
        num_workers: most processes, unless there is a scheduler.
        scheduler: address of a Dask scheduler, or path of its scheduler file.
        job_bytes: memory that a job needs.
    """
    num_workers = min(num_workers, max(1, len(jobs)))
    with (
        sigterm_raises(),
        contextlib.closing(
            run(function, jobs, num_workers=num_workers, scheduler=scheduler, job_bytes=job_bytes)
        ) as running,
        # disable=None: only on a terminal; smoothing=0: the mean over all jobs, which differ in length
        tqdm(total=len(jobs), unit=unit, disable=None, smoothing=0) as progress,
    ):
        for outcome in running:
            yield outcome
            progress.update()


def print_errors(outcomes: Iterable[Outcome]) -> int:
    """Print the errors of outcomes on stderr, and return their number."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        print(f"{outcome.traceback}error: {outcome.error}", file=sys.stderr)
    return len(failed)


def interrupted(interrupt: KeyboardInterrupt, state: str) -> int:
    """Say on stderr what a signal stopped, and return the exit status.

    Args:
        interrupt: the exception that the signal raised.
        state: how far the work is, and how to resume it.
    """
    name, status = ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
    print(f"{name} {state}", file=sys.stderr)
    return status


def fitting_workers(wanted: int, worker_bytes: int) -> int:
    """Return how many of `wanted` local workers fit into the free memory, at least one; say so in a line on stderr.

    Args:
        wanted: most workers that are useful.
        worker_bytes: memory that each needs.
    """
    free = available_memory()
    number = wanted if free is None else max(1, min(wanted, free // worker_bytes))
    room = "" if free is None else f" of {free / 1e9:.1f} GB of free memory"
    print(f"workers: {number} (at most {wanted}), each takes up to {worker_bytes / 1e9:.1f} GB{room}", file=sys.stderr)
    return number


@functools.cache
def code_versions() -> Mapping[str, str]:
    """Return what results depend on: a hash of the project's code, and the versions of Python and of libraries."""
    digest = hashlib.sha256()
    for path in sorted(path for package in _ROOT.glob("*/__init__.py") for path in package.parent.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(_ROOT).as_posix()} {len(content)}\n".encode() + content)
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {"code": digest.hexdigest()[:12], "Python": platform.python_version(), **libraries}


def _attempt(
    function: Callable[[Job], Value], job: Job, versions: Mapping[str, str] | None = None
) -> tuple[Value | None, str | None, str]:
    """Return the value, the error and the traceback of an outcome.

    Messages cross to the parent instead of exceptions, as not every exception can be pickled.

    Args:
        function: to call.
        job: its argument.
        versions: that this process must have; None if it is a child of the process that asks.
    """
    try:
        if versions is not None:
            _check_versions(f"worker {platform.node()}", code_versions(), versions)  # it may have joined just now
        return function(job), None, ""
    except Exception as error:
        message = user_message(error)
        if message is not None:
            return None, message, ""
        return None, f"{type(error).__name__}: {one_line(error)}", traceback.format_exc()


# -- processes of this machine --------------------------------------------------------------------


def _run_in_processes(
    function: Callable[[Job], Value], jobs: Iterable[Job], num_workers: int
) -> Generator[Outcome[Job, Value], None, None]:
    others = set(multiprocessing.active_children())
    # Not fork: a forked worker inherits threads' locks and its siblings' pipes.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker)
    try:
        # Workers inherit the mask, so no signal hits them before `_start_worker` is ready for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            futures = {executor.submit(_attempt_or_exit, function, job): job for job in jobs}
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        for future in as_completed(futures):
            yield Outcome(futures[future], *future.result())
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _attempt_or_exit(function: Callable[[Job], Value], job: Job) -> tuple[Value | None, str | None, str]:
    try:
        # Not before the first job: the executor would print a SystemExit in its initializer.
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
        return _attempt(function, job)
    except SystemExit:
        os._exit(1)  # the executor would hand SystemExit to the parent and start the next job


# -- a cluster ------------------------------------------------------------------------------------


def _run_on_cluster(
    function: Callable[[Job], Value], jobs: Iterable[Job], scheduler: str, job_bytes: int
) -> Generator[Outcome[Job, Value], None, None]:
    distributed = _import_distributed()
    with _connected(distributed, scheduler) as client:
        _check_workers(client, scheduler, job_bytes)
        waiting = iter(jobs)
        in_flight: dict[Key, Job] = {}

        def submit(count: int) -> Iterator[Future]:
            for job in itertools.islice(waiting, count):
                future = client.submit(_attempt, function, job, code_versions(), pure=False)
                in_flight[future.key] = job
                yield future

        # When the connection is lost, all futures are cancelled, and requests for results fail.
        try:
            completed = distributed.as_completed(submit(JOBS_IN_FLIGHT))
            for future in completed:
                outcome = _outcome_of(in_flight.pop(future.key), future, distributed.KilledWorker)
                completed.update(submit(1))
                yield outcome
        except (OSError, CancelledError, distributed.client.ClosedClientError) as error:
            raise ProjectError(
                f"the scheduler at {scheduler} went away: start it and its workers, and run the same command again; "
                "finished files are kept"
            ) from error


def _outcome_of(job: Job, future: Future, killed_worker: type[Exception]) -> Outcome:
    if future.cancelled():
        raise CancelledError
    error = future.exception()
    if error is None:
        return Outcome(job, *future.result())
    if isinstance(error, killed_worker):
        lost = "its workers were killed again and again, most likely because memory ran out: give them more"
        return Outcome(job, error=lost)
    return Outcome(job, error=one_line(error))


def is_alone_on_host() -> bool:
    """Return whether the worker of a cluster that runs this job is the only one on its host, and runs nothing else."""
    distributed = sys.modules["distributed"]  # imported, as this is a worker
    workers = distributed.get_client().scheduler_info(n_workers=-1)["workers"]
    host = workers[distributed.get_worker().address]["host"]
    return sum(worker["nthreads"] for worker in workers.values() if worker["host"] == host) == 1


def _import_distributed() -> ModuleType:
    try:
        import distributed
    except ImportError as error:
        raise ProjectError(
            f"--scheduler needs Dask, which is not installed ({error}): pip install -r requirements-cluster.txt"
        ) from None
    for name in ("distributed", "distributed.client"):  # a lost connection is one message here, no traceback
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


@contextlib.contextmanager
def _connected(distributed: ModuleType, scheduler: str) -> Iterator[Client]:
    """Yield a client of the scheduler, closed at the end, which cancels the jobs that have not begun.

    Raises:
        ProjectError: the scheduler cannot be reached.
    """
    place = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = distributed.Client(**place, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ProjectError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({one_line(error)}): start one with "
            "`python -m dask scheduler` in the project's folder, and give the address that it prints"
        ) from None
    with client:
        yield client


def _check_workers(client: Client, scheduler: str, job_bytes: int) -> None:
    """Check the scheduler and the workers that it has by now, and say on stderr how many these are.

    Raises:
        ProjectError: one of them has other versions of the code, or a worker has too little memory or many threads.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    try:
        found = {f"the scheduler at {scheduler}": client.run_on_scheduler(code_versions)}  # it unpickles jobs, too
        found |= {f"worker {address}": versions for address, versions in client.run(code_versions).items()}
    except ImportError as error:
        raise ProjectError(
            f"the scheduler at {scheduler}, or one of its workers, cannot import the project ({one_line(error)}): "
            "start them by `python -m dask` in the project's folder, with the same Python environment"
        ) from None
    for where, versions in found.items():
        _check_versions(where, versions, code_versions())
    for address, worker in workers.items():
        limit, threads = worker["memory_limit"], worker["nthreads"]
        if threads != 1:
            raise ProjectError(
                f"worker {address} has {threads} threads, but jobs change settings of their process: start it with "
                "--nthreads 1, as many workers as the memory holds"
            )
        if limit and limit < job_bytes:
            raise ProjectError(
                f"worker {address} may take {limit / 1e9:.1f} GB of memory, but needs up to {job_bytes / 1e9:.1f} GB: "
                f"start fewer workers, with --memory-limit {job_bytes / 1e9:.1f}GB or more"
            )
    each = f", each needs up to {job_bytes / 1e9:.1f} GB" if job_bytes else ""
    state = f"{len(workers)}{each}" if workers else "none yet, waiting for the first"
    print(f"workers of the cluster at {scheduler}: {state}", file=sys.stderr)


def _check_versions(where: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for name, version in expected.items():
        if found.get(name) != version:
            raise ProjectError(
                f"{where} runs {name} {found.get(name)}, here it is {version}: update that machine, and restart its "
                "workers"
            )
