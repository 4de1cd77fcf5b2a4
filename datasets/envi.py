"""ENVI files as scenes: raw samples and a header of text, `<name>.hdr` or `<name>.<suffix>.hdr`.

GDAL reads and writes coordinates, ground control points and rational polynomial coefficients, this module the rest:
GDAL rounds wavelengths to nanometers. Fields of which neither knows the meaning are kept in the metadata domain
"ENVI", those with one item per band in that of the bands.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO

import numpy as np
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.windows import Window

from datasets.base import Loss, SceneFormat, SceneInfo, SceneReader, SceneWriter
from datasets.gdal import calling_gdal, check_gdal
from datasets.gdal_info import find_losses, read_info, read_masks
from datasets.losses import is_same_crs, losses_by_trial
from datasets.raw import Layout, RawReader, RawWriter
from datasets.side_files import MaskFile, remove_side_files, write_leftovers
from utils.errors import DatasetError, ProjectError, UsageError
from utils.files import atomic_folder

HEADER = ".hdr"
SUFFIXES = (".img", ".bsq", ".bil", ".bip", ".dat", ".raw", "")
"""Suffixes of the samples, the usual one first."""
TYPES = {"uint8": 1, "int16": 2, "int32": 3, "float32": 4, "float64": 5, "uint16": 12, "uint32": 13}
"""ENVI's numbers of sample types."""
AXES = {"bsq": "brc", "bil": "rbc", "bip": "rcb"}
UNITS = {  # exponent of ten of a micrometer
    "micrometers": 0, "micrometer": 0, "microns": 0, "um": 0, "nanometers": -3, "nanometer": -3, "nm": -3,
    "millimeters": 3, "mm": 3, "centimeters": 4, "cm": 4, "meters": 6, "m": 6, "angstroms": -4,
}  # fmt: skip
STANDARD = ("file type", "ENVI Standard")
LAYOUT = ("samples", "lines", "bands", "header offset", "data type", "interleave", "byte order", "file compression")
"""Fields that hold the sizes and the order of the samples."""
PLACES = ("map info", "projection info", "coordinate system string", "pixel size", "geo points", "rpc info")
"""Fields that GDAL reads and writes."""
OF_BANDS = ("wavelength", "fwhm", "bbl")
"""Fields that have an item for each band, also in a header of one band."""
WAVELENGTHS = {"wavelength": "CENTRAL_WAVELENGTH_UM", "fwhm": "FWHM_UM"}
OTHERS = ("band names", "data ignore value", "default bands", "data gain values", "data offset values")
"""Fields that have a place in a `SceneInfo`."""

Fields = Mapping[str, str]
"""Name of a field in lower case -> its text; that of a list without braces."""


# -- the header -----------------------------------------------------------------------------------


def is_header(path: Path) -> bool:
    """Return whether a file is a header of ENVI: other formats have a `.hdr`, too."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) == b"ENVI"


def header_of(path: Path) -> Path | None:
    """Return the header of the file with the samples; None if it has none."""
    names = [path.with_name(path.name + HEADER), path.with_suffix(HEADER)]
    candidates = [name.with_suffix(suffix) for name in names for suffix in (HEADER, HEADER.upper())]
    return next((candidate for candidate in candidates if candidate != path and is_header(candidate)), None)


def data_of(header: Path) -> Path:
    """Return the file with the samples that a header belongs to.

    Raises:
        DatasetError: there is none, or several.
    """
    whole = header.with_suffix("")  # "a.img.hdr" belongs to "a.img"
    names = [whole.name.lower() + suffix for suffix in SUFFIXES]
    files = [file for file in header.parent.iterdir() if file.name.lower() in names and file.is_file()]
    if len(files) != 1:
        found = f"several ({', '.join(sorted(file.name for file in files))})" if files else "none"
        raise DatasetError(f"{header}: found {found} of the files that hold its samples: name the file itself")
    return files[0]


def read_header(path: Path) -> dict[str, str]:
    """Return the fields of a header, in its order.

    Raises:
        DatasetError: a list has no end.
    """
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    fields: dict[str, str] = {}
    lines = iter(text.splitlines()[1:])
    for line in lines:
        name, separator, value = line.partition("=")
        if not separator or line.lstrip().startswith(";"):
            continue
        value = value.strip()
        if value.startswith("{"):
            while not value.rstrip().endswith("}"):
                more = next(lines, None)
                if more is None:
                    raise DatasetError(f"{path}: the list {name.strip()!r} has no closing brace")
                value += "\n" + more
            value = value.strip()
        fields[" ".join(name.lower().split())] = value
    return fields


def _items(value: str) -> list[str]:
    """Return the items of a list, without its braces."""
    return [item.strip() for item in value.strip("{} \n").split(",")]


def _list(items: Sequence[str]) -> str:
    return "{" + ", ".join(items) + "}"


def _layout(path: Path, fields: Fields) -> tuple[SceneInfo, Layout]:
    """Return size, type and interleave of the samples, and their layout.

    Raises:
        DatasetError: a field is missing or wrong.
    """

    def whole(name: str, default: str | None = None) -> int:
        value = fields.get(name, default)
        if value is None or not value.isdigit():
            raise DatasetError(f"{path}: its header's {name!r} is {value}, expected a whole number")
        return int(value)

    number, interleave = whole("data type"), fields.get("interleave", "bsq").lower()
    dtype = next((dtype for dtype, known in TYPES.items() if known == number), None)
    if dtype is None or interleave not in AXES:
        raise DatasetError(
            f"{path}: its header has data type {number} and interleave {interleave}, expected one of "
            f"{', '.join(f'{number} ({dtype})' for dtype, number in TYPES.items())} and of {', '.join(AXES)}"
        )
    if whole("file compression", "0") != 0:
        raise DatasetError(f"{path}: is compressed, expected samples as they are: save it without compression")
    info = SceneInfo(whole("lines"), whole("samples"), whole("bands"), dtype, interleave=interleave)
    order = ">" if whole("byte order", "0") == 1 else "<"
    layout = Layout(np.dtype(f"{order}{np.dtype(dtype).str[1:]}"), whole("header offset", "0"), AXES[interleave])
    size = layout.offset + math.prod(layout.shape(info)) * layout.dtype.itemsize
    if size != path.stat().st_size or not math.prod(layout.shape(info)):
        raise DatasetError(f"{path}: has {path.stat().st_size} bytes, but its header says {size}")
    return info, layout


# -- reading --------------------------------------------------------------------------------------


class _EnviReader(RawReader):
    def __init__(self, info: SceneInfo, file: IO[bytes], layout: Layout, raster: rasterio.DatasetReader) -> None:
        super().__init__(Path(file.name), info, file, layout)
        self._raster = raster
        self._file_info = info

    @functools.cached_property
    def losses(self) -> tuple[Loss, ...]:
        with calling_gdal(DatasetError, f"{self.path}: cannot be read, unpack or download it again"):
            losses = find_losses(self._raster, self._file_info)
        has_names = "class_names" in self._file_info.tags.get("ENVI", {})
        return tuple(loss for loss in losses if not (has_names and loss.name == "category-names"))

    def _read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        with calling_gdal(DatasetError, self._cannot_read(row, column, height, width)):
            return read_masks(self._raster, self.info.masks, Window(column, row, width, height)) > 0


@contextlib.contextmanager
def _open(path: Path) -> Iterator[SceneReader]:
    check_gdal(path)
    if path.suffix.lower() == HEADER:
        path = data_of(path)
    header = header_of(path)
    if header is None:
        raise DatasetError(f"{path}: has no header {path.stem}.hdr or {path.name}.hdr that begins with ENVI")
    fields = read_header(header)
    info, layout = _layout(path, fields)
    with contextlib.ExitStack() as stack:
        with calling_gdal(DatasetError, f"{path}: its header {header.name} cannot be read"):
            raster = stack.enter_context(rasterio.open(path, driver="ENVI"))
            info = _read_info(raster, fields, info)
        yield _EnviReader(info, stack.enter_context(open(path, "rb")), layout, raster)


def _read_info(raster: rasterio.DatasetReader, fields: Fields, size: SceneInfo) -> SceneInfo:
    """Return the metadata: what GDAL reads, with the fields of the header as they are written there."""
    info = read_info(raster)
    known = {*LAYOUT, *PLACES, *OTHERS}
    known -= {name for name, items in _with_items(fields, "default bands") if not _default_colors(items, info.bands)}
    tags = {domain: items for domain, items in info.tags.items() if domain != "ENVI"}
    derived = re.compile(r"Band_\d+|wavelength_units")  # which GDAL makes from the names and wavelengths of bands
    tags[""] = {name: text for name, text in tags.get("", {}).items() if not derived.fullmatch(name)}
    own: dict[str, str] = {}
    band_tags = [dict(tags) for tags in info.band_tags] or [{} for _ in range(info.bands)]
    for tags_of_band in band_tags:
        tags_of_band.pop("IMAGERY", None)
    exponent = UNITS.get(fields.get("wavelength units", "").lower())
    for name, value in fields.items():
        if name in known or (name, value) == STANDARD:
            continue
        items = _items(value) if value.startswith("{") else []
        key = name.replace(" ", "_")
        is_of_bands = len(items) == info.bands and (info.bands > 1 or name in OF_BANDS)
        if not is_of_bands:
            own[key] = value
            continue
        microns = _scaled(items, exponent) if name in WAVELENGTHS else None
        domain, key = ("ENVI", key) if microns is None else ("IMAGERY", WAVELENGTHS[name])
        for tags_of_band, text in zip(band_tags, microns or items, strict=True):
            tags_of_band[domain] = {**tags_of_band.get(domain, {}), key: text}
    names = _items(fields.get("band names", ""))
    return replace(
        info,
        crs=_crs(info.crs, fields),
        interleave=size.interleave,
        compression=None,
        descriptions=tuple(name or None for name in names) if len(names) == info.bands and any(names) else (),
        tags={domain: items for domain, items in {**tags, "ENVI": own}.items() if items},
        band_tags=tuple(band_tags) if any(band_tags) else (),
        colors=info.colors or _default_colors(_items(fields.get("default bands", "")), info.bands),
    )


def _crs(crs: str | None, fields: Fields) -> str | None:
    """Return None for a map without a coordinate reference system, which GDAL gives one of the name Arbitrary."""
    return None if fields.get("map info", "").startswith("{Arbitrary") else crs


def _with_items(fields: Fields, name: str) -> Iterator[tuple[str, list[str]]]:
    if name in fields:
        yield name, _items(fields[name])


def _default_colors(items: Sequence[str], bands: int) -> tuple[str, ...]:
    """Return the colors of bands of which a header names three as red, green and blue; () for other lists."""
    numbers = [int(item) for item in items if item.isdigit() and 1 <= int(item) <= bands]
    if len(set(numbers)) != 3 or len(items) != 3:
        return ()
    colors = dict(zip(numbers, ("red", "green", "blue"), strict=True))
    return tuple(colors.get(band, "undefined") for band in range(1, bands + 1))


def _scaled(items: Sequence[str], exponent: int | None) -> list[str] | None:
    """Return numbers times a power of ten as exact text; None if one is no number, or the unit is unknown."""
    if exponent is None:
        return None
    try:
        return [f"{Decimal(item).scaleb(exponent):f}" for item in items]
    except InvalidOperation:
        return None


# -- writing --------------------------------------------------------------------------------------


class _EnviWriter(RawWriter):
    def __init__(self, path: Path, info: SceneInfo, file: IO[bytes], layout: Layout, masks: MaskFile | None) -> None:
        super().__init__(path, info, file, layout)
        self._masks = masks

    def _write_masks(self, row: int, column: int, masks: np.ndarray) -> None:
        assert self._masks is not None  # as `info` has masks
        with calling_gdal(ProjectError, f"{self.path}: its masks cannot be written, is the disk full?"):
            self._masks.write(row, column, masks)


@contextlib.contextmanager
def _create(path: Path, info: SceneInfo) -> Iterator[SceneWriter]:
    check_gdal(path)
    if path.suffix.lower() == HEADER:
        path = path.with_suffix(SUFFIXES[0])
    header = _free_header(path)
    interleave = path.suffix.lower().lstrip(".")
    info = replace(info, interleave=interleave if interleave in AXES else info.interleave)
    layout = Layout(np.dtype(info.dtype).newbyteorder("<"), 0, AXES[info.interleave])
    problem = f"{path}: cannot be created"
    with atomic_folder(path) as folder, contextlib.ExitStack() as stack:
        data = folder / path.name
        with calling_gdal(ProjectError, problem, GDAL_PAM_ENABLED=False):
            (folder / header.name).write_text(_header_text(info), encoding="utf-8")
            masks = stack.enter_context(MaskFile.create(data, info)) if info.masks else None
        with open(data, "wb") as file:
            yield _EnviWriter(path, info, file, layout, masks)
        with calling_gdal(ProjectError, f"{path}: cannot be written, is the disk full?"):
            stack.close()
        with calling_gdal(ProjectError, problem, GDAL_PAM_ENABLED=False):
            fields = read_header(folder / header.name)
            with rasterio.open(data, driver="ENVI") as raster:
                write_leftovers(data, info, _read_info(raster, fields, info))
            remove_side_files(path, folder, "ENVI")


def _free_header(path: Path) -> Path:
    """Return the header to write for a file.

    Raises:
        UsageError: it belongs to another file.
    """
    header = path.with_suffix(HEADER)
    siblings = [path.with_suffix(suffix) for suffix in SUFFIXES if path.with_suffix(suffix) != path]
    other = next((file for file in siblings if file.is_file()), None)
    if header.exists() and other is not None and other != header:
        raise UsageError(f"{path}: its header {header.name} would replace that of {other.name}: give another name")
    return header


def _header_text(info: SceneInfo) -> str:
    own = {name.replace("_", " "): text for name, text in info.tags.get("ENVI", {}).items()}
    fields = {
        "samples": str(info.width),
        "lines": str(info.height),
        "bands": str(info.bands),
        "header offset": "0",
        STANDARD[0]: STANDARD[1],
        "data type": str(TYPES[info.dtype]),
        "interleave": info.interleave,
        "byte order": "0",
        **_places(info),
        **{name: text for name, text in own.items() if name not in LAYOUT},
        **_band_fields(info, own.get("wavelength units", "")),
    }
    first = {"description": fields.pop("description")} if "description" in fields else {}
    return "".join(["ENVI\n", *(f"{name} = {text}\n" for name, text in (first | fields).items())])


def _band_fields(info: SceneInfo, unit: str) -> dict[str, str]:
    """Return the fields with an item for each band, and the nodata value."""
    fields: dict[str, str] = {}
    if info.descriptions:
        fields["band names"] = _list([text or "" for text in info.descriptions])
    imagery = [tags.get("IMAGERY", {}) for tags in info.band_tags]
    if any(name in tags for tags in imagery for name in WAVELENGTHS.values()):
        unit = unit if unit.lower() in UNITS else "Micrometers"
        fields["wavelength units"] = unit
        for name, tag in WAVELENGTHS.items():
            if imagery and all(tag in tags for tags in imagery):
                microns = [tags[tag] for tags in imagery]
                fields[name] = _list(_scaled(microns, -UNITS[unit.lower()]) or microns)
    own = [tags.get("ENVI", {}) for tags in info.band_tags]
    for key in own[0] if own else ():
        if all(key in tags for tags in own):
            fields[key.replace("_", " ")] = _list([tags[key] for tags in own])
    if info.nodata is not None:
        fields["data ignore value"] = f"{info.nodata:.17g}"
    if info.scales:
        fields["data gain values"] = _list([repr(float(scale)) for scale in info.scales])
    if info.offsets:
        fields["data offset values"] = _list([repr(float(offset)) for offset in info.offsets])
    if all(info.colors.count(color) == 1 for color in ("red", "green", "blue")):
        fields["default bands"] = _list([str(info.colors.index(color) + 1) for color in ("red", "green", "blue")])
    return fields


def _places(info: SceneInfo) -> dict[str, str]:
    """Return the fields of coordinates.

    GDAL would write other coordinates than it is given for some scenes (shear, US survey feet, heights); the header
    then has what is left without error, and `losses` names the rest.
    """
    for crs, transform in ((info.crs, info.transform), (None, info.transform), (info.crs, None)):
        fields, written = _written_places(replace(info, crs=crs, transform=transform))
        if written.transform == transform and is_same_crs(_crs(written.crs, fields), crs):
            return fields
    return {}


def _written_places(info: SceneInfo) -> tuple[dict[str, str], SceneInfo]:
    """Return the fields of coordinates that GDAL writes for a scene of four pixels, and what it reads from them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.img")
        with rasterio.open(
            path,
            "w",
            driver="ENVI",
            height=2,
            width=2,
            count=1,
            dtype="uint8",
            crs=CRS.from_wkt(info.crs) if info.crs else None,
            transform=rasterio.Affine(*info.transform) if info.transform else None,
        ) as raster:
            if info.gcps:
                points = [GroundControlPoint(p.row, p.column, p.x, p.y, p.z, p.name, p.note) for p in info.gcps]
                raster.gcps = (points, CRS.from_wkt(info.gcps_crs) if info.gcps_crs else CRS())
            if "RPC" in info.tags:
                raster.update_tags(ns="RPC", **info.tags["RPC"])
        fields = read_header(path.with_suffix(HEADER))
        with rasterio.open(path, driver="ENVI") as raster:
            return {name: fields[name] for name in PLACES if name in fields}, read_info(raster)


def _losses(info: SceneInfo) -> list[Loss]:
    return losses_by_trial(FORMAT, info, SUFFIXES[0])


FORMAT = SceneFormat((*SUFFIXES, HEADER), _open, _create, _losses, tuple(TYPES))
