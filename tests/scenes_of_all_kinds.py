"""Random scenes with all that rasterio can put into a file, and all that it reads from one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64")
CRSS = (
    "EPSG:32633",
    "EPSG:4326",
    "EPSG:4979",
    "EPSG:25832+5783",
    "ESRI:102003",
    "+proj=laea +lat_0=33 +lon_0=1 +units=us-ft",
    "+proj=utm +zone=33 +ellps=bessel +towgs84=1,2,3",
    "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +R=6371229 +to_meter=0.0174532925199433",
    'LOCAL_CS["site",UNIT["metre",1]]',
)
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs"], exclude_characters="=:"), min_size=1, max_size=8)
LAYOUT = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "xml:VRT")
DOCUMENT = '<Metadata domain="xml:note" format="xml"><note n="1">{}</note></Metadata>'


def tags_of():
    names = TEXT.filter(lambda name: name not in ("bidx", "ns"))  # rasterio's own arguments beside the tags
    return st.dictionaries(names, TEXT, max_size=3)


def rpcs(draw):
    numbers = " ".join(["1", *["0.25"] * 19])
    names = ("LINE_SCALE", "SAMP_SCALE", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE")
    items = dict.fromkeys(("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF"), numbers)
    items |= {name: str(draw(st.integers(1, 90))) for name in names}
    return items | {"LINE_OFF": "20.5", "SAMP_OFF": "3", "ERR_BIAS": "0.5", "ERR_RAND": "0.25"}


class Scene:
    """A random scene: samples, mask and metadata, as rasterio takes them."""

    def __init__(self, draw):
        self.dtype = draw(st.sampled_from(DTYPES))
        self.shape = draw(st.sampled_from([(1, 9, 7), (3, 20, 11), (4, 130, 5), (2, 3, 140)]))
        self.seed = draw(st.integers(0, 99))
        self.crs = draw(st.sampled_from([None, *CRSS]))
        self.place = draw(st.sampled_from([None, "north-up", "sheared", "gcps", "rpcs"]))
        self.rpcs = rpcs(draw) if self.place == "rpcs" else {}
        self.layout = draw(st.sampled_from([{}, {"compress": "deflate"}, {"compress": "zstd", "interleave": "pixel"}]))
        self.tags = draw(tags_of())
        self.software = draw(st.sampled_from([{}, {"TIFFTAG_SOFTWARE": "v1", "AREA_OR_POINT": "Point"}]))
        self.domain = draw(tags_of())
        self.band_tags = [draw(tags_of()) for _ in range(self.shape[0])]
        self.wavelengths = draw(st.booleans())
        self.mask = draw(st.sampled_from([None, "dataset", "bands"]))
        self.nodata = draw(st.sampled_from([None, 0, 100]))
        self.band_nodata = self.nodata is None and draw(st.booleans())
        self.document = draw(st.sampled_from([None, "", "a &amp; b"]))
        self.colors = draw(st.sampled_from([None, "alpha", "rgb", "palette"]))
        self.is_described = draw(st.booleans())

    def __repr__(self):
        return f"Scene{vars(self)}"

    def samples(self) -> np.ndarray:
        numbers = np.random.default_rng(self.seed).integers(0, 120, self.shape)
        return numbers.astype(self.dtype)

    def masks(self) -> np.ndarray:
        return np.random.default_rng(self.seed).random(self.shape) > 0.3

    def write(self, path: Path) -> None:
        """Write a GeoTIFF, with a `.msk` for masks of bands and a `.aux.xml` for nodata of bands and documents."""
        bands, height, width = self.shape
        size = dict(driver="GTiff", count=bands, height=height, width=width, photometric="minisblack")
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(path, "w", dtype=self.dtype, nodata=self.nodata, **size, **self.layout) as tif,
        ):
            self._write_metadata(tif)
            tif.write(self.samples())
            if self.mask == "dataset":
                tif.write_mask(self.masks()[0])
        if self.mask == "bands" and bands > 1:
            with rasterio.open(f"{path}.msk", "w", dtype="uint8", **size) as masks:
                masks.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": "0" for band in masks.indexes})
                masks.write(self.masks().astype(np.uint8) * 255)
        self._write_side_file(path)

    def _write_metadata(self, tif) -> None:
        if self.crs and self.place != "gcps":
            tif.crs = CRS.from_user_input(self.crs)
        if self.place == "north-up":
            tif.transform = rasterio.Affine(30, 0, 688005.1, 0, -30, 4561935.3)
        elif self.place == "sheared":
            tif.transform = rasterio.Affine(30, 0.5, 688005.1, 0.25, -30, 4561935.3)
        elif self.place == "gcps":
            points = [GroundControlPoint(i + 0.5, 3 * i, 10.25 + i * i, 45.1 - i, 7.0) for i in range(4)]
            tif.gcps = (points, CRS.from_user_input(self.crs or "EPSG:4326"))
        elif self.place == "rpcs":
            tif.update_tags(ns="RPC", **self.rpcs)
        tif.update_tags(**self.tags, **self.software)
        tif.update_tags(ns="OWN", **self.domain)
        tif.update_tags(ns="xml:XMP", **{"xml:XMP": "<x/>"})  # rasterio writes "xml:XMP=<x/>"
        for band, tags in enumerate(self.band_tags, start=1):
            tif.update_tags(band, **tags)
            if self.wavelengths:
                tif.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"0.4{band}", FWHM_UM=f"0.00{band}")
        if self.is_described:
            tif.descriptions = [f"band {band} (µm)" for band in tif.indexes]
            tif.scales, tif.offsets = [0.1 * band for band in tif.indexes], [-1e-9 * band for band in tif.indexes]
            tif.units = ["W/m²"] * tif.count
        self._write_colors(tif)

    def _write_colors(self, tif) -> None:
        if self.colors == "alpha" and tif.count > 1:
            tif.colorinterp = [*[ColorInterp.undefined] * (tif.count - 1), ColorInterp.alpha]
        elif self.colors == "rgb" and tif.count > 2:
            rest = [ColorInterp.undefined] * (tif.count - 3)
            tif.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, *rest]
        elif self.colors == "palette" and tif.count == 1 and self.dtype in ("uint8", "uint16"):
            tif.write_colormap(1, {0: (1, 2, 3, 255), 2: (255, 0, 9, 255)})

    def _write_side_file(self, path: Path) -> None:
        bands = ""
        if self.band_nodata:  # the last band has none
            entries = (f'<PAMRasterBand band="{n}"><NoDataValue>{n}</NoDataValue>' for n in range(1, self.shape[0]))
            bands = "".join(f"{entry}</PAMRasterBand>" for entry in entries)
        document = "" if self.document is None else DOCUMENT.format(self.document)
        if not bands + document:
            return
        text = f"<PAMDataset>{document}{bands}</PAMDataset>"
        side_file = Path(f"{path}.aux.xml")
        if side_file.exists():  # GDAL wrote it, with a CRS that GeoTIFF does not have
            text = side_file.read_text().replace("</PAMDataset>", text.removeprefix("<PAMDataset>"))
        side_file.write_text(text)


scenes = st.composite(Scene)
"""Strategy of `Scene`s."""


def content_of(path: Path) -> dict:
    """Return all that rasterio reads from a file and that is not layout."""
    with rasterio.open(path) as raster:
        gcps, gcps_crs = raster.gcps
        content = {name: getattr(raster, name) for name in ("count", "height", "width", "dtypes", "transform")}
        content |= {name: getattr(raster, name) for name in ("descriptions", "scales", "offsets", "units")}
        content |= {name: str(getattr(raster, name)) for name in ("nodatavals", "colorinterp", "mask_flag_enums")}
        content |= {
            "crs": raster.crs and raster.crs.to_wkt(version="WKT2_2019"),
            "gcps": [point.asdict() | {"id": point.id, "info": point.info} for point in gcps],
            "gcps_crs": gcps_crs and gcps_crs.to_wkt(version="WKT2_2019"),
            "samples": raster.read().tobytes(),
            "masks": raster.read_masks().tobytes(),
            "color_tables": [color_table_of(raster, band) for band in raster.indexes],
        }
        for band in range(raster.count + 1):
            for domain in (None, *raster.tag_namespaces(band)):
                if domain not in LAYOUT and (tags := raster.tags(band, ns=domain)):
                    content[f"tags of band {band}, domain {domain}"] = tags
    return content


def color_table_of(raster, band):
    try:
        return raster.colormap(band)
    except ValueError:
        return None
