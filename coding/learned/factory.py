"""The factory of learned codecs: the units of a scene's latents, and the step of the smallest file with a bound."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coding.base import CodecFactory, CodingError
from coding.learned.codec import DEFAULT_CODER, LearnedCodec, Settings, units_of
from coding.learned.latents import LatentCodec
from coding.learned.network import Network, load_network
from coding.numbers import Numbers, numbers_of
from coding.rate_control import SLOPES, StepSearch, sampled_psnr
from coding.samples import Samples

NUM_TILES = 8  # by which a scene is judged
FINEST, COARSEST, FIRST = 2.0**-10, 2.0**4, 2.0**-3  # steps to look for, in the channels' units
UNIT = 2.0**-8
"""Share of the scale to which a step of 1 counts as equal."""
DEFAULT_LOSS = 0.09
"""dB of PSNR that the quantizer may cost by default: just under a tenth."""
BOUNDED_STEPS = (None, *(2.0**-exponent for exponent in range(6)))
"""Steps to choose from with a bound; None, no latents, is for models that predict worse than bands do."""


@dataclass
class ModelFactory:
    """Makes the factories of a model's codecs, from one reading of its weights.

    Attributes:
        model: name in the registry of models.
        checkpoint: its weights; None for those of the bundled sample.
        num_channels: bands that it was made for.
        device: cpu, or the number of a GPU.
        coder: of the planes of latents, one of `PLANE_CODERS`.
        model_bands: places of the model's bands among the coded ones; None for all of them.
    """

    model: str
    checkpoint: str | None = None
    num_channels: int = 202
    device: str = "cpu"
    coder: str = DEFAULT_CODER
    model_bands: Sequence[int] | None = None

    def __call__(self, samples: Samples) -> CodecFactory:
        """Return the factory for `samples`.

        Raises:
            CheckpointError: a file that holds no weights of the model.
            UsageError: no weights for this model, or no such device.
        """
        return factory_of(samples, self._network, self.coder, self.model_bands)

    @functools.cached_property
    def _network(self) -> Network:
        return load_network(self.model, self.checkpoint, self.num_channels, self.device)


def make_factory(samples: Samples, **options: Any) -> CodecFactory:
    """Return the factory of a model's codecs, with the options of `ModelFactory`."""
    return ModelFactory(**options)(samples)


def factory_of(
    samples: Samples, network: Network, coder: str = DEFAULT_CODER, model_bands: Sequence[int] | None = None
) -> CodecFactory:
    """As `make_factory`, for a network in memory."""
    maker = _Maker(samples, network, coder, range(samples.num_bands) if model_bands is None else model_bands)
    return CodecFactory(
        lossy=maker.lossy,
        bounded=maker.bounded,
        lossless=lambda: maker.bounded(0),
        fixed=lambda: LatentCodec(network, samples.dtype, samples.scale),
        quantized=maker.quantized,
        finest=FINEST,
        coarsest=COARSEST,
        first=FIRST,
        unit=UNIT * samples.scale,
        num_tiles=NUM_TILES,
        model={"name": network.name, "sha256": network.sha256, "num_channels": network.num_bands},
    )


class _Unquantized(LearnedCodec):
    """Latents as they are: the limit of ever finer steps, which only reconstructs."""

    def reconstruct(self, cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return self.to_samples(self.network.decode(self.latents(cube, valid), *cube.shape[1:]))


class _Maker:
    """Makes the codecs of a factory, which share the latents of the sampled tiles and the channels' units."""

    def __init__(self, samples: Samples, network: Network, coder: str, model_bands: Sequence[int]) -> None:
        self._samples, self._network = samples, network
        self._coder, self._model_bands = coder, tuple(model_bands)

    def lossy(self, step: float) -> LearnedCodec:
        return LearnedCodec(self._network, self._settings(step, Numbers(self._samples.dtype)), *self._judged)

    def quantized(self) -> LearnedCodec:
        """Return a codec that loses `DEFAULT_LOSS` of PSNR compared with latents that are not quantized."""
        samples = self._samples
        exact = _Unquantized(self._network, self._settings(1.0, Numbers(samples.dtype)), *self._judged)
        goal = sampled_psnr(exact, samples, NUM_TILES) - DEFAULT_LOSS

        def psnr(step: float) -> float:
            return sampled_psnr(self.lossy(step), samples, NUM_TILES)

        search = StepSearch(psnr, FINEST, COARSEST, FIRST, SLOPES["psnr"])
        return self.lossy(search.find(goal, DEFAULT_LOSS / 10).step)

    def bounded(self, max_error: float, step: float | None = None) -> LearnedCodec:
        """Return a codec with a bound; of the steps to choose from, the one of the smallest file if none is given."""
        samples = self._samples
        numbers = numbers_of(samples.dtype, max_error, samples.values())
        codecs = [
            LearnedCodec(self._network, self._settings(candidate, numbers), *self._judged)
            for candidate in (BOUNDED_STEPS if step is None else (step,))
        ]
        return min(codecs, key=self._num_bytes) if len(codecs) > 1 else codecs[0]

    def _settings(self, step: float | None, numbers: Numbers) -> Settings:
        samples = self._samples
        return Settings(self._coder, step, samples.scale, numbers, self._model_bands, samples.num_bands)

    def _num_bytes(self, codec: LearnedCodec) -> float:
        """Return the size of the sampled tiles; infinite for a step that is too fine."""
        try:
            return sum(self._samples.in_threads(lambda tile: len(codec.encode(*tile)), self._samples.tiles(NUM_TILES)))
        except CodingError:
            return math.inf

    @functools.cached_property
    def _judged(self) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Units, and the sampled tiles' latents for `LearnedCodec`."""
        network, tiles = self._network, self._samples.tiles(NUM_TILES)
        settings = self._settings(1.0, Numbers(self._samples.dtype, bound=0))
        blank = LearnedCodec(network, settings, np.zeros(network.channels, np.uint8))
        latents = self._samples.in_threads(lambda tile: blank.latents(*tile), tiles)
        units = units_of(latents, network.sensitivity(latents[len(latents) // 2]))
        return units, {id(tile.cube): (tile.cube, y) for tile, y in zip(tiles, latents, strict=True)}
