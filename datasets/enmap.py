"""Conventions of EnMAP L2A and HySpecNet-11k: bands, values, file names.

A `SPECTRAL_IMAGE.TIF` holds 224 bands of int16, surface reflectance x 10000. HySpecNet-11k (Fuchs and
Demir, IGARSS 2023, doi 10.1109/IGARSS52108.2023.10283385) drops the two water vapor ranges, in which EnMAP
L2A has no usable signal, and keeps 202 bands.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

NUM_BANDS = 224
DROPPED_BANDS = (*range(127, 142), *range(161, 168))
"""1-based, as in the product's metadata: 127-141 and 161-167."""
KEPT_INDICES = tuple(i for i in range(NUM_BANDS) if i + 1 not in DROPPED_BANDS)
"""0-based, in product order. The wavelength is not monotonic over them, as the two detectors overlap."""
NUM_CHANNELS = len(KEPT_INDICES)  # 202

NODATA = -32768
SCALE = 10000
"""The digital number of reflectance 1.0."""
DTYPES = ("float32", "uint16")
"""Types of a `DATA.npy`: reflectances in [0, 1], or digital numbers, reflectance x 10000, in half the space."""
MAX_VALUE = 10000
"""Larger digital numbers (glint, clouds) are clipped to it."""

TIF_SUFFIX = "-SPECTRAL_IMAGE.TIF"
NPY_SUFFIX = "-DATA.npy"


def to_digital_numbers(samples: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Clip EnMAP L2A samples to the range of digital numbers that models see.

    Args:
        samples: int16 or uint16, reflectance x 10000.
        valid: bool of the same shape, False where there is no data.

    Returns:
        uint16 in [0, 10000]; negative samples (dark water) and samples without data become 0.
    """
    numbers = np.clip(samples, 0, MAX_VALUE).view(np.uint16)
    if not valid.all():
        numbers *= valid
    return numbers


def to_reflectance(numbers: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Convert digital numbers to reflectances: float32, `numbers` / 10000.

    The division gives the float32 nearest to the quotient. Multiplying by 1e-4 would give others for 3,186 of the
    10,001 values.

    Args:
        numbers: digital numbers.
        out: float32 array of the same shape to write to; None makes a new one.
    """
    x = np.empty(numbers.shape, np.float32) if out is None else out
    x[...] = numbers
    x /= np.float32(SCALE)
    return x


def npy_path_of(tif_path: Path) -> Path:
    """Return the path of the `DATA.npy` made from a TIF; a TIF of another name gives `<stem>-DATA.npy`."""
    name = tif_path.name
    stem = name.removesuffix(TIF_SUFFIX) if name.endswith(TIF_SUFFIX) else tif_path.stem
    return tif_path.with_name(stem + NPY_SUFFIX)


def tif_path_of(npy_path: Path) -> Path:
    """Return the path of the `*-SPECTRAL_IMAGE.TIF` that a `*-DATA.npy` is made from."""
    return npy_path.with_name(npy_path.name.removesuffix(NPY_SUFFIX) + TIF_SUFFIX)


def find_files(folder: Path, suffix: str) -> list[Path]:
    """Return all files under `folder` whose names end in `suffix`, sorted.

    Links to folders are followed: a subset of the data set is often a folder of links to tiles. Hidden files
    are skipped: macOS adds a `._NAME` to every NAME when it unpacks an archive on a foreign disk.
    """
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    )
