"""Scenes through a codec: tiles in parallel, gaps as masks, and what came of it measured on the way.

A tile's record is its mask (see `coding.hsc.masks`) and the codec's bytes, each behind its length.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import BinaryIO

import numpy as np

from coding.base import BoundNotGuaranteed, DamagedError, TileCoder, join_blocks, split_blocks
from coding.entropy.compiled import compiled
from coding.hsc.container import DamagedTile, Header, Reader, Writer
from coding.hsc.masks import decode_mask, encode_mask
from datasets.base import SceneInfo, valid_mask

_STRIP_BYTES = 2**25  # of a scene read at a time, unless a single tile has more
_FILL = {"int16": -(2**15), "uint16": 2**16 - 1, "float32": math.nan}


class ArrayScene:
    """A cube (C, H, W) in memory in the place of a scene's file."""

    def __init__(self, cube: np.ndarray, nodata: float | None = None):
        bands, height, width = cube.shape
        self.cube, self.info = cube, SceneInfo(height, width, bands, cube.dtype.name, nodata)

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        return self.cube[:, row : row + height, column : column + width]


def fill_value(info: SceneInfo) -> float:
    """What stands for missing samples: the scene's nodata value, or one that is no likely sample."""
    return _FILL[info.dtype] if info.nodata is None else info.nodata


@dataclass
class Measures:
    """Sums over the tiles of a scene; add them up with `+`.

    Figures are of the valid samples of the coded bands; errors of the signal are in reflectance, against the
    original itself, or against it clipped to what the codec can express, see `TileCoder.clips_to_scale`.
    """

    num_bytes: int = 0
    samples: int = 0
    squared_error: float = 0.0
    largest_error: float = 0.0  # against the original, in its own units
    clipped: int = 0
    largest_clip: float = 0.0  # in the original's own units
    angles: float = 0.0  # degrees
    spectra: int = 0
    lost: int = 0  # valid samples of bands that are not coded

    def __add__(self, other: Measures) -> Measures:
        largest = ("largest_error", "largest_clip")
        return Measures(
            **{
                item.name: (max if item.name in largest else sum)((getattr(self, item.name), getattr(other, item.name)))
                for item in fields(self)
            }
        )

    @property
    def psnr(self) -> float:
        """In dB, peak 1; infinite without an error."""
        error = self.squared_error / max(self.samples, 1)
        return -10 * math.log10(error) if error > 0 else math.inf

    @property
    def spectral_angle(self) -> float:
        """Mean over the pixels that are valid in some band, over their valid bands, in degrees."""
        return self.angles / max(self.spectra, 1)


def measure(samples: np.ndarray, decoded: np.ndarray, valid: np.ndarray, scale: float, clips: bool) -> Measures:
    """The figures of one tile (C, H, W); angles are 0 between zero spectra, 90 degrees between one and another.

    Args:
        clips: whether errors of the signal count against samples clipped to 0 and `scale`.
    """
    count, squared_error, largest, clipped, clip, norms = _sums(samples, decoded, valid, scale, clips)
    original, restored, gap = norms[:, norms[3] > 0][:3]
    # Half the chord between two unit vectors is the sine of half their angle.
    lengths = np.sqrt(original), np.sqrt(restored)
    squared = (gap - np.square(lengths[0] - lengths[1])) / np.maximum(lengths[0] * lengths[1], 1e-30)
    squared = np.where(original * restored > 0, np.clip(squared, 0, 4), 2 * (original + restored > 0))
    angles = 2 * np.arcsin(np.sqrt(squared) / 2)
    return Measures(
        samples=int(count),
        squared_error=float(squared_error),
        largest_error=float(largest),
        clipped=int(clipped),
        largest_clip=float(clip),
        angles=float(np.degrees(angles).sum()),
        spectra=len(angles),
    )


@compiled
def _sums(samples, decoded, valid, scale, clips):
    """Sums and largest values over the valid samples, and for each pixel the squared lengths of both spectra and of
    their difference, and 1 where anything is valid."""
    bands, height, width = samples.shape
    count, squared_error, largest, clipped, largest_clip = 0, 0.0, 0.0, 0, 0.0
    norms = np.zeros((4, height * width))
    for band in range(bands):
        for y in range(height):
            for x in range(width):
                if not valid[band, y, x]:
                    continue
                count += 1
                original, value = np.float64(samples[band, y, x]), np.float64(decoded[band, y, x])
                largest = max(largest, abs(value - original))
                if clips:
                    distance = max(-original, original - scale)
                    if distance > 0:
                        clipped += 1
                        largest_clip = max(largest_clip, distance)
                        original = 0.0 if original < 0 else scale
                gap = (value - original) ** 2
                squared_error += gap
                p = y * width + x
                norms[0, p] += original**2
                norms[1, p] += value**2
                norms[2, p] += gap
                norms[3, p] = 1.0
    return count, squared_error / scale**2, largest, clipped, largest_clip, norms


def psnr_text(psnr: float) -> str:
    return f"{psnr:.2f} dB" if math.isfinite(psnr) else "infinite"


# -- to a file ------------------------------------------------------------------------------------


def tiles_of(scene, header: Header) -> Iterator[tuple[int, np.ndarray]]:
    """Number and samples (all bands, H, W) of each tile; as many of a row are read at once as memory should hold."""
    info = header.scene
    tile_bytes = info.bands * header.tile_size * min(header.tile_size, info.height) * np.dtype(info.dtype).itemsize
    at_once = max(_STRIP_BYTES // tile_bytes, 1)
    for first in range(0, header.tile_count, header.tile_columns):
        for start in range(first, first + header.tile_columns, at_once):
            numbers = range(start, min(start + at_once, first + header.tile_columns))
            top, left, height, _ = header.window(numbers[0])
            _, last, _, last_width = header.window(numbers[-1])
            strip = scene.read(top, left, height, last + last_width - left)
            for number in numbers:
                _, column, _, width = header.window(number)
                yield number, strip[:, :, column - left : column - left + width]


def split_bands(samples: np.ndarray, header: Header) -> tuple[np.ndarray, np.ndarray]:
    """The coded bands of a tile, and its dropped ones."""
    coded = list(header.coded_bands)
    dropped = sorted(set(range(header.scene.bands)) - set(coded))
    return samples[coded], samples[dropped]


def compress_scene(
    scene,
    file: BinaryIO,
    header: Header,
    coder: TileCoder,
    num_workers: int = 1,
    advance: Callable[[int], None] = lambda pixels: None,
) -> Measures:
    """Code a scene tile by tile.

    Args:
        scene: with `read` as in `datasets.scenes`.
        file: empty, binary, seekable.
        header: whose parameters are those of `coder`.
        num_workers: threads, each with a tile of its own.
        advance: told the pixels of each finished tile.

    Returns:
        Figures of the whole scene, with the bytes of the whole file.
    """
    writer = Writer(file, header, coder.shared())
    nodata = header.scene.nodata

    def code(job: tuple[int, np.ndarray]) -> tuple[int, bytes, Measures]:
        number, tile = job
        samples, dropped = split_bands(tile, header)
        valid = valid_mask(samples, nodata)
        data, decoded = coder.encode_tile(samples, valid)
        found = measure(samples, decoded, valid, header.scale, coder.clips_to_scale)
        found.lost = int(valid_mask(dropped, nodata).sum())
        return number, join_blocks([encode_mask(valid), data]), found

    total = Measures()
    for number, record, found in in_threads(code, tiles_of(scene, header), num_workers):
        writer.add(number, record)
        total += found
        advance(math.prod(header.window(number)[2:]))
    writer.finish()
    total.num_bytes = file.seek(0, 2)
    return total


def in_threads(function: Callable, jobs: Iterable, num_workers: int) -> Iterator:
    """`function(job)` of each job in order, by threads that never run far ahead of what is taken."""
    with ThreadPoolExecutor(num_workers) as executor:
        pending: deque = deque()
        try:
            for job in jobs:
                pending.append(executor.submit(function, job))
                if len(pending) > num_workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


# -- from a file ----------------------------------------------------------------------------------


@dataclass
class Part:
    """What to decode of a scene: a window in pixels, and 0-based bands in the order wanted."""

    row: int
    column: int
    height: int
    width: int
    bands: tuple[int, ...]

    @classmethod
    def whole(cls, info: SceneInfo) -> Part:
        return cls(0, 0, info.height, info.width, tuple(range(info.bands)))

    def overlap(self, window: tuple[int, int, int, int]) -> tuple[int, int, slice, slice] | None:
        """What this part and a tile share: its row and column here, its rows and columns there; None if nothing."""
        top, left, height, width = window
        first, last = max(self.row, top), min(self.row + self.height, top + height)
        start, end = max(self.column, left), min(self.column + self.width, left + width)
        if first >= last or start >= end:
            return None
        return first - self.row, start - self.column, slice(first - top, last - top), slice(start - left, end - left)

    def info(self, header: Header, may_have_gaps: bool = False) -> SceneInfo:
        """Of the decoded part. Where bands, or tiles, may be missing it has a nodata value, if need be a new one."""
        info = header.scene.window(self.row, self.column, self.height, self.width).select_bands(self.bands)
        has_gaps = may_have_gaps or not set(self.bands) <= set(header.coded_bands)
        return replace(info, nodata=fill_value(info)) if has_gaps and info.nodata is None else info


@dataclass
class Problems:
    """What went wrong with single tiles: one line each."""

    damaged: list[str] = field(default_factory=list)
    unguaranteed: list[str] = field(default_factory=list)


def decompress_scene(
    reader: Reader,
    coder: TileCoder,
    write: Callable[[int, int, np.ndarray], None],
    part: Part,
    keep_going: bool = False,
    num_workers: int = 1,
    advance: Callable[[int], None] = lambda pixels: None,
) -> Problems:
    """Decode a part of a scene.

    Args:
        write: takes row, column and samples (bands, height, width) of the part, tile after tile.
        keep_going: fill tiles that are damaged with nodata.

    Raises:
        DamagedError: a damaged tile, unless `keep_going`.
    """
    header = reader.header
    problems = Problems()
    fill = fill_value(header.scene)

    def decode(job: tuple[int, bytes | DamagedTile]) -> tuple[int, np.ndarray, str | None, bool]:
        number, record = job
        size = header.window(number)[2:]
        try:
            if isinstance(record, DamagedTile):
                raise record
            return number, *_decode_tile(record, coder, header, size, fill)
        except DamagedTile as error:
            damaged = error
        except DamagedError as error:
            damaged = reader.damaged_tile(number, str(error))
        if not keep_going:
            raise damaged
        return number, np.full((header.scene.bands, *size), fill, header.scene.dtype), str(damaged), False

    def records() -> Iterator[tuple[int, bytes | DamagedTile]]:
        for number in range(header.tile_count):
            if part.overlap(header.window(number)):
                try:
                    yield number, reader.tile(number)
                except DamagedTile as error:
                    yield number, error

    for number, samples, message, is_decoded in in_threads(decode, records(), num_workers):
        if message:
            message = f"{reader.tile_name(number)}: {message}" if is_decoded else message
            (problems.unguaranteed if is_decoded else problems.damaged).append(message)
        window = header.window(number)
        row, column, rows, columns = part.overlap(window)
        write(row, column, samples[list(part.bands)][:, rows, columns])
        advance(math.prod(window[2:]))
    return problems


def _decode_tile(record: bytes, coder: TileCoder, header: Header, size: tuple[int, int], fill: float):
    """Samples (all bands, H, W) of a tile, a message or None, True."""
    packed, data = split_blocks(record, 2)
    coded = list(header.coded_bands)
    valid = decode_mask(packed, (len(coded), *size))
    message = None
    try:
        decoded = coder.decode_tile(data, valid)
    except BoundNotGuaranteed as error:
        decoded, message = error.samples, str(error)
    samples = np.full((header.scene.bands, *size), fill, header.scene.dtype)
    samples[coded] = np.where(valid, decoded, samples[coded])
    return samples, message, True
