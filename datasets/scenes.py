"""Scenes as files: GeoTIFF and `.npy` cubes, read and written window by window.

    with open_scene("a.tif") as scene, create_scene("b.tif", scene.info) as copy:
        for row in range(0, scene.info.height, 128):
            rows = min(128, scene.info.height - row)
            copy.write(row, 0, scene.read(row, 0, rows, scene.info.width))

numpy and rasterio are imported where they are needed: the scripts' --help imports this module.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from utils.errors import DatasetError, ProjectError, UsageError, one_line
from utils.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import rasterio

DTYPES = ("int16", "uint16", "float32")
"""Sample types that a scene may have."""
INTEGER_RANGES = {"int16": (-32768, 32767), "uint16": (0, 65535)}

TIF, NPY = "tif", "npy"
KINDS = {".tif": TIF, ".tiff": TIF, ".npy": NPY}
"""Kinds of files by suffix, in lower case."""

BLOCK = 128
"""Side in pixels of the blocks of a written GeoTIFF: that of the tiles that come in."""
LOSSLESS = ("deflate", "lzw", "zstd", "lzma", "packbits")
"""Compressions that a GeoTIFF is written with."""
WITH_PREDICTOR = ("deflate", "lzw", "zstd")
CACHE_BYTES = 64 * 2**20
"""Of GDAL, instead of a twentieth of the machine's memory."""
TALL_BYTES = 512 * 2**20
"""The most that is cached beside, of a file whose blocks are taller than the windows that are read: without room for
a row of blocks, 352 MB in an EnMAP scene with its blocks of 512 x 512, each is decompressed four times."""


@dataclass(frozen=True)
class SceneInfo:
    """What a scene's file says beside its samples. Fields with one item for each band are empty where no band has any.

    Attributes:
        height, width: pixels.
        bands: number of bands.
        dtype: one of `DTYPES`.
        nodata: the value that marks a sample without data, possibly NaN; None where the file names none.
        crs: coordinate reference system as WKT, None where there is none.
        transform: the six numbers (a, b, c, d, e, f) of the affine map from (column, row) to coordinates,
            None where there is none.
        descriptions: one for each band, None or text.
        tags: of the file.
        band_tags: one dictionary for each band.
        scales, offsets: one number for each band: physical value = sample x scale + offset.
        units: of the physical values, one for each band, None or text.
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
        """The info of a part of the scene, in pixels; its coordinates stay what they are.

        Raises:
            ValueError: the window is empty or not inside of the scene.
        """
        inside = 0 <= row < row + height <= self.height and 0 <= column < column + width <= self.width
        if not inside:
            raise ValueError(f"{_window_name(row, column, height, width)} of a scene of {self.height} x {self.width}")
        transform = self.transform
        if transform is not None:
            a, b, c, d, e, f = transform
            transform = (a, b, c + a * column + b * row, d, e, f + d * column + e * row)
        return replace(self, height=height, width=width, transform=transform)

    def select_bands(self, indices: Sequence[int]) -> SceneInfo:
        """The info of the bands with these 0-based indices, in this order."""
        names = ("descriptions", "band_tags", "scales", "offsets", "units")
        items = {name: getattr(self, name) for name in names}
        selected = {name: tuple(values[i] for i in indices) for name, values in items.items() if values}
        return replace(self, bands=len(indices), **selected)


class SceneReader(ABC):
    """An open scene, for use in one thread."""

    def __init__(self, path: Path, info: SceneInfo) -> None:
        self.path = path
        self.info = info

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Samples (bands, height, width) of a window, in the scene's type and the machine's byte order.

        Raises:
            DatasetError: the file is damaged there, or was cut since it was opened.
            ValueError: the window is empty or not inside of the scene.
        """
        self.info.window(row, column, height, width)
        return self._read(row, column, height, width)

    @abstractmethod
    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray: ...

    def _cannot_read(self, row: int, column: int, height: int, width: int) -> str:
        window = _window_name(row, column, height, width)
        return f"{self.path}: {window} cannot be read, unpack or download it again"


class SceneWriter(ABC):
    """A scene that is being written, for use in one thread."""

    def __init__(self, path: Path, info: SceneInfo) -> None:
        self.path = path
        self.info = info

    def write(self, row: int, column: int, cube: np.ndarray) -> None:
        """Write samples (bands, height, width) of the scene's type at a place, each sample of the scene once.

        Windows of whole 128 x 128 blocks from top to bottom, cut at the right and lower edge, are the fastest
        and give the smallest GeoTIFF.

        Raises:
            ProjectError, OSError: the disk is full, or fails.
            ValueError: the cube does not fit into the scene, or is of another type.
        """
        if cube.ndim != 3 or len(cube) != self.info.bands or cube.dtype != self.info.dtype:
            raise ValueError(f"{cube.dtype} {cube.shape}, expected {self.info.dtype} ({self.info.bands}, ...)")
        self.info.window(row, column, *cube.shape[1:])
        self._write(row, column, cube)

    @abstractmethod
    def _write(self, row: int, column: int, cube: np.ndarray) -> None: ...


@contextlib.contextmanager
def open_scene(path: str | os.PathLike, nodata: float | None = None) -> Iterator[SceneReader]:
    """Open a GeoTIFF (`.tif`, `.tiff`) or a cube (`.npy`, (bands, rows, columns)) of one of `DTYPES`.

    A nodata value of the file that its type cannot hold marks nothing and counts as none.

    Args:
        path: the file; its suffix, in upper or lower case, says the kind.
        nodata: instead of the file's own, rounded to the scene's type.

    Raises:
        UsageError: another suffix, or a `nodata` that the scene's type cannot hold.
        DatasetError: missing, no file, damaged, without samples, of another type or shape. One line,
            `<path>: <what is wrong>`.
    """
    path = Path(path)
    kind = _kind_of(path)
    if not path.is_file():  # also keeps GDAL from the network and numpy from waiting for a pipe
        raise DatasetError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    with (_open_tif if kind == TIF else _open_npy)(path) as scene:
        if nodata is not None:
            held = _as_sample(nodata, scene.info.dtype)
            if held is None:
                raise UsageError(f"{path}: nodata {nodata:g} is no value of its type {scene.info.dtype}")
            scene.info = replace(scene.info, nodata=held)
        yield scene


@contextlib.contextmanager
def create_scene(path: str | os.PathLike, info: SceneInfo) -> Iterator[SceneWriter]:
    """Write a scene to a temporary file beside `path` that is renamed when the block is left without an exception.

    What was at `path` stays until then. A `.npy` keeps nothing of `info` but size and type. A GeoTIFF of more
    than 128 pixels in height or width has blocks of 128 x 128; one that `info` names a lossy or rare compression
    for is written as deflate. Folders on the way are created.

    Raises:
        UsageError: another suffix than `.tif`, `.tiff` or `.npy`, or a folder.
        ProjectError, OSError: cannot be written: a full disk, a folder that may not be written, metadata that
            GDAL cannot store.
    """
    path = Path(path)
    kind = _kind_of(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, give the name of a file")
    try:
        with (_create_tif if kind == TIF else _create_npy)(path, info) as scene:
            yield scene
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a failed write does not say of which file
            error.filename = str(path)
        raise


def _kind_of(path: Path) -> str:
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: unknown kind of file, a scene's name ends in {', '.join(KINDS)}")
    return kind


def _window_name(row: int, column: int, height: int, width: int) -> str:
    return f"window of {height} x {width} at row {row}, column {column}"


def _as_sample(value: float, dtype: str) -> float | None:
    """`value` as a sample of type `dtype` holds it, None where none can."""
    if dtype == "float32":
        try:
            return struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            return None
    low, high = INTEGER_RANGES[dtype]
    return float(value) if low <= value <= high and value == int(value) else None


# GeoTIFF


class _TifReader(SceneReader):
    def __init__(self, path: Path, info: SceneInfo, tif: rasterio.DatasetReader) -> None:
        super().__init__(path, info)
        self._tif = tif
        self._cache_bytes = _cache_bytes(tif)

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        from rasterio.windows import Window

        with _gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return self._tif.read(window=Window(column, row, width, height))


class _TifWriter(SceneWriter):
    def __init__(self, path: Path, info: SceneInfo, tif: rasterio.io.DatasetWriter) -> None:
        super().__init__(path, info)
        self._tif = tif

    def _write(self, row: int, column: int, cube: np.ndarray) -> None:
        from rasterio.windows import Window

        with _gdal_writes(self.path):
            self._tif.write(cube, window=Window(column, row, cube.shape[2], cube.shape[1]))


@contextlib.contextmanager
def _gdal(error_class: type[ProjectError], problem: str, cache_bytes: int = CACHE_BYTES) -> Iterator[None]:
    """Calls of rasterio with a bounded cache; what they raise becomes one line that starts with `problem`.

    Entered for each call: settings that stay on would have to be left in the reverse order of entering, and
    a reader and a writer need not be closed in that order.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=cache_bytes):  # rasterio wants bytes
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            yield
        except Exception as error:  # its own, GDAL's, ValueError: which one for what is not documented
            raise error_class(f"{problem} ({one_line(error.__cause__ or error)})") from error


@contextlib.contextmanager
def _gdal_writes(path: Path, problem: str = "cannot be written, is the disk full?") -> Iterator[None]:
    """`_gdal` for writing.

    On a full disk libtiff itself prints dozens of lines to the process's standard error, beside the error that
    GDAL reports. It is pointed elsewhere for as long as the call takes.
    """
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with _gdal(ProjectError, f"{path}: {problem}"):
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


@contextlib.contextmanager
def _open_tif(path: Path) -> Iterator[SceneReader]:
    import rasterio

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
            info = _tif_info(tif)
        yield _TifReader(path, info, tif)


def _tif_info(tif: rasterio.DatasetReader) -> SceneInfo:
    import rasterio

    dtype = tif.dtypes[0]
    band_tags = tuple(tif.tags(band) for band in tif.indexes)
    compression = tif.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
    return SceneInfo(
        height=tif.height,
        width=tif.width,
        bands=tif.count,
        dtype=dtype,
        nodata=None if tif.nodata is None else _as_sample(tif.nodata, dtype),
        crs=tif.crs.to_wkt() if tif.crs else None,
        transform=None if tif.transform == rasterio.Affine.identity() else tuple(tif.transform)[:6],
        descriptions=tif.descriptions if any(tif.descriptions) else (),
        tags=tif.tags(),
        band_tags=band_tags if any(band_tags) else (),
        scales=tif.scales if set(tif.scales) != {1.0} else (),
        offsets=tif.offsets if set(tif.offsets) != {0.0} else (),
        units=tif.units if any(tif.units) else (),
        compression=compression and compression.lower(),
    )


def _cache_bytes(tif: rasterio.DatasetReader) -> int:
    """What GDAL may cache so that windows of `BLOCK` full rows, from top to bottom, decompress each block once."""
    import numpy as np

    block_height, block_width = tif.block_shapes[0]
    columns = math.ceil(tif.width / block_width) * block_width
    block_row_bytes = block_height * columns * tif.count * np.dtype(tif.dtypes[0]).itemsize
    is_tall = block_height > BLOCK and block_row_bytes <= TALL_BYTES
    return CACHE_BYTES + (block_row_bytes if is_tall else 0)


@contextlib.contextmanager
def _create_tif(path: Path, info: SceneInfo) -> Iterator[SceneWriter]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # GDAL does not write over half a file that a killed run left
    try:
        with _gdal_writes(path, "cannot be created"):
            tif = _new_tif(temporary, info)
        try:
            with _gdal_writes(path, "cannot be created"):
                _write_metadata(tif, info)
            yield _TifWriter(path, info, tif)
        finally:
            with _gdal_writes(path):
                tif.close()
        with _gdal_writes(path):
            _check_blocks(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _new_tif(path: Path, info: SceneInfo) -> rasterio.io.DatasetWriter:
    import rasterio
    from rasterio.crs import CRS

    options = {"blockysize": info.height}
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
    for band, tags in enumerate((info.tags, *info.band_tags)):  # band 0 is the file
        # rasterio cannot write tags with the names of its own arguments
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
    """That each block of a written GeoTIFF lies inside of the file.

    GDAL writes the last blocks and their index when it closes a file, and rasterio is silent about its failure.
    """
    import rasterio

    size = path.stat().st_size
    with rasterio.open(path, driver="GTiff") as tif:
        for band in tif.indexes:
            for (i, j), _ in tif.block_windows(band):
                place = [tif.get_tag_item(f"BLOCK_{what}_{j}_{i}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")]
                if None in place or sum(map(int, place)) > size:
                    raise OSError(f"block {i}, {j} of band {band} is missing")


# .npy


class _NpyReader(SceneReader):
    def __init__(self, path: Path, file: IO[bytes], cube: np.memmap) -> None:
        super().__init__(path, SceneInfo(*cube.shape[1:], bands=len(cube), dtype=cube.dtype.name))
        self._file = file
        order = "C" if cube.flags.c_contiguous else "F"
        self._layout = dict(dtype=cube.dtype, offset=cube.offset, shape=cube.shape, order=order)

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Through a mapping for each band: around a sample up to 2 MB of the file count as this process's memory."""
        import numpy as np

        window = np.empty((self.info.bands, height, width), self.info.dtype)
        try:
            for band in range(self.info.bands):
                cube = np.memmap(self._file, mode="r", **self._layout)
                window[band] = cube[band, row : row + height, column : column + width]
        except ValueError as error:  # the file is shorter than it was
            raise DatasetError(f"{self._cannot_read(row, column, height, width)} ({one_line(error)})") from error
        return window


class _NpyWriter(SceneWriter):
    def __init__(self, path: Path, info: SceneInfo, file: IO[bytes]) -> None:
        import numpy as np

        super().__init__(path, info)
        self._file = file
        self._itemsize = np.dtype(info.dtype).itemsize
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(info.dtype)),
            "fortran_order": False,
            "shape": (info.bands, info.height, info.width),
        }
        np.lib.format.write_array_header_1_0(file, header)
        self._data_start = file.tell()

    def _write(self, row: int, column: int, cube: np.ndarray) -> None:
        for band, plane in enumerate(cube):
            for line, samples in enumerate(plane, start=row):
                samples_before = (band * self.info.height + line) * self.info.width + column
                self._file.seek(self._data_start + samples_before * self._itemsize)
                self._file.write(samples.tobytes())


@contextlib.contextmanager
def _open_npy(path: Path) -> Iterator[SceneReader]:
    import numpy as np

    with open(path, "rb") as file:
        try:
            with np.errstate(over="raise"):  # a size whose product is more than an integer holds
                cube = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # what numpy raises for a damaged header is not documented
            raise DatasetError(f"{path}: damaged, or no .npy file ({one_line(error)})") from error
        if cube.ndim != 3:
            raise DatasetError(f"{path}: shape {cube.shape}, expected (bands, rows, columns)")
        if cube.dtype.name not in DTYPES:
            raise DatasetError(f"{path}: dtype {cube.dtype}, expected one of {', '.join(DTYPES)}")
        if cube.size == 0:
            raise DatasetError(f"{path}: shape {cube.shape} has no samples")
        if cube.offset + cube.nbytes != os.fstat(file.fileno()).st_size:
            raise DatasetError(f"{path}: longer than its header says")
        yield _NpyReader(path, file, cube)


@contextlib.contextmanager
def _create_npy(path: Path, info: SceneInfo) -> Iterator[SceneWriter]:
    with atomic_write(path) as file:
        yield _NpyWriter(path, info, file)
