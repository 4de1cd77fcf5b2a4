"""Opening a `DATA.npy` without reading it, and telling every way in which it can be unfit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.errors import DatasetError


def open_cube(path: Path) -> np.memmap:
    """Map a float32 cube (C, H, W) into memory: pages are read when they are used.

    Raises:
        DatasetError: `path` is missing, truncated, longer than its header says, no `.npy`, a pickled object,
            not three-dimensional or not float32. One line, `<path>: <what is wrong>`.
    """
    try:
        cube = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file") from error
    except Exception as error:  # what numpy raises for a damaged header is not documented
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path}: damaged, or no .npy file ({reason})") from error
    if not isinstance(cube, np.memmap):  # an .npz archive under another name
        raise DatasetError(f"{path}: no .npy file but an archive")
    if cube.ndim != 3:
        raise DatasetError(f"{path}: shape {cube.shape}, expected (channels, height, width)")
    if cube.dtype != np.float32:
        raise DatasetError(f"{path}: dtype {cube.dtype}, expected float32")
    if cube.offset + cube.nbytes != path.stat().st_size:
        raise DatasetError(f"{path}: longer than its header says")
    return cube
