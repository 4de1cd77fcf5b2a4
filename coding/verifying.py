"""Compare files with the scenes that they were made of, without writing: `decompress.py --verify`."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
from pathlib import Path

import numpy as np

from coding.base import DamagedError
from coding.batch import MANIFEST, Row, Workers, file_sha256, read_manifest
from coding.decompressing import memory_of_files, open_codec
from coding.hsc.container import open_file
from coding.hsc.distortion import Distortion, largest_allowed, measure, psnr_text
from coding.hsc.header import Header
from coding.hsc.records import Parts
from coding.hsc.tiling import Window, decompress_scene
from datasets.scenes import open_scene
from utils.errors import DatasetError, UsageError
from utils.processes import sigterm_raises, use_cores
from utils.progress import pixel_bar
from utils.workers import interrupted, print_errors

PSNR_TOLERANCE = 0.01
"""Difference in dB from the PSNR of the manifest that another machine may make, whose networks round differently."""


def verify(args: argparse.Namespace) -> int:
    """Compare a file with its scene, or all files of a manifest, and print the result.

    Args:
        args: arguments of decompress.py.

    Returns:
        The exit code: 1 if a file of a manifest differs, else 0.

    Raises:
        UsageError: there is no manifest.
        ProjectError: the file is damaged, or differs from the scene.
    """
    if os.path.isdir(args.files[0]):
        return verify_folder(args, Path(args.files[0]).absolute())
    file, original = args.files
    with sigterm_raises():
        header, distortion = compare(file, original, args, num_workers=args.num_workers)
    psnr = psnr_text(distortion.psnr)
    print(f"{file}: as {original}: PSNR {psnr} of scale {header.scale:g}, largest error {distortion.largest_error:g}")
    return 0


def compare(
    file: str, original: str, args: argparse.Namespace, num_workers: int, axes: str | None = None
) -> tuple[Header, Distortion]:
    """Decode a file and compare it with the original scene.

    Args:
        file: the `.hsc` file.
        original: the scene that it was made of.
        args: arguments of decompress.py, for the weights of a model.
        num_workers: number of threads, 0 for one per core.
        axes: axes of a `.npy`.

    Returns:
        The header of the file, and the distortion of the valid samples of its coded bands.

    Raises:
        DatasetError: the original cannot be read, or is another scene.
        DamagedError: the file is damaged, or does not hold what it must.
    """
    with open_file(file) as reader, open_scene(original, axes=axes) as scene:
        header = reader.header
        shapes = [(info.bands, info.height, info.width, info.dtype) for info in (header.scene, scene.info)]
        if shapes[0] != shapes[1]:
            raise DatasetError(f"{original}: bands, rows, columns and type must be {shapes[0]}, got {shapes[1]}")
        codec = open_codec(reader, args.checkpoint, args.device)
        total, differences = Distortion(), []

        def add(row: int, column: int, samples: np.ndarray, masks: np.ndarray) -> None:
            nonlocal total
            place = row, column, *samples.shape[1:]
            expected = Parts.of(scene.read(*place), scene.read_masks(*place), header)
            found = Parts.of(samples, masks, header)
            for what in ("masks", "exact", "valid"):
                if not np.array_equal(getattr(found, what), getattr(expected, what)):
                    name = {"exact": "alpha bands", "valid": "nodata"}.get(what, what)
                    differences.append(f"other {name} in the tile at row {row}, column {column}")
            total += measure(expected.cube, found.cube, expected.valid, header.scale, codec.clips_to_scale)

        with pixel_bar("verifying", header.scene.height * header.scene.width) as advance:
            window = Window.whole(header.scene)
            problems = decompress_scene(reader, codec, add, window, False, use_cores(num_workers), advance)
    differences += problems.unguaranteed
    if header.max_error is not None and total.largest_error > largest_allowed(header.max_error, total, shapes[0][3]):
        differences.append(f"an error of {total.largest_error:g}, where {header.max_error:g} is the bound")
    if differences:
        raise DamagedError(f"{file}: differs from {original}: {'; '.join(differences)}")
    return header, total


# -- all files of a manifest ----------------------------------------------------------------------


def verify_folder(args: argparse.Namespace, folder: Path) -> int:
    """Compare the files of a manifest of `compress.py` with it and with their scenes.

    Raises:
        UsageError: there is no manifest, or it is not of `compress.py`.
    """
    rows = sorted({row.output: row for row in read_manifest(folder)}.values(), key=lambda row: row.output)
    if not rows or not all(row.output.endswith(".hsc") for row in rows):
        raise UsageError(f"{folder}: {MANIFEST} of compress.py, with .hsc files, is needed to verify a folder")
    memory = functools.partial(memory_of_files, [str(folder / row.output) for row in rows])
    try:
        workers = Workers.of(args, len(rows), memory)
        outcomes = list(workers.run(functools.partial(verify_row, args, folder), rows, "file"))
    except KeyboardInterrupt as interrupt:
        return interrupted(interrupt, "before the end: run the same command again")
    num_failed = print_errors(sorted(outcomes, key=lambda outcome: outcome.job.output))
    print(f"{folder}: {len(outcomes) - num_failed} verified, {num_failed} failed")
    return 1 if num_failed else 0


def verify_row(args: argparse.Namespace, folder: Path, row: Row, num_threads: int) -> None:
    """Compare a file with its row of the manifest, and with its scene.

    Raises:
        ProjectError: it differs.
    """
    path = str(folder / row.output)
    if not os.path.isfile(path):
        raise DamagedError(f"{path}: no such file")
    if file_sha256(path) != row.sha256:
        raise DamagedError(f"{path}: its SHA-256 is not that of {MANIFEST}: the file was changed")
    settings = json.loads(row.settings)
    header, distortion = compare(path, row.scene, args, num_threads, settings.get("axes"))
    psnr = distortion.psnr + 20 * math.log10(settings.get("peak", header.scale) / header.scale)
    if not (psnr == float(row.psnr) or abs(psnr - float(row.psnr)) <= PSNR_TOLERANCE):
        raise DamagedError(f"{path}: PSNR of {psnr:.4f} dB, where {MANIFEST} has {row.psnr}: {row.scene} was changed")
