"""GeoTIFF files as scenes, through rasterio."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from datasets.base import DTYPES, SceneFormat, SceneInfo, SceneReader, SceneWriter, as_sample
from utils.errors import DatasetError, ProjectError, one_line
from utils.files import atomic_path

BLOCK = 128
"""Side in pixels of the blocks of a written GeoTIFF, equal to that of the tiles of a compressed scene."""
LOSSLESS = ("deflate", "lzw", "zstd", "lzma", "packbits")
"""Compressions that are kept in a copy; others become deflate."""
WITH_PREDICTOR = ("deflate", "lzw", "zstd")
CACHE_BYTES = 64 * 2**20
"""Size of GDAL's cache; its default is 5 % of the machine's memory."""
MAX_BLOCK_ROW_BYTES = 512 * 2**20
"""Largest row of blocks for which the cache grows, if blocks are taller than the windows that are read. Without room
for a row of blocks (352 MB in an EnMAP scene with blocks of 512 x 512), each block is decompressed four times."""


class _GeoTiffReader(SceneReader):
    def __init__(self, path: Path, tif: rasterio.DatasetReader) -> None:
        super().__init__(path, _read_info(tif), tif.block_shapes[0][0])
        self._tif = tif
        self._cache_bytes = _cache_bytes(tif)

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        with _gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return self._tif.read(window=Window(column, row, width, height))


class _GeoTiffWriter(SceneWriter):
    def __init__(self, path: Path, info: SceneInfo, tif: rasterio.io.DatasetWriter) -> None:
        super().__init__(path, info)
        self._tif = tif

    def _write(self, row: int, column: int, cube: np.ndarray) -> None:
        with _gdal(ProjectError, _write_problem(self.path)):
            self._tif.write(cube, window=Window(column, row, cube.shape[2], cube.shape[1]))


def _write_problem(path: Path) -> str:
    return f"{path}: cannot be written, is the disk full?"


@contextlib.contextmanager
def _gdal(error_class: type[ProjectError], problem: str, cache_bytes: int = CACHE_BYTES) -> Iterator[None]:
    """Call rasterio with a bounded cache, and turn any exception into one line that starts with `problem`.

    Enter it for each call: environments must be left in the reverse order of entering, but a reader and a writer
    may be closed in any order.
    """
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=cache_bytes):  # in bytes
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            yield
        except Exception as error:  # rasterio does not document which exceptions it raises
            raise error_class(f"{problem} ({one_line(error.__cause__ or error)})") from error


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff from printing failed writes to stderr: GDAL reports them as errors.

    GDAL installs its error handler for each open file, but its I/O functions report to the handler of the
    library, which prints. rasterio's log does not see these lines.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or libtiff is built into GDAL
        mapped = Path("/proc/self/maps").read_text()
        for library in set(re.findall(r"/.*/libtiff[^/\n]*$", mapped, re.MULTILINE)):
            ctypes.CDLL(library).TIFFSetErrorHandler(None)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[SceneReader]:
    problem = f"{path}: cannot be read, unpack or download it again"
    with _gdal(DatasetError, problem):
        tif = rasterio.open(path, driver="GTiff")
    with tif:
        dtypes = sorted(set(tif.dtypes))
        if len(dtypes) > 1 or dtypes[0] not in DTYPES:
            raise DatasetError(
                f"{path}: {tif.count} bands of {'/'.join(dtypes)}, expected one type for all, of {', '.join(DTYPES)}"
            )
        with _gdal(DatasetError, problem):
            scene = _GeoTiffReader(path, tif)
        yield scene


def _read_info(tif: rasterio.DatasetReader) -> SceneInfo:
    dtype = tif.dtypes[0]
    band_tags = tuple({"": tags} if (tags := tif.tags(band)) else {} for band in tif.indexes)
    compression = tif.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
    return SceneInfo(
        height=tif.height,
        width=tif.width,
        bands=tif.count,
        dtype=dtype,
        nodata=None if tif.nodata is None else as_sample(tif.nodata, dtype),
        crs=tif.crs.to_wkt() if tif.crs else None,
        transform=None if tif.transform == rasterio.Affine.identity() else tuple(tif.transform)[:6],
        descriptions=tif.descriptions if any(tif.descriptions) else (),
        tags={"": tags} if (tags := tif.tags()) else {},
        band_tags=band_tags if any(band_tags) else (),
        scales=tif.scales if set(tif.scales) != {1.0} else (),
        offsets=tif.offsets if set(tif.offsets) != {0.0} else (),
        units=tif.units if any(tif.units) else (),
        compression=compression and compression.lower(),
    )


def _cache_bytes(tif: rasterio.DatasetReader) -> int:
    """Return the cache that lets windows of `BLOCK` full rows, from top to bottom, decompress each block once."""
    block_height, block_width = tif.block_shapes[0]
    columns = math.ceil(tif.width / block_width) * block_width
    block_row_bytes = block_height * columns * tif.count * np.dtype(tif.dtypes[0]).itemsize
    is_tall = block_height > BLOCK and block_row_bytes <= MAX_BLOCK_ROW_BYTES
    return CACHE_BYTES + (block_row_bytes if is_tall else 0)


@contextlib.contextmanager
def _create(path: Path, info: SceneInfo) -> Iterator[SceneWriter]:
    _silence_libtiff()
    with atomic_path(path) as temporary:
        with _gdal(ProjectError, f"{path}: cannot be created"):
            tif = _new_tif(temporary, info)
        try:
            with _gdal(ProjectError, f"{path}: cannot be created"):
                _write_metadata(tif, info)
            yield _GeoTiffWriter(path, info, tif)
        finally:
            with _gdal(ProjectError, _write_problem(path)):
                tif.close()
        with _gdal(ProjectError, _write_problem(path)):
            _check_blocks(temporary)


def _new_tif(path: Path, info: SceneInfo) -> rasterio.io.DatasetWriter:
    options: dict[str, int | str] = {"blockysize": info.height}
    if max(info.height, info.width) > BLOCK:
        options = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    if info.compression is not None:
        options["compress"] = info.compression if info.compression in LOSSLESS else "deflate"
        if options["compress"] in WITH_PREDICTOR:
            options["predictor"] = 3 if info.dtype == "float32" else 2
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=info.height,
        width=info.width,
        count=info.bands,
        dtype=info.dtype,
        nodata=info.nodata,
        crs=CRS.from_wkt(info.crs) if info.crs else None,
        transform=rasterio.Affine(*info.transform) if info.transform else None,
        interleave="band",
        bigtiff="IF_SAFER",
        **options,
    )


def _write_metadata(tif: rasterio.io.DatasetWriter, info: SceneInfo) -> None:
    for band, domains in enumerate((info.tags, *info.band_tags)):  # band 0 is the file
        # rasterio cannot write tags with the names of its own arguments
        tags = domains.get("", {})
        tif.update_tags(band, **{name: text for name, text in tags.items() if name not in ("bidx", "ns")})
    if info.descriptions:
        tif.descriptions = [text or "" for text in info.descriptions]
    if info.units:
        tif.units = [text or "" for text in info.units]
    if info.scales:
        tif.scales = info.scales
    if info.offsets:
        tif.offsets = info.offsets


def _check_blocks(path: Path) -> None:
    """Check that each block of a written GeoTIFF lies inside the file.

    GDAL writes the last blocks and their index when it closes a file, and rasterio does not report its failure.

    Raises:
        OSError: a block is missing.
    """
    size = path.stat().st_size
    with rasterio.open(path, driver="GTiff") as tif:
        for band in tif.indexes:
            for (i, j), _ in tif.block_windows(band):
                place = [tif.get_tag_item(f"BLOCK_{what}_{j}_{i}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")]
                if None in place or sum(map(int, place)) > size:
                    raise OSError(f"block {i}, {j} of band {band} is missing")


FORMAT = SceneFormat((".tif", ".tiff"), _open, _create)
