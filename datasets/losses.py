"""What a file of a format does not keep of a scene."""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from datasets.base import Loss, SceneFormat, SceneInfo

FIELDS = {
    "nodata": ("nodata", "nodata values"),
    "band_nodata": ("nodata", "nodata values"),
    "masks": ("masks", "masks"),
    "crs": ("crs", "the coordinate reference system"),
    "transform": ("transform", "the map from pixels to coordinates"),
    "gcps": ("gcps", "ground control points"),
    "gcps_crs": ("gcps", "ground control points"),
    "scales": ("scales", "scales and offsets"),
    "offsets": ("scales", "scales and offsets"),
    "descriptions": ("descriptions", "descriptions of bands"),
    "units": ("units", "units"),
    "colors": ("colors", "the color interpretation of bands"),
    "color_tables": ("color-tables", "color tables"),
}
"""Field of `SceneInfo` -> name and text of its loss; for tags see `unkept`."""
ESSENTIAL = {"nodata", "masks", "crs", "transform", "gcps", "scales", "RPC"}
"""Names of losses of data and georeference."""


def unkept(info: SceneInfo, kept: SceneInfo) -> list[Loss]:
    """Return what of `info` is missing in `kept`, except for layout (compression, interleave)."""
    losses = []
    for field_name, (name, text) in FIELDS.items():
        wanted, found = getattr(info, field_name), getattr(kept, field_name)
        is_same = wanted == found or repr(wanted) == repr(found)  # NaN does not equal itself
        if "crs" in field_name:
            is_same = is_same_crs(wanted, found)
        is_given = wanted is not None and wanted != () and (field_name, wanted) != ("masks", 0)
        if is_given and not is_same:
            is_essential = name in ESSENTIAL or (name == "colors" and "alpha" in wanted)
            losses.append(Loss(name, text, is_essential))
    domains = _missing_domains(info.tags, kept.tags)
    for band, tags in enumerate(info.band_tags):
        domains |= _missing_domains(tags, kept.band_tags[band] if kept.band_tags else {})
    for domain in sorted(domains):
        text = f"tags of the domain {domain}" if domain else "tags"
        losses.append(Loss(domain or "tags", text, domain in ESSENTIAL))
    return list(dict.fromkeys(losses))


def is_same_crs(one: str | None, other: str | None) -> bool:
    """Return whether two coordinate reference systems, as WKT, give points the same coordinates."""
    return one == other or (None not in (one, other) and CRS.from_wkt(one) == CRS.from_wkt(other))


def losses_by_trial(form: SceneFormat, info: SceneInfo, suffix: str) -> list[Loss]:
    """Return what of `info` a file of a format does not keep: write one of four pixels, and read it.

    Raises:
        ProjectError: the format cannot store the metadata.
    """
    small = replace(info, height=2, width=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"trial{suffix}")
        with form.create(path, small) as scene:
            scene.write(0, 0, np.zeros((info.bands, 2, 2), info.dtype))
            scene.write_masks(0, 0, np.ones((info.masks, 2, 2), bool))
        with form.open(path) as written:
            return unkept(small, written.info)


def _missing_domains(wanted: dict[str, dict[str, str]], kept: dict[str, dict[str, str]]) -> set[str]:
    return {
        domain
        for domain, tags in wanted.items()
        for name, text in tags.items()
        if not _is_same_text(domain, text, kept.get(domain, {}).get(name))
    }


def _is_same_text(domain: str, text: str, other: str | None) -> bool:
    if text == other or other is None or not domain.startswith("xml:"):
        return text == other
    try:  # GDAL writes XML anew
        return ET.canonicalize(text, strip_text=True) == ET.canonicalize(other, strip_text=True)
    except ET.ParseError:
        return False
