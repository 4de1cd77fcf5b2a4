"""Measure codecs on images with many workers: processes of this machine, or a cluster's.

A job is one codec on one image. On this machine each has a process of its own, since a codec's fault or a lack of
memory may end it; on a cluster Dask replaces workers that end.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.rd.points import Bench, measured
from benchmarks.rd.store import Point, Writer, points_of, read_rows
from coding import codecs
from coding.base import CodecFactory
from coding.samples import Samples
from utils.environment import device_name
from utils.errors import ProjectError
from utils.processes import OutOfMemory, in_fresh_process, limit_threads
from utils.workers import is_alone_on_host, run_with_bar

if TYPE_CHECKING:
    from benchmarks.rd.images import Image

PRELOADED = ("compressai.models", *sorted({entry.factory.partition(":")[0] for entry in codecs.values()}))
"""Modules that a worker imports before it forks."""


@dataclass(frozen=True)
class Job:
    """One codec and one image.

    Attributes:
        codec, image: names.
        make_factory: returns the codec's factory for samples.
        load: returns the image.
        wanted: kind and target of every point that the codec might have.
        folder: that stores the points.
    """

    codec: str
    image: str
    make_factory: Callable[[Samples], CodecFactory]
    load: Callable[[], Image]
    wanted: Sequence[Point]
    folder: Path

    def missing(self) -> list[Point]:
        """Return the wanted points that are not stored yet."""
        stored = points_of(read_rows(self.folder))
        return [point for point in self.wanted if point not in stored]


def run_jobs(
    jobs: Sequence[Job], num_workers: int | None, scheduler: str | None = None, job_bytes: int = 0
) -> list[dict]:
    """Measure the points that jobs still lack, and return all points and notes.

    Args:
        jobs: to measure.
        num_workers: local processes at a time; None if there is a scheduler.
        scheduler: address of a cluster, see `utils.workers.run`.
        job_bytes: memory that a worker of the cluster must have.
    """
    waiting = [job for job in jobs if job.missing()]
    # Machines that share a folder but no scheduler begin at different places, so that they rarely meet.
    start = random.randrange(len(waiting)) if waiting else 0
    waiting = waiting[start:] + waiting[:start]
    failures: dict[Path, str] = {}
    function = measure if scheduler else functools.partial(measure_in_fresh_process, alone=num_workers == 1)
    began = time.monotonic()
    with _one_thread_for_libraries():
        outcomes = run_with_bar(
            function, waiting, " codings", num_workers=num_workers or 1, scheduler=scheduler, job_bytes=job_bytes
        )
        for number, outcome in enumerate(outcomes, start=1):
            if outcome.error:
                failures[outcome.job.folder] = outcome.error
            left = tqdm.format_interval((time.monotonic() - began) / number * (len(waiting) - number))
            what = outcome.error or f"about {left} left"
            if outcome.error or not sys.stderr.isatty():  # a log has no bar
                job = outcome.job
                tqdm.write(f"{number}/{len(waiting)} {job.codec}, {job.image}: {what}", file=sys.stderr)
    return [row for job in jobs for row in _rows_of(job, failures)]


def _rows_of(job: Job, failures: Mapping[Path, str]) -> list[dict]:
    """Return the wanted points of a job, with its names, and a note if it failed."""
    stored = {(row["kind"], row["target"]): row for row in read_rows(job.folder)}
    rows = [stored[point] for point in job.wanted if point in stored]
    for row in rows:
        if "band_psnr" in row:  # an array, as lists would take gigabytes
            row["band_psnr"] = np.array(row["band_psnr"], float)
    if job.folder in failures:
        kind, target = next((point for point in job.wanted if point not in stored), ("job", None))
        rows.append({"kind": kind, "target": target, "note": failures[job.folder]})
    return [{"codec": job.codec, "image": job.image, **row} for row in rows]


def measure_in_fresh_process(job: Job, alone: bool) -> None:
    """Measure the missing points of a job in a process of its own.

    Args:
        job: to measure.
        alone: see `measure`.

    Raises:
        ProjectError: the process was killed, or ran out of memory.
        RuntimeError: the codec failed.
    """
    for module in PRELOADED:
        importlib.import_module(module)
    try:
        in_fresh_process("benchmarks.rd.jobs:measure", job, alone, forks_this=True)
    except OutOfMemory:
        raise ProjectError("its process was killed or ran out of memory") from None


def measure(job: Job, alone: bool | None = None) -> None:
    """Measure and store the missing points of a job.

    A row is a point, or the `kind` and `target` of a missing point with `note`, the reason.

    Args:
        job: to measure.
        alone: whether this process measures alone on its host, so that times are meaningful; None on a cluster, which
            is then asked.
    """
    limit_threads(1)
    gc.freeze()  # else each collection before a measurement would search all imported libraries, for 0.2 s
    missing = job.missing()
    if not missing:
        return
    image, writer = job.load(), Writer(job.folder)
    bench = Bench(image.cube, image.valid, image.peak)
    device = device_name(torch.device("cpu"))
    was_alone, began = is_alone_on_host() if alone is None else alone, time.monotonic()
    for kind, target, point in measured(job.make_factory, bench, missing):
        is_alone, ended = is_alone_on_host() if alone is None else alone, time.monotonic()
        figures = point if isinstance(point, dict) else {"note": point}
        provenance = {"seconds": ended - began, "alone": was_alone and is_alone, "device": device}
        writer.add({"kind": kind, "target": target, **figures, **provenance})
        was_alone, began = is_alone, ended


@contextlib.contextmanager
def _one_thread_for_libraries() -> Iterator[None]:
    """Limit linear algebra to one thread in processes that start meanwhile: by default each takes all cores."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
