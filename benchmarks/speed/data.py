"""Preprocessing and loading beside reading the same files and nothing else."""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from benchmarks.speed.measure import SEED, drop_from_cache, interleaved, read_files
from datasets import preprocess
from datasets.enmap import MAX_VALUE, NUM_CHANNELS, npy_path_of, to_reflectance
from datasets.hyspecnet11k import HySpecNet11k
from datasets.scenes import open_scene
from datasets.transforms import get_transform
from utils.errors import DatasetError
from utils.processes import num_cores, run_in_processes

PATCH_SIDE = 128  # of generated patches for the loader
_LOADER_BATCH = 2  # train.py's default


def measure_preprocessing(root: Path, scratch: Path, quick: bool, say: Callable[[str], None]) -> Iterator[dict]:
    """Patches/s of datasets.preprocess, with one process and with all cores, beside reading the TIFs alone.

    Counted from when there are as many finished as there are processes: how long these take to start does
    not matter for 11,483 patches.

    Args:
        root: folder with TIFs, which stay as they are.
        scratch: folder whose disk is measured; what is written there is removed.
        quick: fewer patches.
        say: told of every measurement before it begins.

    Yields:
        A row for each number of processes.

    Raises:
        DatasetError: `root` is no folder, has no TIFs, or damaged ones.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; -d names one with TIFs")
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
            read_rate = steady_rate(run_in_processes(read_scene, [job.tif_path for job in jobs], workers), workers)
            made = run_in_processes(functools.partial(preprocess.process, dtype="float32"), jobs, workers)
            rate = steady_rate(made, workers)
            yield {
                "processes": workers,
                "patches": num_copies,
                "patches_per_second": rate,
                "reading_patches_per_second": read_rate,
                "share_of_reading": rate / read_rate,
            }


def read_scene(path: Path) -> None:
    """Read and decode all bands of a scene."""
    with open_scene(path) as scene:
        scene.read(0, 0, scene.info.height, scene.info.width)


def steady_rate(results: Iterable, skipped: int) -> float:
    """Results per second, from when `skipped` of them are there.

    Raises:
        DatasetError: a result that says it is an error.
    """
    times = []
    for result in results:
        times.append(time.perf_counter())
        if getattr(result, "error", None):
            raise DatasetError(result.error)
    return (len(times) - skipped) / (times[-1] - times[skipped - 1])


def measure_loading(scratch: Path, quick: bool, repeats: int, say: Callable[[str], None]) -> Iterator[dict]:
    """Patches/s through HySpecNet11k and DataLoader beside reading the same files, from the disk and from memory.

    Workers are running before the clock does.

    Args:
        scratch: folder whose disk is measured; what is written there is removed.
        quick: fewer patches.
        repeats: passes over all patches.
        say: told of every measurement before it begins.

    Yields:
        A row for each type of file, transform, number of workers, and cold or warm page cache.
    """
    num_patches = 24 if quick else 64
    for dtype in ("float32", "uint16"):
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".patches-") as folder:
            paths = make_patches(Path(folder), num_patches, dtype, PATCH_SIDE)
            for transform in ("none", "random_16x16"):
                dataset = HySpecNet11k(folder, transform=get_transform(transform))
                for workers in (0, 2):
                    say(f"loading {dtype}, transform {transform}, workers: {workers}")
                    loader = DataLoader(dataset, _LOADER_BATCH, num_workers=workers, persistent_workers=workers > 0)

                    def load(loader=loader):
                        for _ in loader:
                            pass

                    load()
                    for cache in ("cold", "warm"):
                        before = (lambda paths=paths: drop_from_cache(paths)) if cache == "cold" else None
                        if cache == "warm":
                            read_files(paths)
                        times = interleaved([lambda paths=paths: read_files(paths), load], repeats, before=before)
                        reading, loading = map(statistics.median, times)
                        yield {
                            "dtype": dtype,
                            "transform": transform,
                            "workers": workers,
                            "cache": cache,
                            "patches": num_patches,
                            "patches_per_second": num_patches / loading,
                            "reading_patches_per_second": num_patches / reading,
                            "share_of_reading": reading / loading,
                        }


def make_patches(root: Path, count: int, dtype: str, side: int) -> list[Path]:
    """A data set of `count` equal patches of noise (202, side, side), written through to the disk.

    All of them are to train on, the first is also to validate on.

    Args:
        root: an empty folder.
        dtype: uint16, digital numbers in [0, 10000], or float32, reflectances in [0, 1].

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
