"""Fitting `klt-cm` to a scene: the step that meets a wish."""

from __future__ import annotations

import math

import numpy as np

from coding.base import CodingError
from coding.hsc.container import Header
from coding.hsc.tiling import Measures, in_threads, measure, split_bands, valid_mask
from coding.kltcm.tiles import KltTiles
from coding.numbers import numbers_of
from coding.rate_control import PSNR_TOLERANCE, RATE_TOLERANCE, Wish, find_step, sampled_tiles, valid_samples

MAX_SAMPLED = 4  # tiles that a scene is judged by
_STEP_AT_0 = 2.0**-8  # of the scale


def step_of_quality(quality: float, scale: float) -> float:
    """The step that belongs to `--quality`, in the samples' units: a 256th of `scale` at 0, halved every 10."""
    return scale * _STEP_AT_0 * 2.0 ** (-quality / 10)


class KltFit:
    """`klt-cm` on a scene, judged by up to four tiles where a target asks for that.

    Args:
        scene: with `read` as in `datasets.scenes`; needed as long as this is.
        header: of the file, but for the codec's parameters.
        num_workers: threads.

    Attributes:
        finest, coarsest: steps between which one is looked for, in the samples' units.

    Raises:
        CodingError: a bound that the samples cannot keep.
    """

    def __init__(self, scene, header: Header, num_workers: int = 1):
        self._scene, self._header, self._num_workers = scene, header, num_workers
        samples = valid_samples(scene, header)
        self._numbers = numbers_of(header.scene.dtype, header.scene.nodata, header.max_error, samples, knows_bits=True)
        self.finest, self.coarsest = header.scale * 2.0**-20, header.scale * 2.0
        self._tiles: list[tuple[np.ndarray, np.ndarray]] = []
        self._figures: dict[float, tuple[float, float]] = {}

    def coder(self, wish: Wish) -> KltTiles:
        """A coder for the scene's tiles that meets `wish` on those looked at, or comes as near to it as it gets.

        With a bound there is nothing to choose.
        """
        if self._numbers.bound is not None:
            return self._coder(None)
        if wish.step is not None:
            return self._coder(wish.step)
        if wish.psnr is not None:
            # The step whose uniform error that is.
            first = self._header.scale * math.sqrt(12) * 10 ** (-wish.psnr / 20)
            return self._coder(self._find(lambda step: self._measured(step)[1], wish.psnr, PSNR_TOLERANCE / 4, first))
        first = step_of_quality(0, self._header.scale)
        tolerance = wish.bpppc * RATE_TOLERANCE / 4
        return self._coder(self._find(lambda step: self._measured(step)[0], wish.bpppc, tolerance, first))

    def _coder(self, step: float | None) -> KltTiles:
        return KltTiles(self._numbers, step, self._header.scene.nodata)

    def _find(self, measured, target: float, tolerance: float, first: float) -> float:
        return find_step(measured, target, tolerance, self.finest, self.coarsest, first)

    def _measured(self, step: float) -> tuple[float, float]:
        """Bits per sample and PSNR in dB, of the tiles looked at; both infinite for a step that is too fine."""
        if step not in self._figures:
            self._figures[step] = self._measure(self._coder(step))
        return self._figures[step]

    def _measure(self, coder: KltTiles) -> tuple[float, float]:
        def code(tile: tuple[np.ndarray, np.ndarray]) -> tuple[int, Measures]:
            samples, valid = tile
            data, decoded = coder.encode_tile(samples, valid)
            return 8 * len(data), measure(samples, decoded, valid, self._header.scale, coder.clips_to_scale)

        if not self._tiles:
            for tile in sampled_tiles(self._scene, self._header, MAX_SAMPLED):
                samples, _ = split_bands(tile, self._header)
                self._tiles.append((samples, valid_mask(samples, self._header.scene.nodata)))
                coder.check(*self._tiles[-1])
        try:
            found = list(in_threads(code, self._tiles, self._num_workers))
        except CodingError:
            return math.inf, math.inf
        num_samples = sum(samples.size for samples, _ in self._tiles)
        return sum(bits for bits, _ in found) / num_samples, sum((part for _, part in found), Measures()).psnr
