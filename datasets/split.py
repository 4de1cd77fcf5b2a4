"""Split a folder of your own patches into train, val and test, in the layout of HySpecNet-11k.

    python -m datasets.split ./datasets/my-patches/
    python -m datasets.split ./datasets/my-patches/ --seed 1 --ratios 80 10 10 --overwrite

`splits/easy/*.csv` distributes single patches; `splits/hard/*.csv` distributes tiles (the first folder under
`patches/`), so that no test patch has a neighbor in the training set. The published splits of HySpecNet-11k come
with the data set; only results on those are comparable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.enmap import NPY_SUFFIX, find_files, find_tifs, npy_path_of
from utils.errors import DatasetError, UsageError
from utils.files import atomic_write
from utils.options import seed_number
from utils.scripts import run_script

SPLITS = ("train", "val", "test")
DEFAULT_SEED = 10587


def find_entries(patches_dir: Path) -> list[str]:
    """Return all `*-DATA.npy` relative to `patches_dir`, sorted; a TIF counts as the file to be made from it."""
    npy_paths = set(find_files(patches_dir, NPY_SUFFIX))
    npy_paths.update(npy_path_of(tif_path) for tif_path in find_tifs(patches_dir))
    return sorted(path.relative_to(patches_dir).as_posix() for path in npy_paths)


def distribute(units: Sequence[str], ratios: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Distribute units over the splits at random.

    Args:
        units: at least 3 names. The result depends on their order: sort them.
        ratios: shares of train, val and test, positive, with any sum.
        seed: non-negative.

    Returns:
        Split -> sorted units, at least one. Every unit is in exactly one split.
    """
    shuffled = np.random.default_rng(seed).permutation(np.array(units, dtype=object))
    borders = np.rint(np.cumsum(ratios) / np.sum(ratios) * len(units)).astype(int)
    train_end = min(max(borders[0], 1), len(units) - 2)
    val_end = min(max(borders[1], train_end + 1), len(units) - 1)
    parts = np.split(shuffled, [train_end, val_end])
    return {split: sorted(part) for split, part in zip(SPLITS, parts, strict=True)}


def make_splits(entries: Sequence[str], ratios: Sequence[float], seed: int) -> dict[str, dict[str, list[str]]]:
    """Return mode -> split -> entries.

    Args:
        entries: at least 3 paths, see `find_entries`.
        ratios: shares of train, val and test, positive, with any sum.
        seed: non-negative.

    Returns:
        The modes "easy" and, with at least 3 tiles, "hard".
    """
    modes = {"easy": distribute(entries, ratios, seed)}
    patches_of: dict[str, list[str]] = {}
    for entry in entries:
        patches_of.setdefault(PurePosixPath(entry).parts[0], []).append(entry)
    if len(patches_of) >= len(SPLITS):
        tiles = distribute(sorted(patches_of), ratios, seed)
        modes["hard"] = {split: [e for tile in tiles[split] for e in patches_of[tile]] for split in SPLITS}
    return modes


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.split",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, help="folder that holds patches/")
    parser.add_argument(
        "--seed", type=seed_number, default=DEFAULT_SEED, help="shuffling seed, non-negative (default: %(default)s)"
    )
    parser.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        default=[70, 20, 10],
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits, with any sum (default: 70 20 10)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing splits")
    args = parser.parse_args(argv)
    if not (np.isfinite(args.ratios).all() and min(args.ratios) > 0):
        parser.error(f"--ratios must be three positive numbers, got {args.ratios}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    args = parse_args(argv)
    patches_dir = args.root / "patches"
    if not patches_dir.is_dir():
        raise UsageError(f"{patches_dir}: no such folder; give the folder that holds patches/")
    entries = find_entries(patches_dir)
    if len(entries) < len(SPLITS):
        raise DatasetError(f"{patches_dir}: {len(entries)} patches, train, val and test need at least {len(SPLITS)}")
    modes = make_splits(entries, args.ratios, args.seed)

    contents = {
        args.root / "splits" / mode / f"{split}.csv": lines
        for mode, splits in modes.items()
        for split, lines in splits.items()
    }
    existing = [str(path) for path in contents if path.exists()]
    if existing and not args.overwrite:
        raise DatasetError(f"splits exist, give --overwrite to replace them: {', '.join(existing)}")
    for path, lines in contents.items():
        with atomic_write(path, "w") as file:
            file.writelines(f"{line}\n" for line in lines)

    print(f"{'':6}{''.join(f'{split:>8}' for split in SPLITS)}")
    for mode, splits in modes.items():
        print(f"{mode:6}{''.join(f'{len(splits[split]):8}' for split in SPLITS)}")
    if "hard" not in modes:
        print(f"note: no hard split, it needs at least {len(SPLITS)} tiles (folders in {patches_dir})")
    return 0


if __name__ == "__main__":
    run_script(main)
