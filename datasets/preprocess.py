"""Make the `*-DATA.npy` files that the models read out of the `*-SPECTRAL_IMAGE.TIF` files of HySpecNet-11k.

    python -m datasets.preprocess ./datasets/hyspecnet-11k/              # the whole data set, on all cores
    python -m datasets.preprocess ./datasets/sample/                     # the bundled sample
    python -m datasets.preprocess ./datasets/hyspecnet-11k/ --dry-run    # only list what is to be done
    python -m datasets.preprocess ./datasets/hyspecnet-11k/ --dtype uint16    # 76 GB instead of 152, the same data

224 bands of int16 become float32 (202, H, W): water vapour bands dropped, clipped to [0, 10000], divided by
10000. With `--dtype uint16` the reader divides instead, and gives the same values to the bit. A killed run
goes on where it stopped when it is started again. Files that cannot be used are listed at the end.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window
from tqdm import tqdm

from datasets.cubes import open_cube, to_reflectance
from datasets.enmap import (
    DTYPES,
    KEPT_INDICES,
    MAX_VALUE,
    NODATA,
    NUM_BANDS,
    NUM_CHANNELS,
    TIF_SUFFIX,
    find_files,
    npy_path_of,
)
from utils.errors import DatasetError, UsageError, run_script
from utils.files import atomic_write
from utils.options import positive_int
from utils.processes import Terminated, num_cores, run_in_processes, sigterm_raises

WINDOW_BYTES = 64 * 2**20
"""Most of a TIF that is held at once: a HySpecNet-11k patch (7 MB) is read whole, a scene in rows."""
GDAL_CACHE_BYTES = 512 * 2**20
"""Enough for one row of 512 x 512 tiles of an EnMAP scene, so that no tile is decompressed twice."""


class Job(NamedTuple):
    tif_path: Path
    npy_path: Path


class Outcome(NamedTuple):
    """What became of a job: `error` is None for a file that was made."""

    tif_path: Path
    nodata_share: float = 0.0
    error: str | None = None


def to_digital_numbers(bands: np.ndarray) -> np.ndarray:
    """Raw EnMAP L2A values to those that the models see.

    Args:
        bands: int16 (224, h, w), reflectance x 10000, nodata -32768.

    Returns:
        uint16 (202, h, w) in [0, 10000]; negative values (dark water) and nodata are 0.

    Raises:
        ValueError: another number of bands or another type.
    """
    if bands.ndim != 3 or bands.shape[0] != NUM_BANDS or bands.dtype != np.int16:
        raise ValueError(f"{bands.dtype} {bands.shape}, expected int16 ({NUM_BANDS}, height, width)")
    return np.clip(bands[list(KEPT_INDICES)], 0, MAX_VALUE).astype(np.uint16)


def preprocess_file(tif_path: Path, npy_path: Path, dtype: str = "float32") -> float:
    """Write the kept values of a TIF, of any height and width, to `npy_path` in bounded memory.

    Args:
        dtype: "float32" for reflectances, "uint16" for `to_digital_numbers`.

    Returns:
        The share in [0, 1] of nodata among the values of the 202 kept bands. Nodata is -32768 or what the
        file's own tag says; it is written as 0.

    Raises:
        DatasetError: the TIF cannot be read, or is not int16 with 224 bands. `npy_path` is left as it was.
        OSError: `npy_path` cannot be written.
    """
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(tif_path, driver="GTiff") as tif:
                if tif.count != NUM_BANDS or set(tif.dtypes) != {"int16"}:
                    raise DatasetError(
                        f"{tif_path}: {tif.count} bands of {'/'.join(sorted(set(tif.dtypes)))}, "
                        f"expected {NUM_BANDS} bands of int16 as in EnMAP L2A"
                    )
                return _convert(tif, npy_path, np.dtype(dtype))
    except RasterioError as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise DatasetError(f"{tif_path}: cannot be read, unpack or download it again ({cause})") from error


def _convert(tif: rasterio.DatasetReader, npy_path: Path, dtype: np.dtype) -> float:
    shape = (NUM_CHANNELS, tif.height, tif.width)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    num_nodata = 0
    with atomic_write(npy_path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        data_start = file.tell()
        for window in _row_windows(tif):
            bands = tif.read(window=window)
            if tif.nodata is not None:
                bands[bands == tif.nodata] = NODATA
            num_nodata += np.count_nonzero(bands[list(KEPT_INDICES)] == NODATA)
            numbers = to_digital_numbers(bands)
            for channel, rows in enumerate(to_reflectance(numbers) if dtype == np.float32 else numbers):
                pixels_before = channel * tif.height * tif.width + window.row_off * tif.width
                file.seek(data_start + pixels_before * rows.itemsize)
                file.write(rows.data)
    return num_nodata / math.prod(shape)


def _row_windows(tif: rasterio.DatasetReader) -> Iterator[Window]:
    """Full rows from top to bottom, at most WINDOW_BYTES of all bands, whole TIF blocks if they fit."""
    rows = max(1, WINDOW_BYTES // (NUM_BANDS * np.dtype(np.int16).itemsize * tif.width))
    block_height = tif.block_shapes[0][0]
    if rows > block_height:
        rows -= rows % block_height
    for top in range(0, tif.height, rows):
        yield Window(0, top, tif.width, min(rows, tif.height - top))


def find_jobs(root: Path) -> list[Job]:
    """All TIFs of a data set's root, of any folder, or `root` itself if it is one TIF.

    Raises:
        UsageError: `root` does not exist.
        DatasetError: no TIF in it.
    """
    if not root.exists():
        raise UsageError(f"{root}: no such folder or file")
    tif_paths = [root] if root.is_file() else find_files(root, TIF_SUFFIX)
    if not tif_paths:
        raise DatasetError(f"{root}: no *{TIF_SUFFIX} in it or below; give the folder that holds patches/")
    return [Job(tif_path, npy_path_of(tif_path)) for tif_path in tif_paths]


def is_finished(npy_path: Path) -> bool:
    """Whether `npy_path` is a complete (202, H, W) of either type: a half copied file of another tool is not."""
    try:
        return open_cube(npy_path).shape[0] == NUM_CHANNELS
    except DatasetError:
        return False


def process(job: Job, dtype: str) -> Outcome:
    """`preprocess_file` in a worker: a bad file is an outcome, so that it does not stop the rest."""
    try:
        return Outcome(job.tif_path, nodata_share=preprocess_file(*job, dtype))
    except (DatasetError, OSError) as error:
        return Outcome(job.tif_path, error=str(error))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.preprocess",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, help="folder that holds patches/, any other folder, or a single TIF")
    parser.add_argument(
        "--num-workers",
        type=positive_int,
        default=num_cores(),
        help="processes (default: all cores, %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="make finished files again")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="of new files; uint16 takes half the space for the same data (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be made, and make nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    jobs = find_jobs(args.root)
    todo = [job for job in jobs if args.overwrite or not is_finished(job.npy_path)]
    num_skipped = len(jobs) - len(todo)
    if args.dry_run:
        for job in todo:
            print(job.npy_path)
        print(f"{len(todo)} to make, {num_skipped} to skip")
        return 0

    num_workers = min(args.num_workers, max(1, len(todo)))
    outcomes: list[Outcome] = []
    start = time.perf_counter()
    try:
        with (
            sigterm_raises(),
            closing(run_in_processes(functools.partial(process, dtype=args.dtype), todo, num_workers)) as running,
            tqdm(total=len(todo), unit="patch", disable=None) as progress,  # None: quiet without a terminal
        ):
            for outcome in running:
                outcomes.append(outcome)
                progress.update()
    except KeyboardInterrupt as interrupt:
        name, status = ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
        print(
            f"{name} after {len(outcomes)} of {len(todo)} files: the same command goes on from there",
            file=sys.stderr,
        )
        return status
    seconds = time.perf_counter() - start

    outcomes.sort()
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in outcomes:
        if outcome.nodata_share > 0:
            print(
                f"warning: {outcome.tif_path}: {outcome.nodata_share:.2%} of the values in kept bands are "
                "nodata, written as 0",
                file=sys.stderr,
            )
    for outcome in failed:
        print(f"error: {outcome.error}", file=sys.stderr)
    num_made = len(outcomes) - len(failed)
    print(
        f"{num_made} made, {num_skipped} skipped, {len(failed)} failed, {num_made / seconds:.1f} patches/s",
        flush=True,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
