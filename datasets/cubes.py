"""Opening a `DATA.npy` without reading it, and telling every way in which it can be unfit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.enmap import SCALE
from utils.errors import DatasetError, one_line


def open_cube(path: Path) -> np.memmap:
    """Map a cube (C, H, W) into memory: pages are read when they are used.

    float32 cubes hold reflectances in [0, 1], uint16 ones the digital numbers they are made of, reflectance
    x 10000, in half the space.

    Raises:
        DatasetError: `path` is missing, truncated, longer than its header says, no `.npy`, a pickled object,
            not three-dimensional or of another type. One line, `<path>: <what is wrong>`.
    """
    try:
        cube = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file") from error
    except Exception as error:  # what numpy raises for a damaged header is not documented
        raise DatasetError(f"{path}: damaged, or no .npy file ({one_line(error)})") from error
    if not isinstance(cube, np.memmap):  # an .npz archive under another name
        raise DatasetError(f"{path}: no .npy file but an archive")
    if cube.ndim != 3:
        raise DatasetError(f"{path}: shape {cube.shape}, expected (channels, height, width)")
    if cube.dtype not in (np.float32, np.uint16):
        raise DatasetError(f"{path}: dtype {cube.dtype}, expected float32 or uint16")
    if cube.offset + cube.nbytes != path.stat().st_size:
        raise DatasetError(f"{path}: longer than its header says")
    return cube


def to_reflectance(numbers: np.ndarray) -> np.ndarray:
    """Digital numbers to reflectances: float32, `numbers` / 10000.

    A true division: it gives the float32 nearest to the quotient, which multiplying by 1e-4 does not for 3,186
    of the 10,001 values.
    """
    x = numbers.astype(np.float32)
    x /= np.float32(SCALE)
    return x
