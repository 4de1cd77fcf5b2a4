"""numpy's `.npy` files as scenes: cubes (bands, rows, columns), memory-mapped for reading."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from datasets.base import DTYPES, SceneFormat, SceneInfo, SceneReader, SceneWriter
from utils.errors import DatasetError, is_out_of_memory, one_line
from utils.files import atomic_write


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


class _NpyReader(SceneReader):
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        cube = map_cube(path)
        bands, height, width = cube.shape
        super().__init__(path, SceneInfo(height, width, bands, cube.dtype.name))
        self._file = file
        order = "C" if cube.flags.c_contiguous else "F"
        self._layout = dict(dtype=cube.dtype, offset=cube.offset, shape=cube.shape, order=order)

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        window = np.empty((self.info.bands, height, width), self.info.dtype)
        try:
            # A mapping per band: up to 2 MB of the file around each sample count as memory of this process.
            for band in range(self.info.bands):
                cube = np.memmap(self._file, mode="r", **self._layout)
                window[band] = cube[band, row : row + height, column : column + width]
        except ValueError as error:  # the file is shorter than it was
            raise DatasetError(f"{self._cannot_read(row, column, height, width)} ({one_line(error)})") from error
        return window


class _NpyWriter(SceneWriter):
    def __init__(self, path: Path, info: SceneInfo, file: IO[bytes]) -> None:
        super().__init__(path, info)
        self._file = file
        self._dtype = np.dtype(info.dtype)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (info.bands, info.height, info.width),
        }
        np.lib.format.write_array_header_1_0(file, header)
        self._data_start = file.tell()

    def _write(self, row: int, column: int, cube: np.ndarray) -> None:
        is_full_width = cube.shape[2] == self.info.width
        for band, plane in enumerate(cube):
            for line, samples in enumerate([plane] if is_full_width else plane, start=row):
                samples_before = (band * self.info.height + line) * self.info.width + column
                self._file.seek(self._data_start + samples_before * self._dtype.itemsize)
                self._file.write(np.ascontiguousarray(samples).data)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[SceneReader]:
    with open(path, "rb") as file:
        yield _NpyReader(path, file)


@contextlib.contextmanager
def _create(path: Path, info: SceneInfo) -> Iterator[SceneWriter]:
    with atomic_write(path) as file:
        yield _NpyWriter(path, info, file)


FORMAT = SceneFormat((".npy",), _open, _create)
