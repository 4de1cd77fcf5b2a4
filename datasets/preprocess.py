"""Make the `*-DATA.npy` files that models read from the `*-SPECTRAL_IMAGE.TIF` files of HySpecNet-11k.

    python -m datasets.preprocess ./datasets/hyspecnet-11k/              # the whole data set, on all cores
    python -m datasets.preprocess ./datasets/sample/                     # the bundled sample
    python -m datasets.preprocess ./datasets/hyspecnet-11k/ --dry-run    # only list the files to make
    python -m datasets.preprocess ./datasets/hyspecnet-11k/ --dtype uint16    # 76 GB instead of 152, the same data
    python -m datasets.preprocess ./datasets/hyspecnet-11k/ --scheduler tcp://node1:8786    # by a Dask cluster

224 bands of int16 become float32 (202, H, W): water vapor bands dropped, clipped to [0, 10000], divided by
10000. With `--dtype uint16` the reader divides instead, and gives the same values to the bit. With another number of
`--num-bands`, for other sensors, all bands are kept, and scales and offsets of the TIF are applied. The same command
resumes a run that was stopped, or helps one that is at work. Files that cannot be used are listed at the end.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets import npy
from datasets.base import SceneInfo, valid_mask, valid_samples
from datasets.enmap import (
    DTYPES,
    KEPT_INDICES,
    NODATA,
    NUM_BANDS,
    NUM_CHANNELS,
    SCALE,
    TIF_SUFFIX,
    find_tifs,
    npy_path_of,
    to_digital_numbers,
    to_reflectance,
)
from datasets.scenes import create_scene, open_scene
from utils.errors import BusyError, DatasetError, UsageError
from utils.files import remove_leftovers
from utils.options import positive_int
from utils.processes import num_cores
from utils.scripts import run_script
from utils.workers import Outcome, add_scheduler_option, interrupted, print_errors, run_with_bar

WINDOW_BYTES = 128 * 2**20
"""Largest window that is held at once: a HySpecNet-11k patch (7 MB) is read whole, a scene in rows."""
JOB_BYTES = 10**9
"""Memory that a worker needs: samples of a window as int16, then as floats, and their masks."""


class Job(NamedTuple):
    """A file to make.

    Attributes:
        tif_path: the source.
        npy_path: the file to write.
    """

    tif_path: Path
    npy_path: Path


class Made(NamedTuple):
    """What became of a job that did not fail.

    Attributes:
        nodata_share: share in [0, 1] of samples without data.
        is_elsewhere: whether another process has made the file, or is making it.
    """

    nodata_share: float = 0.0
    is_elsewhere: bool = False


class Rule(NamedTuple):
    """How a scene becomes a `DATA.npy`.

    Attributes:
        dtype: "float32" for reflectances, "uint16" for digital numbers.
        num_bands: bands that each scene must have. With EnMAP's 224 those of water vapor are dropped.
    """

    dtype: str = "float32"
    num_bands: int = NUM_BANDS

    @property
    def is_enmap(self) -> bool:
        """Whether scenes are EnMAP L2A."""
        return self.num_bands == NUM_BANDS

    @property
    def num_channels(self) -> int:
        """Bands of the `DATA.npy`."""
        return NUM_CHANNELS if self.is_enmap else self.num_bands


ENMAP = Rule()


def preprocess_file(tif_path: Path, npy_path: Path, rule: Rule = ENMAP) -> float:
    """Convert a scene of any height and width to a `DATA.npy`, in bounded memory.

    Args:
        tif_path: the scene: EnMAP L2A, 224 bands of int16; or by `rule` of another sensor, with integers that are
            reflectance x 10000, floats that are reflectances, or any samples with scale and offset.
        npy_path: the file to write.
        rule: number of bands, and type to write.

    Returns:
        The share in [0, 1] of samples without data in the kept bands: of the file's own nodata value, for EnMAP also
        -32768, for others also masked ones, NaN and infinity. They are written as 0.

    Raises:
        DatasetError: the scene cannot be read, or has other bands or another type. `npy_path` is left as it was.
        OSError: `npy_path` cannot be written.
    """
    num_nodata = 0
    with open_scene(tif_path) as scene:
        info = scene.info
        if info.bands != rule.num_bands or (rule.is_enmap and info.dtype != "int16"):
            kind = f"{NUM_BANDS} bands of int16 as in EnMAP L2A" if rule.is_enmap else f"{rule.num_bands} bands"
            remedy = f"; of another sensor: --num-bands {info.bands}" if info.bands != rule.num_bands else ""
            raise DatasetError(f"{tif_path}: {info.bands} bands of {info.dtype}, expected {kind}{remedy}")
        with create_scene(npy_path, SceneInfo(info.height, info.width, rule.num_channels, rule.dtype)) as target:
            for row, height in row_windows(info, scene.block_height):
                window = (row, 0, height, info.width)
                to_numbers = _enmap_numbers if rule.is_enmap else _numbers
                numbers, valid = to_numbers(info, scene.read(*window), scene.read_masks(*window), rule.dtype)
                num_nodata += valid.size - np.count_nonzero(valid)
                target.write(row, 0, numbers)
    return num_nodata / (rule.num_channels * info.height * info.width)


def _enmap_numbers(
    info: SceneInfo, samples: np.ndarray, masks: np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a `DATA.npy` and where they are valid, (202, H, W), from a window of EnMAP L2A."""
    samples = samples[list(KEPT_INDICES)]
    valid = valid_mask(samples, NODATA)
    if info.nodata != NODATA:
        valid &= valid_mask(samples, info.nodata)
    numbers = to_digital_numbers(samples, valid)
    return (to_reflectance(numbers) if dtype == "float32" else numbers), valid


def _numbers(info: SceneInfo, samples: np.ndarray, masks: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a `DATA.npy` and where they are valid, (C, H, W), from a window of another sensor."""
    valid = valid_samples(samples, info)
    if len(masks):
        valid &= masks
    scales = np.array(info.scales or (1 if samples.dtype.kind == "f" else 1 / SCALE,))
    offsets = np.array(info.offsets or (0,))
    reflectances = np.where(valid, samples * scales[:, None, None] + offsets[:, None, None], 0).clip(0, 1)
    return (reflectances.astype(dtype) if dtype == "float32" else np.rint(SCALE * reflectances).astype(dtype)), valid


def row_windows(info: SceneInfo, block_height: int) -> Iterator[tuple[int, int]]:
    """Split a scene into windows of full rows, at most `WINDOW_BYTES` each, and of whole blocks if they fit.

    Args:
        info: metadata of the scene.
        block_height: rows of the blocks of its file.

    Yields:
        First row and height of each window, from top to bottom.
    """
    height = max(1, WINDOW_BYTES // (info.bands * info.width * np.dtype(info.dtype).itemsize))
    if height > block_height:
        height -= height % block_height
    for row in range(0, info.height, height):
        yield row, min(height, info.height - row)


def find_jobs(root: Path) -> list[Job]:
    """Return a job for each TIF in `root` or below, or for `root` itself if it is a file.

    Raises:
        UsageError: `root` does not exist.
        DatasetError: there is no TIF in `root` or below.
    """
    if not root.exists():
        raise UsageError(f"{root}: no such folder or file")
    tif_paths = [root] if root.is_file() else find_tifs(root)
    if not tif_paths:
        raise DatasetError(f"{root}: no *{TIF_SUFFIX} in it or below; give the folder that holds patches/")
    return [Job(tif_path, npy_path_of(tif_path)) for tif_path in tif_paths]


def is_finished(npy_path: Path, num_channels: int = NUM_CHANNELS) -> bool:
    """Return whether `npy_path` is a complete cube (num_channels, H, W): a partly copied file is not."""
    try:
        return npy.map_cube(npy_path, DTYPES).shape[0] == num_channels
    except DatasetError:
        return False


def process(job: Job, rule: Rule, overwrite: bool) -> Made:
    """Run `preprocess_file` in a worker, unless another process does.

    Raises:
        DatasetError, OSError: see `preprocess_file`.
    """
    if not overwrite and is_finished(job.npy_path, rule.num_channels):  # since this run began
        return Made(is_elsewhere=True)
    try:
        return Made(preprocess_file(*job, rule))
    except BusyError:
        return Made(is_elsewhere=True)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
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
    add_scheduler_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="make finished files again")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="sample type of new files; uint16 halves the size for the same data (default: %(default)s)",
    )
    parser.add_argument(
        "--num-bands",
        type=positive_int,
        default=NUM_BANDS,
        help="bands of each TIF; of other numbers than EnMAP's all bands are kept (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the files to make, but make none")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    args = parse_args(argv)
    rule = Rule(args.dtype, args.num_bands)
    jobs = find_jobs(args.root.absolute() if args.scheduler else args.root)  # workers have folders of their own
    todo = [job for job in jobs if args.overwrite or not is_finished(job.npy_path, rule.num_channels)]
    num_skipped = len(jobs) - len(todo)
    if args.dry_run:
        for job in todo:
            print(job.npy_path)
        print(f"{len(todo)} to make, {num_skipped} to skip")
        return 0

    for job in jobs:
        remove_leftovers(job.npy_path)  # of a run that was killed after it had finished the file

    outcomes: list[Outcome[Job, Made]] = []
    start = time.perf_counter()
    try:
        function = functools.partial(process, rule=rule, overwrite=args.overwrite)
        how = {"num_workers": args.num_workers, "scheduler": args.scheduler, "job_bytes": JOB_BYTES}
        for outcome in run_with_bar(function, todo, "patch", **how):
            outcomes.append(outcome)
    except KeyboardInterrupt as interrupt:
        for job in todo:
            remove_leftovers(job.npy_path)  # of a worker that was stopped just as it made its file
        return interrupted(interrupt, f"after {len(outcomes)} of {len(todo)} files: the same command resumes")
    return report(sorted(outcomes, key=lambda outcome: outcome.job), rule, num_skipped, time.perf_counter() - start)


def report(outcomes: Sequence[Outcome[Job, Made]], rule: Rule, num_skipped: int, seconds: float) -> int:
    """Print warnings, errors and a summary; return the exit status."""
    done = [(outcome.job, outcome.value) for outcome in outcomes if outcome.value is not None]
    for job, made in done:
        if made.nodata_share > 0:
            print(
                f"warning: {job.tif_path}: {made.nodata_share:.2%} of the values in kept bands are nodata, "
                "written as 0",
                file=sys.stderr,
            )
    num_errors = print_errors(outcomes)
    elsewhere = [job.npy_path for job, made in done if made.is_elsewhere]
    unfinished = [path for path in elsewhere if not is_finished(path, rule.num_channels)]
    if unfinished:
        print(
            f"error: another process is still making {len(unfinished)} of the files, such as {unfinished[0]}: "
            "run the same command again when it has ended",
            file=sys.stderr,
        )
    num_made = len(done) - len(elsewhere)
    print(
        f"{num_made} made, {num_skipped} skipped, {num_errors} failed, {num_made / seconds:.1f} patches/s"
        + (f"; {len(elsewhere)} left to another process" if elsewhere else ""),
        flush=True,
    )
    return 1 if num_errors or unfinished else 0


if __name__ == "__main__":
    run_script(main)
