"""Transforms, each with a name, that pick the pixels of a patch for a sample.

`random_NxN` is the sampling of HyCoT's efficient training (arXiv 2408.08700): for a model that looks at one
pixel's spectrum, an N x N sample spread over the whole patch holds more information than a crop of neighbors.
It breaks neighborhoods, so models that convolve over space need `randomcrop_NxN`.

All names: `TRANSFORMS`. This module imports no torch, so that `--help` can list them quickly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from utils.errors import UsageError

SIZES = (1, 2, 4, 8, 16, 32, 64)


class PixelTransform(ABC):
    """Pick N x N pixels of a patch with all their channels; nothing else of a memory map is read.

    Attributes:
        name: the name it is registered under, such as "random_16x16".
        size: N.
        keeps_neighbors: whether pixels that touch in the output touch in the patch.
    """

    prefix: str
    keeps_neighbors: bool

    def __init__(self, size: int) -> None:
        self.size = size
        self.name = f"{self.prefix}_{size}x{size}"

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape (C, N, N) of a sample from a patch of `shape` (C, H, W).

        Raises:
            ValueError: the patch is smaller than N x N.
        """
        channels, height, width = shape
        if min(height, width) < self.size:
            raise ValueError(f"{self.name} needs patches of at least {self.size}x{self.size}, not {height}x{width}")
        return channels, self.size, self.size

    def __call__(self, cube: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Pick pixels.

        Args:
            cube: array or memory map (C, H, W), H and W at least N.
            rng: the only source of randomness.

        Returns:
            The sample (C, N, N), a copy of the same type.

        Raises:
            ValueError: the patch is smaller than N x N.
        """
        self.output_shape(cube.shape)
        return np.array(self.pick(cube, rng), order="C")

    @abstractmethod
    def pick(self, cube: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the pixels (C, N, N) of a cube (C, H, W) with H and W of at least N, possibly as a view."""


class RandomPixels(PixelTransform):
    """Pick one random pixel from each cell of an N x N grid over the patch; cell i starts at i * H // N."""

    prefix = "random"
    keeps_neighbors = False

    def pick(self, cube: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _, height, width = cube.shape
        row_borders = np.arange(self.size + 1) * height // self.size
        column_borders = np.arange(self.size + 1) * width // self.size
        grid = (self.size, self.size)
        rows = rng.integers(row_borders[:-1, None], row_borders[1:, None], size=grid)
        columns = rng.integers(column_borders[None, :-1], column_borders[None, 1:], size=grid)
        return cube[:, rows, columns]


class CenterCrop(PixelTransform):
    """Pick the N x N pixels in the middle of the patch, rounded toward the upper left."""

    prefix = "centercrop"
    keeps_neighbors = True

    def pick(self, cube: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _, height, width = cube.shape
        return _crop(cube, (height - self.size) // 2, (width - self.size) // 2, self.size)


class RandomCrop(PixelTransform):
    """Pick N x N neighboring pixels, every position equally likely."""

    prefix = "randomcrop"
    keeps_neighbors = True

    def pick(self, cube: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        _, height, width = cube.shape
        top = rng.integers(height - self.size + 1)
        left = rng.integers(width - self.size + 1)
        return _crop(cube, top, left, self.size)


def _crop(cube: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    return cube[:, top : top + size, left : left + size]


_BY_NAME = {
    transform.name: transform
    for transform in (kind(size) for kind in (RandomPixels, CenterCrop, RandomCrop) for size in SIZES)
}

TRANSFORMS = ("none", *_BY_NAME)
"""The names that `get_transform` knows."""


def get_transform(name: str | None) -> PixelTransform | None:
    """Return the transform called `name`; None (the whole patch) for None and "none".

    Raises:
        UsageError: unknown name.
    """
    if name is None or name == "none":
        return None
    if name not in _BY_NAME:
        raise UsageError(f"unknown transform {name!r}: choose from {', '.join(TRANSFORMS)}")
    return _BY_NAME[name]
