"""What GDAL knows of a raster: as the metadata of a scene, and what does not fit into them."""

from __future__ import annotations

import json
import re
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.enums import Interleaving, MaskFlags
from rasterio.windows import Window

from datasets.base import GroundControlPoint, Loss, SceneInfo, as_sample, known_colors, shared_nodata

LAYOUT_DOMAINS = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "LocationInfo", "xml:VRT", "new_vrt_sources")
"""Metadata domains that describe how a file is stored, or how GDAL sees it."""
INTERLEAVES = {Interleaving.pixel: "bip", Interleaving.line: "bil"}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
NODATA_VALUES = "NODATA_VALUES"
"""GDAL's tag of one value per band: pixels that have all of them are masked."""


def read_info(raster: rasterio.DatasetReader) -> SceneInfo:
    """Return the metadata of a raster whose bands have one of `DTYPES`."""
    dtype = raster.dtypes[0]
    values = [None if value is None else as_sample(value, dtype) for value in raster.nodatavals]
    nodata, band_nodata = shared_nodata(values)
    gcps, gcps_crs = raster.gcps
    compression = raster.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
    band_tags = tuple(_domains(raster, band) for band in raster.indexes)
    tags = _domains(raster, 0)
    if "RPC" in tags:
        tags["RPC"] = {name: _rpc_text(text) for name, text in tags["RPC"].items()}
    if _masks_by_values(raster):
        tags = {**tags, "": {name: text for name, text in tags[""].items() if name != NODATA_VALUES}}
    return SceneInfo(
        height=raster.height,
        width=raster.width,
        bands=raster.count,
        dtype=dtype,
        nodata=nodata,
        band_nodata=band_nodata,
        masks=_count_masks(raster),
        crs=_wkt(raster.crs),
        transform=None if raster.transform == rasterio.Affine.identity() else tuple(raster.transform)[:6],
        gcps=tuple(GroundControlPoint(p.row, p.col, p.x, p.y, p.z or 0.0, p.id or "", p.info or "") for p in gcps),
        gcps_crs=_wkt(gcps_crs) if gcps else None,  # JPEG 2000 has one without points
        descriptions=raster.descriptions if any(raster.descriptions) else (),
        tags={domain: items for domain, items in tags.items() if items},
        band_tags=band_tags if any(band_tags) else (),
        scales=raster.scales if set(raster.scales) != {1.0} else (),
        offsets=raster.offsets if set(raster.offsets) != {0.0} else (),
        units=raster.units if any(raster.units) else (),
        colors=known_colors(tuple(color.name.lower() for color in raster.colorinterp)),
        color_tables=_color_tables(raster),
        compression=compression and compression.lower(),
        interleave=INTERLEAVES.get(raster.interleaving, "bsq") if raster.count > 1 else "bsq",
    )


def _wkt(crs: rasterio.CRS | None) -> str | None:
    return crs.to_wkt(version="WKT2_2019") if crs else None


def _domains(raster: rasterio.DatasetReader, band: int) -> dict[str, dict[str, str]]:
    """Return the tags of a band, or of the file if `band` is 0, by domain."""
    domains = {"": raster.tags(band)}
    for domain in raster.tag_namespaces(band):
        if domain not in LAYOUT_DOMAINS:
            tags = raster.tags(band, ns=domain)
            text = _json_text(tags) if domain.startswith("json:") else None
            domains[domain] = tags if text is None else {domain: text}
    return {domain: tags for domain, tags in domains.items() if tags}


def _rpc_text(text: str) -> str:
    """Return coefficients as GDAL writes numbers, without the units that `_RPC.TXT` files have."""
    numbers = [item for item in text.split() if NUMBER.fullmatch(item)]
    return " ".join(f"{float(number):.15g}" for number in numbers) or text


def _json_text(tags: dict[str, str]) -> str | None:
    """Return the JSON document of a domain, which rasterio cuts at its first ":" or "="; None if it is none."""
    for separator in ":=":
        text = "".join(f"{name}{separator}{value}" for name, value in tags.items())
        try:
            json.loads(text)
        except ValueError:
            continue
        return text
    return None


def _masks_by_values(raster: rasterio.DatasetReader) -> bool:
    return all({MaskFlags.per_dataset, MaskFlags.nodata} <= set(flags) for flags in raster.mask_flag_enums)


def _count_masks(raster: rasterio.DatasetReader) -> int:
    """Return the number of masks besides those that nodata values and alpha bands imply."""
    flags = [set(band) for band in raster.mask_flag_enums]
    if all(MaskFlags.per_dataset in band and MaskFlags.alpha not in band for band in flags):
        return 1
    return raster.count if any(not band for band in flags) else 0  # no flag: a mask of this band


def _color_tables(raster: rasterio.DatasetReader) -> tuple[tuple[tuple[int, ...], ...], ...]:
    tables = tuple(_color_table(raster, band) for band in raster.indexes)
    return tables if any(tables) else ()


def _color_table(raster: rasterio.DatasetReader, band: int) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple((value, *color) for value, color in sorted(raster.colormap(band).items()))
    except ValueError:  # there is none
        return ()


def read_masks(raster: rasterio.DatasetReader, count: int, window: Window) -> np.ndarray:
    """Return the first `count` masks of a window: uint8 (count, height, width), 0 where samples are to be ignored."""
    return raster.read_masks(list(range(1, count + 1)), window=window)


def find_losses(raster: rasterio.DatasetReader, info: SceneInfo) -> tuple[Loss, ...]:
    """Return what of a raster is not in its `info`, samples and masks."""
    losses = [
        *_losses_of_values(raster, info),
        *_losses_of_bands(raster, info.dtype),
    ]
    if any(raster.overviews(band) for band in raster.indexes):
        losses.append(Loss("overviews", "overviews (`gdaladdo` makes them again)"))
    if "GEOLOCATION" in info.tags:
        text = "arrays of coordinates (GEOLOCATION) in another file or variable, whose names alone are kept"
        losses.append(Loss("geolocation", text, is_essential=not (info.transform or info.gcps)))
    return tuple(losses)


def _losses_of_values(raster: rasterio.DatasetReader, info: SceneInfo) -> Iterator[Loss]:
    if _masks_by_values(raster):
        yield Loss(NODATA_VALUES, f"the tag {NODATA_VALUES}: it becomes a mask")
    if info.masks and _has_partial_masks(raster, info):
        yield Loss("mask-values", "mask values between 0 and 255: they become 255, valid")


def _has_partial_masks(raster: rasterio.DatasetReader, info: SceneInfo) -> bool:
    height = max(1, 2**24 // (info.width * info.masks))
    windows = (Window(0, row, info.width, min(height, info.height - row)) for row in range(0, info.height, height))
    return any((read_masks(raster, info.masks, window) % 255).any() for window in windows)


def _losses_of_bands(raster: rasterio.DatasetReader, dtype: str) -> Iterator[Loss]:
    """Yield what rasterio does not show: GDAL writes it into a VRT, or has it in a side file."""
    vrt = _vrt_of(raster)
    text = vrt.decode(errors="replace")
    if text.encode() != vrt:
        yield Loss("text", "text that is not in UTF-8, in tags or names of bands")
    documents = [ET.fromstring(text), *(ET.parse(name).getroot() for name in raster.files if name.endswith(".aux.xml"))]
    nodata = {element.text or "" for document in documents for element in document.iter("NoDataValue")}
    unfit = sorted(text for text in nodata if as_sample(float(text), dtype) is None)
    if unfit:
        yield Loss("nodata", f"nodata {', '.join(unfit)}, which {dtype} cannot hold")
    for name, element, text in (
        ("category-names", "CategoryNames", "names of categories"),
        ("attribute-table", "GDALRasterAttributeTable", "raster attribute tables"),
        ("histograms", "Histograms", "histograms (`gdalinfo -hist` makes them again)"),
    ):
        if any(document.find(f".//{element}") is not None for document in documents):
            yield Loss(name, text)
    epochs = {srs.get("coordinateEpoch") for document in documents for srs in document.iter("SRS")} - {None}
    if epochs:
        yield Loss("epoch", f"the epoch {', '.join(map(str, epochs))} of the coordinates", is_essential=True)


def _vrt_of(raster: rasterio.DatasetReader) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.vrt")
        rasterio.shutil.copy(raster, path, driver="VRT")
        return path.read_bytes()
