"""Scenes as files, read and written window by window.

    with open_scene("a.tif") as scene, create_scene("b.tif", scene.info) as copy:
        for row in range(0, scene.info.height, 128):
            rows = min(128, scene.info.height - row)
            copy.write(row, 0, scene.read(row, 0, rows, scene.info.width))

Formats: GeoTIFF (`datasets.geotiff`) and numpy's `.npy` (`datasets.npy`).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datasets import geotiff, npy
from datasets.base import SceneFormat, SceneInfo, SceneReader, SceneWriter, as_sample
from utils.errors import DatasetError, UsageError

FORMATS = {suffix: form for form in (geotiff.FORMAT, npy.FORMAT) for suffix in form.suffixes}
"""File formats by suffix, in lower case."""


@contextlib.contextmanager
def open_scene(path: str | os.PathLike, nodata: float | None = None) -> Iterator[SceneReader]:
    """Open a scene: a GeoTIFF (`.tif`, `.tiff`) or a cube (`.npy`, (bands, rows, columns)) of one of `DTYPES`.

    A nodata value of the file that its type cannot hold is ignored.

    Args:
        path: the file; its suffix, in upper or lower case, selects the format.
        nodata: replaces the file's own nodata value, rounded to the scene's type. NaN, which never counts as data,
            does not replace another value.

    Yields:
        The reader.

    Raises:
        UsageError: unknown suffix, or a `nodata` that the scene's type cannot hold.
        DatasetError: the file is missing, not regular, damaged, without samples, or of another type or shape.
            One line, `<path>: <reason>`.
    """
    path = Path(path)
    form = _format_of(path)
    if not path.is_file():  # also keeps GDAL from the network and numpy from waiting for a pipe
        raise DatasetError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    with form.open(path) as scene:
        if nodata is not None:
            sample = as_sample(nodata, scene.info.dtype)
            if sample is None:
                raise UsageError(f"{path}: nodata must be a value of type {scene.info.dtype}, got {nodata:g}")
            has_nodata = scene.info.nodata is not None or bool(scene.info.band_nodata)
            if not (math.isnan(sample) and has_nodata):
                scene.info = replace(scene.info, nodata=sample, band_nodata=())
        yield scene


@contextlib.contextmanager
def create_scene(path: str | os.PathLike, info: SceneInfo) -> Iterator[SceneWriter]:
    """Write a scene atomically: a temporary file beside `path` is renamed when the block ends without an exception.

    The old file at `path` stays until then. Parent folders are created. A `.npy` keeps only size and type of
    `info`. A GeoTIFF of more than 128 pixels in height or width has blocks of 128 x 128; lossy and rare
    compressions in `info` are replaced by deflate.

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
    form = _format_of(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, give the name of a file")
    if info.dtype not in form.dtypes:
        raise UsageError(f"{path}: {path.suffix} files have no {info.dtype} samples, name a .npy file")
    try:
        with form.create(path, info) as scene:
            yield scene
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a failed write does not name its file
            error.filename = str(path)
        raise


def _format_of(path: Path) -> SceneFormat:
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UsageError(f"{path}: unknown file format, the suffix must be one of {', '.join(FORMATS)}")
    return form
