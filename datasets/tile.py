"""Cut scenes into patches in the layout of HySpecNet-11k, with as many good patches as fit.

    python -m datasets.tile PRODUCTS/ -o ./datasets/my-patches/     # EnMAP L2A products, as delivered
    python -m datasets.tile A.tif B.tif -o ROOT --size 64           # other scenes
    python -m datasets.preprocess ./datasets/my-patches/            # then: the DATA.npy files
    python -m datasets.split ./datasets/my-patches/                 # and: the splits

A scene becomes a tile. Its patches do not overlap, and hold data in all pixels and bands: of EnMAP in the 202 bands
that preprocessing keeps, of other scenes in all bands that are not empty. Where quality layers lie beside the image
(`*-QL_QUALITY_CLOUD.TIF`, ...), patches with too many clouds, cloud shadows, haze, cirrus or snow are left out. The
same command resumes a run that was stopped, and adds new scenes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from datasets.base import SceneReader, valid_samples, without_statistics
from datasets.enmap import KEPT_INDICES, NODATA, NUM_BANDS, TIF_ENDING, TIF_SUFFIX, find_tifs, product_of
from datasets.preprocess import row_windows
from datasets.scenes import create_scene, open_scene
from utils.errors import DatasetError, UsageError
from utils.files import atomic_write, locked
from utils.options import positive_int
from utils.processes import num_cores
from utils.scripts import run_script
from utils.workers import Outcome, interrupted, print_errors, run_with_bar

TILES_CSV = "tiles.csv"
"""The record of the tiles of a data set: a row for each scene, whose `patches` is empty until it is finished."""
LAYERS = {  # name of the flag -> name of the quality layer, and its values that count
    "cloud": ("QL_QUALITY_CLOUD", (1,)),
    "shadow": ("QL_QUALITY_CLOUDSHADOW", (1,)),
    "haze": ("QL_QUALITY_HAZE", (1,)),
    "cirrus": ("QL_QUALITY_CIRRUS", (2, 3)),  # medium and thick; 1 is thin
    "snow": ("QL_QUALITY_SNOW", (1,)),
}
MAX_PERCENT = 10.0
"""Default limit of each layer."""
BACKGROUND = ("QL_QUALITY_CLASSES", (3,))
"""Pixels outside of the scene."""
NO_DATA = "nodata"
"""A reason to leave out a patch, like the names of `LAYERS`."""


class Job(NamedTuple):
    """A scene to cut.

    Attributes:
        path: the image.
        tile: name of its tile.
        patches_dir: folder of the tiles.
        size: height and width of the patches in pixels.
        limits: largest share of the pixels in [0, 1] for each of `LAYERS`.
    """

    path: Path
    tile: str
    patches_dir: Path
    size: int
    limits: dict[str, float]


class Cut(NamedTuple):
    """What was made of a scene.

    Attributes:
        patches: number of patches.
        left_out: reasons, `NO_DATA` or one of `LAYERS`, and how many positions of the grid they left out.
        missing: the layers that are not there.
    """

    patches: int = 0
    left_out: tuple[tuple[str, int], ...] = ()
    missing: tuple[str, ...] = ()


def cut(job: Job) -> Cut:
    """Write the patches of a scene. Those of an earlier run stay.

    Raises:
        DatasetError: the image or a quality layer cannot be read, or they differ in size.
        OSError: a patch cannot be written.
    """
    with open_scene(job.path) as scene:
        if min(scene.info.height, scene.info.width) < job.size:
            return Cut(left_out=(("smaller than a patch", 1),))
        if scene.info.bands == NUM_BANDS and scene.info.nodata_of(0) is None:
            scene.info = replace(scene.info, nodata=NODATA)
        flags = {NO_DATA: ~valid_pixels(scene) | read_layer(scene, *BACKGROUND)}
        layers = {name: _layer_path(scene.path, LAYERS[name][0]) for name in job.limits}
        flags |= {name: read_layer(scene, *LAYERS[name]) for name, path in layers.items() if path}
        reasons = reasons_to_leave_out(flags, job.limits, job.size)
        row, column = best_offset(reasons < 0, job.size)
        grid = reasons[row :: job.size, column :: job.size]
        spots = [(row + job.size * int(i), column + job.size * int(j)) for i, j in np.argwhere(grid < 0)]
        for number, spot in enumerate(spots, 1):
            _write_patch(scene, job, number, *spot)
    counts = tuple((name, int(np.count_nonzero(grid == index))) for index, name in enumerate(flags))
    return Cut(len(spots), counts, tuple(name for name, path in layers.items() if not path))


def valid_pixels(scene: SceneReader) -> np.ndarray:
    """Return which pixels hold data in all bands that count, bool (height, width).

    Of EnMAP these are the bands that preprocessing keeps; of other scenes those with any data.
    """
    info = scene.info
    counts, windows = np.zeros(info.bands, bool), list(row_windows(info, scene.block_height))
    if info.bands == NUM_BANDS:
        counts[list(KEPT_INDICES)] = True
    else:
        for window in windows:
            counts |= _valid(scene, *window).any((1, 2))
    return np.concatenate([_valid(scene, *window)[counts].all(0) for window in windows])


def _valid(scene: SceneReader, row: int, height: int) -> np.ndarray:
    """Return which samples of full rows are valid, bool (bands, height, width)."""
    window = (row, 0, height, scene.info.width)
    valid = valid_samples(scene.read(*window), scene.info)
    masks = scene.read_masks(*window)
    return valid & masks if len(masks) else valid


def _layer_path(image: Path, name: str) -> Path | None:
    """Return the path of the quality layer beside an image, None if there is none."""
    stem = f"{product_of(image)}-{name}".lower()
    endings = {f"{stem}{cog}.{suffix}" for cog in ("", "_cog") for suffix in ("tif", "tiff")}
    return next((path for path in sorted(image.parent.iterdir()) if path.name.lower() in endings), None)


def read_layer(scene: SceneReader, name: str, values: Sequence[int]) -> np.ndarray:
    """Return where the quality layer of a scene has one of `values`, bool (height, width); nowhere without a layer.

    Raises:
        DatasetError: the layer cannot be read, or has another size.
    """
    height, width = scene.info.height, scene.info.width
    path = _layer_path(scene.path, name)
    if path is None:
        return np.zeros((height, width), bool)
    with open_scene(path) as layer:
        if (layer.info.height, layer.info.width) != (height, width):
            size = f"{layer.info.height} x {layer.info.width}"
            raise DatasetError(f"{path}: {size} pixels, but the image beside it has {height} x {width}")
        return np.isin(layer.read(0, 0, height, width)[0], values)


def reasons_to_leave_out(flags: dict[str, np.ndarray], limits: dict[str, float], size: int) -> np.ndarray:
    """Return why the patch at each position is left out: the index of the first reason in `flags`, or -1.

    Args:
        flags: for each reason which pixels have it, bool (H, W).
        limits: for each reason the largest share of the pixels; 0 where not given.
        size: height and width of a patch.

    Returns:
        int8 (H - size + 1, W - size + 1), by the upper left corner of the patch.
    """
    reasons: np.ndarray | None = None
    for index, (name, pixels) in reversed(list(enumerate(flags.items()))):
        sums = np.pad(pixels.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32), ((1, 0), (1, 0)))
        counts = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
        if reasons is None:
            reasons = np.full(counts.shape, -1, np.int8)
        reasons[counts > limits.get(name, 0) * size**2] = index
    assert reasons is not None
    return reasons


def best_offset(is_good: np.ndarray, size: int) -> tuple[int, int]:
    """Return the row and column of the grid's first position with which most positions are good.

    Args:
        is_good: bool (rows, columns), whether the patch with this upper left corner is good.
        size: step of the grid.
    """
    rows, columns = (-length % size for length in is_good.shape)
    padded = np.pad(is_good, ((0, rows), (0, columns)))
    counts = padded.reshape(padded.shape[0] // size, size, padded.shape[1] // size, size).sum((0, 2))
    counts = counts[: is_good.shape[0], : is_good.shape[1]]
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    return int(row), int(column)


def _write_patch(scene: SceneReader, job: Job, number: int, row: int, column: int) -> None:
    """Write a patch, if it is not there: files are complete, as they are written atomically."""
    digits = max(4, len(str(max(scene.info.height, scene.info.width))))
    rows, columns = (f"{first:0{digits}}{first + job.size - 1:0{digits}}" for first in (row, column))
    patch = f"{job.tile}-patch_{number:02}"
    path = job.patches_dir / job.tile / patch / f"{product_of(job.path)}-Y{rows}_X{columns}{TIF_SUFFIX}"
    if path.is_file():
        return
    info = without_statistics(scene.info.window(row, column, job.size, job.size))
    with create_scene(path, replace(info, masks=0, compression=info.compression or "deflate")) as target:
        target.write(0, 0, scene.read(row, column, job.size, job.size))


def find_scenes(products: Sequence[Path], output: Path) -> list[Path]:
    """Return the images that `products` name: files, or folders with EnMAP or DESIS products; each product once.

    What lies in `output`, which may be in one of the folders, is left out.

    Raises:
        UsageError: a file or folder does not exist, a folder has no images, or two other scenes have the same name.
    """
    path_of: dict[str, Path] = {}
    for product in products:
        if not product.exists():
            raise UsageError(f"{product}: no such file or folder")
        paths = find_tifs(product) if product.is_dir() else [product]
        paths = [path for path in paths if output.resolve() not in path.resolve().parents]
        if not paths:
            raise UsageError(f"{product}: no *{TIF_SUFFIX} in it or below; give other scenes one by one")
        for path in paths:
            other = path_of.setdefault(product_of(path), path)
            if not (TIF_ENDING.search(path.name) or path.samefile(other)):  # the names of products are unique
                raise UsageError(f"{path}: has the same name as {other}: rename one of them")
    return [path_of[name] for name in sorted(path_of)]


class Tiles:
    """The record of the tiles of a data set, `ROOT/tiles.csv`, which holds what a resumed run must not change.

    Args:
        root: the data set.
        settings: size and limits of its patches.

    Raises:
        UsageError: the tiles were made with other settings.
    """

    def __init__(self, root: Path, settings: dict[str, float]) -> None:
        self._path = root / TILES_CSV
        self._columns = ["tile", "product", "patches", NO_DATA, *LAYERS, *settings]
        self._settings = settings
        self.rows: dict[str, dict] = {}
        if self._path.is_file():
            table = pd.read_csv(self._path, dtype=object, keep_default_na=False)
            self.rows = {row["product"]: row for row in table.to_dict("records")}
        for row in self.rows.values():
            changed = [name for name, value in settings.items() if float(row[name]) != value]
            if changed:
                name = changed[0]
                raise UsageError(
                    f"{self._path}: its tiles were made with {name} {row[name]}, not {settings[name]:g}: give the same "
                    "flags, or another --output"
                )

    def tile_of(self, product: str) -> str:
        """Return the name of a product's tile, a new one for a new product."""
        if product not in self.rows:
            numbers = [int(row["tile"].removeprefix("tile_")) for row in self.rows.values()]
            tile = f"tile_{max(numbers, default=0) + 1:03}"
            empty = dict.fromkeys(self._columns, "")
            self.rows[product] = {**empty, "tile": tile, "product": product, **self._settings}
        return self.rows[product]["tile"]

    def is_finished(self, product: str) -> bool:
        """Return whether all patches of a product are there."""
        return self.rows.get(product, {}).get("patches", "") != ""

    def finish(self, path: Path, made: Cut) -> None:
        """Record the result of a job that had no error."""
        self.rows[product_of(path)] |= {"patches": made.patches, **dict(made.left_out)}
        self.write()

    def write(self) -> None:
        """Write the record."""
        with atomic_write(self._path, "w") as file:
            pd.DataFrame(list(self.rows.values()), columns=self._columns).to_csv(file, index=False, lineterminator="\n")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.tile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("products", type=Path, nargs="+", help="scenes, or folders with EnMAP L2A or DESIS products in them or below")
    add("-o", "--output", type=Path, default="./datasets/my-patches/", help="the data set (default: %(default)s)")
    add("--size", type=positive_int, default=128, help="height and width of a patch in pixels (default: %(default)s)")
    for name in LAYERS:
        add(
            f"--max-{name}",
            type=percentage,
            default=MAX_PERCENT,
            help=f"largest share of a patch that may be {name}, in percent (default: %(default)g)",
        )
    add("--num-workers", type=positive_int, default=num_cores(), help="processes (default: all cores, %(default)s)")
    return parser.parse_args(argv)


def percentage(text: str) -> float:
    """Parse a number from 0 to 100."""
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 100, got {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    args = parse_args(argv)
    percents = {name: getattr(args, f"max_{name}") for name in LAYERS}
    paths = find_scenes(args.products, args.output)
    args.output.mkdir(parents=True, exist_ok=True)
    busy = f"{args.output}: another process is cutting scenes for it: wait for it, or give another --output"
    with locked(args.output / f".{TILES_CSV}.lock", busy):
        settings = {"size": args.size, **{f"max_{name}": percent for name, percent in percents.items()}}
        tiles = Tiles(args.output, settings)
        limits = {name: percent / 100 for name, percent in percents.items()}
        jobs = [
            Job(path, tiles.tile_of(product_of(path)), args.output / "patches", args.size, limits)
            for path in paths
            if not tiles.is_finished(product_of(path))
        ]
        tiles.write()  # the numbers of the tiles, before there are any patches
        outcomes: list[Outcome[Job, Cut]] = []
        try:
            for outcome in run_with_bar(cut, jobs, "scene", num_workers=args.num_workers):
                outcomes.append(outcome)
                if outcome.value is not None:
                    tiles.finish(outcome.job.path, outcome.value)
        except KeyboardInterrupt as interrupt:
            return interrupted(interrupt, f"after {len(outcomes)} of {len(jobs)} scenes: the same command resumes")
    return report(sorted(outcomes, key=lambda outcome: outcome.job.tile), len(paths) - len(jobs))


def report(outcomes: Sequence[Outcome[Job, Cut]], num_skipped: int) -> int:
    """Print what was made and left out, notes and errors; return the exit status."""
    made = [(outcome.job, outcome.value) for outcome in outcomes if outcome.value is not None]
    for job, scene in made:
        reasons = ", ".join(f"{name} {count}" for name, count in scene.left_out if count)
        left_out = f", left out: {reasons}" if reasons else ""
        print(f"{job.tile}: {scene.patches} patches{left_out}: {product_of(job.path)}")
    for job, scene in made:
        if scene.missing:
            print(f"note: {job.path}: no layer of {', '.join(scene.missing)}: not checked", file=sys.stderr)
    num_errors = print_errors(outcomes)
    num_patches = sum(scene.patches for _, scene in made)
    print(f"{num_patches} patches of {len(made)} scenes, {num_skipped} scenes skipped, {num_errors} failed", flush=True)
    return 1 if num_errors else 0


if __name__ == "__main__":
    run_script(main)
