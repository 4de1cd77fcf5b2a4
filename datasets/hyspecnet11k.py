"""HySpecNet-11k as a torch data set.

M. H. P. Fuchs and B. Demir, "HySpecNet-11k: a large-scale hyperspectral dataset for benchmarking
learning-based hyperspectral image compression methods", IGARSS 2023, doi 10.1109/IGARSS52108.2023.10283385.
11,483 patches of 128 x 128 pixels from 250 EnMAP tiles; download: https://hyspecnet.rsim.berlin

    ROOT/patches/tile_001/tile_001-patch_01/<EnMAP product>-Y01460273_X03110438-SPECTRAL_IMAGE.TIF
                                            <EnMAP product>-Y01460273_X03110438-DATA.npy
    ROOT/splits/{easy,hard}/{train,val,test}.csv

`python -m datasets.preprocess ROOT` makes the DATA.npy; a CSV lists one per line, relative to `patches/`,
see `read_split`.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets import npy
from datasets.enmap import DTYPES, MAX_VALUE, NPY_SUFFIX, NUM_CHANNELS, npy_path_of, tif_path_of, to_reflectance
from datasets.transforms import PixelTransform
from utils.errors import DatasetError

Key = int | tuple[int, int]
"""An index, or a pair (epoch, index)."""

Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Returns a CPU tensor of a shape and type, with any content."""

DOWNLOAD_PAGE = "https://hyspecnet.rsim.berlin"
SPLIT_LINE = "one path of a patch per line, relative to patches/, such as tile_001/tile_001-patch_01/NAME-DATA.npy"
_PATCH = re.compile(r"[^/\\]\.(npy|tiff?)$", re.IGNORECASE)


_BLOCK = 2**18
"""Values that are read, checked and converted at once: small enough for a core's cache."""
_INFINITY_BITS = 0x7F800000
"""The bits of float32 infinity; those of NaN and of all negative numbers are larger, those of other numbers smaller."""


class HySpecNet11k(Dataset):
    """Patches of one split: float32 tensors (C, H, W) with reflectances in [0, 1].

    The draws of a random transform depend on (seed, epoch, index) alone: not on workers, ranks, global
    random state or earlier reads. A key is an index, or a pair (epoch, index) as `EpochBatchSampler` gives
    it; a plain index means epoch 0.

    Args:
        root_dir: folder that holds `patches/` and `splits/`.
        mode: "easy" (patches of one tile may lie in several splits), "hard" (a tile lies in one), or another
            folder under `splits/`.
        split: "train", "val" or "test".
        transform: a result of `datasets.transforms.get_transform`, or a callable from tensor (C, H, W) to tensor.
        num_channels: C that every file must have; 202 is EnMAP's after preprocessing.
        seed: seed of the random draws, non-negative.
        repeats: how often one epoch goes through the split. Index i reads patch `i % patches` but draws by i, so
            that a small data set gives many different random samples.

    Attributes:
        root_dir, mode, split, transform, num_channels, seed, repeats: as given.
        paths: the `DATA.npy` files, in the order of the CSV, each once whatever `repeats` is.
        names: file names of `paths` without `-DATA.npy`.
        file_shape: (C, H, W) on disk, the same for all patches.
        image_shape: (C, H, W) after the transform.

    Raises:
        DatasetError: at construction, if `repeats` is below 1, the data set, CSV or a patch is missing, the split
            is empty, or the first patch cannot be used or is too small for the transform; on access, if a patch
            is damaged, holds NaN, infinity or digital numbers above 10000, or has another shape than the first.
    """

    def __init__(
        self,
        root_dir: str | Path,
        mode: str = "easy",
        split: str = "train",
        transform: PixelTransform | Callable[[Tensor], Tensor] | None = None,
        *,
        num_channels: int = NUM_CHANNELS,
        seed: int = 0,
        repeats: int = 1,
    ) -> None:
        if repeats < 1:
            raise DatasetError(f"repeats must be at least 1, got {repeats}")
        self.root_dir = Path(root_dir)
        self.mode = mode
        self.split = split
        self.transform = transform
        self.num_channels = num_channels
        self.seed = seed
        self.repeats = repeats

        csv_path = self._find_csv()
        self._entries = read_split(csv_path)
        self.paths = [self.root_dir / "patches" / entry for entry in self._entries]
        self.names = [path.name.removesuffix(NPY_SUFFIX) for path in self.paths]
        self._check_files_exist(csv_path)

        self.file_shape: tuple[int, ...] = ()  # unknown, so the first patch may have any H and W
        first = self._open(self.paths[0])
        self.file_shape, self._stored_dtype = first.shape, first.dtype.newbyteorder("=")
        self._plain_header = _plain_header(self.paths[0], first)
        self.image_shape = self._image_shape()

    def __len__(self) -> int:
        return self.repeats * len(self.paths)

    def __getitem__(self, key: Key) -> Tensor:
        path, transform = self._path_of(key), self.transform
        values = self._pick(self._open(path), key)
        self._check_values(path, values)
        x = torch.from_numpy(to_reflectance(values) if values.dtype == np.uint16 else values)
        return x if transform is None or isinstance(transform, PixelTransform) else transform(x)

    def read_batch(
        self, keys: Sequence[Key], allocate: Allocate | None = None, keep_digital_numbers: bool = False
    ) -> Tensor:
        """Read patches into one tensor.

        Args:
            keys: keys of the patches.
            allocate: returns the tensor to read into; it is not called if `transform` is a callable other than a
                `PixelTransform`. None makes a new tensor.
            keep_digital_numbers: whether to return digital numbers if all files hold them.

        Returns:
            (N, *image_shape): reflectances, float32, or digital numbers, uint16.

        Raises:
            DatasetError: as on access to one patch.
        """
        if self.transform is not None and not isinstance(self.transform, PixelTransform):
            return torch.stack([self[key] for key in keys])
        keep_digital_numbers = keep_digital_numbers and self._stored_dtype == np.uint16
        dtype = torch.uint16 if keep_digital_numbers else torch.float32
        batch = (allocate or _new_tensor)((len(keys), *self.image_shape), dtype)
        for key, out in zip(keys, batch.numpy(), strict=True):
            path = self._path_of(key)
            if self.transform is None and self._read_plain(path, out):
                continue
            values = self._pick(self._open(path), key)
            self._check_values(path, values)
            if values.dtype == out.dtype:
                out[...] = values
            elif keep_digital_numbers:  # files of both types
                return self.read_batch(keys, allocate)
            else:
                to_reflectance(values, out)
        return batch

    def _read_plain(self, path: Path, out: np.ndarray) -> bool:
        """Read a whole patch into `out` faster than by mapping it; return False for a file that has to be mapped.

        Its header must be that of the first patch, which is then not parsed again.
        """
        header, out = self._plain_header, out.reshape(-1)
        if header is None:
            return False
        numbers = None if out.dtype == self._stored_dtype else np.empty(_BLOCK, self._stored_dtype)
        try:
            with open(path, "rb", buffering=0) as file:
                size = len(header) + out.size * self._stored_dtype.itemsize
                if file.read(len(header)) != header or os.fstat(file.fileno()).st_size != size:
                    return False
                for start in range(0, out.size, _BLOCK):
                    block = out[start : start + _BLOCK]
                    values = block if numbers is None else numbers[: block.size]
                    if file.readinto(values.data.cast("B")) != values.nbytes:
                        return False
                    self._check_values(path, values)
                    if numbers is not None:
                        to_reflectance(values, block)
        except OSError:  # mapping the file says what is wrong
            return False
        return True

    def _path_of(self, key: Key) -> Path:
        index = key[1] if isinstance(key, tuple) else key
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        return self.paths[index % len(self.paths)]

    def _pick(self, cube: np.memmap, key: Key) -> np.ndarray:
        """Return a copy of the pixels that belong to `key`: all of them, unless the transform picks some."""
        if isinstance(self.transform, PixelTransform):
            epoch, index = key if isinstance(key, tuple) else (0, key)
            values = self.transform(cube, np.random.default_rng(np.random.SeedSequence((self.seed, epoch, index))))
        else:
            values = np.array(cube, order="C")
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _check_values(self, path: Path, values: np.ndarray) -> None:
        if values.dtype == np.uint16:
            if values.max() > MAX_VALUE:
                raise DatasetError(f"{path}: contains digital numbers above {MAX_VALUE}; {self._remedy()}")
        # The first test needs no memory, and is exact unless there are negative numbers.
        elif values.view(np.uint32).max() >= _INFINITY_BITS and not np.isfinite(values).all():
            raise DatasetError(f"{path}: contains NaN or infinite values; {self._remedy()}")

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of the split's relative paths in order: the same in any `root_dir`."""
        return hashlib.sha256("\n".join(self._entries).encode()).hexdigest()

    @property
    def _preprocess_command(self) -> str:
        return f"python -m datasets.preprocess {shlex.quote(str(self.root_dir))}"

    def _find_csv(self) -> Path:
        """Return the path of the split's CSV, or raise `DatasetError` with what to do."""
        patches_dir = self.root_dir / "patches"
        if not patches_dir.is_dir():
            raise DatasetError(
                f"{patches_dir}: no such folder, so no data set in {self.root_dir}: download HySpecNet-11k from "
                f"{DOWNLOAD_PAGE}, unpack it there and run `{self._preprocess_command}`; "
                "to try things out, use the bundled sample: -d ./datasets/sample/"
            )
        csv_path = self.root_dir / "splits" / self.mode / f"{self.split}.csv"
        if not csv_path.is_file():
            command = f"python -m datasets.split {shlex.quote(str(self.root_dir))}"
            raise DatasetError(f"{csv_path}: no such file; `{command}` makes splits of your own")
        return csv_path

    def _check_files_exist(self, csv_path: Path) -> None:
        missing = [path for path in self.paths if not path.is_file()]
        if not missing:
            return
        remedy = "unpack the rest of the data set or take them out of the CSV"
        if tif_path_of(missing[0]).is_file():
            remedy = f"make them from their TIFs: `{self._preprocess_command}`"
        raise DatasetError(
            f"{len(missing)} of the {len(self.paths)} patches in {csv_path} are missing, first {missing[0]}; {remedy}"
        )

    def _open(self, path: Path) -> np.memmap:
        try:
            cube = npy.map_cube(path, DTYPES)
        except DatasetError as error:
            raise DatasetError(f"{error}; {self._remedy()}") from error
        expected = self.file_shape or (self.num_channels, *cube.shape[1:])
        if cube.shape != expected:
            raise DatasetError(
                f"{path}: shape {cube.shape}, expected {expected}: for patches of {cube.shape[0]} bands give "
                f"--num-channels {cube.shape[0]} (num_channels); one split has one patch size; "
                f"a damaged EnMAP patch is made again by `{self._preprocess_command}`"
            )
        return cube

    def _remedy(self) -> str:
        return f"delete it and make it again: `{self._preprocess_command}`"

    def _image_shape(self) -> tuple[int, ...]:
        if isinstance(self.transform, PixelTransform):
            try:
                return self.transform.output_shape(self.file_shape)
            except ValueError as error:
                raise DatasetError(f"{self.paths[0]}: {error}") from error
        # Only a call tells which shape a user's callable returns.
        return self.file_shape if self.transform is None else tuple(self[0].shape)


def _plain_header(path: Path, cube: np.memmap) -> bytes | None:
    """Return the header of a patch whose values lie in the file as they do in memory, else None."""
    if not (cube.flags.c_contiguous and cube.dtype.isnative):
        return None
    with open(path, "rb") as file:
        return file.read(cube.offset)


def _new_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def read_split(csv_path: Path) -> list[str]:
    """Read the entries of a split file: paths of `DATA.npy` files, relative to `patches/`, one per line.

    A line may be quoted, have backslashes, or name the TIF of the patch. Further columns are ignored: empty ones, an
    index of integers, and in a file with a header all but the one of the paths. So are a byte order mark, Windows line
    ends, blank lines and surrounding spaces.

    Returns:
        The paths with forward slashes.

    Raises:
        DatasetError: the file is not UTF-8 text or has no entries, or a line is not clear or points outside `patches/`.
    """
    try:
        text = csv_path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{csv_path}: not UTF-8 text; expected {SPLIT_LINE}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DatasetError(f"{csv_path}: empty; expected {SPLIT_LINE}")
    first = lines[0][1]
    has_header = len(lines) > 1 and not re.search(r"[/\\]", first) and not _entries_in(first, has_header=True)
    entries = []
    for number, line in lines[has_header:]:
        found = _entries_in(line, has_header)
        if len(found) != 1:
            raise DatasetError(f"{csv_path}: line {number} is {line!r}, expected {SPLIT_LINE}")
        (entry,) = found
        path = PurePosixPath(entry)
        if path.is_absolute() or PureWindowsPath(entry).drive or ".." in path.parts:
            raise DatasetError(f"{csv_path}: {entry!r} points outside patches/; expected a path relative to it")
        entries.append(entry)
    return entries


def _entries_in(line: str, has_header: bool) -> set[str]:
    """Return the paths of patches that a line of a split file names: one if it is clear."""
    for delimiter in ",;\t":
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
        paths = [cell for cell in cells if _PATCH.search(cell)]
        others = [cell for cell in cells if cell and cell not in paths]
        if paths and (has_header or all(cell.isdecimal() for cell in others)):
            return {_as_entry(path) for path in paths}
    return {_as_entry(line)} if _PATCH.search(line) and '"' not in line else set()  # a name with a comma


def _as_entry(path: str) -> str:
    entry = path.replace("\\", "/")
    return entry if entry.lower().endswith(".npy") else npy_path_of(PurePosixPath(entry)).as_posix()


def refuse_overlap(splits_dir: Path, splits: Sequence[str] = ("train", "val", "test")) -> str | None:
    """Raise an error if a patch is in two splits, except if val and test are the same patches.

    Args:
        splits_dir: folder of the split files.
        splits: names of the splits to compare; those without a file are left out.

    Returns:
        A note if val and test are the same patches, so that one set chooses the weights and tests them; else None.

    Raises:
        DatasetError: a patch is in two splits, or a split file is damaged.
    """
    paths = {split: splits_dir / f"{split}.csv" for split in splits}
    entries = {split: set(read_split(path)) for split, path in paths.items() if path.is_file()}
    note = None
    for one, other in itertools.combinations(entries, 2):
        shared = entries[one] & entries[other]
        if {one, other} == {"val", "test"} and entries[one] == entries[other]:
            note = f"{splits_dir}: val and test are the same patches, so the test is of weights chosen on them"
        elif shared:
            raise DatasetError(
                f"{paths[other]}: {len(shared)} of its {len(entries[other])} patches are in {one}.csv, too, first "
                f"{min(shared)}; take them out of one of the two, or give --allow-overlap"
            )
    return note
