"""Products in HDF5, netCDF and MATLAB files as scenes: PRISMA, EMIT, NEON AOP, and arrays of any name.

Samples keep their type and digital numbers; scales and offsets turn them into reflectances. Layouts:

- PRISMA L2 (`.he5`): ASI, "PRISMA Products Specification Document".
- EMIT L2A (`.nc`): doi 10.5067/EMIT/EMITL2ARFL.001.
- NEON AOP, surface reflectance (`.h5`): products DP1.30006 and DP3.30006.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import scipy.io
from rasterio.crs import CRS

from datasets.base import DTYPES, INTEGER_RANGES, GroundControlPoint, Loss, SceneInfo
from datasets.enmap import METADATA_SUFFIX, TIF_SUFFIX, find_tifs, product_of
from datasets.scenes import open_scene
from utils.errors import DatasetError, ProjectError, UsageError, one_line
from utils.processes import available_memory

try:
    import h5py
except ImportError:  # only needed here
    h5py = None

Result = TypeVar("Result")

HDF5_SUFFIXES = (".he5", ".h5", ".hdf5", ".hdf", ".nc", ".nc4")
GCPS_PER_SIDE = 21
"""Ground control points along a side of a scene whose coordinates are known for each pixel."""
PRISMA_PIXEL = 30.0
"""Meters."""
PRISMA_MAX = 65535
"""The digital number of the largest reflectance."""
PRISMA_ARMS = ("Vnir", "Swir")
EMIT_LINES = 64
"""Lines that are read at once."""

Read = Callable[[int, int], np.ndarray]
"""(first row, number of rows) -> samples (bands, rows, width)."""


@dataclass(frozen=True)
class Options:
    """What a file does not say itself.

    Attributes:
        variable: name of the array; None for the only one with three dimensions.
        order: what the dimensions of the array are: "r" rows, "c" columns, "b" bands.
        ortho: whether to arrange pixels by the lookup table of an EMIT product.
    """

    variable: str | None = None
    order: str = "rcb"
    ortho: bool = False


class Product(NamedTuple):
    """An open product.

    Attributes:
        info: metadata of the scene.
        read: reads its samples.
        notes: what a user must know of the conversion, such as what is not converted.
        read_masks: reads its masks; None if there are none.
        losses: what of the file is not read.
    """

    info: SceneInfo
    read: Read
    notes: list[str]
    read_masks: Read | None = None
    losses: Sequence[Loss] = ()


@contextlib.contextmanager
def open_product(path: Path, options: Options) -> Iterator[Product]:
    """Open a product; the file's content decides which.

    Args:
        path: a file of one of `HDF5_SUFFIXES`, a `.mat`, the `*-METADATA.XML` of an EnMAP or DESIS product, or any
            scene that `open_scene` opens.
        options: what the file does not say itself.

    Raises:
        UsageError: options that do not fit the file, or h5py is missing.
        DatasetError: the file is missing or damaged, or not a known product.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix == ".mat" and not _is_hdf5(path):
        yield _open_matlab(path, options)
    elif suffix == ".mat" or suffix in HDF5_SUFFIXES:
        if h5py is None:
            raise UsageError(f"{path}: is read through h5py, which is not installed: pip install h5py")
        with contextlib.closing(_reading(path, h5py.File, path, "r")) as file:
            product = _reading(path, _open_hdf5, path, file, options)
            yield product._replace(read=functools.partial(_reading, path, product.read))
    else:
        with open_scene(_image_of(path) if path.name.upper().endswith(METADATA_SUFFIX) else path) as scene:
            width = scene.info.width
            yield Product(
                scene.info,
                lambda row, height: scene.read(row, 0, height, width),
                [],
                lambda row, height: scene.read_masks(row, 0, height, width),
                scene.losses,
            )


def _reading(path: Path, function: Callable[..., Result], *args: Any) -> Result:
    """Call a function that reads HDF5; turn what h5py raises for damaged and unknown files into one line."""
    try:
        return function(*args)
    except (ProjectError, MemoryError):
        raise
    except Exception as error:  # which exceptions h5py raises is not documented
        raise DatasetError(f"{path}: damaged, or not a known product ({one_line(error)})") from error


def _image_of(path: Path) -> Path:
    """Return the path of the image that a product's metadata belong to."""
    stem = path.name[: -len(METADATA_SUFFIX)]
    images = [image for image in find_tifs(path.parent) if image.parent == path.parent and product_of(image) == stem]
    if not images:
        raise DatasetError(f"{path}: no {stem}{TIF_SUFFIX} beside it")
    return images[0]


def _is_hdf5(path: Path) -> bool:
    """Return whether a MATLAB file is one of version 7.3, which begins with a text of 512 bytes."""
    with open(path, "rb") as file:
        file.seek(512)
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _open_hdf5(path: Path, file: Any, options: Options) -> Product:
    if options.variable is None and path.suffix.lower() != ".mat":
        if "HDFEOS/SWATHS" in file:
            return _open_prisma(path, file)
        if "reflectance" in file and "sensor_band_parameters" in file:
            return _open_emit(path, file, options.ortho)
        for site in file:
            if f"{site}/Reflectance/Reflectance_Data" in file:
                return _open_neon(path, file[f"{site}/Reflectance"])
    step = -1 if path.suffix.lower() == ".mat" else 1  # MATLAB stores arrays with the dimensions in reverse order
    shapes = {name: array.shape[::step] for name, array in _arrays_of(file).items()}
    return _open_array(path, file[_choose(path, shapes, options.variable)], options.order[::step])


def _arrays_of(file: Any) -> dict[str, Any]:
    """Return all arrays of a file or group by their names."""
    arrays = {}
    file.visititems(lambda name, item: arrays.update({name: item}) if hasattr(item, "shape") else None)
    return arrays


def _texts_of(attributes: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the tags of a scene from the attributes with one value."""
    tags = {}
    for name, value in attributes.items():
        if np.size(value) == 1 and not isinstance(value, h5py.Empty):
            text = _text(value)
            if text.strip():
                tags[name] = text
    return {"": tags} if tags else {}


def _number(value: Any) -> float:
    """Return an attribute as a number; products have them as scalars or arrays of one."""
    return float(np.ravel(value)[0])


def _text(value: Any) -> str:
    item = np.ravel(value)[0]
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _imagery(wavelengths: np.ndarray, widths: np.ndarray) -> list[dict[str, dict[str, str]]]:
    """Return the tags of bands.

    Args:
        wavelengths: one per band, in nm.
        widths: full widths at half maximum, in nm.
    """
    pairs = zip(np.ravel(wavelengths), np.ravel(widths), strict=True)
    return [{"IMAGERY": {"CENTRAL_WAVELENGTH_UM": _um(center), "FWHM_UM": _um(width)}} for center, width in pairs]


def _um(nanometers: float) -> str:
    # float32 wavelengths have seven digits, the rest is noise of their conversion
    return f"{float(nanometers) / 1000:.7g}"


def _rest(file: Any, used: Sequence[str]) -> list[str]:
    """Return the note that names the arrays of a file that are not converted."""
    names = dict.fromkeys(name.rpartition("/")[2] for name in _arrays_of(file) if name not in used)
    return [f"not converted: {', '.join(names)}"] if names else []


def _control_points(latitudes: Any, longitudes: Any) -> tuple[GroundControlPoint, ...]:
    """Return ground control points on a regular grid of the pixels' centers, without those that have no coordinates.

    Args:
        latitudes: (H, W) in degrees.
        longitudes: (H, W) in degrees.
    """
    rows, columns = (
        np.unique(np.linspace(0, length - 1, GCPS_PER_SIDE).round().astype(int)) for length in latitudes.shape
    )
    points: list[GroundControlPoint] = []
    for row in rows:
        line = zip(columns, longitudes[int(row), :][columns], latitudes[int(row), :][columns], strict=True)
        for column, x, y in line:
            if abs(x) <= 360 and abs(y) <= 90:  # neither NaN nor -9999
                name = str(len(points) + 1)
                points.append(GroundControlPoint(row + 0.5, column + 0.5, float(x), float(y), name=name))
    return tuple(points)


def _note_on_control_points(count: int) -> str:
    return f"coordinates are known per pixel: written as {count} ground control points on a regular grid"


# -- PRISMA -------------------------------------------------------------------------------------


def _open_prisma(path: Path, file: Any) -> Product:
    """Open a PRISMA L2B, L2C or L2D product: bands of VNIR, then of SWIR, each by wavelength.

    Bands that were not acquired, with a wavelength of 0, are left out.
    """
    swaths = [name for name in file["HDFEOS/SWATHS"] if name.endswith("_HCO")]
    if not swaths or "L2ScaleVnirMin" not in file.attrs:
        raise DatasetError(f"{path}: no reflectances, expected a PRISMA product of level L2B, L2C or L2D")
    swath = f"HDFEOS/SWATHS/{swaths[0]}"
    arms = [_PrismaArm.of(file, swath, name) for name in PRISMA_ARMS]
    height, _, width = arms[0].cube.shape
    info = SceneInfo(
        height=height,
        width=width,
        bands=sum(len(arm.bands) for arm in arms),
        dtype=arms[0].cube.dtype.name,
        nodata=0.0,  # around the swath, and where the retrieval failed
        tags=_texts_of(file.attrs),
        band_tags=tuple(tags for arm in arms for tags in arm.tags),
        scales=tuple(arm.scale for arm in arms for _ in arm.bands),
        offsets=tuple(arm.offset for arm in arms for _ in arm.bands) if any(arm.offset for arm in arms) else (),
    )
    notes = _rest(file, [arm.cube.name.lstrip("/") for arm in arms])
    dropped = sum(arm.cube.shape[1] - len(arm.bands) for arm in arms)
    if dropped:
        notes.append(f"left out: {dropped} bands that were not acquired")
    if "Product_ULcorner_easting" in file.attrs:
        info = replace(
            info, crs=_wkt(int(_number(file.attrs["Epsg_Code"]))), transform=_prisma_transform(file.attrs, info)
        )
    else:
        fields = file[f"{swath}/Geolocation Fields"]
        gcps = _control_points(fields["Latitude"], fields["Longitude"])
        info = replace(info, gcps=gcps, gcps_crs=_wkt(4326))
        notes.append(_note_on_control_points(len(gcps)))

    def read(row: int, rows: int) -> np.ndarray:
        return np.concatenate([arm.cube[row : row + rows].transpose(1, 0, 2)[arm.bands] for arm in arms])

    return Product(info, read, notes)


class _PrismaArm(NamedTuple):
    """One of PRISMA's two spectrometers.

    Attributes:
        cube: samples (rows, bands, columns).
        bands: indices of the acquired bands, by wavelength.
        tags: tags of these bands.
        scale, offset: reflectance = sample * scale + offset.
    """

    cube: Any
    bands: np.ndarray
    tags: list[dict[str, dict[str, str]]]
    scale: float
    offset: float

    @classmethod
    def of(cls, file: Any, swath: str, name: str) -> _PrismaArm:
        """Read what the file says of the arm `name`."""
        wavelengths = np.asarray(file.attrs[f"List_Cw_{name}"])
        widths = np.asarray(file.attrs[f"List_Fwhm_{name}"])
        is_acquired = (wavelengths > 0) & (np.asarray(file.attrs.get(f"List_Cw_{name}_Flags", 1)) != 0)
        bands = np.array([band for band in np.argsort(wavelengths) if is_acquired[band]], int)
        low, high = (_number(file.attrs[f"L2Scale{name}{end}"]) for end in ("Min", "Max"))
        cube = file[f"{swath}/Data Fields/{name.upper()}_Cube"]
        return cls(cube, bands, _imagery(wavelengths[bands], widths[bands]), (high - low) / PRISMA_MAX, low)


def _prisma_transform(attributes: Mapping[str, Any], info: SceneInfo) -> tuple[float, ...]:
    """Return the transform from the corners of a PRISMA L2D product, which are centers of pixels or their corners."""

    def corners(axis: str, names: Sequence[str]) -> list[float]:
        return [_number(attributes[f"Product_{name}corner_{axis}"]) for name in names]

    left, right = min(corners("easting", ("UL", "LL"))), max(corners("easting", ("UR", "LR")))
    top, bottom = max(corners("northing", ("UL", "UR"))), min(corners("northing", ("LL", "LR")))
    (x_pixel, x_shift), (y_pixel, y_shift) = (
        min(((span / (count - 1), 0.5), (span / count, 0.0)), key=lambda pair: abs(pair[0] - PRISMA_PIXEL))
        for span, count in ((right - left, info.width), (top - bottom, info.height))
    )
    return (x_pixel, 0.0, left - x_shift * x_pixel, 0.0, -y_pixel, top + y_shift * y_pixel)


def _wkt(epsg: int) -> str:
    return CRS.from_epsg(epsg).to_wkt(version="WKT2_2019")


# -- EMIT ---------------------------------------------------------------------------------------


def _open_emit(path: Path, file: Any, ortho: bool) -> Product:
    """Open an EMIT L2A product as it was seen, with ground control points, or arranged by its lookup table."""
    cube, parameters, location = file["reflectance"], file["sensor_band_parameters"], file["location"]
    height, width, bands = cube.shape
    tags = _imagery(parameters["wavelengths"][:], parameters["fwhm"][:])
    for band, is_good in zip(tags, np.ravel(parameters["good_wavelengths"][:]), strict=True):
        band[""] = {"good_wavelength": str(int(is_good))}
    nodata = _number(cube.attrs.get("_FillValue", -9999.0))
    info = SceneInfo(height, width, bands, cube.dtype.name, nodata, tags=_texts_of(file.attrs), band_tags=tuple(tags))
    used = ["reflectance", *(f"sensor_band_parameters/{name}" for name in ("wavelengths", "fwhm", "good_wavelengths"))]
    if not ortho:
        gcps = _control_points(location["lat"], location["lon"])
        notes = [f"{_note_on_control_points(len(gcps))}; --ortho arranges the pixels as a map instead"]
        info = replace(info, gcps=gcps, gcps_crs=_wkt(4326))
        return Product(info, lambda row, rows: cube[row : row + rows].transpose(2, 0, 1), [*_rest(file, used), *notes])

    lookup = np.stack([location["glt_y"][:], location["glt_x"][:]]).astype(np.int64) - 1  # they count from 1, 0 is none
    x, x_step, x_skew, y, y_skew, y_step = map(float, np.ravel(file.attrs["geotransform"]))
    info = replace(
        info,
        height=lookup.shape[1],
        width=lookup.shape[2],
        crs=CRS.from_wkt(_text(file.attrs["spatial_ref"])).to_wkt(version="WKT2_2019"),
        transform=(x_step, x_skew, x, y_skew, y_step, y),
    )
    notes = ["arranged by the product's lookup table: pixels may be missing or there twice, the original rows are lost"]
    used += ["location/glt_x", "location/glt_y"]
    return Product(info, _emit_ortho(cube, lookup, nodata), [*_rest(file, used), *notes])


def _emit_ortho(cube: Any, lookup: np.ndarray, nodata: float) -> Read:
    """Return the function that reads an EMIT cube by its lookup table.

    Args:
        cube: (H, W, bands).
        lookup: row and column in the cube of each pixel, negative where there is none: (2, rows, columns).
        nodata: value of pixels that are not in the cube.
    """
    memory = available_memory()
    if memory and cube.dtype.itemsize * cube.size < memory / 2:
        cube = cube[:]  # rows of the map are oblique in the cube, so that the file would be read many times

    def read(row: int, rows: int) -> np.ndarray:
        lines, columns = lookup[:, row : row + rows]
        samples = np.full((cube.shape[2], *lines.shape), nodata, cube.dtype)
        is_there = (lines >= 0) & (columns >= 0)
        for first in range(lines[is_there].min(initial=cube.shape[0]), lines.max(initial=-1) + 1, EMIT_LINES):
            block = cube[first : first + EMIT_LINES]
            here = is_there & (lines >= first) & (lines < first + EMIT_LINES)
            samples[:, here] = block[lines[here] - first, columns[here]].T
        return samples

    return read


# -- NEON ---------------------------------------------------------------------------------------


def _open_neon(path: Path, group: Any) -> Product:
    """Open a reflectance product of the NEON Airborne Observation Platform."""
    cube, metadata = group["Reflectance_Data"], group["Metadata"]
    height, width, bands = cube.shape
    spectral, system = metadata["Spectral_Data"], metadata["Coordinate_System"]
    scale = 1 / _number(cube.attrs.get("Scale_Factor", 10000))
    info = SceneInfo(
        height=height,
        width=width,
        bands=bands,
        dtype=cube.dtype.name,
        nodata=_number(cube.attrs.get("Data_Ignore_Value", -9999)),
        crs=_neon_crs(system),
        transform=_map_info_transform(path, _text(system["Map_Info"][()])),
        tags=_texts_of({**group.file.attrs, **cube.attrs}),
        band_tags=tuple(_imagery(spectral["Wavelength"][:], spectral["FWHM"][:])),
        scales=(scale,) * bands,
    )
    used = ["Reflectance_Data", "Metadata/Spectral_Data/Wavelength", "Metadata/Spectral_Data/FWHM"]
    used += [f"Metadata/Coordinate_System/{name}" for name in system]
    return Product(info, lambda row, rows: cube[row : row + rows].transpose(2, 0, 1), _rest(group, used))


def _neon_crs(system: Any) -> str:
    if "EPSG Code" in system:
        return _wkt(int(_text(system["EPSG Code"][()])))
    return CRS.from_wkt(_text(system["Coordinate_System_String"][()])).to_wkt(version="WKT2_2019")


def _map_info_transform(path: Path, text: str) -> tuple[float, ...]:
    """Return the transform from ENVI's map info: name, pixel (from 1) and place of a point, size of a pixel."""
    cells = [cell.strip() for cell in text.split(",")]
    if any(cell.startswith("rotation") and float(cell.partition("=")[2]) for cell in cells):
        raise DatasetError(f"{path}: its map is rotated ({text}), expected north at the top")
    column, row, x, y, width, height = map(float, cells[1:7])
    return (width, 0.0, x - (column - 1) * width, 0.0, -height, y + (row - 1) * height)


# -- arrays of any name -------------------------------------------------------------------------


def _open_matlab(path: Path, options: Options) -> Product:
    """Open a MATLAB file of a version before 7.3."""
    try:
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        name = _choose(path, shapes, options.variable)
        array = scipy.io.loadmat(path, variable_names=[name])[name]
    except (ProjectError, MemoryError):
        raise
    except Exception as error:  # what scipy raises for damaged files is not documented
        raise DatasetError(f"{path}: damaged, or no MATLAB file ({one_line(error)})") from error
    return _open_array(path, array, options.order)


def _choose(path: Path, shapes: Mapping[str, Sequence[int]], variable: str | None) -> str:
    """Return the name of the array to convert.

    Raises:
        UsageError: there is no such array with three dimensions, or no `variable` is given and there are several.
    """
    cubes = {name: tuple(shape) for name, shape in shapes.items() if len(shape) == 3}
    if variable is None and len(cubes) == 1:
        return next(iter(cubes))
    if variable is None or variable not in cubes:
        names = ", ".join(f"{name} {shape}" for name, shape in cubes.items()) or "none"
        problem = "give --variable" if variable is None else f"no --variable {variable}"
        raise UsageError(f"{path}: {problem}; arrays of three dimensions: {names}")
    return variable


def _open_array(path: Path, array: Any, order: str) -> Product:
    """Open an array in memory or in a file; 64-bit integers become the smallest type that holds them.

    Args:
        path: of the file, for messages.
        array: three-dimensional.
        order: meaning of its dimensions, see `Options`.
    """
    dtype = np.dtype(array.dtype).newbyteorder("=")
    if dtype.kind in "iu" and dtype.itemsize == 8:
        low, high = int(np.min(array)), int(np.max(array))
        fitting = [name for name, (least, most) in INTEGER_RANGES.items() if least <= low and high <= most]
        dtype = np.dtype(fitting[0]) if fitting else dtype
    if dtype.name not in DTYPES:
        raise DatasetError(f"{path}: samples of type {array.dtype}, expected one of {', '.join(DTYPES)}")
    height, width, bands = (array.shape[order.index(axis)] for axis in "rcb")

    def read(row: int, rows: int) -> np.ndarray:
        window = array[tuple(slice(row, row + rows) if axis == "r" else slice(None) for axis in order)]
        return window.transpose([order.index(axis) for axis in "brc"]).astype(dtype, copy=False)

    notes = ["the file names neither wavelengths nor coordinates: there are none in the output"]
    return Product(SceneInfo(height, width, bands, dtype.name), read, notes)
