"""EnMAP L2A and HySpecNet-11k conventions: bands, values, file names.

A `SPECTRAL_IMAGE.TIF` holds 224 bands of int16, surface reflectance x 10000. HySpecNet-11k (Fuchs and
Demir, IGARSS 2023, doi 10.1109/IGARSS52108.2023.10283385) drops the two water vapour ranges, in which EnMAP
L2A has no usable signal, and keeps 202 bands.
"""

from __future__ import annotations

import os
from pathlib import Path

NUM_BANDS = 224
DROPPED_BANDS = (*range(127, 142), *range(161, 168))
"""1-based, as in the product's metadata: 127-141 and 161-167."""
KEPT_INDICES = tuple(i for i in range(NUM_BANDS) if i + 1 not in DROPPED_BANDS)
"""0-based, in product order, which is not that of the wavelengths: the two detectors overlap."""
NUM_CHANNELS = len(KEPT_INDICES)  # 202

NODATA = -32768
SCALE = 10000
"""Digital number of reflectance 1.0."""
DTYPES = ("float32", "uint16")
"""What a `DATA.npy` may hold: reflectances, or the digital numbers of which they are made, in half the space."""
MAX_VALUE = 10000
"""Digital numbers above (glint, clouds) are clipped to it."""

TIF_SUFFIX = "-SPECTRAL_IMAGE.TIF"
NPY_SUFFIX = "-DATA.npy"


def npy_path_of(tif_path: Path) -> Path:
    """The `*-DATA.npy` that belongs beside a TIF; a TIF of another name counts as `<stem>-DATA.npy`."""
    name = tif_path.name
    stem = name.removesuffix(TIF_SUFFIX) if name.endswith(TIF_SUFFIX) else tif_path.stem
    return tif_path.with_name(stem + NPY_SUFFIX)


def tif_path_of(npy_path: Path) -> Path:
    """The `*-SPECTRAL_IMAGE.TIF` that a `*-DATA.npy` is made from."""
    return npy_path.with_name(npy_path.name.removesuffix(NPY_SUFFIX) + TIF_SUFFIX)


def find_files(folder: Path, suffix: str) -> list[Path]:
    """All files under `folder` whose names end in `suffix`, sorted.

    Links to folders are followed: a subset of the data set is often a folder of links to tiles. Hidden files
    are none of ours: macOS puts a `._NAME` beside every NAME when it unpacks an archive on a foreign disk.
    """
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    )
