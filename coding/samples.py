"""The samples that a codec is made for: what its `CodecFactory` may inspect before anything is encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from coding.base import Codec
from coding.hsc.header import Header
from coding.hsc.records import Parts, Tile
from coding.hsc.tiling import CodedTile, Scene, in_threads, tiles_of

Job = TypeVar("Job")
Result = TypeVar("Result")


class Samples:
    """Samples whose type alone is known; enough for lossless codecs of integers.

    Attributes:
        dtype: one of `datasets.base.DTYPES`.
        scale: sample value of reflectance 1.0.
        num_bands: number of coded bands; 0 if it does not matter.
        num_workers: number of threads.
        tile_count: number of tiles.
    """

    def __init__(self, dtype: str, scale: float = 1.0, num_bands: int = 0, num_workers: int = 1) -> None:
        self.dtype, self.scale, self.num_bands, self.num_workers = dtype, scale, num_bands, num_workers
        self.tile_count = 0
        self._coded: WeakKeyDictionary[Codec, dict[int, CodedTile]] = WeakKeyDictionary()

    def values(self) -> Iterator[np.ndarray]:
        """Yield all valid samples, in arrays of shape (N,)."""
        yield from ()

    def tiles(self, most: int) -> list[Tile]:
        """Return at most `most` tiles, spread over the scene."""
        return []

    def parts(self, number: int) -> Parts:
        """Return the parts of a tile."""
        raise NotImplementedError

    def parts_of(self, numbers: Sequence[int]) -> Iterator[Parts]:
        """Yield the parts of some tiles, whose numbers rise."""
        return map(self.parts, numbers)

    def code(self, codec: Codec, numbers: Sequence[int]) -> list[CodedTile]:
        """Return some tiles, coded by a codec; none is coded twice.

        Raises:
            CodingError: the codec cannot code a tile.
        """
        known = self._coded.setdefault(codec, {})
        new = [number for number in numbers if number not in known]
        parts = (self.parts(number) for number in new)
        tiles = self.in_threads(lambda parts: CodedTile.of(codec, parts, self.scale), parts)
        known.update(zip(new, tiles, strict=True))
        return [known[number] for number in numbers]

    def coded(self, codec: Codec) -> Mapping[int, CodedTile]:
        """Return the tiles that `code` has coded by a codec, by their numbers."""
        return self._coded.get(codec, {})

    def in_threads(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
        """Return `function(job)` for each job in order, computed by `num_workers` threads."""
        return list(in_threads(function, jobs, self.num_workers))


class CubeSamples(Samples):
    """The samples of a cube (C, H, W) in memory, which is coded as one tile."""

    def __init__(self, cube: np.ndarray, valid: np.ndarray, scale: float) -> None:
        super().__init__(cube.dtype.name, scale, len(cube))
        self._tile = Tile.of(cube, valid)
        self.tile_count = 1

    def values(self) -> Iterator[np.ndarray]:
        """Yield all valid samples, in one array of shape (N,)."""
        yield self._tile.cube[self._tile.valid]

    def tiles(self, most: int) -> list[Tile]:
        """Return the cube as the only tile."""
        return [self._tile]

    def parts(self, number: int) -> Parts:
        """Return the parts of the only tile."""
        return Parts(*self._tile, nodata=[None] * self.num_bands)


class SceneSamples(Samples):
    """The samples of a scene; a few tiles are kept in memory.

    Args:
        scene: scene to read from, which must stay open.
        header: header of the file; the codec's parameters and model may be missing.
        num_workers: number of threads.
    """

    def __init__(self, scene: Scene, header: Header, num_workers: int = 1) -> None:
        super().__init__(header.scene.dtype, header.scale, len(header.coded_bands), num_workers)
        self._scene, self._header = scene, header
        self.tile_count = header.tile_count
        self._tiles: dict[int, list[Tile]] = {}

    def values(self) -> Iterator[np.ndarray]:
        """Yield the valid samples of each tile, of the coded bands, in arrays of shape (N,)."""
        for _, parts in tiles_of(self._scene, self._header):
            yield parts.cube[parts.valid]

    def tiles(self, most: int) -> list[Tile]:
        """Return at most `most` tiles with data, spread over the scene; one tile without data if no tile has any."""
        if most not in self._tiles:
            self._tiles[most] = list(self._spread(most))
        return self._tiles[most]

    def _spread(self, most: int) -> Iterator[Tile]:
        header = self._header
        count = min(header.tile_count, most)
        numbers = [(2 * index + 1) * header.tile_count // (2 * count) for index in range(count)]
        tiles = [self._tile(number) for number in numbers]
        with_data = [tile for tile in tiles if tile.valid.any()]
        if with_data:
            yield from with_data
        else:
            others = (Tile.of(parts.cube, parts.valid) for _, parts in tiles_of(self._scene, header))
            yield next((tile for tile in others if tile.valid.any()), tiles[0])

    def _tile(self, number: int) -> Tile:
        parts = self.parts(number)
        return Tile.of(parts.cube, parts.valid)

    def parts(self, number: int) -> Parts:
        """Return the parts of a tile."""
        window = self._header.window(number)
        return Parts.of(self._scene.read(*window), self._scene.read_masks(*window), self._header)

    def parts_of(self, numbers: Sequence[int]) -> Iterator[Parts]:
        """Yield the parts of some tiles, whose numbers rise; reads several tiles of a row at once."""
        others = set(range(self.tile_count)) - set(numbers)
        return (parts for _, parts in tiles_of(self._scene, self._header, others))
