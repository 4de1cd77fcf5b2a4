"""Scenes as files, read and written window by window.

    with open_scene("a.tif") as scene, create_scene("b.tif", scene.info) as copy:
        for row in range(0, scene.info.height, 128):
            rows = min(128, scene.info.height - row)
            copy.write(row, 0, scene.read(row, 0, rows, scene.info.width))

Formats: GeoTIFF (`datasets.geotiff`), ENVI (`datasets.envi`) and numpy's `.npy` (`datasets.npy`); only for reading,
any other that GDAL knows (`datasets.rasters`).
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from datasets import envi, geotiff, npy
from datasets.base import Loss, SceneFormat, SceneInfo, SceneReader, SceneWriter, as_sample
from datasets.enmap import with_enmap_metadata
from datasets.rasters import file_of, open_raster
from utils.errors import DatasetError, ProjectError, UsageError

FORMATS = {suffix: form for form in (geotiff.FORMAT, npy.FORMAT, envi.FORMAT) for suffix in form.suffixes}
"""File formats that are written, by suffix in lower case."""


@contextlib.contextmanager
def open_scene(path: str | os.PathLike, nodata: float | None = None, axes: str | None = None) -> Iterator[SceneReader]:
    """Open a scene: a GeoTIFF, an ENVI file or its header, a `.npy`, or any other raster that GDAL opens.

    All samples have one of `DTYPES`. A nodata value of the file that its type cannot hold is ignored. The image of an
    EnMAP or DESIS product gets what the metadata beside it says of its bands.

    Args:
        path: the file; or GDAL's name of a raster in a file of several, such as `NETCDF:"a.nc":radiance`.
        nodata: replaces the file's own nodata values, rounded to the scene's type. NaN, which never counts as data,
            does not replace another value.
        axes: what the axes of a `.npy` are, a permutation of "brc": bands, rows, columns.

    Yields:
        The reader.

    Raises:
        UsageError: a `nodata` that the scene's type cannot hold, or wrong `axes`.
        DatasetError: the file is missing, not regular, damaged, without samples, or of another type or shape.
            One line, `<path>: <reason>`.
    """
    name = os.fspath(path)
    path = Path(name)
    contained = None if path.exists() else file_of(name)
    file = Path(contained or name)
    if not file.is_file():  # also keeps GDAL from the network and numpy from waiting for a pipe
        raise DatasetError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    if axes is not None and (path.suffix.lower() != ".npy" or sorted(axes) != sorted(npy.AXES)):
        raise UsageError(f"{path}: axes must be a permutation of {npy.AXES}, of a .npy file, got {axes}")
    with _open(file, name if contained else None, axes or npy.AXES) as scene:
        scene.info = with_enmap_metadata(file, scene.info)
        if nodata is not None:
            sample = as_sample(nodata, scene.info.dtype)
            if sample is None:
                raise UsageError(f"{path}: nodata must be a value of type {scene.info.dtype}, got {nodata:g}")
            has_nodata = scene.info.nodata is not None or bool(scene.info.band_nodata)
            if not (math.isnan(sample) and has_nodata):
                scene.info = replace(scene.info, nodata=sample, band_nodata=())
        yield scene


def _open(file: Path, name: str | None, axes: str) -> contextlib.AbstractContextManager[SceneReader]:
    suffix = file.suffix.lower()
    if name is not None:
        return open_raster(file, name)
    if suffix == ".npy":
        return npy.open_npy(file, axes)
    form = FORMATS.get(suffix)
    if form is not None and form is not envi.FORMAT:
        return form.open(file)
    if suffix == envi.HEADER or (suffix in envi.SUFFIXES and envi.header_of(file) is not None):
        return envi.FORMAT.open(file)
    return open_raster(file)  # also samples of ENVI, if they have another suffix


@contextlib.contextmanager
def create_scene(path: str | os.PathLike, info: SceneInfo) -> Iterator[SceneWriter]:
    """Write a scene atomically: a temporary file beside `path` is renamed when the block ends without an exception.

    The old file at `path` stays until then; its side files, which would change the new one, are deleted with it.
    Parent folders are created. `losses_of_writing` says what of `info` the file does not keep. A GeoTIFF of more than
    128 pixels in height or width has blocks of 128 x 128; lossy and rare compressions in `info` are replaced by
    deflate.

    Args:
        path: the file; its suffix selects the format.
        info: metadata of the scene.

    Yields:
        The writer.

    Raises:
        UsageError: unknown suffix, a format without the sample type, or `path` is a folder.
        ProjectError, OSError: the file cannot be written: the disk is full, permission is missing, or the format
            cannot store the metadata.
    """
    path = Path(path)
    form = _format_of(path, info.dtype)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, give the name of a file")
    try:
        with form.create(path, info) as scene:
            yield scene
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a failed write does not name its file
            error.filename = str(path)
        raise


def settle_losses(name: str, losses: Sequence[Loss], dropped: Sequence[str]) -> None:
    """Name in notes what will be lost, before anything is written.

    Args:
        name: file that is read or written.
        losses: what will be lost.
        dropped: names of essential losses that are permitted.

    Raises:
        UsageError: an essential loss is not permitted.
    """
    refused = [loss for loss in losses if loss.is_essential and loss.name not in dropped]
    if refused:
        names = " ".join(dict.fromkeys(loss.name for loss in refused))
        raise UsageError(f"{name}: would lose {'; '.join(loss.text for loss in refused)}: permit it by --drop {names}")
    for loss in losses:
        print(f"note: {name}: not kept: {loss.text}", file=sys.stderr)


def losses_of_writing(path: str | os.PathLike, info: SceneInfo) -> list[Loss]:
    """Return what of `info` a scene that `create_scene` writes to `path` does not keep.

    Raises:
        UsageError: unknown suffix, or a format without the sample type.
        ProjectError: the format cannot store the metadata.
    """
    path = Path(path)
    form = _format_of(path, info.dtype)
    try:
        return form.losses(info)
    except ProjectError as error:  # names the file of a trial
        raise ProjectError(f"{path}: {str(error).partition(': ')[2]}") from error


def _format_of(path: Path, dtype: str) -> SceneFormat:
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        names = ", ".join(suffix for suffix in FORMATS if suffix)
        raise UsageError(f"{path}: unknown file format to write, the suffix must be one of {names}, or none")
    if dtype not in form.dtypes:
        raise UsageError(f"{path}: files of this format have no {dtype} samples, name a .npy file")
    return form
