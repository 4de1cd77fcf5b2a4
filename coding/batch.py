"""Many scenes at a time: one output each in a folder, a manifest of what is finished, and a list of what failed."""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from coding import codecs
from datasets.base import SceneInfo
from utils.errors import CheckpointError, ProjectError, UsageError, one_line
from utils.files import locked, name_in_errors, remove_leftovers
from utils.processes import num_cores, share_of_cores
from utils.workers import Job, Outcome, Value, fitting_workers, interrupted, print_errors, run_with_bar

MANIFEST = "manifest.csv"
WORKER_BYTES = 400_000_000
"""Memory of a worker that holds no scene: libraries, and kernels while they are compiled."""
MODEL_BYTES = 700_000_000
"""Memory of torch and a model besides."""
CODING_BYTES = 24
"""Memory of a thread for each sample of its tile, besides four times the sample itself."""
MODEL_CODING_BYTES = 100
"""The same of a thread that runs a model."""


class Task(NamedTuple):
    """A file to make.

    Attributes:
        source: absolute path of the file to read.
        output: absolute path of the file to write.
    """

    source: str
    output: str


@dataclass(frozen=True)
class Figures:
    """What a worker tells about a finished file.

    Attributes:
        num_bytes: its size.
        sha256: hash of its content.
        seconds: time that it took.
        rate: bits per coded sample; None if nothing was coded.
        psnr: PSNR in dB.
        largest_error: largest error, in the samples' units.
        notes: lines that the user should see.
    """

    num_bytes: int
    sha256: str
    seconds: float
    rate: float | None = None
    psnr: float | None = None
    largest_error: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of the manifest, see `Figures` and `Task`. `output` is a name in the folder; `settings` are JSON."""

    output: str
    scene: str
    bytes: str
    rate: str
    psnr: str
    largest_error: str
    seconds: str
    sha256: str
    settings: str

    @classmethod
    def of(cls, task: Task, figures: Figures, settings: str) -> Row:
        """Return the row of a finished file."""
        digits = {"rate": ".6f", "psnr": ".4f", "largest_error": ".9g", "seconds": ".3f"}
        values = {name: getattr(figures, name) for name in digits}
        texts = {name: "" if values[name] is None else format(values[name], digits[name]) for name in digits}
        name = Path(task.output).name
        return cls(name, task.source, str(figures.num_bytes), sha256=figures.sha256, settings=settings, **texts)


COLUMNS = [column.name for column in fields(Row)]


class Manifest:
    """The CSV file of the outputs of a folder that are finished. Of several rows of an output the last one holds.

    Attributes:
        rows: the rows by name of the output.
        is_new: whether there was no manifest.

    Raises:
        ProjectError: the file is something else.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST
        self.is_new = not self.path.exists()
        self.rows = {row.output: row for row in read_manifest(folder)}

    def open(self) -> None:
        """Create the file, and cut off the last line if a run was killed while it wrote that.

        Raises:
            OSError: the file cannot be written.
        """
        whole = b"" if self.is_new else self.path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        with open(self.path, "ab") as file:
            file.truncate(len(whole))
        if not whole:
            self._write(COLUMNS)

    def add(self, row: Row) -> None:
        """Add a row, which is on the disk afterwards.

        Raises:
            OSError: the disk is full.
        """
        self._write(list(asdict(row).values()))
        self.rows[row.output] = row

    def _write(self, values: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        with name_in_errors(self.path), open(self.path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line.getvalue())
            file.flush()
            os.fsync(file.fileno())


def read_manifest(folder: Path) -> list[Row]:
    """Return the rows of a folder's manifest; none without one. An unfinished last line is left out.

    Raises:
        ProjectError: the file is something else.
    """
    path = folder / MANIFEST
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    if lines and lines[0] != COLUMNS:
        raise ProjectError(f"{path}: not a manifest of this program: give another folder, or move the file away")
    return [Row(*line) for line in lines[1:] if len(line) == len(COLUMNS)]


# -- before the work ------------------------------------------------------------------------------


def sources_of(paths: Sequence[str], list_file: str | None) -> list[str]:
    """Return the absolute paths of the files to read, each once, in order.

    Raises:
        UsageError: there are none, or `list_file` cannot be read.
    """
    lines: list[str] = []
    if list_file is not None:
        try:
            lines = Path(list_file).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError as error:
            raise UsageError(f"--list {list_file}: {one_line(error)}") from None
    sources = [os.path.abspath(path) for path in [*paths, *(line.strip() for line in lines)] if path]
    if not sources:
        raise UsageError("no input: give files, or --list with a file that names them")
    return list(dict.fromkeys(sources))


def largest_first(paths: Sequence[str]) -> list[str]:
    """Return paths by falling size of their files; those that are no files come last."""
    return sorted(paths, key=lambda path: os.path.getsize(path) if os.path.isfile(path) else 0, reverse=True)


def tasks_of(sources: Sequence[str], folder: Path, suffix: str) -> list[Task]:
    """Return a task for each source, whose output has its name with another suffix.

    Raises:
        UsageError: two outputs have one name, or an output is a source.
    """
    tasks = [Task(source, str(folder.absolute() / (Path(source).stem + suffix))) for source in sources]
    first: dict[str, str] = {}
    for source, output in tasks:
        other = first.setdefault(output, source)
        if other != source:
            raise UsageError(f"{other} and {source} would both be written to {output}: give each its own --output-dir")
    overwritten = first.keys() & set(sources)
    if overwritten:
        raise UsageError(f"{min(overwritten)} is an input: give another --output-dir")
    return tasks


def memory_of(info: SceneInfo | None, tile_size: int, num_threads: int, codec: str, is_whole: bool = False) -> int:
    """Return the memory in bytes that a worker takes at most, from measurements.

    Args:
        info: the largest scene; None if none can be read.
        tile_size: height and width of its tiles.
        num_threads: tiles coded at a time.
        codec: name of the codec.
        is_whole: whether the scene is coded as one tile.
    """
    has_model = codecs[codec].has_weights
    total = WORKER_BYTES + (MODEL_BYTES if has_model else 0)
    if info is None:
        return total
    rows, columns = (length if is_whole else min(length, tile_size) for length in (info.height, info.width))
    sample_bytes = (MODEL_CODING_BYTES if has_model else CODING_BYTES) + 4 * np.dtype(info.dtype).itemsize
    return total + (1 if is_whole else num_threads) * rows * columns * info.bands * sample_bytes


def settings_text(args: argparse.Namespace, names: Sequence[str]) -> str:
    """Return the arguments that determine the content of outputs as JSON; weights are named by their hash.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    values = {name: getattr(args, name) for name in names}
    settings = {
        name: value for name, value in values.items() if value is not None and value is not False and value != []
    }
    if args.checkpoint is not None:
        try:
            settings["checkpoint"] = file_sha256(args.checkpoint)
        except OSError as error:
            raise CheckpointError(one_line(error)) from None
    return json.dumps(settings, sort_keys=True)


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finished(task: Task, row: Row | None, settings: str) -> bool:
    """Return whether an output has the size that the manifest says, and was made of this source by these settings."""
    if row is None or (row.scene, row.settings) != (task.source, settings):
        return False
    with contextlib.suppress(OSError):
        output = os.stat(task.output)
        try:
            is_newer = output.st_mtime_ns >= os.stat(task.source).st_mtime_ns
        except FileNotFoundError:  # archived, then deleted
            is_newer = True
        return is_newer and output.st_size == int(row.bytes)
    return False


def tasks_to_do(tasks: Sequence[Task], manifest: Manifest, settings: str, overwrite: bool) -> list[Task]:
    """Return the tasks that are not finished.

    Raises:
        UsageError: files would be replaced that are not of an earlier run with these settings, without `overwrite`.
    """
    todo = [task for task in tasks if not is_finished(task, manifest.rows.get(Path(task.output).name), settings)]

    def is_foreign(task: Task) -> bool:
        row = manifest.rows.get(Path(task.output).name)
        is_other = manifest.is_new if row is None else (row.scene, row.settings) != (task.source, settings)
        return is_other and os.path.exists(task.output)  # without a row in a manifest: a run was killed before it

    foreign = [task.output for task in todo if not overwrite and is_foreign(task)]
    if foreign:
        raise UsageError(
            f"{len(foreign)} of the outputs exist, made of other inputs or by other settings, such as {foreign[0]}: "
            "give --overwrite to replace them, or another --output-dir"
        )
    return todo


# -- the work -------------------------------------------------------------------------------------


class Workers(NamedTuple):
    """Workers for many files: processes of this machine, or those of a cluster.

    Attributes:
        num_workers: number of processes on this machine.
        num_threads: tiles that each of them codes at a time.
        worker_bytes: memory that each of them needs.
        scheduler: address of the cluster, or None.
    """

    num_workers: int
    num_threads: int
    worker_bytes: int
    scheduler: str | None

    @classmethod
    def of(cls, args: argparse.Namespace, num_jobs: int, memory: Callable[[int], int]) -> Workers:
        """Return as many workers as there are cores and memory for; say so in a line on stderr.

        Args:
            args: with `num_workers`, the threads of all local workers together or of each of a cluster, 0 for one per
                core or per worker; `scheduler`; and `device`, which local workers do not share.
            num_jobs: number of jobs.
            memory: returns the bytes that a worker with a number of threads needs.
        """
        if args.scheduler is not None:
            num_threads = args.num_workers or 1
            return cls(0, num_threads, memory(num_threads), args.scheduler)
        total = args.num_workers or num_cores()
        wanted = 1 if args.device != "cpu" else min(total, num_jobs)
        num_threads = -(-total // wanted)
        return cls(fitting_workers(wanted, memory(num_threads)), num_threads, memory(num_threads), None)

    def run(self, function: Callable[..., Value], jobs: Sequence[Job], unit: str) -> Iterator[Outcome[Job, Value]]:
        """Return the outcomes of `function(job, num_threads=...)`, with a progress bar over `unit`s."""
        return run_with_bar(
            functools.partial(_in_share, function, num_threads=self.num_threads),
            jobs,
            unit,
            num_workers=self.num_workers,
            scheduler=self.scheduler,
            job_bytes=self.worker_bytes,
        )


def _in_share(function: Callable[..., Value], job: Job, num_threads: int) -> Value:
    with share_of_cores(num_threads):  # or each worker would compute with as many threads as there are cores
        return function(job, num_threads=num_threads)


def run_batch(
    args: argparse.Namespace,
    names: Sequence[str],
    tasks: Sequence[Task],
    make: Callable[..., Figures],
    memory: Callable[[int], int],
) -> int:
    """Make the outputs that are not finished yet.

    Args:
        args: arguments of a script, with `output_dir`, `overwrite`, and those of `Workers.of`.
        names: arguments that the content of outputs depends on, besides sources and weights.
        tasks: all outputs, see `tasks_of`.
        make: makes the output of a task in a worker, with `num_threads`.
        memory: returns the bytes that a worker with a number of threads needs.

    Returns:
        The exit status: 1 if a file failed, 130 or 143 after a signal, else 0.

    Raises:
        BusyError: another run is at work in the folder.
        UsageError: files would be replaced.
        ProjectError: the weights cannot be read, the workers cannot be used, or one was killed.
        OSError: the manifest cannot be written.
    """
    folder, settings = Path(args.output_dir).absolute(), settings_text(args, names)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another run is at work there: wait for it, or give another --output-dir"
    with locked(folder / f".{MANIFEST}.lock", busy):
        manifest = Manifest(folder)
        todo = tasks_to_do(tasks, manifest, settings, args.overwrite)
        manifest.open()
        outcomes: list[Outcome[Task, Figures]] = []
        started, shown = time.monotonic(), set[str]()
        try:
            for outcome in Workers.of(args, len(todo), memory).run(make, todo, "scene") if todo else ():
                outcomes.append(outcome)
                if outcome.value is not None:
                    manifest.add(Row.of(outcome.job, outcome.value, settings))
                    for note in [note for note in outcome.value.notes if note not in shown]:
                        tqdm.write(note, file=sys.stderr)
                    shown |= set(outcome.value.notes)
        except KeyboardInterrupt as interrupt:
            for task in todo:
                remove_leftovers(Path(task.output))  # of a worker that was stopped just as it began
            return interrupted(interrupt, f"after {len(outcomes)} of {len(todo)} files: the same command resumes")
    num_failed = print_errors(sorted(outcomes, key=lambda outcome: outcome.job))
    counts = f"{len(outcomes) - num_failed} made, {len(tasks) - len(todo)} skipped, {num_failed} failed"
    print(f"{args.output_dir}: {counts}, {time.monotonic() - started:.1f} s")
    return 1 if num_failed else 0


@contextlib.contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Collect the lines that the block prints on stderr in a list, which is filled at the end."""
    lines: list[str] = []
    with contextlib.redirect_stderr(io.StringIO()) as text:
        yield lines
    lines += Counter(text.getvalue().splitlines())
