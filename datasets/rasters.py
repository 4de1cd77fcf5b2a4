"""Rasters of any format that GDAL opens, as scenes."""

from __future__ import annotations

import contextlib
import functools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from datasets import envi
from datasets.base import DTYPES, Loss, SceneInfo, SceneReader
from datasets.enmap import losses_of_metadata
from datasets.gdal import cache_bytes_of, calling_gdal, check_gdal
from datasets.gdal_info import find_losses, read_info, read_masks
from datasets.pages import check_stack, list_names, losses_of_stack, open_pages, page_names, without_stack
from utils.errors import DatasetError, one_line

VRT_SOURCES = ("SourceFilename", "SourceDataset")
SUBDATASET = re.compile(
    r'\w{3,}(?::(?:\d+|EOS_\w+|UNKNOWN))?:(?:"(?P<quoted>[^"]+)".*|(?P<plain>[^":]+)(?::.*)?)', re.IGNORECASE
)
"""GDAL's names of rasters in a container: driver, then the file, then the raster."""


class GdalReader(SceneReader):
    """A raster that GDAL has opened, as a scene."""

    def __init__(self, path: Path, raster: rasterio.DatasetReader, info: SceneInfo | None = None) -> None:
        info, self._stack = without_stack(info or read_info(raster))
        check_stack(path, self._stack, info.bands * info.height * info.width, 1)
        super().__init__(path, info, raster.block_shapes[0][0])
        self._raster = raster
        self._file_info = info
        self._cache_bytes = cache_bytes_of(raster, raster.count)

    @functools.cached_property
    def losses(self) -> tuple[Loss, ...]:
        with calling_gdal(DatasetError, f"{self.path}: cannot be read, unpack or download it again"):
            losses = (*losses_of_stack(self._stack), *find_losses(self._raster, self._file_info))
        return (*losses, *losses_of_metadata(self.path, self._file_info))

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        with calling_gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return self._raster.read(window=Window(column, row, width, height))

    def _read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        with calling_gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return read_masks(self._raster, self.info.masks, Window(column, row, width, height)) > 0


@contextlib.contextmanager
def open_raster(path: Path, name: str | None = None, driver: str | None = None) -> Iterator[SceneReader]:
    """Open a raster of a format that GDAL knows.

    Args:
        path: the file.
        name: GDAL's name of a raster in the file, such as `NETCDF:"a.nc":radiance`; None for the file's only one.
        driver: GDAL's name of the format; None for any.

    Raises:
        DatasetError: the file is damaged, or has several rasters, or none of one of `DTYPES`.
    """
    check_gdal(path)
    _check_sources(path)
    problem = f"{path}: cannot be read, unpack or download it again"
    with calling_gdal(DatasetError, problem):
        raster = rasterio.open(name or path, driver=driver)
    with contextlib.ExitStack() as stack:
        stack.enter_context(raster)
        if raster.driver == "ENVI":
            yield stack.enter_context(envi.FORMAT.open(path))
            return
        names = [] if name else raster.subdatasets
        if names and raster.driver == "GTiff":
            yield stack.enter_context(open_pages(path, page_names(raster)))
            return
        if len(names) == 1 and not raster.count:
            yield stack.enter_context(open_raster(path, names[0], driver))
            return
        if names:
            raise DatasetError(f"{path}: has several rasters, name one of them: {list_names(sorted(names))}")
        check_dtypes(path, raster)
        with calling_gdal(DatasetError, problem):
            scene = GdalReader(path, raster)
        yield scene


def _check_sources(path: Path) -> None:
    """Check that a VRT names regular files only: GDAL would wait for a pipe, and fetch what is on other machines.

    Raises:
        DatasetError: it names another thing.
    """
    with open(path, "rb") as stream:
        if b"<VRTDataset" not in stream.read(1000):
            return
    try:
        sources = [element for element in ET.parse(path).iter() if element.tag in VRT_SOURCES]
    except ET.ParseError as error:
        raise DatasetError(f"{path}: damaged ({one_line(error)})") from error
    for source in sources:
        text = source.text or ""
        name = file_of(text) or text
        file = path.parent / name if source.get("relativeToVRT") == "1" else Path(name)
        if not file.is_file():
            raise DatasetError(f"{path}: its source {text!r} is not a regular file here")
        _check_sources(file)


def file_of(name: str) -> str | None:
    """Return the file in GDAL's name of a raster of a container, such as `NETCDF:"a.nc":radiance`; None for others."""
    match = SUBDATASET.fullmatch(name)
    return match and (match["quoted"] or match["plain"])


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
