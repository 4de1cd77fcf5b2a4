"""Samples that lie in a file as one uncompressed array, in any order of axes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from datasets.base import SceneInfo, SceneReader, SceneWriter
from utils.errors import DatasetError, one_line


class Layout(NamedTuple):
    """Where the samples lie.

    Attributes:
        dtype: sample type, with byte order.
        offset: of the first sample, in bytes.
        axes: "brc" for (bands, rows, columns), slowest first; any permutation of it.
    """

    dtype: np.dtype
    offset: int
    axes: str

    def shape(self, info: SceneInfo) -> tuple[int, ...]:
        """Return the lengths of the axes of a scene's array."""
        lengths = {"b": info.bands, "r": info.height, "c": info.width}
        return tuple(lengths[axis] for axis in self.axes)

    def view(self, cube: np.ndarray) -> np.ndarray:
        """Return a view of a cube (bands, rows, columns) with the axes in this order."""
        return cube.transpose(["brc".index(axis) for axis in self.axes])


class RawReader(SceneReader):
    """A scene whose array is mapped into memory."""

    def __init__(self, path: Path, info: SceneInfo, file: IO[bytes], layout: Layout) -> None:
        super().__init__(path, info)
        self._file = file
        self._layout = layout

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        window = np.empty((self.info.bands, height, width), self.info.dtype)
        stored = self._layout.view(window)
        starts = {"b": 0, "r": row, "c": column}
        first, *others = (
            slice(starts[axis], starts[axis] + length)
            for axis, length in zip(self._layout.axes, stored.shape, strict=True)
        )
        try:
            # A mapping per item: up to 2 MB of the file around each sample count as memory of this process.
            for index, target in zip(range(first.start, first.stop), stored, strict=True):
                target[...] = self._map()[index][tuple(others)]
        except ValueError as error:  # the file is shorter than it was
            raise DatasetError(f"{self._cannot_read(row, column, height, width)} ({one_line(error)})") from error
        return window

    def _map(self) -> np.memmap:
        shape = self._layout.shape(self.info)
        return np.memmap(self._file, mode="r", dtype=self._layout.dtype, offset=self._layout.offset, shape=shape)


class RawWriter(SceneWriter):
    """A scene whose array is written in runs that are contiguous in the file."""

    def __init__(self, path: Path, info: SceneInfo, file: IO[bytes], layout: Layout) -> None:
        super().__init__(path, info)
        self._file = file
        self._layout = layout

    def _write(self, row: int, column: int, cube: np.ndarray) -> None:
        starts = {"b": 0, "r": row, "c": column}
        stored = self._layout.view(cube)
        shape = self._layout.shape(self.info)
        # The axes before `split` are walked, those after it are contiguous in the file.
        split = next((axis for axis in (0, 1) if stored.shape[axis + 1 :] == shape[axis + 1 :]), 2)
        first = [starts[axis] for axis in self._layout.axes]
        count = math.prod(stored.shape[:split])
        indices = np.indices(stored.shape[:split]).reshape(split, count)
        places = [index + start for index, start in zip([*indices, *[0] * (3 - split)], first, strict=True)]
        offsets = self._layout.offset + np.ravel_multi_index(places, shape) * self._layout.dtype.itemsize
        runs = np.ascontiguousarray(stored).reshape(count, -1).view(np.uint8)
        self._file.flush()
        for offset, run in zip(np.atleast_1d(offsets).tolist(), runs, strict=True):
            _write_at(self._file.fileno(), run.data, offset)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data`; the error of a full disk comes with the first byte that has no room."""
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)
