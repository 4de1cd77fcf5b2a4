"""Scenes to `.hsc` files and back, tile by tile, with several threads."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from operator import itemgetter
from types import MappingProxyType
from typing import IO, Protocol, TypeVar

import numpy as np

from coding.base import Codec, DamagedError
from coding.groups import Groups
from coding.hsc.container import DamagedTile, Reader, Writer
from coding.hsc.distortion import Distortion, measure
from coding.hsc.fills import count_fills
from coding.hsc.header import Header
from coding.hsc.masks import fill_values
from coding.hsc.records import Decoded, Parts, decode_record, encode_record, shown_samples
from datasets.base import SceneInfo, without_statistics

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

    def read_masks(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return the masks (`info.masks`, height, width) of a window."""
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


def tiles_of(scene: Scene, header: Header, left_out: Container[int] = ()) -> Iterator[tuple[int, Parts]]:
    """Yield the number and the parts of each tile but those left out; reads several tiles of a row at once."""
    info = header.scene
    tile_bytes = info.bands * header.tile_size * min(header.tile_size, info.height) * np.dtype(info.dtype).itemsize
    at_once = max(STRIP_BYTES // tile_bytes, 1)
    for first in range(0, header.tile_count, header.tile_columns):
        for start in range(first, first + header.tile_columns, at_once):
            in_strip = range(start, min(start + at_once, first + header.tile_columns))
            numbers = [number for number in in_strip if number not in left_out]
            if not numbers:
                continue
            top, left, height, _ = header.window(numbers[0])
            _, last, _, last_width = header.window(numbers[-1])
            window = top, left, height, last + last_width - left
            samples, masks = scene.read(*window), scene.read_masks(*window)
            for number in numbers:
                _, column, _, width = header.window(number)
                columns = slice(column - left, column - left + width)
                yield number, Parts.of(samples[:, :, columns], masks[:, :, columns], header)


@dataclass(frozen=True)
class CodedTile:
    """A coded tile.

    Attributes:
        record: its bytes in the file.
        distortion: distortion of its valid samples.
        size: number of samples of the coded bands.
        lost: number of valid samples in bands that are not coded.
        fills: number of pixels that look like gaps but are coded as data, see `coding.hsc.fills`.
    """

    record: bytes
    distortion: Distortion
    size: int
    lost: int
    fills: Counter[float]

    @classmethod
    def of(cls, codec: Codec, parts: Parts, scale: float) -> CodedTile:
        """Code a tile.

        Raises:
            CodingError: the codec cannot code the tile.
        """
        record, decoded = encode_record(codec, parts)
        distortion = measure(parts.cube, decoded, parts.valid, scale, codec.clips_to_scale)
        return cls(record, distortion, parts.cube.size, parts.lost, count_fills(parts))


_NONE_CODED: Mapping[int, CodedTile] = MappingProxyType({})


@dataclass(frozen=True)
class Written:
    """Facts about a written file.

    Attributes:
        header: header, with the codec's parameters.
        num_bytes: size of the file in bytes.
        distortion: distortion of the valid samples of the coded bands.
        lost: number of valid samples in bands that are not coded.
        fills: number of pixels that look like gaps but are coded as data, see `coding.hsc.fills`.
    """

    header: Header
    num_bytes: int
    distortion: Distortion
    lost: int
    fills: Counter[float] = field(default_factory=Counter)

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
    coded: Mapping[int, CodedTile] = _NONE_CODED,
) -> Written:
    """Compress a scene into a `.hsc` file.

    Args:
        scene: scene to read from.
        file: seekable binary file; its content is replaced.
        header: header of the file; its parameters are replaced with those of `codec`.
        codec: codec made for the scene.
        num_workers: number of threads, or more if the codec codes more tiles together; each codes a tile.
        advance: called with the number of pixels of each finished tile.
        coded: tiles that `codec` has coded already, by their numbers.

    Raises:
        CodingError: the codec cannot code a tile, or the format cannot hold the header.
    """
    header = replace(header, parameters=dict(codec.parameters))
    file.seek(0)
    file.truncate()
    writer = Writer(file, header, codec.shared)
    at_once = codec.tiles_at_once(header.tile_size)
    groups = Groups([number for number in range(header.tile_count) if number not in coded], at_once)

    def code(job: tuple[int, Parts]) -> tuple[int, CodedTile]:
        number, parts = job
        with groups.tile(number):
            return number, CodedTile.of(codec, parts, header.scale)

    total, total_lost, all_fills = Distortion(), 0, Counter[float]()
    others = in_threads(code, tiles_of(scene, header, coded), max(num_workers, at_once), groups.stop)
    for number, tile in heapq.merge(sorted(coded.items()), others, key=itemgetter(0)):
        writer.add(number, tile.record)
        total += tile.distortion
        total_lost += tile.lost
        all_fills += tile.fills
        advance(math.prod(header.window(number)[2:]))
    writer.finish()
    return Written(header, file.seek(0, 2), total, total_lost, all_fills)


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
        scene, exact = header.scene, [band - 1 for band in header.exact]
        is_whole = (self.height, self.width) == (scene.height, scene.width)
        info = scene.window(self.row, self.column, self.height, self.width).select_bands(self.bands)
        if not is_whole or header.max_error != 0:
            info = without_statistics(info)
        if self.lacks_alpha(header):
            info = replace(info, masks=1)
        has_gaps = may_have_gaps or not set(self.bands) <= {*header.coded_bands, *exact}
        if not has_gaps or None not in (info.nodata, *info.band_nodata):
            return info
        values = tuple(fill_values(info).ravel().tolist())
        return replace(info, band_nodata=values) if info.band_nodata else replace(info, nodata=values[0])

    def lacks_alpha(self, header: Header) -> bool:
        """Return whether alpha bands are left out, so that a mask has to say which pixels they hide."""
        exact = {band - 1 for band in header.exact}
        return bool(exact) and header.scene.masks == 0 and not exact & set(self.bands)

    def masks(self, tile: Decoded, header: Header) -> np.ndarray:
        """Return the masks (M, H, W) of a tile, for the bands of this window."""
        if self.lacks_alpha(header):
            return shown_samples(tile.masks, tile.samples[[band - 1 for band in header.exact]])
        return tile.masks[list(self.bands)] if len(tile.masks) > 1 else tile.masks


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
    write: Callable[[int, int, np.ndarray, np.ndarray], None],
    window: Window,
    keep_going: bool = False,
    num_workers: int = 1,
    advance: Callable[[int], object] = lambda pixels: None,
) -> Problems:
    """Decode a window of a scene.

    Args:
        reader: reader of the file.
        codec: codec opened for the file.
        write: called for each tile with row and column in the window, samples (bands, height, width) and masks
            (planes, height, width).
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

    def decode(job: tuple[int, bytes | DamagedTile]) -> tuple[int, Decoded | DamagedTile]:
        number, record = job
        try:
            with groups.tile(number):
                return number, _decode_tile(reader, codec, number, record)
        except DamagedTile as error:
            if not keep_going:
                raise
            return number, error

    jobs = ((number, _record_of(reader, number)) for number in numbers)
    for number, tile in in_threads(decode, jobs, max(num_workers, at_once), groups.stop):
        place = header.window(number)
        if isinstance(tile, DamagedTile):
            problems.damaged.append(str(tile))
            tile = _empty_tile(header, place[2:])
        if tile.problem:
            problems.unguaranteed.append(f"{reader.tile_name(number)}: {tile.problem}")
        overlap = window.overlap(place)
        assert overlap is not None  # other tiles are not decoded
        row, column, rows, columns = overlap
        samples, masks = tile.samples[list(window.bands)], window.masks(tile, header)
        write(row, column, samples[:, rows, columns], masks[:, rows, columns])
        advance(math.prod(place[2:]))
    return problems


def _record_of(reader: Reader, number: int) -> bytes | DamagedTile:
    """Return a tile's record, or its error, so that one damaged tile does not stop the others."""
    try:
        return reader.tile(number)
    except DamagedTile as error:
        return error


def _decode_tile(reader: Reader, codec: Codec, number: int, record: bytes | DamagedTile) -> Decoded:
    """Return a decoded tile.

    Raises:
        DamagedTile: the record cannot be decoded.
    """
    if isinstance(record, DamagedTile):
        raise record
    try:
        return decode_record(codec, record, reader.header, reader.header.window(number)[2:])
    except DamagedError as error:
        raise reader.damaged_tile(number, str(error)) from None


def _empty_tile(header: Header, size: tuple[int, int]) -> Decoded:
    """Return a tile without data; its masks hide all of it."""
    scene = header.scene
    samples = np.broadcast_to(fill_values(scene), (scene.bands, *size)).copy()
    samples[[band - 1 for band in header.exact]] = 0
    return Decoded(samples, np.zeros((scene.masks, *size), bool))
