"""Finding the step that meets a wish, by a few tiles of a scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coding.base import TileCoder
from coding.hsc.container import Header
from coding.hsc.tiling import split_bands, tiles_of, valid_mask

PSNR_TOLERANCE, RATE_TOLERANCE = 0.1, 0.02  # dB; share of the rate
_NARROWEST = 1e-3  # octaves between two steps that are told apart


@dataclass(frozen=True)
class Wish:
    """What the step is to bring about; exactly one field is set.

    Attributes:
        step: itself, in the codec's units.
        psnr: in dB, peak 1.
        loss: of PSNR against the latents before they are quantized, in dB; for learned codecs.
        bpppc: size of the tiles' records in bits per sample of the coded bands.
        smallest: the smallest file with a bounded error.
    """

    step: float | None = None
    psnr: float | None = None
    loss: float | None = None
    bpppc: float | None = None
    smallest: bool = False


class Fit(Protocol):
    """A codec on one scene, whose step is still open.

    Attributes:
        finest, coarsest: steps between which one is looked for, in the codec's units.
    """

    finest: float
    coarsest: float

    def coder(self, wish: Wish) -> TileCoder:
        """A coder for the scene's tiles that meets `wish` on those looked at, or comes as near to it as it gets."""
        ...


def sampled_tiles(scene, header: Header, most: int) -> Iterator[np.ndarray]:
    """At most `most` tiles (bands, H, W), spread over the scene; one that holds data where none of these does.

    Args:
        scene: with `read` as in `datasets.scenes`.
    """
    count = min(header.tile_count, most)
    found = False
    first = None
    for index in range(count):
        tile = scene.read(*header.window((2 * index + 1) * header.tile_count // (2 * count)))
        first = tile if first is None else first
        if _has_data(tile, header):
            found = True
            yield tile
    if not found:
        yield next((tile for _, tile in tiles_of(scene, header) if _has_data(tile, header)), first)


def valid_samples(scene, header: Header) -> Iterator[np.ndarray]:
    """The samples with data of each tile, (samples,)."""
    for _, tile in tiles_of(scene, header):
        yield tile[valid_mask(tile, header.scene.nodata)]


def _has_data(tile: np.ndarray, header: Header) -> bool:
    return bool(valid_mask(split_bands(tile, header)[0], header.scene.nodata).any())


def find_step(
    measured: Callable[[float], float], target: float, tolerance: float, finest: float, coarsest: float, first: float
) -> float:
    """The step by which a figure comes within `tolerance` of `target`, or as near as it gets.

    Args:
        measured: of a step: falls with it, and about linearly with its logarithm as PSNR and rates do. May be infinite.
        finest, coarsest: where to look.
        first: step to begin with.
    """
    low, high = math.log2(finest), math.log2(coarsest)
    place, stride = min(max(math.log2(first), low), high), 2.0
    at_low = at_high = None  # figures at both ends of what is left, where they were measured
    best, distance = place, math.inf
    while True:
        value = measured(2.0**place)
        if abs(value - target) < distance:
            best, distance = place, abs(value - target)
        if distance <= tolerance:
            return 2.0**best
        if value > target:
            low, at_low, is_end = place, value, place >= high
        else:
            high, at_high, is_end = place, value, place <= low
        if is_end:
            return 2.0**place  # the figure hardly changes there, and need not be nearest at the very end
        if high - low < _NARROWEST:
            return 2.0**best
        if at_low is None or at_high is None:
            place = min(place + stride, high) if at_high is None else max(place - stride, low)
            stride *= 2
            continue
        share = 0.5
        if math.isfinite(at_low) and at_low > at_high:
            share = min(max((at_low - target) / (at_low - at_high), 0.1), 0.9)
        place = low + share * (high - low)
