"""The interface of scenes, hyperspectral images in files: metadata, reader, writer, and file format.

A new file format is one module with a `SceneFormat`, listed in `datasets.scenes.FORMATS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

Item = TypeVar("Item")

DTYPES = ("int16", "uint16", "float32")
"""Sample types that a scene may have."""
INTEGER_RANGES = {"int16": (-32768, 32767), "uint16": (0, 65535)}


@dataclass(frozen=True)
class SceneInfo:
    """Metadata of a scene. Fields with one item per band are empty if no band has any.

    Attributes:
        height, width: size in pixels.
        bands: number of bands.
        dtype: one of `DTYPES`.
        nodata: value that marks samples without data, possibly NaN; None if the file names none.
        crs: coordinate reference system as WKT, None if there is none.
        transform: the six numbers (a, b, c, d, e, f) of the affine map from (column, row) to coordinates,
            None if there is none.
        descriptions: text or None, one per band.
        tags: tags of the file.
        band_tags: one dictionary per band.
        scales, offsets: one number per band: physical value = sample * scale + offset.
        units: units of the physical values, text or None, one per band.
        compression: GDAL's name in lower case ("deflate", "lzw", ...), None for none.
    """

    height: int
    width: int
    bands: int
    dtype: str
    nodata: float | None = None
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    descriptions: tuple[str | None, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    band_tags: tuple[dict[str, str], ...] = ()
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    units: tuple[str | None, ...] = ()
    compression: str | None = None

    def window(self, row: int, column: int, height: int, width: int) -> SceneInfo:
        """Return the info of a window of the scene, in pixels, with `transform` shifted to its upper left corner.

        Raises:
            ValueError: the window is empty or not inside the scene.
        """
        inside = 0 <= row < row + height <= self.height and 0 <= column < column + width <= self.width
        if not inside:
            raise ValueError(
                f"{window_name(row, column, height, width)} must be non-empty and inside the scene of "
                f"{self.height} x {self.width}"
            )
        transform = self.transform
        if transform is not None:
            a, b, c, d, e, f = transform
            transform = (a, b, c + a * column + b * row, d, e, f + d * column + e * row)
        return replace(self, height=height, width=width, transform=transform)

    def select_bands(self, indices: Sequence[int]) -> SceneInfo:
        """Return the info of the bands with these 0-based indices, in this order."""

        def select(items: tuple[Item, ...]) -> tuple[Item, ...]:
            return tuple(items[i] for i in indices) if items else ()

        return replace(
            self,
            bands=len(indices),
            descriptions=select(self.descriptions),
            band_tags=select(self.band_tags),
            scales=select(self.scales),
            offsets=select(self.offsets),
            units=select(self.units),
        )


class SceneReader(ABC):
    """An open scene, for use in one thread.

    Attributes:
        path: the file.
        info: its metadata.
        block_height: rows of the blocks in which the file is stored. Windows of whole blocks are read fastest.
    """

    def __init__(self, path: Path, info: SceneInfo, block_height: int = 1) -> None:
        self.path = path
        self.info = info
        self.block_height = block_height

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return the samples (bands, height, width) of a window, in the scene's type and native byte order.

        Raises:
            DatasetError: the file is damaged there, or was truncated since it was opened.
            ValueError: the window is empty or not inside the scene.
        """
        self.info.window(row, column, height, width)
        return self._read(row, column, height, width)

    @abstractmethod
    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray: ...

    def _cannot_read(self, row: int, column: int, height: int, width: int) -> str:
        return f"{self.path}: {window_name(row, column, height, width)} cannot be read, unpack or download it again"


class SceneWriter(ABC):
    """A scene that is being written, for use in one thread.

    Attributes:
        path: the file.
        info: its metadata.
    """

    def __init__(self, path: Path, info: SceneInfo) -> None:
        self.path = path
        self.info = info

    def write(self, row: int, column: int, cube: np.ndarray) -> None:
        """Write a window. Each sample of the scene must be written once.

        Windows of whole 128 x 128 blocks from top to bottom, cut at the right and lower edge, are the fastest
        and give the smallest GeoTIFF.

        Args:
            row: first row of the window, in pixels.
            column: first column of the window, in pixels.
            cube: samples (bands, height, width) of the scene's type.

        Raises:
            ProjectError, OSError: the disk is full, or fails.
            ValueError: the cube does not fit into the scene, or has another type.
        """
        if cube.ndim != 3 or len(cube) != self.info.bands or cube.dtype != self.info.dtype:
            raise ValueError(
                f"cube must be {self.info.dtype} ({self.info.bands}, height, width), got {cube.dtype} {cube.shape}"
            )
        self.info.window(row, column, *cube.shape[1:])
        self._write(row, column, cube)

    @abstractmethod
    def _write(self, row: int, column: int, cube: np.ndarray) -> None: ...


class SceneFormat(NamedTuple):
    """A file format of scenes.

    Attributes:
        suffixes: suffixes of its files, in lower case, such as (".tif", ".tiff").
        open: (path of a regular file) -> context manager of a reader; raises `DatasetError` with one line,
            `<path>: <reason>`, for a file that is damaged or has no scene of one of `DTYPES`.
        create: (path, info) -> context manager of a writer. It replaces the file at `path` at the end, if the
            block raises no exception, and raises `ProjectError` or `OSError` if it cannot be written.
    """

    suffixes: tuple[str, ...]
    open: Callable[[Path], AbstractContextManager[SceneReader]]
    create: Callable[[Path, SceneInfo], AbstractContextManager[SceneWriter]]


def window_name(row: int, column: int, height: int, width: int) -> str:
    """Describe a window, for error messages."""
    return f"window of {height} x {width} at row {row}, column {column}"


def as_sample(value: float, dtype: str) -> float | None:
    """Return the sample that holds `value`, or None if its type cannot hold it.

    Args:
        value: any number.
        dtype: one of `DTYPES`. Only float32 rounds: int16 cannot hold 0.5.
    """
    if dtype == "float32":
        with np.errstate(over="ignore"):
            sample = float(np.float32(value))
        return sample if math.isfinite(sample) or not math.isfinite(value) else None
    low, high = INTEGER_RANGES[dtype]
    return float(value) if low <= value <= high and value == int(value) else None


def valid_mask(samples: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return a mask, bool of the same shape, that is True where samples hold data.

    Args:
        samples: any shape, of one of `DTYPES`.
        nodata: the value of samples without data. For floats, None means NaN.
    """
    if nodata is None:
        return np.ones(samples.shape, bool) if samples.dtype != np.float32 else ~np.isnan(samples)
    return ~np.isnan(samples) if math.isnan(nodata) else samples != samples.dtype.type(nodata)
