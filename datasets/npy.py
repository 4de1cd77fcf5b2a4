"""numpy's `.npy` files as scenes: cubes (bands, rows, columns), memory-mapped for reading."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from datasets.base import DTYPES, Loss, SceneFormat, SceneInfo, SceneReader, SceneWriter
from datasets.losses import unkept
from datasets.raw import Layout, RawReader, RawWriter
from utils.errors import DatasetError, is_out_of_memory, one_line
from utils.files import atomic_write

AXES = "brc"
"""Axes of a written cube: bands, rows, columns."""


def map_cube(path: Path, dtypes: Collection[str] = DTYPES) -> np.memmap:
    """Map a cube (bands, rows, columns) into memory: pages are read when they are used.

    Args:
        path: the `.npy` file.
        dtypes: permitted sample types, in either byte order.

    Raises:
        DatasetError: `path` is missing, truncated, longer than its header says, no `.npy`, a pickled object,
            empty, not three-dimensional or of another type. One line, `<path>: <reason>`.
    """
    try:
        with np.errstate(over="raise"):  # a size whose product overflows
            cube = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file") from error
    except Exception as error:  # what numpy raises for a damaged header is not documented
        if is_out_of_memory(error):
            raise
        raise DatasetError(f"{path}: damaged, or no .npy file ({one_line(error)})") from error
    if cube.ndim != 3:
        raise DatasetError(f"{path}: shape {cube.shape}, expected (bands, rows, columns)")
    if cube.dtype.name not in dtypes:
        raise DatasetError(f"{path}: dtype {cube.dtype}, expected one of {', '.join(dtypes)}")
    if cube.size == 0:
        raise DatasetError(f"{path}: shape {cube.shape} has no samples")
    if cube.offset + cube.nbytes != os.stat(path).st_size:
        raise DatasetError(f"{path}: longer than its header says")
    return cube


@contextlib.contextmanager
def open_npy(path: Path, axes: str = AXES) -> Iterator[SceneReader]:
    """Open a cube.

    Args:
        path: the `.npy` file.
        axes: what its axes are, a permutation of "brc": bands, rows, columns.
    """
    cube = map_cube(path)
    lengths = dict(zip(axes, cube.shape, strict=True))
    info = SceneInfo(lengths["r"], lengths["c"], lengths["b"], cube.dtype.name)
    layout = Layout(cube.dtype, cube.offset, axes if cube.flags.c_contiguous else axes[::-1])
    with open(path, "rb") as file:
        yield RawReader(path, info, file, layout)


@contextlib.contextmanager
def _create(path: Path, info: SceneInfo) -> Iterator[SceneWriter]:
    with atomic_write(path) as file:
        dtype = np.dtype(info.dtype)
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (info.bands, info.height, info.width),
        }
        np.lib.format.write_array_header_1_0(file, header)
        yield _NpyWriter(path, info, file, Layout(dtype, file.tell(), AXES))


class _NpyWriter(RawWriter):
    def _write_masks(self, row: int, column: int, masks: np.ndarray) -> None:
        """Write nothing: `FORMAT.losses` names the masks."""


def _losses(info: SceneInfo) -> list[Loss]:
    """Return all but the samples; nothing is essential, since a `.npy` is a bare array by definition."""
    losses = unkept(info, SceneInfo(info.height, info.width, info.bands, info.dtype))
    return [loss._replace(is_essential=False) for loss in losses]


FORMAT = SceneFormat((".npy",), open_npy, _create, _losses)
