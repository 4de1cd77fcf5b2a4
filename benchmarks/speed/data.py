"""Measure preprocessing and loading, compared with reading the same files."""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.files import drop_from_cache, read_files, read_scene
from benchmarks.speed.measure import SEED, interleaved
from datasets import preprocess
from datasets.enmap import DTYPES, MAX_VALUE, NUM_CHANNELS, npy_path_of, to_reflectance
from datasets.hyspecnet11k import HySpecNet11k
from datasets.loading import ThreadLoader, batches_in_order
from datasets.transforms import get_transform
from utils.errors import DatasetError
from utils.processes import num_cores
from utils.workers import Outcome, run

PATCH_SIDE = 128
"""Height and width in pixels of the generated patches that are loaded."""
LOADER_BATCH = 2
"""The default batch size of train.py."""
WORKERS = (0, 1, 2, 4)
"""Numbers of threads that load; the last one is the default of train.py."""


def measure_preprocessing(root: Path, scratch: Path, quick: bool, say: Callable[[str], None]) -> Iterator[dict]:
    """Measure the patches/s of datasets.preprocess, with one process and with all cores, and of reading TIFs alone.

    Counting begins after as many patches as there are processes: for 11,483 patches their start does not matter.

    Args:
        root: folder with TIFs, which are not changed.
        scratch: folder whose disk is measured; files written there are removed.
        quick: take fewer patches.
        say: called with a line of text before every measurement.

    Yields:
        A row for each number of processes.

    Raises:
        DatasetError: `root` is not a folder, has no TIFs, or has damaged ones.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder: give -d a folder with TIFs")
    sources = [job.tif_path for job in preprocess.find_jobs(root)]
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tifs-") as folder:
        for workers in sorted({1, num_cores()}):
            say(f"preprocessing, processes: {workers}")
            num_copies = max(4 if quick else 8, 3 * workers)
            jobs = []
            for index in range(num_copies):
                path = Path(folder) / f"{workers}-{index:03}-SPECTRAL_IMAGE.TIF"
                shutil.copyfile(sources[index % len(sources)], path)
                jobs.append(preprocess.Job(path, npy_path_of(path)))
            read = run(read_scene, [job.tif_path for job in jobs], num_workers=workers)
            read_rate = steady_rate(read, workers)
            process = functools.partial(preprocess.process, rule=preprocess.ENMAP, overwrite=True)
            rate = steady_rate(run(process, jobs, num_workers=workers), workers)
            yield {
                "processes": workers,
                "patches": num_copies,
                "patches_per_second": rate,
                "reading_patches_per_second": read_rate,
                "share_of_reading": rate / read_rate,
            }


def steady_rate(outcomes: Iterable[Outcome], skipped: int) -> float:
    """Return the outcomes per second after the first `skipped` of them.

    Raises:
        DatasetError: a job failed.
    """
    times = []
    for outcome in outcomes:
        times.append(time.perf_counter())
        if outcome.error is not None:
            raise DatasetError(outcome.error)
    return (len(times) - skipped) / (times[-1] - times[skipped - 1])


def measure_loading(scratch: Path, quick: bool, repeats: int, say: Callable[[str], None]) -> Iterator[dict]:
    """Measure the patches/s of the loader on the CPU, and of reading the same files, from disk and memory.

    Args:
        scratch: folder whose disk is measured; files written there are removed.
        quick: take fewer patches.
        repeats: passes over all patches.
        say: called with a line of text before every measurement.

    Yields:
        A row for each type of file, transform, number of workers, and cold or warm page cache.
    """
    num_patches = 24 if quick else 64
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".patches-") as folder:
            paths = make_patches(Path(folder), num_patches, dtype, PATCH_SIDE)
            for transform in ("none", "random_16x16"):
                dataset = HySpecNet11k(folder, transform=get_transform(transform))
                for workers in WORKERS:
                    say(f"loading {dtype}, transform {transform}, workers: {workers}")
                    load = _loading(dataset, torch.device("cpu"), workers)
                    for rates in _loading_rates(load, paths, repeats):
                        yield {"dtype": dtype, "transform": transform, "workers": workers, **rates}


def measure_loading_to(device: torch.device, scratch: Path, say: Callable[[str], None]) -> Iterator[dict]:
    """Yield rows like those of `benchmarks.speed.gpu` for batches that are loaded to a GPU from memory.

    Args:
        device: the GPU.
        scratch: folder for generated files, which are removed.
        say: called with a line of text before every measurement.
    """
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".patches-") as folder:
            say(f"loading {dtype} to the GPU, workers: {WORKERS[-1]}")
            num_patches = len(make_patches(Path(folder), 64, dtype, PATCH_SIDE))
            load = _loading(HySpecNet11k(folder), device, WORKERS[-1])
            load()
            times = [LOADER_BATCH / num_patches * seconds for seconds in interleaved([load], 5, device)[0]]
            yield {
                "model": None,
                "work": "load",
                "batch": LOADER_BATCH,
                "side": PATCH_SIDE,
                "form": f"{dtype}, {WORKERS[-1]} threads",
                "seconds": statistics.median(times),
                "all_seconds": times,
                "note": None,
            }


def _loading(dataset: HySpecNet11k, device: torch.device, workers: int) -> Callable[[], None]:
    """Return a function that loads all images of a split, ready on a device."""
    loader = ThreadLoader(dataset, batches_in_order(dataset, LOADER_BATCH), device, workers)

    def load() -> None:
        for _ in loader:
            pass

    return load


def _loading_rates(load: Callable[[], None], paths: Sequence[Path], repeats: int) -> Iterator[dict]:
    """Yield the rates of loading the patches in `paths`, with a cold and with a warm page cache."""
    read = functools.partial(read_files, paths)
    load()
    for cache in ("cold", "warm"):
        before = functools.partial(drop_from_cache, paths) if cache == "cold" else None
        if cache == "warm":
            read()
        reading, loading = map(statistics.median, interleaved([read, load], repeats, before=before))
        yield {
            "cache": cache,
            "patches": len(paths),
            "patches_per_second": len(paths) / loading,
            "reading_patches_per_second": len(paths) / reading,
            "share_of_reading": reading / loading,
        }


def make_patches(root: Path, count: int, dtype: str, side: int) -> list[Path]:
    """Generate a data set of identical noise patches (202, side, side), flushed to the disk.

    All patches are in the train split, and the first is in the val split, too.

    Args:
        root: an empty folder.
        count: number of patches.
        dtype: "uint16" for digital numbers in [0, 10000], "float32" for reflectances in [0, 1].
        side: height and width in pixels.

    Returns:
        The paths of the patches.
    """
    shape = (NUM_CHANNELS, side, side)
    cube = np.random.default_rng(SEED).integers(0, MAX_VALUE + 1, shape, dtype=np.uint16)
    if dtype == "float32":
        cube = to_reflectance(cube)
    (root / "patches").mkdir()
    (root / "splits" / "easy").mkdir(parents=True)
    names = [f"{index:03}-DATA.npy" for index in range(count)]
    for name in names:
        with open(root / "patches" / name, "wb") as file:
            np.save(file, cube)
            file.flush()
            os.fsync(file.fileno())
    (root / "splits" / "easy" / "train.csv").write_text("\n".join(names))
    (root / "splits" / "easy" / "val.csv").write_text(names[0])
    return [root / "patches" / name for name in names]
