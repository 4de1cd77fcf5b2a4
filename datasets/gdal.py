"""GDAL through rasterio: its data folders, its cache, its errors."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.env import GDALDataFinder, PROJDataFinder, set_gdal_config, set_proj_data_search_path
from rasterio.errors import NotGeoreferencedWarning

from datasets.base import DTYPES
from utils.errors import ProjectError, UsageError, one_line

GDAL_DTYPES = tuple(dtype for dtype in DTYPES if dtype != "float16")
"""Sample types that rasters have: GDAL 3.10 has no float16."""
BLOCK = 128
"""Side in pixels of the blocks of a written GeoTIFF, equal to that of the tiles of a compressed scene."""
CACHE_BYTES = 64 * 2**20
"""Size of GDAL's cache; its default is 5 % of the machine's memory."""
MAX_BLOCK_ROW_BYTES = 512 * 2**20
"""Largest row of blocks for which the cache grows, if blocks are taller than the windows that are read. Without room
for a row of blocks (352 MB in an EnMAP scene with blocks of 512 x 512), each block is decompressed four times."""
NO_NETWORK = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "none"}  # a VRT may name sources on other machines
WEB_DRIVERS = (
    "HTTP",
    "WMS",
    "WMTS",
    "WCS",
    "OGCAPI",
    "EEDAI",
    "DAAS",
    "PLMosaic",
    "PLSCENES",
    "STACTA",
    "STACIT",
    "NGW",
)


def block_options(height: int, width: int) -> dict[str, int | str | bool]:
    """Return the options for the blocks of a GeoTIFF of this size."""
    if max(height, width) > BLOCK:
        return {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    return {"blockysize": height}


def cache_bytes_of(raster: rasterio.DatasetReader, bands: int) -> int:
    """Return the cache that lets windows of `BLOCK` full rows, from top to bottom, decompress each block once.

    Args:
        raster: a raster, or a page of several that are read together.
        bands: number of bands, of all pages.
    """
    block_height, block_width = raster.block_shapes[0]
    columns = math.ceil(raster.width / block_width) * block_width
    block_row_bytes = block_height * columns * bands * np.dtype(raster.dtypes[0]).itemsize
    is_tall = block_height > BLOCK and block_row_bytes <= MAX_BLOCK_ROW_BYTES
    return CACHE_BYTES + (block_row_bytes if is_tall else 0)


def use_own_data_folders() -> None:
    """Let GDAL and PROJ read the data of rasterio's wheel, whatever folders the environment names.

    PROJ_DATA, PROJ_LIB and GDAL_DATA often belong to another installation (conda, QGIS, PostGIS), whose database this
    PROJ cannot read: coordinate reference systems would lose their codes. Without a wheel, the environment counts.
    """
    proj_data, gdal_data = PROJDataFinder().search_wheel(), GDALDataFinder().search_wheel()
    if not proj_data or not gdal_data:
        return
    for name in ("PROJ_LIB", "GDAL_DRIVER_PATH"):
        os.environ.pop(name, None)
    os.environ |= {"PROJ_DATA": proj_data, "GDAL_DATA": gdal_data}  # for libraries and processes started later
    set_proj_data_search_path(proj_data)
    set_gdal_config("GDAL_DATA", gdal_data)


use_own_data_folders()
os.environ["GDAL_SKIP"] = ",".join(WEB_DRIVERS)  # read when rasterio registers the drivers


def check_gdal(path: Path) -> None:
    """Check that GDAL can open a file of this name, and that PROJ can read its database.

    Raises:
        UsageError: the name is not in UTF-8.
        ProjectError: PROJ cannot.
    """
    try:
        is_utf8 = os.fsencode(path) == str(path).encode()
    except UnicodeEncodeError:
        is_utf8 = False
    if not is_utf8:
        raise UsageError(f"{path}: GDAL only takes names in UTF-8: rename the file or the folder, or use a .npy file")
    _check_proj()


@functools.cache
def _check_proj() -> None:
    """Check that PROJ can read its database.

    Raises:
        ProjectError: it cannot.
    """
    try:
        with rasterio.Env():
            CRS.from_epsg(32633)
    except Exception as error:
        raise ProjectError(
            f"PROJ, which handles coordinate reference systems, cannot read its database ({one_line(error)}): unset "
            "PROJ_DATA and PROJ_LIB, or install rasterio again"
        ) from error


@contextlib.contextmanager
def calling_gdal(
    error_class: type[ProjectError], problem: str, cache_bytes: int = CACHE_BYTES, **options: bool | str
) -> Iterator[None]:
    """Call rasterio with a bounded cache, and turn any exception into one line that starts with `problem`.

    Enter it for each call: environments must be left in the reverse order of entering, but a reader and a writer
    may be closed in any order.

    Args:
        error_class: class of the error.
        problem: `<path>: what is wrong, what to do`.
        cache_bytes: size of the cache.
        options: other options of GDAL.
    """
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=cache_bytes, **NO_NETWORK, **options):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            yield
        except ProjectError:
            raise
        except Exception as error:  # rasterio does not document which exceptions it raises
            raise error_class(f"{problem} ({one_line(error.__cause__ or error)})") from error
