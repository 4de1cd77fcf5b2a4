"""Conventions of EnMAP L2A and HySpecNet-11k: bands, values, file names, and the metadata beside a product's image.

A `SPECTRAL_IMAGE.TIF` holds 224 bands of int16, surface reflectance x 10000. HySpecNet-11k (Fuchs and
Demir, IGARSS 2023, doi 10.1109/IGARSS52108.2023.10283385) drops the two water vapor ranges, in which EnMAP
L2A has no usable signal, and keeps 202 bands.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TypeVar
from xml.etree import ElementTree

import numpy as np

from datasets.base import Loss, SceneInfo

AnyPath = TypeVar("AnyPath", bound=PurePath)

NUM_BANDS = 224
DROPPED_BANDS = (*range(127, 142), *range(161, 168))
"""1-based, as in the product's metadata: 127-141 and 161-167."""
KEPT_INDICES = tuple(i for i in range(NUM_BANDS) if i + 1 not in DROPPED_BANDS)
"""0-based, in product order. The wavelength is not monotonic over them, as the two detectors overlap."""
NUM_CHANNELS = len(KEPT_INDICES)  # 202

NODATA = -32768
SCALE = 10000
"""The digital number of reflectance 1.0."""
DTYPES = ("float32", "uint16")
"""Types of a `DATA.npy`: reflectances in [0, 1], or digital numbers, reflectance x 10000, in half the space."""
MAX_VALUE = 10000
"""Larger digital numbers (glint, clouds) are clipped to it."""

TIF_SUFFIX = "-SPECTRAL_IMAGE.TIF"
TIF_ENDING = re.compile(r"-SPECTRAL_IMAGE(_COG)?\.TIFF?$", re.IGNORECASE)
"""Other forms of `TIF_SUFFIX`: the cloud-optimized GeoTIFFs of the EOC Geoservice, DESIS, renamed files."""
NPY_SUFFIX = "-DATA.npy"
METADATA_SUFFIX = "-METADATA.XML"
BAND_FIELDS = {  # of our own name -> of the products of EnMAP and of DESIS, in lower case
    "wavelength": ("wavelengthcenterofband",),
    "fwhm": ("fwhmofband", "wavelengthwidthofband"),
    "gain": ("gainofband",),
    "offset": ("offsetofband",),
}


def to_digital_numbers(samples: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Clip EnMAP L2A samples to the range of digital numbers that models see.

    Args:
        samples: int16 or uint16, reflectance x 10000.
        valid: bool of the same shape, False where there is no data.

    Returns:
        uint16 in [0, 10000]; negative samples (dark water) and samples without data become 0.
    """
    numbers = np.clip(samples, 0, MAX_VALUE).view(np.uint16)
    if not valid.all():
        numbers *= valid
    return numbers


def to_reflectance(numbers: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Convert digital numbers to reflectances: float32, `numbers` / 10000.

    The division gives the float32 nearest to the quotient. Multiplying by 1e-4 would give others for 3,186 of the
    10,001 values.

    Args:
        numbers: digital numbers.
        out: float32 array of the same shape to write to; None makes a new one.
    """
    x = np.empty(numbers.shape, np.float32) if out is None else out
    x[...] = numbers
    x /= np.float32(SCALE)
    return x


def npy_path_of(tif_path: AnyPath) -> AnyPath:
    """Return the path of the `DATA.npy` made from a TIF; a TIF of another name gives `<stem>-DATA.npy`."""
    return tif_path.with_name(product_of(tif_path) + NPY_SUFFIX)


def tif_path_of(npy_path: Path) -> Path:
    """Return the path of the TIF that a `*-DATA.npy` is made from, with `TIF_SUFFIX` if there is none."""
    stem = npy_path.name.removesuffix(NPY_SUFFIX)
    path = npy_path.with_name(stem + TIF_SUFFIX)
    if path.is_file() or not path.parent.is_dir():
        return path
    names = (name for name in sorted(os.listdir(path.parent)) if name.startswith(stem))
    return next((path.with_name(name) for name in names if TIF_ENDING.fullmatch(name[len(stem) :])), path)


def product_of(tif_path: PurePath) -> str:
    """Return the name of a TIF without its suffix, for EnMAP's also without `-SPECTRAL_IMAGE`."""
    ending = TIF_ENDING.search(tif_path.name)
    return tif_path.name[: ending.start()] if ending else tif_path.stem


def find_tifs(folder: Path) -> list[Path]:
    """Return all spectral images under `folder`, one per product, sorted; see `find_files`."""
    path_of: dict[Path, Path] = {}
    for path in find_files(folder, (".tif", ".tiff")):
        if TIF_ENDING.search(path.name):
            path_of.setdefault(path.with_name(product_of(path)), path)  # of an image and its copy as COG, the image
    return list(path_of.values())


def find_files(folder: Path, suffix: str | tuple[str, ...]) -> list[Path]:
    """Return all files under `folder` whose names end in `suffix`, sorted.

    Lower case in `suffix` matches upper case, too. Links to folders are followed: a subset of the data set is often a
    folder of links to tiles. Hidden files and folders are skipped: macOS adds a `._NAME` to every NAME when it unpacks
    an archive on a foreign disk, and files that are being written lie in hidden folders.
    """
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in names if not name.startswith(".")]
        found += [Path(parent, name) for name in visible if name.endswith(suffix) or name.lower().endswith(suffix)]
    return sorted(found)


def with_enmap_metadata(path: Path, info: SceneInfo) -> SceneInfo:
    """Add what the `*-METADATA.XML` beside the image of an EnMAP or DESIS product says of its bands.

    The TIFs themselves say nothing of wavelengths. The bands get `CENTRAL_WAVELENGTH_UM` and `FWHM_UM` in their domain
    "IMAGERY", and the gains and offsets, which turn samples into reflectances (L1: radiances). What `info` has already
    stays.

    Args:
        path: the image.
        info: its metadata.

    Returns:
        The info, unchanged for other files, and where the metadata do not fit: see `losses_of_metadata`.
    """
    bands = _read_bands(path, info)
    if isinstance(bands, Loss) or not bands:
        return info
    domains = info.band_tags or ({},) * info.bands
    gains = tuple(band.get("gain", 1.0) for band in bands)
    offsets = tuple(band.get("offset", 0.0) for band in bands)
    return replace(
        info,
        band_tags=tuple(_with_imagery(tags, band) for tags, band in zip(domains, bands, strict=True)),
        scales=info.scales or (gains if set(gains) != {1} else ()),
        offsets=info.offsets or (offsets if set(offsets) != {0} else ()),
    )


def losses_of_metadata(path: Path, info: SceneInfo) -> tuple[Loss, ...]:
    """Return what `with_enmap_metadata` cannot add, as the file is damaged or of another number of bands."""
    bands = _read_bands(path, info)
    return (bands,) if isinstance(bands, Loss) else ()


def metadata_path_of(path: Path) -> Path | None:
    """Return the path of the metadata beside a product's image, None if there is none or `path` is no such image."""
    if not TIF_ENDING.search(path.name):
        return None
    name = (product_of(path) + METADATA_SUFFIX).lower()
    found = (other for other in sorted(os.listdir(path.parent)) if other.lower() == name)
    return next((path.with_name(other) for other in found), None)


def _read_bands(path: Path, info: SceneInfo) -> list[dict[str, float]] | Loss:
    """Return the fields of each band of an image: wavelength and fwhm in nm, gain, offset; nothing without metadata."""
    xml_path = metadata_path_of(path)
    if xml_path is None:
        return []
    try:
        # DESIS has elements named band outside of bandCharacterisation, too.
        elements = list(ElementTree.parse(xml_path).iterfind(".//{*}bandCharacterisation/*"))
        elements.sort(key=lambda each: int(each.get("number") or each.findtext("{*}bandNumber") or 0))
        bands = list(map(_fields_of, elements))
    except (OSError, ValueError, ElementTree.ParseError) as error:
        return Loss("metadata", f"wavelengths and gains in {xml_path.name}, which is damaged ({error})")
    if len(bands) != info.bands:
        text = f"wavelengths and gains in {xml_path.name}, which has {len(bands)} bands, not {info.bands}"
        return Loss("metadata", text)
    return bands


def _fields_of(element: ElementTree.Element) -> dict[str, float]:
    texts = {child.tag.rpartition("}")[2].lower(): (child.text or "").strip() for child in element}
    found = {field: next(filter(None, map(texts.get, names)), None) for field, names in BAND_FIELDS.items()}
    return {field: float(text) for field, text in found.items() if text}


def _with_imagery(domains: dict[str, dict[str, str]], band: dict[str, float]) -> dict[str, dict[str, str]]:
    """Return the tags of a band with wavelength and FWHM in micrometers, if it does not have them."""
    fields = (("CENTRAL_WAVELENGTH_UM", "wavelength"), ("FWHM_UM", "fwhm"))
    added = {name: f"{band[field] / 1000:.9g}" for name, field in fields if band.get(field, 0) > 0}
    imagery = added | domains.get("IMAGERY", {})
    return domains | ({"IMAGERY": imagery} if imagery else {})
