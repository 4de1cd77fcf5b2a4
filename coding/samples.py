"""The samples that a codec is made for: what a `CodecFactory` may look at before anything is encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from coding.hsc.header import Header
from coding.hsc.records import Tile
from coding.hsc.tiling import Scene, in_threads, split_bands, tiles_of
from datasets.base import valid_mask

Job = TypeVar("Job")
Result = TypeVar("Result")


class Samples:
    """Samples of which nothing is known but their type; enough for codecs of integers without loss.

    Attributes:
        dtype: one of `datasets.base.DTYPES`.
        scale: sample value of reflectance 1.0.
        num_bands: number of coded bands; 0 if it does not matter.
        num_workers: threads that may work at a time.
    """

    def __init__(self, dtype: str, scale: float = 1.0, num_bands: int = 0, num_workers: int = 1) -> None:
        self.dtype, self.scale, self.num_bands, self.num_workers = dtype, scale, num_bands, num_workers

    def values(self) -> Iterator[np.ndarray]:
        """Yield all valid samples, in arrays (samples,)."""
        yield from ()

    def tiles(self, most: int) -> list[Tile]:
        """Return at most `most` tiles, spread over the scene."""
        return []

    def in_threads(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
        """Return `function(job)` of each job, computed by `num_workers` threads."""
        return list(in_threads(function, jobs, self.num_workers))


class CubeSamples(Samples):
    """The samples of a cube (C, H, W) in memory, which is coded as one tile."""

    def __init__(self, cube: np.ndarray, valid: np.ndarray, scale: float) -> None:
        super().__init__(cube.dtype.name, scale, len(cube))
        self._tile = Tile.of(cube, valid)

    def values(self) -> Iterator[np.ndarray]:
        """Yield all valid samples, in arrays (samples,)."""
        yield self._tile.cube[self._tile.valid]

    def tiles(self, most: int) -> list[Tile]:
        """Return the cube."""
        return [self._tile]


class SceneSamples(Samples):
    """The samples of a scene, of which a few tiles are kept in memory.

    Args:
        scene: to read from, as long as this is used.
        header: of the file, but for the codec's parameters and model.
        num_workers: threads that may work at a time.
    """

    def __init__(self, scene: Scene, header: Header, num_workers: int = 1) -> None:
        super().__init__(header.scene.dtype, header.scale, len(header.coded_bands), num_workers)
        self._scene, self._header = scene, header
        self._tiles: dict[int, list[Tile]] = {}

    def values(self) -> Iterator[np.ndarray]:
        """Yield the valid samples of each tile, all bands, in arrays (samples,)."""
        for _, samples in tiles_of(self._scene, self._header):
            yield samples[valid_mask(samples, self._header.scene.nodata)]

    def tiles(self, most: int) -> list[Tile]:
        """Return at most `most` tiles, spread over the scene; one that holds data where none of these does."""
        if most not in self._tiles:
            self._tiles[most] = list(self._spread(most))
        return self._tiles[most]

    def _spread(self, most: int) -> Iterator[Tile]:
        header = self._header
        count = min(header.tile_count, most)
        numbers = [(2 * index + 1) * header.tile_count // (2 * count) for index in range(count)]
        tiles = [self._tile(self._scene.read(*header.window(number))) for number in numbers]
        with_data = [tile for tile in tiles if tile.valid.any()]
        if with_data:
            yield from with_data
        else:
            others = (self._tile(samples) for _, samples in tiles_of(self._scene, header))
            yield next((tile for tile in others if tile.valid.any()), tiles[0])

    def _tile(self, samples: np.ndarray) -> Tile:
        cube, _ = split_bands(samples, self._header)
        return Tile.of(cube, valid_mask(cube, self._header.scene.nodata))
