"""Tiny data sets in the real layout, with real EnMAP product names."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

REPOSITORY = Path(__file__).parents[2]
PRODUCT = "ENMAP01-____L2A-DT0000004950_20221103T162438Z_001_V010110_20221118T145147Z"


def patch_entry(tile: int, patch: int) -> str:
    """Return the path of a patch relative to patches/, as in the published splits."""
    stem = f"{PRODUCT}-Y{patch:04}0273_X{tile:04}0438"
    return f"tile_{tile:03}/tile_{tile:03}-patch_{patch:02}/{stem}-DATA.npy"


@pytest.fixture
def entry():
    return patch_entry


@pytest.fixture
def save_cube():
    """save_cube(path, shape=..., seed=...) writes a random cube in [0, 1) and returns it."""

    def save(path: Path, shape=(202, 12, 10), seed=0) -> np.ndarray:
        cube = np.random.default_rng(seed).random(shape, dtype=np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, cube)
        return cube

    return save


@pytest.fixture
def dataset_root(tmp_path, save_cube):
    """Make a root with 5 patches of 202 x 12 x 10 in splits/easy/train.csv."""
    root = tmp_path / "data"
    entries = [patch_entry(1 + i // 2, 1 + i) for i in range(5)]
    for i, name in enumerate(entries):
        save_cube(root / "patches" / name, seed=i)
    csv_path = root / "splits" / "easy" / "train.csv"
    csv_path.parent.mkdir(parents=True)
    csv_path.write_text("".join(f"{name}\n" for name in entries))
    return root


@pytest.fixture
def save_tif():
    """save_tif(path, bands, **profile) writes an int16 GeoTIFF and returns the bands."""

    def save(path: Path, bands: np.ndarray | None = None, seed=0, size=(12, 10), **profile) -> np.ndarray:
        if bands is None:
            bands = np.random.default_rng(seed).integers(-500, 11000, (224, *size)).astype(np.int16)
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = bands.shape
        settings = dict(driver="GTiff", dtype=bands.dtype, count=count, height=height, width=width)
        settings |= dict(nodata=-32768, compress="deflate", interleave="band")
        settings |= dict(transform=rasterio.Affine(30, 0, 688005, 0, -30, 4561935))
        with rasterio.open(path, "w", **(settings | profile)) as tif:
            tif.write(bands)
        return bands

    return save


@pytest.fixture
def tif_root(tmp_path, save_tif):
    """Make a root with 3 good TIFs of 224 x 12 x 10 and no DATA.npy."""
    root = tmp_path / "tifs"
    for i in range(3):
        npy_path = root / "patches" / patch_entry(1 + i, 1)
        save_tif(npy_path.with_name(npy_path.name.replace("-DATA.npy", "-SPECTRAL_IMAGE.TIF")), seed=i)
    return root


@pytest.fixture
def save_metadata():
    """save_metadata(path, bands=224) writes EnMAP metadata: band k at 400 + 10 k nm, 6 + k / 100 wide.

    The bands are listed from the last to the first.
    """

    def save(path: Path, bands=224) -> None:
        fields = "<wavelengthCenterOfBand>{}</wavelengthCenterOfBand><FWHMOfBand>{}</FWHMOfBand>"
        fields += "<GainOfBand>0.0001</GainOfBand><OffsetOfBand>0</OffsetOfBand>"
        text = "".join(
            f'<bandID number="{k}">{fields.format(400 + 10 * k, 6 + k / 100)}</bandID>' for k in range(bands, 0, -1)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            '<?xml version="1.0" encoding="UTF-8"?><level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
            f"<specific><bandCharacterisation>{text}</bandCharacterisation></specific></level_X>"
        )

    return save


@pytest.fixture
def start():
    """start(*args) starts `python -m *args` in a session of its own; it is killed at the end of the test."""
    processes = []

    def run(*args) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, args)],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # orphans too: they would keep the pipes open
        process.communicate()
