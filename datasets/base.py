"""The interface of scenes, hyperspectral images in files: metadata, reader, writer, and file format.

A new file format is one module with a `SceneFormat`, listed in `datasets.scenes.FORMATS`.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

Item = TypeVar("Item")

FLOATS = ("float16", "float32", "float64")
INTEGER_RANGES = {
    f"{kind}{bits}": (int(np.iinfo(f"{kind}{bits}").min), int(np.iinfo(f"{kind}{bits}").max))
    for bits in (8, 16, 32)
    for kind in ("uint", "int")
}
"""Integer sample types and their smallest and largest values."""
DTYPES = (*INTEGER_RANGES, *FLOATS)
"""Sample types that a scene may have."""


class GroundControlPoint(NamedTuple):
    """A pixel whose place on the ground is known.

    Attributes:
        row, column: in pixels, from the upper left corner of the scene.
        x, y, z: coordinates in `SceneInfo.gcps_crs`.
        name: unique in the scene.
        note: free text.
    """

    row: float
    column: float
    x: float
    y: float
    z: float = 0.0
    name: str = ""
    note: str = ""


@dataclass(frozen=True)
class SceneInfo:
    """Metadata of a scene. Fields with one item per band are empty if no band has any.

    Attributes:
        height, width: size in pixels.
        bands: number of bands.
        dtype: one of `DTYPES`.
        nodata: value that marks samples without data in all bands, possibly NaN; None if there is none, or if bands
            differ.
        band_nodata: one value or None per band, if bands differ.
        masks: number of mask planes: 0, 1 for a mask of all bands, or one per band.
        crs: coordinate reference system as WKT2:2019, None if there is none.
        transform: the six numbers (a, b, c, d, e, f) of the affine map from (column, row) to coordinates,
            None if there is none.
        gcps: ground control points.
        gcps_crs: their coordinate reference system as WKT2:2019.
        descriptions: text or None, one per band.
        tags: tags of the file: GDAL's metadata domain -> name -> text. "" is the default domain; "RPC" holds rational
            polynomial coefficients.
        band_tags: one such dictionary per band. The domain "IMAGERY" holds `CENTRAL_WAVELENGTH_UM` and `FWHM_UM`.
        scales, offsets: one number per band: physical value = sample * scale + offset.
        units: units of the physical values, text or None, one per band.
        colors: color interpretation, one GDAL name in lower case per band ("gray", "alpha", "undefined", ...).
        color_tables: one per band: (value, red, green, blue, alpha) of each entry.
        compression: GDAL's name in lower case ("deflate", "lzw", ...), None for none.
        interleave: order of the file's samples: "bsq", "bil" or "bip".
    """

    height: int
    width: int
    bands: int
    dtype: str
    nodata: float | None = None
    band_nodata: tuple[float | None, ...] = ()
    masks: int = 0
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    gcps: tuple[GroundControlPoint, ...] = ()
    gcps_crs: str | None = None
    descriptions: tuple[str | None, ...] = ()
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    band_tags: tuple[dict[str, dict[str, str]], ...] = ()
    scales: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    units: tuple[str | None, ...] = ()
    colors: tuple[str, ...] = ()
    color_tables: tuple[tuple[tuple[int, ...], ...], ...] = ()
    compression: str | None = None
    interleave: str = "bsq"

    def window(self, row: int, column: int, height: int, width: int) -> SceneInfo:
        """Return the info of a window of the scene, in pixels.

        The origin of `transform`, the ground control points, the rational polynomial coefficients, the offsets of
        geolocation arrays and ENVI's place in a larger image move with it.

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
        gcps = tuple(point._replace(row=point.row - row, column=point.column - column) for point in self.gcps)
        tags = {domain: dict(items) for domain, items in self.tags.items()}
        for domain, name, shift in (
            ("RPC", "LINE_OFF", row),
            ("RPC", "SAMP_OFF", column),
            ("GEOLOCATION", "LINE_OFFSET", row),
            ("GEOLOCATION", "PIXEL_OFFSET", column),
            ("ENVI", "y_start", -row),
            ("ENVI", "x_start", -column),
        ):
            if shift and name in tags.get(domain, {}):
                with contextlib.suppress(ValueError):  # no number, which has no place to move
                    tags[domain][name] = f"{float(tags[domain][name]) - shift:.15g}"  # as GDAL writes numbers
        return replace(self, height=height, width=width, transform=transform, gcps=gcps, tags=tags)

    def select_bands(self, indices: Sequence[int]) -> SceneInfo:
        """Return the info of the bands with these 0-based indices, in this order."""

        def select(items: tuple[Item, ...], default: object) -> tuple[Item, ...]:
            selected = tuple(items[i] for i in indices) if items else ()
            return selected if any(item not in (None, default) for item in selected) else ()

        nodata, band_nodata = shared_nodata([self.nodata_of(index) for index in indices])
        return replace(
            self,
            bands=len(indices),
            nodata=nodata,
            band_nodata=band_nodata,
            masks=len(indices) if self.masks > 1 else self.masks,
            descriptions=select(self.descriptions, ""),
            band_tags=select(self.band_tags, {}),
            scales=select(self.scales, 1.0),
            offsets=select(self.offsets, 0.0),
            units=select(self.units, ""),
            colors=known_colors(select(self.colors, "undefined")),
            color_tables=select(self.color_tables, ()),
        )

    def nodata_of(self, band: int) -> float | None:
        """Return the nodata value of a band, counted from 0."""
        return self.band_nodata[band] if self.band_nodata else self.nodata


class Loss(NamedTuple):
    """Something of a scene that a format, or this project, cannot keep.

    Attributes:
        name: short and without spaces, as `--drop` takes it, such as "overviews".
        text: what is lost, for a message.
        is_essential: whether it is data or georeference, which must not be lost without `--drop`.
    """

    name: str
    text: str
    is_essential: bool = False


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

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What of the file is not in `info`, the samples and the masks."""
        return ()

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return the samples (bands, height, width) of a window, in the scene's type and native byte order.

        Raises:
            DatasetError: the file is damaged there, or was truncated since it was opened.
            ValueError: the window is empty or not inside the scene.
        """
        self.info.window(row, column, height, width)
        return self._read(row, column, height, width)

    def read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return the masks (`info.masks`, height, width) of a window: bool, False where samples are to be ignored.

        Raises:
            DatasetError: the file is damaged there, or was truncated since it was opened.
            ValueError: the window is empty or not inside of the scene.
        """
        self.info.window(row, column, height, width)
        return self._read_masks(row, column, height, width) if self.info.masks else np.ones((0, height, width), bool)

    @abstractmethod
    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray: ...

    def _read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        raise NotImplementedError

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

    def write_masks(self, row: int, column: int, masks: np.ndarray) -> None:
        """Write the masks (`info.masks`, height, width) of a window, as `SceneReader.read_masks` returns them.

        Raises:
            ProjectError, OSError: the disk is full, or fails.
            ValueError: the masks do not fit into the scene.
        """
        if masks.ndim != 3 or len(masks) != self.info.masks or masks.dtype != bool:
            raise ValueError(f"masks must be bool ({self.info.masks}, height, width), got {masks.dtype} {masks.shape}")
        self.info.window(row, column, *masks.shape[1:])
        if len(masks):
            self._write_masks(row, column, masks)

    @abstractmethod
    def _write(self, row: int, column: int, cube: np.ndarray) -> None: ...

    def _write_masks(self, row: int, column: int, masks: np.ndarray) -> None:
        raise NotImplementedError


class SceneFormat(NamedTuple):
    """A file format of scenes.

    Attributes:
        suffixes: suffixes of its files, in lower case, such as (".tif", ".tiff").
        open: (path of a regular file) -> context manager of a reader; raises `DatasetError` with one line,
            `<path>: <reason>`, for a file that is damaged or has no scene of one of `DTYPES`.
        create: (path, info) -> context manager of a writer. It replaces the file at `path` at the end, if the
            block raises no exception, and raises `ProjectError` or `OSError` if it cannot be written.
        losses: (info) -> what of `info` a file of this format does not keep.
        dtypes: sample types that its files can have, of `DTYPES`.
    """

    suffixes: tuple[str, ...]
    open: Callable[[Path], AbstractContextManager[SceneReader]]
    create: Callable[[Path, SceneInfo], AbstractContextManager[SceneWriter]]
    losses: Callable[[SceneInfo], list[Loss]] = lambda info: []
    dtypes: tuple[str, ...] = DTYPES


def shared_nodata(values: Sequence[float | None]) -> tuple[float | None, tuple[float | None, ...]]:
    """Return `SceneInfo.nodata` and `SceneInfo.band_nodata` of bands with these nodata values."""
    is_one_for_all = len(set(map(repr, values))) == 1  # NaN does not equal itself
    return (values[0], ()) if is_one_for_all else (None, tuple(values))


def known_colors(colors: tuple[str, ...]) -> tuple[str, ...]:
    """Return the colors of bands, or () if they are those that GDAL gives to bands of which it knows nothing."""
    is_default = set(colors[:1]) <= {"gray", "undefined"} and set(colors[1:]) <= {"undefined"}
    return () if is_default else colors


def window_name(row: int, column: int, height: int, width: int) -> str:
    """Describe a window, for error messages."""
    return f"window of {height} x {width} at row {row}, column {column}"


def as_sample(value: float, dtype: str) -> float | None:
    """Return the sample that holds `value`, or None if its type cannot hold it.

    Args:
        value: any number.
        dtype: one of `DTYPES`. Only floats round: int16 cannot hold 0.5.
    """
    if dtype in FLOATS:
        with np.errstate(over="ignore"):
            sample = float(np.dtype(dtype).type(value))
        return sample if math.isfinite(sample) or not math.isfinite(value) else None
    low, high = INTEGER_RANGES[dtype]
    return float(value) if low <= value <= high and value == int(value) else None


def without_statistics(info: SceneInfo) -> SceneInfo:
    """Return the info without the tags `STATISTICS_*`, which hold for the samples of the whole original scene only."""

    def clean(domains: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        kept = {
            domain: {name: text for name, text in tags.items() if not name.upper().startswith("STATISTICS_")}
            for domain, tags in domains.items()
        }
        return {domain: tags for domain, tags in kept.items() if tags}

    band_tags = tuple(map(clean, info.band_tags))
    return replace(info, tags=clean(info.tags), band_tags=band_tags if any(band_tags) else ())


def valid_mask(samples: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return a mask, bool of the same shape, that is True where samples hold data.

    Args:
        samples: any shape, of one of `DTYPES`.
        nodata: the value of samples without data. For floats, None means NaN.
    """
    if nodata is None:
        return np.ones(samples.shape, bool) if samples.dtype.kind != "f" else ~np.isnan(samples)
    return ~np.isnan(samples) if math.isnan(nodata) else samples != samples.dtype.type(nodata)


def valid_samples(samples: np.ndarray, info: SceneInfo) -> np.ndarray:
    """Return a mask, bool (bands, H, W), that is True where samples are finite and not nodata.

    Args:
        samples: (bands, H, W), all bands of the scene.
        info: metadata of the scene.
    """
    valid = np.isfinite(samples) if samples.dtype.kind == "f" else np.ones(samples.shape, bool)
    for band in range(info.bands):
        nodata = info.nodata_of(band)
        if nodata is not None and not math.isnan(nodata):
            valid[band] &= samples[band] != samples.dtype.type(nodata)
    return valid
