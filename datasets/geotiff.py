"""GeoTIFF files as scenes, through rasterio."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from datasets.base import FLOATS, Loss, SceneFormat, SceneInfo, SceneWriter
from datasets.gdal import GDAL_DTYPES, block_options, calling_gdal, check_gdal
from datasets.gdal_info import read_info
from datasets.losses import losses_by_trial
from datasets.rasters import open_raster
from datasets.side_files import MaskFile, check_blocks, remove_side_files, write_leftovers
from utils.errors import ProjectError, UsageError
from utils.files import atomic_folder

LOSSLESS = ("deflate", "lzw", "zstd", "lzma", "packbits")
"""Compressions that are kept in a copy; others become deflate."""
WITH_PREDICTOR = ("deflate", "lzw", "zstd")
COLORS = {color.name.lower(): color for color in ColorInterp}
NOT_WRITABLE = ("bidx", "ns")
"""Names of tags that rasterio cannot write: they are names of its arguments."""
WORLD_FILES = (".tfw", ".tifw", ".wld")
"""Suffixes of files from which GDAL takes the coordinates of a TIFF without any."""
WITH_COLOR_TABLE = ("uint8", "uint16")


class _GeoTiffWriter(SceneWriter):
    def __init__(self, path: Path, info: SceneInfo, tif: rasterio.io.DatasetWriter, masks: MaskFile | None) -> None:
        super().__init__(path, info)
        self._tif = tif
        self._masks = masks

    def _write(self, row: int, column: int, cube: np.ndarray) -> None:
        with calling_gdal(ProjectError, _write_problem(self.path)):
            self._tif.write(cube, window=Window(column, row, cube.shape[2], cube.shape[1]))

    def _write_masks(self, row: int, column: int, masks: np.ndarray) -> None:
        with calling_gdal(ProjectError, _write_problem(self.path), GDAL_TIFF_INTERNAL_MASK=True):
            if self._masks is None:
                window = Window(column, row, masks.shape[2], masks.shape[1])
                self._tif.write_mask(masks[0], window=window)
            else:
                self._masks.write(row, column, masks)


def _write_problem(path: Path) -> str:
    return f"{path}: cannot be written, is the disk full?"


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


def _check_world_files(path: Path, info: SceneInfo) -> None:
    """Check that no world file would place a scene that has no coordinates of its own.

    Raises:
        UsageError: there is one.
    """
    if info.transform or info.gcps:
        return
    for suffix in WORLD_FILES:
        file = path.with_suffix(suffix)
        if file.is_file():
            raise UsageError(
                f"{path}: {file.name} beside it would give it coordinates: remove it, or name another file"
            )


@contextlib.contextmanager
def _create(path: Path, info: SceneInfo) -> Iterator[SceneWriter]:
    check_gdal(path)
    _check_world_files(path, info)
    _silence_libtiff()
    with atomic_folder(path) as folder, contextlib.ExitStack() as stack:
        file = folder / path.name
        with calling_gdal(ProjectError, f"{path}: cannot be created", GDAL_PAM_ENABLED=False):
            tif = _new_tif(file, info)
        stack.callback(_close, path, tif)
        with calling_gdal(ProjectError, f"{path}: cannot be created", GDAL_PAM_ENABLED=False):
            _write_metadata(tif, info)
            masks = stack.enter_context(MaskFile.create(file, info)) if info.masks > 1 else None
        yield _GeoTiffWriter(path, info, tif, masks)
        with calling_gdal(ProjectError, _write_problem(path), GDAL_PAM_ENABLED=False):
            stack.close()
            check_blocks(file)
            if info.masks == 1:
                check_blocks(file, directory=2)  # of the mask
            with rasterio.open(file, driver="GTiff") as tif:
                write_leftovers(file, info, read_info(tif))
            remove_side_files(path, folder, "GTiff")


def _close(path: Path, tif: rasterio.io.DatasetWriter) -> None:
    with calling_gdal(ProjectError, _write_problem(path), GDAL_PAM_ENABLED=False):
        tif.close()


def _new_tif(path: Path, info: SceneInfo) -> rasterio.io.DatasetWriter:
    options = block_options(info.height, info.width)
    if info.compression is not None:
        options["compress"] = info.compression if info.compression in LOSSLESS else "deflate"
        if options["compress"] in WITH_PREDICTOR:
            options["predictor"] = 3 if info.dtype in FLOATS else 2
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
        interleave="pixel" if info.interleave == "bip" else "band",
        photometric="minisblack",  # else, three bands of uint8 become red, green and blue
        bigtiff="IF_SAFER",
        **options,
    )


def _write_metadata(tif: rasterio.io.DatasetWriter, info: SceneInfo) -> None:
    for band, domains in enumerate((info.tags, *info.band_tags)):  # band 0 is the file
        for domain, tags in domains.items():
            if not domain.startswith(("xml:", "json:")):  # rasterio cannot write documents
                writable = {name: text for name, text in tags.items() if name not in NOT_WRITABLE}
                tif.update_tags(band, ns=domain or None, **writable)
    if info.gcps:
        points = [GroundControlPoint(p.row, p.column, p.x, p.y, p.z, p.name, p.note) for p in info.gcps]
        tif.gcps = (points, CRS.from_wkt(info.gcps_crs) if info.gcps_crs else CRS())
    if info.descriptions:
        tif.descriptions = [text or "" for text in info.descriptions]
    if info.units:
        tif.units = [text or "" for text in info.units]
    if info.scales:
        tif.scales = info.scales
    if info.offsets:
        tif.offsets = info.offsets
    if info.colors:
        tif.colorinterp = [COLORS[color] for color in info.colors]
    if info.color_tables and info.bands == 1 and info.dtype in WITH_COLOR_TABLE:
        tif.write_colormap(1, {value: color for value, *color in info.color_tables[0]})


def _losses(info: SceneInfo) -> list[Loss]:
    return losses_by_trial(FORMAT, info, ".tif")


FORMAT = SceneFormat((".tif", ".tiff"), functools.partial(open_raster, driver="GTiff"), _create, _losses, GDAL_DTYPES)
