"""TIFF files of several pages, and the descriptions that tifffile, ImageJ and OME put into the first one.

tifffile writes an array (bands, rows, columns) as a page for each band, ImageJ and OME a stack of images.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.windows import Window

from datasets.base import DTYPES, Loss, SceneInfo, SceneReader, shared_nodata
from datasets.gdal import cache_bytes_of, calling_gdal
from datasets.gdal_info import find_losses, read_info
from utils.errors import DatasetError

DESCRIPTION = "TIFFTAG_IMAGEDESCRIPTION"
PLACES = ("crs", "transform", "gcps", "gcps_crs")


class Stack(NamedTuple):
    """What a description says of the pages of its file.

    Attributes:
        name: what wrote it.
        samples: number of samples in all pages; for ImageJ, None.
        images: number of pages, of ImageJ; else None.
        tags: metadata domains that keep the rest of the description.
    """

    name: str
    samples: int | None
    images: int | None
    tags: dict[str, dict[str, str]]


def read_stack(text: str) -> Stack | None:
    """Read a description of pages, or return None for any other text."""
    if text.startswith("ImageJ="):
        items = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        images = items.get("images", "")
        return Stack("ImageJ", None, int(images) if images.isdigit() else None, {"ImageJ": items})
    with contextlib.suppress(ValueError, TypeError):
        fields = json.loads(text)
        if isinstance(fields, dict) and isinstance(fields.get("shape"), list):
            rest = {name: item for name, item in fields.items() if name not in ("shape", "truncated")}
            return Stack(
                "tifffile", math.prod(fields["shape"]), None, {"": {DESCRIPTION: json.dumps(rest)}} if rest else {}
            )
    if re.search(r"<(\w+:)?OME\b", text[:1000]):
        with contextlib.suppress(ET.ParseError, ValueError, KeyError):
            pixels = [element for element in ET.fromstring(text.encode()).iter() if element.tag.endswith("}Pixels")]
            sizes = [[int(element.attrib[f"Size{axis}"]) for axis in "XYZCT"] for element in pixels]
            return Stack("OME", sum(map(math.prod, sizes)), None, {"xml:OME": {"xml:OME": text}})
    return None


def without_stack(info: SceneInfo) -> tuple[SceneInfo, Stack | None]:
    """Return the info without a description of pages, and this description."""
    tags = info.tags.get("", {})
    stack = read_stack(tags.get(DESCRIPTION, ""))
    if stack is None:
        return info, None
    others = {name: text for name, text in tags.items() if name != DESCRIPTION} | stack.tags.get("", {})
    domains = {**info.tags, **stack.tags, "": others}
    return replace(info, tags={domain: items for domain, items in domains.items() if items}), stack


def losses_of_stack(stack: Stack | None) -> list[Loss]:
    """Return the loss of a description of pages."""
    if stack is None:
        return []
    rest = ", labels and overlays" if stack.name == "ImageJ" else ""
    return [Loss("image-description", f"what {stack.name} wrote of the pages of the file{rest}")]


def check_stack(path: Path, stack: Stack | None, samples: int, pages: int) -> None:
    """Check that a file has as many pages as its description says.

    ImageJ writes a single page for a stack of more than 4 GB, and tifffile if told to truncate.

    Raises:
        DatasetError: it has fewer.
    """
    if stack and ((stack.images or 0) > pages or (stack.samples or 0) > samples):
        amount = f"{stack.images} images" if stack.images else f"{stack.samples} samples"
        raise DatasetError(
            f"{path}: {stack.name} says that it has {amount}, but its pages have only "
            f"{pages if stack.images else samples}: save it as pages (tifffile: truncate=False), or as .npy"
        )


class PagesReader(SceneReader):
    """A TIFF whose pages are the bands."""

    def __init__(self, path: Path, pages: Sequence[rasterio.DatasetReader]) -> None:
        self._pages = pages
        self._page_infos = [read_info(page) for page in pages]
        info, self._stack = without_stack(_join(self._page_infos))
        check_stack(path, self._stack, info.bands * info.height * info.width, info.bands)
        super().__init__(path, info, pages[0].block_shapes[0][0])
        self._cache_bytes = cache_bytes_of(pages[0], len(pages))

    @functools.cached_property
    def losses(self) -> tuple[Loss, ...]:
        with calling_gdal(DatasetError, f"{self.path}: cannot be read, unpack or download it again"):
            of_pages = [loss for page in zip(self._pages, self._page_infos, strict=True) for loss in find_losses(*page)]
        first, *others = ([getattr(info, name) for name in PLACES] for info in self._page_infos)
        if any(place != first for place in others):
            of_pages.append(Loss("page-places", "coordinates of pages that differ from those of the first", True))
        return (*losses_of_stack(self._stack), *dict.fromkeys(of_pages))

    def _read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        window = Window(column, row, width, height)
        with calling_gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return np.stack([page.read(1, window=window) for page in self._pages])

    def _read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        window = Window(column, row, width, height)
        with calling_gdal(DatasetError, self._cannot_read(row, column, height, width), self._cache_bytes):
            return np.stack([page.read_masks(1, window=window) > 0 for page in self._pages])


def _join(infos: Sequence[SceneInfo]) -> SceneInfo:
    """Return the info of a scene whose bands are pages; tags of the first page are the file's."""
    first = infos[0]
    nodata, band_nodata = shared_nodata([info.nodata for info in infos])
    band_tags = tuple(_new_tags(first.tags, info) for info in infos)

    def join(name: str, default: object) -> tuple:
        return (
            tuple((getattr(info, name) or (default,))[0] for info in infos)
            if any(getattr(info, name) for info in infos)
            else ()
        )

    return replace(
        first,
        bands=len(infos),
        nodata=nodata,
        band_nodata=band_nodata,
        masks=len(infos) if any(info.masks for info in infos) else 0,
        descriptions=join("descriptions", None),
        band_tags=band_tags if any(band_tags) else (),
        scales=join("scales", 1.0),
        offsets=join("offsets", 0.0),
        units=join("units", None),
        colors=join("colors", "undefined"),
        color_tables=join("color_tables", ()),
    )


def _new_tags(known: dict[str, dict[str, str]], info: SceneInfo) -> dict[str, dict[str, str]]:
    """Return the tags of a page and of its band that are not `known`."""
    tags: dict[str, dict[str, str]] = {}
    for domains in (info.tags, *info.band_tags):
        for domain, items in domains.items():
            new = {name: text for name, text in items.items() if known.get(domain, {}).get(name) != text}
            if new:
                tags[domain] = {**tags.get(domain, {}), **new}
    return tags


def page_names(tif: rasterio.DatasetReader) -> list[str]:
    """Return the names by which GDAL opens the pages of a TIFF, in their order; [] for one page."""
    return sorted(tif.subdatasets, key=lambda name: int(name.split(":")[1]))


@contextlib.contextmanager
def open_pages(path: Path, names: Sequence[str]) -> Iterator[SceneReader]:
    """Open a TIFF whose pages are the bands.

    Raises:
        DatasetError: a page has another shape or type than the others, or several samples for each pixel.
    """
    problem = f"{path}: cannot be read, unpack or download it again"
    with contextlib.ExitStack() as stack:
        with calling_gdal(DatasetError, problem):
            pages = [stack.enter_context(rasterio.open(name)) for name in names]
        is_stack = all(page.count == 1 for page in pages) and len({(page.shape, page.dtypes) for page in pages}) == 1
        if not is_stack:
            raise DatasetError(
                f"{path}: has pages of different kinds, expected one band for each, of one size and type: "
                f"name one of them: {list_names(names)}"
            )
        if pages[0].dtypes[0] not in DTYPES:
            raise DatasetError(f"{path}: pages of {pages[0].dtypes[0]}, expected one of {', '.join(DTYPES)}")
        with calling_gdal(DatasetError, problem):
            scene = PagesReader(path, pages)
        yield scene


def list_names(names: Sequence[str], most: int = 12) -> str:
    """Return names for a message, in one line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
