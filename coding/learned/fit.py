"""Fitting a learned codec to a scene: the units of its latents, and the step that meets a wish."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coding.base import CodingError
from coding.hsc.container import Header
from coding.hsc.tiling import Measures, in_threads, measure, split_bands, valid_mask
from coding.learned.network import Network
from coding.learned.tiles import LearnedTiles, Settings, units_of
from coding.numbers import numbers_of
from coding.rate_control import PSNR_TOLERANCE, RATE_TOLERANCE, Wish, find_step, sampled_tiles, valid_samples

MAX_SAMPLED = 8  # tiles that a scene is judged by
FINEST, COARSEST = 2.0**-10, 2.0**4  # steps to look for, in the channels' units
DEFAULT_LOSS = 0.09  # dB: just under a tenth
_BOUNDED_QUALITIES = (-300, 0, 10, 20, 30, 40, 50)  # first: all latents 0, for models that predict worse than bands


def step_of_quality(quality: float) -> float:
    """The step that belongs to `--quality`: 1 at 0, halved every 10."""
    return 2.0 ** (-quality / 10)


class LearnedFit:
    """Up to eight tiles spread over a scene, by which it is judged; their latents are computed once.

    Args:
        scene: with `read` as in `datasets.scenes`.
        header: of the file, but for the codec's parameters.
        network: whose bands are `model_bands`.
        coder: of the quantized latents, one of `plane_coders`.
        model_bands: 0-based numbers of the scene's bands that the network takes, in its order.
        num_workers: threads.

    Raises:
        CodingError: a bound that the samples cannot keep, or bands that the network cannot take.
    """

    finest, coarsest = FINEST, COARSEST

    def __init__(
        self,
        scene,
        header: Header,
        network: Network,
        coder: str,
        model_bands: Sequence[int],
        num_workers: int = 1,
    ):
        place = {band: index for index, band in enumerate(header.coded_bands)}
        numbers = numbers_of(header.scene.dtype, header.scene.nodata, header.max_error, valid_samples(scene, header))
        self._network, self._num_workers, self._scale = network, num_workers, header.scale
        self._settings = Settings(
            coder=coder,
            step=1.0,
            scale=header.scale,
            nodata=header.scene.nodata,
            numbers=numbers,
            model_bands=tuple(place[band] for band in model_bands),
            num_bands=len(place),
        )
        blank = LearnedTiles(network, self._settings, np.zeros(network.channels, np.uint8))

        def prepare(tile: np.ndarray) -> _Sample:
            samples, _ = split_bands(tile, header)
            valid = valid_mask(samples, header.scene.nodata)
            return _Sample(samples, valid, blank.latents(samples, valid))

        self._tiles = list(in_threads(prepare, sampled_tiles(scene, header, MAX_SAMPLED), num_workers))
        latents = [tile.latents for tile in self._tiles]
        self._units = units_of(latents, network.sensitivity(latents[len(latents) // 2]))

    def tiles(self, step: float) -> LearnedTiles:
        """A coder for the scene's tiles with this step."""
        return LearnedTiles(self._network, replace(self._settings, step=step), self._units)

    def coder(self, wish: Wish) -> LearnedTiles:
        """A coder for the scene's tiles that meets `wish` on those looked at, or comes as near to it as it gets."""
        if wish.step is not None:
            return self.tiles(wish.step)
        if not self._tiles[0].valid.any():
            return self.tiles(1.0)
        if wish.smallest:
            return self.tiles(min(map(step_of_quality, _BOUNDED_QUALITIES), key=self.rate))
        # By the step's logarithm, in which both PSNR and rate are nearly linear.
        if wish.psnr is not None:
            return self.tiles(self._find(self.psnr, wish.psnr, PSNR_TOLERANCE / 4))
        if wish.loss is not None:
            return self.tiles(self._find(self.psnr, self.psnr(None) - wish.loss, wish.loss / 10))
        return self.tiles(self._find(self.rate, wish.bpppc, wish.bpppc * RATE_TOLERANCE / 4))

    def _find(self, measured, target: float, tolerance: float) -> float:
        return find_step(measured, target, tolerance, FINEST, COARSEST, first=2.0**-3)

    def rate(self, step: float) -> float:
        """Bits per sample of the coded bands; infinite for a step that is too fine."""
        coder = self.tiles(step)
        try:
            records = list(in_threads(lambda tile: coder.encode_latents(*tile.parts()), self._tiles, self._num_workers))
        except CodingError:
            return math.inf
        return 8 * sum(len(data) for data, _ in records) / sum(tile.samples.size for tile in self._tiles)

    def psnr(self, step: float | None) -> float:
        """In dB, over the valid samples, of latents quantized by `step` or as they are; nothing is coded for it."""
        coder = self.tiles(step or 1.0)

        def found(tile: _Sample) -> Measures:
            size = tile.samples.shape[1:]
            if step is None:
                x_hat = self._network.decode(tile.latents, *size)
            else:
                x_hat = coder.reconstruct(coder.levels(tile.latents), size)
            return measure(tile.samples, coder.to_samples(x_hat), tile.valid, self._scale, True)

        try:
            return sum(in_threads(found, self._tiles, self._num_workers), Measures()).psnr
        except CodingError:  # a step that is too fine
            return math.inf


@dataclass
class _Sample:
    """A tile with its latents."""

    samples: np.ndarray
    valid: np.ndarray
    latents: np.ndarray

    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.latents, self.samples, self.valid
