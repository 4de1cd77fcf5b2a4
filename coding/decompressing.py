"""Decode a file into a scene: the work of decompress.py."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coding import codecs
from coding.base import Codec, CodingError, DamagedError
from coding.batch import (
    Figures,
    Task,
    collected_notes,
    file_sha256,
    largest_first,
    memory_of,
    run_batch,
    sources_of,
    tasks_of,
)
from coding.hsc.container import Reader, open_file
from coding.hsc.tiling import Window, decompress_scene
from datasets.base import SceneInfo
from datasets.scenes import FORMATS, create_scene, losses_of_writing, settle_losses
from utils.errors import ProjectError, UsageError
from utils.files import check_output
from utils.processes import sigterm_raises, use_cores
from utils.progress import pixel_bar

SETTINGS = ("window", "bands", "drop", "raw", "device")
"""Arguments that the content of a scene depends on, besides the file and the weights."""


def decompress(args: argparse.Namespace) -> int:
    """Decode a file, or a window of its scene, into a scene file; or decode many, see `decompress_many`.

    Args:
        args: arguments of decompress.py.

    Returns:
        The exit code: 1 if a tile is damaged or its bound is not guaranteed, else 0.

    Raises:
        UsageError: the scene does not have the window or the bands.
        ProjectError: the file is damaged, or the scene cannot be written.
    """
    if args.output_dir is not None:
        return decompress_many(args)
    output = check_output(args.output, args.input, args.overwrite)
    started = time.monotonic()
    with sigterm_raises():
        window, messages, dtype = (decompress_raw if args.raw else decompress_file)(args, output)
    seconds = time.monotonic() - started
    for message in messages:
        print(f"error: {message}", file=sys.stderr)
    num_bytes = window.height * window.width * len(window.bands) * np.dtype(dtype).itemsize
    print(
        f"{args.output}: {window.height} x {window.width} pixels, {len(window.bands)} bands, "
        f"{num_bytes / 1e6 / seconds:.2f} MB/s"
    )
    return 1 if messages else 0


def decompress_file(args: argparse.Namespace, output: Path) -> tuple[Window, list[str], str]:
    """Decode a `.hsc` file; return the window, messages about its tiles, and the type of its samples."""
    with open_file(args.input) as reader:
        window = window_of(args, reader.header.scene)
        info = window.info(reader.header, args.keep_going)
        settle_losses(args.output, losses_of_writing(output, info), args.drop)
        codec = open_codec(reader, args.checkpoint, args.device)
        num_workers = use_cores(args.num_workers)
        with (
            create_scene(output, info) as scene,
            pixel_bar("decompressing", window.height * window.width) as advance,
        ):

            def write(row: int, column: int, samples: np.ndarray, masks: np.ndarray) -> None:
                scene.write(row, column, samples)
                scene.write_masks(row, column, masks)

            problems = decompress_scene(reader, codec, write, window, args.keep_going, num_workers, advance)
    return window, [*problems.damaged, *problems.unguaranteed], reader.header.scene.dtype


def decompress_raw(args: argparse.Namespace, output: Path) -> tuple[Window, list[str], str]:
    """Decode a bare stream; return what `decompress_file` does."""
    entry = next(entry for entry in codecs.values() if entry.stream_reader)  # all of them read the same standard
    if not Path(args.input).is_file():
        raise DamagedError(f"{args.input}: no such file")
    try:
        cube = entry.read_stream(Path(args.input).read_bytes())
    except DamagedError as error:
        raise DamagedError(f"{args.input}: {error}") from None
    bands, height, width = cube.shape
    window = window_of(args, SceneInfo(height, width, bands, cube.dtype.name))
    rows, columns = slice(window.row, window.row + window.height), slice(window.column, window.column + window.width)
    with create_scene(output, SceneInfo(window.height, window.width, len(window.bands), cube.dtype.name)) as scene:
        scene.write(0, 0, cube[list(window.bands)][:, rows, columns])
    return window, [], cube.dtype.name


def open_codec(reader: Reader, checkpoint: str | None, device: str) -> Codec:
    """Return the codec that decodes the tiles of a file.

    Raises:
        DamagedError: the codec or the model is unknown, or the header is not one that the codec writes.
        CodingError: the weights are not those that the file was coded with, or the codec has none.
    """
    header = reader.header
    if header.codec not in codecs:
        raise DamagedError(f"header field 'codec' is {header.codec!r}, expected one of {', '.join(codecs)}")
    entry = codecs[header.codec]
    if entry.has_weights:
        return entry.open(header, reader.shared, checkpoint=checkpoint, device=device)
    if checkpoint is not None:
        raise CodingError(f"the file was coded by {header.codec}, which has no weights: leave --checkpoint out")
    return entry.open(header, reader.shared)


def window_of(args: argparse.Namespace, info: SceneInfo) -> Window:
    """Return the window to decode; by default the whole scene.

    Raises:
        UsageError: the scene does not have the window or the bands.
    """
    row, column, height, width = args.window or (0, 0, info.height, info.width)
    if not (height and width and row + height <= info.height and column + width <= info.width):
        raise UsageError(
            f"--window {row} {column} {height} {width}: the scene has {info.height} rows and {info.width} columns"
        )
    bands = args.bands or range(1, info.bands + 1)
    wrong = [band for band in bands if band > info.bands]
    if wrong:
        raise UsageError(f"--bands {wrong[0]}: the scene has bands 1 to {info.bands}")
    return Window(row, column, height, width, tuple(band - 1 for band in bands))


# -- many files -----------------------------------------------------------------------------------


def decompress_many(args: argparse.Namespace) -> int:
    """Decode files into scenes of a folder; those that are finished are skipped, see `coding.batch`.

    Args:
        args: arguments of decompress.py, with `files`, `output_dir` and `suffix`.

    Returns:
        The exit code: 1 if a file failed.

    Raises:
        UsageError, ProjectError, OSError: see `coding.batch.run_batch`.
    """
    if args.suffix.lower() not in FORMATS:
        raise UsageError(f"--suffix must be one of {', '.join(filter(None, FORMATS))}, got {args.suffix}")
    tasks = tasks_of(sources_of(args.files, args.list), Path(args.output_dir), args.suffix)
    if args.checkpoint is not None:
        args.checkpoint = os.path.abspath(args.checkpoint)
    memory = functools.partial(memory_of_files, [task.source for task in tasks])
    return run_batch(args, SETTINGS, tasks, functools.partial(decompress_task, args), memory)


def decompress_task(args: argparse.Namespace, task: Task, num_threads: int) -> Figures:
    """Decode one of many files in a worker.

    Raises:
        UsageError, ProjectError: see `decompress`.
        DamagedError: a tile is damaged or its bound is not guaranteed; with `--keep-going` the scene is written.
    """
    args = argparse.Namespace(**{**vars(args), "input": task.source, "output": task.output, "num_workers": num_threads})
    started = time.monotonic()
    with collected_notes() as notes:
        _, messages, _ = (decompress_raw if args.raw else decompress_file)(args, Path(task.output))
    if messages:
        raise DamagedError(f"{task.source}: {'; '.join(messages)}")
    seconds = time.monotonic() - started
    return Figures(os.path.getsize(task.output), file_sha256(task.output), seconds, notes=tuple(notes))


def memory_of_files(paths: Sequence[str], num_threads: int) -> int:
    """Return the memory that decoding the largest of `.hsc` files takes; the largest in bytes that can be read."""
    for path in largest_first(paths):
        try:
            with open_file(path) as reader:
                header = reader.header
        except ProjectError:
            continue
        codec = header.codec if header.codec in codecs else "klt-cm"
        return memory_of(header.scene, header.tile_size, num_threads, codec)
    return memory_of(None, 0, num_threads, "klt-cm")
