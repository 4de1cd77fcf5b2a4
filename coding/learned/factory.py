"""The codec factory of models: it determines the units of a scene's latents, and the best step for a bound."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coding import MODEL_CODER
from coding.base import SHORT, CodecFactory, CodingError
from coding.learned.codec import DEFAULT_CODER, EntropyModelCodec, LearnedCodec, Settings, units_of
from coding.learned.latents import LatentCodec
from coding.learned.network import SAMPLE_CAUTION, Network, load_network
from coding.numbers import Numbers, numbers_of
from coding.rate_control import sampled_psnr
from coding.samples import Samples
from coding.step_search import SLOPES, StepSearch

NUM_SAMPLED_TILES = 8
FINEST, COARSEST, FIRST = 2.0**-10, 2.0**4, 2.0**-3  # steps of a search, in the channels' units
UNIT = 2.0**-8
"""Size that a step of 1 counts as, as a fraction of the scale."""
DEFAULT_LOSS_DB = 0.09
"""PSNR that the default step may cost: just under 0.1 dB."""
BOUNDED_STEPS = (None, *(2.0**-exponent for exponent in range(6)))
"""Steps to choose from with a bound; None, without latents, suits models that predict worse than neighboring bands."""


@dataclass
class ModelFactory:
    """Makes the codec factories of a model for any number of scenes; the weights are loaded once.

    Attributes:
        model: name of the model in the registry.
        checkpoint: file with the weights; None for the bundled sample weights.
        num_channels: number of bands that the model takes.
        device: "cpu", or the number of a GPU.
        coder: coder of the latents, one of `PLANE_CODERS`, or `MODEL_CODER`; None for the best of the model's: its own
            if it has an entropy model.
        model_bands: indices of the model's bands among the coded bands; None for all of them.
    """

    model: str
    checkpoint: str | None = None
    num_channels: int = 202
    device: str = "cpu"
    coder: str | None = None
    model_bands: Sequence[int] | None = None

    def __call__(self, samples: Samples) -> CodecFactory:
        """Return the factory for `samples`.

        Raises:
            CheckpointError: the checkpoint holds no weights of the model.
            UsageError: the sample weights are not of this model, or there is no such device.
        """
        return factory_of(samples, self._network, self.coder, self.model_bands)

    @functools.cached_property
    def _network(self) -> Network:
        network = load_network(self.model, self.checkpoint, self.num_channels, self.device)
        if self.checkpoint is None:
            print(f"note: {SAMPLE_CAUTION}", file=sys.stderr)
        return network


def make_factory(samples: Samples, **options: Any) -> CodecFactory:
    """Return the codec factory of a model; `options` are the attributes of `ModelFactory`."""
    return ModelFactory(**options)(samples)


def factory_of(
    samples: Samples, network: Network, coder: str | None = None, model_bands: Sequence[int] | None = None
) -> CodecFactory:
    """Return the codec factory of a network in memory; for the arguments see `ModelFactory`."""
    if coder is None:
        coder = MODEL_CODER if network.has_entropy_model else DEFAULT_CODER
    maker = _Maker(samples, network, coder, range(samples.num_bands) if model_bands is None else model_bands)
    model = {"name": network.name, "sha256": network.sha256, "num_channels": network.num_bands}
    if coder == MODEL_CODER:
        return CodecFactory(
            bounded=maker.bounded_by_model,
            lossless=lambda: maker.bounded_by_model(0),
            quantized=maker.by_model,
            model=model,
        )
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
        num_tiles=NUM_SAMPLED_TILES,
        model=model,
    )


class _Unquantized(LearnedCodec):
    """The limit of ever finer steps: reconstructs from unquantized latents, and cannot encode."""

    def reconstruct(self, cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return self.to_samples(self.network.decode(self.latents(cube, valid), *cube.shape[1:]))


class _Maker:
    """Makes the codecs of a factory; they share the latents of the sampled tiles and the channels' units."""

    def __init__(self, samples: Samples, network: Network, coder: str, model_bands: Sequence[int]) -> None:
        self._samples, self._network = samples, network
        self._coder, self._model_bands = coder, tuple(model_bands)

    def lossy(self, step: float) -> LearnedCodec:
        return LearnedCodec(self._network, self._settings(step, Numbers(self._samples.dtype)), *self._judged)

    def quantized(self) -> LearnedCodec:
        """Return a codec whose PSNR is `DEFAULT_LOSS_DB` below that with unquantized latents."""
        samples = self._samples
        exact = _Unquantized(self._network, self._settings(1.0, Numbers(samples.dtype)), *self._judged)
        goal = sampled_psnr(exact, samples, NUM_SAMPLED_TILES) - DEFAULT_LOSS_DB

        def psnr(step: float) -> float:
            return sampled_psnr(self.lossy(step), samples, NUM_SAMPLED_TILES)

        search = StepSearch(psnr, FINEST, COARSEST, FIRST, SLOPES["psnr"])
        return self.lossy(search.find(goal, DEFAULT_LOSS_DB / 10).step)

    def by_model(self) -> EntropyModelCodec:
        """Return the codec that the entropy model makes, at the steps that it learned."""
        return EntropyModelCodec(self._network, self._settings(1.0, Numbers(self._samples.dtype)))

    def bounded_by_model(self, max_error: float, step: float | None = None) -> EntropyModelCodec:
        """Return a codec with a bound whose latents the entropy model codes."""
        if step is not None:
            raise CodingError(f"the steps of {self._network.name} are learned: leave step and quality out")
        return EntropyModelCodec(self._network, self._settings(1.0, self._bounded_numbers(max_error)))

    def bounded(self, max_error: float, step: float | None = None) -> LearnedCodec:
        """Return a codec with a bound; if no step is given, the step of `BOUNDED_STEPS` with the smallest tiles."""
        numbers = self._bounded_numbers(max_error)
        codecs = [
            LearnedCodec(self._network, self._settings(candidate, numbers), *self._judged)
            for candidate in (BOUNDED_STEPS if step is None else (step,))
        ]
        return min(codecs, key=self._num_bytes) if len(codecs) > 1 else codecs[0]

    def _bounded_numbers(self, max_error: float) -> Numbers:
        samples = self._samples
        if samples.dtype not in SHORT:
            raise CodingError(
                f"samples must be {', '.join(SHORT)} for a model with a bound, got {samples.dtype}: "
                "code without a bound, or choose another codec, such as klt-cm"
            )
        return numbers_of(samples.dtype, max_error, samples.values())

    def _settings(self, step: float | None, numbers: Numbers) -> Settings:
        samples = self._samples
        return Settings(self._coder, step, samples.scale, numbers, self._model_bands, samples.num_bands)

    def _num_bytes(self, codec: LearnedCodec) -> float:
        """Return the size of the sampled tiles; infinite if the step is too fine."""
        tiles = self._samples.tiles(NUM_SAMPLED_TILES)
        try:
            return sum(self._samples.in_threads(lambda tile: len(codec.encode(*tile)), tiles))
        except CodingError:
            return math.inf

    @functools.cached_property
    def _judged(self) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Codes of the units, and known latents of the sampled tiles, for `LearnedCodec`."""
        network, tiles = self._network, self._samples.tiles(NUM_SAMPLED_TILES)
        settings = self._settings(1.0, Numbers(self._samples.dtype, bound=0))
        blank = LearnedCodec(network, settings, np.zeros(network.channels, np.uint8))
        latents = self._samples.in_threads(lambda tile: blank.latents(*tile), tiles)
        units = units_of(latents, network.sensitivity(latents[len(latents) // 2]))
        return units, {id(tile.cube): (tile.cube, y) for tile, y in zip(tiles, latents, strict=True)}
