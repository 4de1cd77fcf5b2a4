"""Side files of rasters: GDAL's `.aux.xml` with the metadata that a format does not hold, masks, overviews."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from datasets.base import SceneInfo
from datasets.gdal import block_options

Item = TypeVar("Item")

SUFFIXES = (".aux.xml", ".ovr", ".msk", ".msk.ovr", ".hdr")
"""Added to the name of a raster: by GDAL, and by ENVI for its header."""
COLOR_NAMES = {"y": "YCbCr_Y", "cb": "YCbCr_Cb", "cr": "YCbCr_Cr", "other_ir": "OtherIR"}
"""Colors whose name in GDAL is not the one in rasterio, which has all others."""


def write_leftovers(path: Path, info: SceneInfo, stored: SceneInfo) -> None:
    """Write what the file does not hold into its `.aux.xml`, as GDAL's "persistent auxiliary metadata" (PAM).

    Args:
        path: the file.
        info: metadata that the scene is to have.
        stored: metadata that GDAL reads from the file alone.

    Raises:
        OSError: the file cannot be written.
    """
    elements = list(_places(info, stored))
    if elements:  # GDAL then does not look into a GeoTIFF's own coordinate reference system, which has these two
        tags = {name: text for name, text in stored.tags.get("", {}).items() if name != "AREA_OR_POINT"}
        stored = replace(stored, tags={**stored.tags, "": tags}, units=())
    elements += _metadata(info.tags, stored.tags)
    for band in range(info.bands):
        if items := "".join(_band_elements(info, stored, band)):
            elements.append(f'<PAMRasterBand band="{band + 1}">{items}</PAMRasterBand>')
    if elements:
        text = "\n".join(["<PAMDataset>", *elements, "</PAMDataset>", ""])
        path.with_name(path.name + ".aux.xml").write_text(text, encoding="utf-8")


def _places(info: SceneInfo, stored: SceneInfo) -> Iterator[str]:
    if info.crs and not _is_kept(info.crs, stored.crs):
        yield f"<SRS>{escape(info.crs)}</SRS>"
    if info.transform and info.transform != stored.transform:
        a, b, c, d, e, f = info.transform
        yield f"<GeoTransform>{', '.join(map(repr, (c, a, b, f, d, e)))}</GeoTransform>"
    if info.gcps and not (info.gcps == stored.gcps and _is_kept(info.gcps_crs, stored.gcps_crs)):
        points = (
            f"<GCP Id={quoteattr(p.name)} Info={quoteattr(p.note)} "
            f'Pixel="{p.column!r}" Line="{p.row!r}" X="{p.x!r}" Y="{p.y!r}" Z="{p.z!r}"/>'
            for p in info.gcps
        )
        yield f"<GCPList Projection={quoteattr(info.gcps_crs or '')}>{''.join(points)}</GCPList>"


def _is_kept(crs: str | None, stored: str | None) -> bool:
    """Return whether a stored reference system is the one that is wanted, in the same or in other words."""
    if crs is None or stored is None or "COMPOUNDCRS" in (crs[:11], stored[:11]):  # whose parts lose their names
        return crs == stored
    codes = [CRS.from_wkt(text).to_authority(confidence_threshold=100) for text in (crs, stored)]
    return codes[0] is not None and codes[0] == codes[1]


def _metadata(tags: dict[str, dict[str, str]], stored: dict[str, dict[str, str]]) -> Iterator[str]:
    for domain, items in tags.items():
        missing = {name: text for name, text in items.items() if stored.get(domain, {}).get(name) != text}
        kind = domain.partition(":")[0]
        attributes = f" domain={quoteattr(domain)}" if domain else ""
        item = missing.get(domain, "").removeprefix(f"{domain}=")
        if item != missing.get(domain, "") and kind == "xml":  # how rasterio writes XML: as an item of that name
            yield f"<Metadata{attributes}><MDI key={quoteattr(domain)}>{escape(item)}</MDI></Metadata>"
        elif missing and kind in ("xml", "json"):
            document = missing[domain] if kind == "xml" else escape(missing[domain])
            yield f'<Metadata{attributes} format="{kind}">{document}</Metadata>'
        elif missing:
            entries = (f"<MDI key={quoteattr(name)}>{escape(text)}</MDI>" for name, text in missing.items())
            yield f"<Metadata{attributes}>{''.join(entries)}</Metadata>"


def _band_elements(info: SceneInfo, stored: SceneInfo, band: int) -> Iterator[str]:
    """Yield the elements of a band, counted from 0, in which `stored` differs."""

    def missing(items: tuple[Item, ...], stored_items: tuple[Item, ...], default: Item) -> Item | None:
        item = items[band] if items else default
        return None if item == (stored_items[band] if stored_items else default) else item

    description = missing(info.descriptions, stored.descriptions, None)
    if description:
        yield f"<Description>{escape(description)}</Description>"
    nodata = info.nodata_of(band)
    if nodata is not None and repr(float(nodata)) != repr(stored.nodata_of(band)):  # NaN does not equal itself
        yield f"<NoDataValue>{float(nodata)!r}</NoDataValue>"
    unit = missing(info.units, stored.units, None)
    if unit:
        yield f"<UnitType>{escape(unit)}</UnitType>"
    if (offset := missing(info.offsets, stored.offsets, 0.0)) is not None:
        yield f"<Offset>{offset!r}</Offset>"
    if (scale := missing(info.scales, stored.scales, 1.0)) is not None:
        yield f"<Scale>{scale!r}</Scale>"
    if color := missing(info.colors, stored.colors, "undefined"):
        yield f"<ColorInterp>{COLOR_NAMES.get(color, color)}</ColorInterp>"
    if table := missing(info.color_tables, stored.color_tables, ()):
        yield f"<ColorTable>{''.join(_color_entries(table))}</ColorTable>"
    tags, stored_tags = (one.band_tags[band] if one.band_tags else {} for one in (info, stored))
    yield from _metadata(tags, stored_tags)


def _color_entries(table: tuple[tuple[int, ...], ...]) -> Iterator[str]:
    """Yield an entry for each value from 0 on: those between the table's are black and transparent."""
    colors = {value: color for value, *color in table}
    for value in range(max(colors) + 1):
        red, green, blue, alpha = colors.get(value, (0, 0, 0, 0))
        yield f'<Entry c1="{red}" c2="{green}" c3="{blue}" c4="{alpha}"/>'


class MaskFile:
    """The `.msk` file that holds a mask for each band, which GDAL reads for a raster of any format."""

    def __init__(self, masks: rasterio.io.DatasetWriter) -> None:
        self._masks = masks

    @classmethod
    @contextlib.contextmanager
    def create(cls, path: Path, info: SceneInfo) -> Iterator[MaskFile]:
        """Create the masks of the raster at `path`, and close them at the end.

        Raises:
            OSError: GDAL could not write them when it closed the file.
        """
        flags = MaskFlags.per_dataset.value if info.masks == 1 else 0
        file = path.with_name(path.name + ".msk")
        with rasterio.open(
            file,
            "w",
            driver="GTiff",
            height=info.height,
            width=info.width,
            count=info.masks,
            dtype="uint8",
            compress="deflate",
            interleave="band",
            photometric="minisblack",
            bigtiff="IF_SAFER",
            **block_options(info.height, info.width),
        ) as masks:
            masks.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": str(flags) for band in range(1, info.bands + 1)})
            yield cls(masks)
        check_blocks(file)

    def write(self, row: int, column: int, masks: np.ndarray) -> None:
        """Write the masks (bands, height, width) of a window: bool, False where samples are to be ignored."""
        window = Window(column, row, masks.shape[2], masks.shape[1])
        self._masks.write(masks.astype(np.uint8) * 255, window=window)


def remove_side_files(path: Path, folder: Path, driver: str) -> None:
    """Delete the side files of the file at `path` that its successor, in `folder` under the same name, does not have.

    GDAL would read the new file with the old coordinates, masks and overviews. Files with another name stay: they may
    belong to other files, too, as `<scene>_MTL.txt` to all bands of a Landsat scene.
    """
    old = {path.with_name(path.name + suffix) for suffix in SUFFIXES}
    with contextlib.suppress(Exception), rasterio.open(path, driver=driver) as raster:  # the file may be anything
        files = map(Path, raster.files)
        old |= {file for file in files if file.parent == path.parent and file.name.startswith(path.stem)}
    for file in old - {path}:
        if not (folder / file.name).exists():
            file.unlink(missing_ok=True)


def check_blocks(path: Path, directory: int = 1) -> None:
    """Check that each block of a written TIFF lies inside the file.

    GDAL writes the last blocks and their index when it closes a file, and rasterio does not report its failure.

    Args:
        path: the file.
        directory: number of the image in the file, from 1 on.

    Raises:
        OSError: a block is missing.
    """
    size = path.stat().st_size
    with rasterio.open(f"GTIFF_DIR:{directory}:{path}") as tif:
        for band in tif.indexes:
            for (i, j), _ in tif.block_windows(band):
                place = [tif.get_tag_item(f"BLOCK_{what}_{j}_{i}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE")]
                if None in place or sum(map(int, place)) > size:
                    raise OSError(f"block {i}, {j} of band {band} is missing")
