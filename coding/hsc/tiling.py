"""Scenes to `.hsc` files and back, tile by tile, with several threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO, Protocol, TypeVar

import numpy as np

from coding.base import BoundNotGuaranteed, Codec, DamagedError
from coding.groups import Groups
from coding.hsc.container import DamagedTile, Reader, Writer
from coding.hsc.distortion import Distortion, measure
from coding.hsc.header import Header
from coding.hsc.masks import fill_value
from coding.hsc.records import decode_record, encode_record
from datasets.base import SceneInfo, valid_mask

STRIP_BYTES = 2**25
"""Most bytes of a scene that are read at a time, unless a single tile has more."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class Scene(Protocol):
    """A scene that is read window by window, such as `datasets.scenes.SceneReader`."""

    info: SceneInfo

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return the samples (bands, height, width) of a window."""
        ...


def in_threads(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    num_workers: int,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """Yield `function(job)` for each job in order; at most `num_workers` + 1 jobs are taken ahead of the results.

    `stop` is called at the end, before it waits for jobs that are still running.
    """
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
            stop()


# -- to a file ------------------------------------------------------------------------------------


def tiles_of(scene: Scene, header: Header) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the samples (all bands, H, W) of each tile; reads several tiles of a row at once."""
    info = header.scene
    tile_bytes = info.bands * header.tile_size * min(header.tile_size, info.height) * np.dtype(info.dtype).itemsize
    at_once = max(STRIP_BYTES // tile_bytes, 1)
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
    """Return the coded bands and the dropped bands of a tile."""
    coded = list(header.coded_bands)
    dropped = sorted(set(range(header.scene.bands)) - set(coded))
    return samples[coded], samples[dropped]


@dataclass(frozen=True)
class Written:
    """Facts about a written file.

    Attributes:
        header: header, with the codec's parameters.
        num_bytes: size of the file in bytes.
        distortion: distortion of the valid samples of the coded bands.
        lost: number of valid samples in bands that are not coded.
    """

    header: Header
    num_bytes: int
    distortion: Distortion
    lost: int

    @property
    def rate(self) -> float:
        """Size of the file in bits per sample of the coded bands."""
        scene = self.header.scene
        return 8 * self.num_bytes / (scene.height * scene.width * len(self.header.coded_bands))


def compress_scene(
    scene: Scene,
    file: IO[bytes],
    header: Header,
    codec: Codec,
    num_workers: int = 1,
    advance: Callable[[int], object] = lambda pixels: None,
) -> Written:
    """Compress a scene into a `.hsc` file.

    Args:
        scene: scene to read from.
        file: seekable binary file; its content is replaced.
        header: header of the file; its parameters are replaced with those of `codec`.
        codec: codec made for the scene.
        num_workers: number of threads, or more if the codec codes more tiles together; each codes a tile.
        advance: called with the number of pixels of each finished tile.

    Raises:
        CodingError: the codec cannot code a tile, or the format cannot hold the header.
    """
    header = replace(header, parameters=dict(codec.parameters))
    file.seek(0)
    file.truncate()
    writer = Writer(file, header, codec.shared)
    nodata = header.scene.nodata
    at_once = codec.tiles_at_once(header.tile_size)
    groups = Groups(range(header.tile_count), at_once)

    def code(job: tuple[int, np.ndarray]) -> tuple[int, bytes, Distortion, int]:
        number, tile = job
        cube, dropped = split_bands(tile, header)
        valid = valid_mask(cube, nodata)
        with groups.tile(number):
            record, decoded = encode_record(codec, cube, valid, nodata)
        distortion = measure(cube, decoded, valid, header.scale, codec.clips_to_scale)
        return number, record, distortion, int(valid_mask(dropped, nodata).sum())

    total, total_lost = Distortion(), 0
    for number, record, distortion, lost in in_threads(
        code, tiles_of(scene, header), max(num_workers, at_once), groups.stop
    ):
        writer.add(number, record)
        total += distortion
        total_lost += lost
        advance(math.prod(header.window(number)[2:]))
    writer.finish()
    return Written(header, file.seek(0, 2), total, total_lost)


# -- from a file ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A window of a scene: a rectangle in pixels, and 0-based indices of bands in output order."""

    row: int
    column: int
    height: int
    width: int
    bands: tuple[int, ...]

    @classmethod
    def whole(cls, info: SceneInfo) -> Window:
        """Return the window that is the whole scene."""
        return cls(0, 0, info.height, info.width, tuple(range(info.bands)))

    def overlap(self, tile: tuple[int, int, int, int]) -> tuple[int, int, slice, slice] | None:
        """Return the overlap with a tile, or None: row and column in this window, rows and columns of the tile."""
        top, left, height, width = tile
        first, last = max(self.row, top), min(self.row + self.height, top + height)
        start, end = max(self.column, left), min(self.column + self.width, left + width)
        if first >= last or start >= end:
            return None
        return first - self.row, start - self.column, slice(first - top, last - top), slice(start - left, end - left)

    def info(self, header: Header, may_have_gaps: bool = False) -> SceneInfo:
        """Return the info of the decoded window; it has a nodata value if bands or tiles may be missing."""
        info = header.scene.window(self.row, self.column, self.height, self.width).select_bands(self.bands)
        has_gaps = may_have_gaps or not set(self.bands) <= set(header.coded_bands)
        return replace(info, nodata=fill_value(info)) if has_gaps and info.nodata is None else info


@dataclass
class Problems:
    """Messages about tiles, one line each.

    Attributes:
        damaged: for tiles that could not be decoded.
        unguaranteed: for tiles whose bound is not guaranteed.
    """

    damaged: list[str] = field(default_factory=list)
    unguaranteed: list[str] = field(default_factory=list)


def decompress_scene(
    reader: Reader,
    codec: Codec,
    write: Callable[[int, int, np.ndarray], None],
    window: Window,
    keep_going: bool = False,
    num_workers: int = 1,
    advance: Callable[[int], object] = lambda pixels: None,
) -> Problems:
    """Decode a window of a scene.

    Args:
        reader: reader of the file.
        codec: codec opened for the file.
        write: called for each tile with row and column in the window, and samples (bands, height, width).
        window: window to decode.
        keep_going: whether to fill damaged tiles with nodata instead of raising an error.
        num_workers: number of threads, or more if the codec codes more tiles together; each decodes a tile.
        advance: called with the number of pixels of each finished tile.

    Returns:
        What was wrong with tiles.

    Raises:
        DamagedTile: a tile is damaged, unless `keep_going`.
    """
    header = reader.header
    problems = Problems()
    numbers = [number for number in range(header.tile_count) if window.overlap(header.window(number))]
    at_once = codec.tiles_at_once(header.tile_size)
    groups = Groups(numbers, at_once)

    def decode(job: tuple[int, bytes | DamagedTile]) -> tuple[int, np.ndarray | DamagedTile, str]:
        number, record = job
        try:
            with groups.tile(number):
                return number, *_decode_tile(reader, codec, number, record)
        except DamagedTile as error:
            if not keep_going:
                raise
            return number, error, ""

    jobs = ((number, _record_of(reader, number)) for number in numbers)
    for number, samples, message in in_threads(decode, jobs, max(num_workers, at_once), groups.stop):
        tile = header.window(number)
        if isinstance(samples, DamagedTile):
            problems.damaged.append(str(samples))
            samples = _empty_tile(header, tile[2:])
        if message:
            problems.unguaranteed.append(f"{reader.tile_name(number)}: {message}")
        overlap = window.overlap(tile)
        assert overlap is not None  # other tiles are not decoded
        row, column, rows, columns = overlap
        write(row, column, samples[list(window.bands)][:, rows, columns])
        advance(math.prod(tile[2:]))
    return problems


def _record_of(reader: Reader, number: int) -> bytes | DamagedTile:
    """Return a tile's record, or its error, so that one damaged tile does not stop the others."""
    try:
        return reader.tile(number)
    except DamagedTile as error:
        return error


def _decode_tile(reader: Reader, codec: Codec, number: int, record: bytes | DamagedTile) -> tuple[np.ndarray, str]:
    """Return the samples (all bands, H, W) of a tile, and a message if its bound is not guaranteed.

    Raises:
        DamagedTile: the record cannot be decoded.
    """
    if isinstance(record, DamagedTile):
        raise record
    header = reader.header
    coded, size = list(header.coded_bands), header.window(number)[2:]
    message = ""
    try:
        decoded = decode_record(codec, record, (len(coded), *size), header.scene, header.max_error is not None)
    except BoundNotGuaranteed as error:
        decoded, message = error.samples, str(error)
    except DamagedError as error:
        raise reader.damaged_tile(number, str(error)) from None
    if len(coded) == header.scene.bands:
        return decoded, message
    samples = _empty_tile(header, size)
    samples[coded] = decoded
    return samples, message


def _empty_tile(header: Header, size: tuple[int, int]) -> np.ndarray:
    """Return a tile (all bands, H, W) without data."""
    return np.full((header.scene.bands, *size), fill_value(header.scene), header.scene.dtype)
