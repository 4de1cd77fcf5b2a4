"""Rasters of any format that GDAL opens, as scenes."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from datasets.base import DTYPES, Loss, SceneInfo, SceneReader
from datasets.gdal import CACHE_BYTES, calling_gdal
from datasets.gdal_info import find_losses, read_info, read_masks
from utils.errors import DatasetError

BLOCK = 128
"""Side in pixels of the blocks of a written GeoTIFF, equal to that of the tiles of a compressed scene."""
MAX_BLOCK_ROW_BYTES = 512 * 2**20
"""Largest row of blocks for which the cache grows, if blocks are taller than the windows that are read. Without room
for a row of blocks (352 MB in an EnMAP scene with blocks of 512 x 512), each block is decompressed four times."""


class GdalReader(SceneReader):
    """A raster that GDAL has opened, as a scene."""

    def __init__(self, path: Path, raster: rasterio.DatasetReader, info: SceneInfo | None = None) -> None:
        info = info or read_info(raster)
        super().__init__(path, info, raster.block_shapes[0][0])
        self._raster = raster
        self._file_info = info
        self._cache_bytes = cache_bytes_of(raster)

    @functools.cached_property
    def losses(self) -> tuple[Loss, ...]:
        with calling_gdal(DatasetError, f"{self.path}: cannot be read, unpack or download it again"):
            return find_losses(self._raster, self._file_info)

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        with calling_gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return self._raster.read(window=Window(column, row, width, height))

    def _read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        with calling_gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return read_masks(self._raster, self.info.masks, Window(column, row, width, height)) > 0


def cache_bytes_of(raster: rasterio.DatasetReader) -> int:
    """Return the cache that lets windows of `BLOCK` full rows, from top to bottom, decompress each block once."""
    block_height, block_width = raster.block_shapes[0]
    columns = math.ceil(raster.width / block_width) * block_width
    block_row_bytes = block_height * columns * raster.count * np.dtype(raster.dtypes[0]).itemsize
    is_tall = block_height > BLOCK and block_row_bytes <= MAX_BLOCK_ROW_BYTES
    return CACHE_BYTES + (block_row_bytes if is_tall else 0)


def check_dtypes(path: Path, raster: rasterio.DatasetReader) -> None:
    """Check that all bands have one sample type that scenes may have.

    Raises:
        DatasetError: they do not.
    """
    dtypes = sorted(set(raster.dtypes))
    if len(dtypes) != 1 or dtypes[0] not in DTYPES:
        raise DatasetError(
            f"{path}: {raster.count} bands of {'/'.join(dtypes)}, expected one type for all, of {', '.join(DTYPES)}"
        )
