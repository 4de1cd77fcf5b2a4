"""Single images to compare codecs on, with their gaps: the patches of a split, or any files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coding.hsc.records import shown_samples
from datasets.base import valid_samples
from datasets.enmap import (
    KEPT_INDICES,
    NODATA,
    NPY_SUFFIX,
    NUM_BANDS,
    SCALE,
    TIF_SUFFIX,
    tif_path_of,
    to_digital_numbers,
    to_reflectance,
)
from datasets.hyspecnet11k import read_split
from datasets.scenes import open_scene
from utils.errors import DatasetError


@dataclass(frozen=True)
class Image:
    """An image as codecs get it.

    Attributes:
        cube: (C, H, W), uint16, int16 or float32.
        valid: bool (C, H, W), False where there is no data.
        peak: sample value that counts as 1 in the metrics.
    """

    cube: np.ndarray
    valid: np.ndarray
    peak: float


def split_paths(root: Path, mode: str, split: str, original: bool) -> list[Path]:
    """Return the images of a data set in HySpecNet-11k's layout, in the order of its CSV.

    An image is the TIF if there is one, since a TIF tells nodata from zero; otherwise the DATA.npy.

    Args:
        root: of the data set.
        mode: folder under splits/.
        split: train, val or test.
        original: take only TIFs, as a DATA.npy is clipped to [0, 1].

    Raises:
        DatasetError: no such split, or a patch without a file to read.
    """
    csv_path = root / "splits" / mode / f"{split}.csv"
    if not csv_path.is_file():
        raise DatasetError(f"{csv_path}: no such file: give --dataset, --mode and --split, or files")
    paths = []
    for entry in read_split(csv_path):
        npy = root / "patches" / entry
        candidates = [tif_path_of(npy)] if original else [tif_path_of(npy), npy]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            reason = "original integers are in the TIFs only" if original else f"nor is there a *{TIF_SUFFIX}"
            raise DatasetError(f"{candidates[-1]}: no such file; {reason}")
        paths.append(found)
    return paths


def image_name(path: Path) -> str:
    """Return the name of a patch or of any other file without its ending."""
    return path.name.removesuffix(TIF_SUFFIX).removesuffix(NPY_SUFFIX).removesuffix(path.suffix)


def read_image(path: Path, original: bool, peak: float = SCALE) -> Image:
    """Read an image for codecs and metrics; of EnMAP's 224 bands keep the 202 of HySpecNet-11k.

    Args:
        path: of a TIF or a `.npy`.
        original: take integers unchanged, negative ones included. Otherwise take reflectances, clipped to [0, 1] as in
            HySpecNet-11k: as uint16 in [0, 10000] if all are integer multiples of 1e-4, else as float32.
        peak: sample value that counts as 1 in the metrics of original integers.

    Raises:
        DatasetError: not an image, no valid sample, floats with `original`, or floats without it most of which are
            outside of [0, 1].
    """
    with open_scene(path) as scene:
        info = scene.info
        window = 0, 0, info.height, info.width
        cube, masks = scene.read(*window), scene.read_masks(*window)
    alpha = np.array(info.colors) == "alpha" if info.colors else np.zeros(info.bands, bool)
    valid = valid_samples(cube, info) & shown_samples(masks, cube[alpha])
    cube, valid = cube[~alpha], valid[~alpha]
    if len(cube) == NUM_BANDS and cube.dtype == np.int16:
        kept = list(KEPT_INDICES)
        cube, valid = np.ascontiguousarray(cube[kept]), valid[kept]
        valid &= cube != NODATA
    if not valid.any():
        raise DatasetError(f"{path}: no sample holds data")
    if original:
        if cube.dtype == np.float32:
            raise DatasetError(f"{path}: --int16 needs original integers, got floats")
        return Image(cube, valid, peak)
    if cube.dtype != np.float32:
        return Image(to_digital_numbers(cube, valid), valid, SCALE)
    is_outside = valid & ((cube < 0) | (cube > 1))
    if is_outside.sum() > valid.sum() / 2:
        low, high = cube[valid].min(), cube[valid].max()
        raise DatasetError(f"{path}: most reflectances must be in [0, 1], got {low:g} to {high:g}: scale them to it")
    cube = np.clip(np.where(valid, cube, 0), 0, 1)
    numbers = np.rint(cube.astype(np.float64) * SCALE).astype(np.uint16)
    return Image(numbers, valid, SCALE) if np.array_equal(to_reflectance(numbers), cube) else Image(cube, valid, 1.0)
