"""Rate control: find the step for a target PSNR or rate on a few tiles, then correct it by the whole scene.

The search codes one or two tiles at a time; where the codec has estimates of its rates, these say where it begins. It
goes on with ever more tiles, from the step found so far, as long as they are few. The tiles that were coded with the
final step are neither read nor coded again for the file, so that tiles without surprises cost nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from coding.base import MAX_STEP, MIN_STEP, Codec, CodecFactory
from coding.hsc.distortion import Distortion, measure, psnr_text
from coding.hsc.records import Tile
from coding.hsc.tiling import Written
from coding.samples import Samples
from coding.sampling import Survey, TileSample, largest_magnitude
from coding.step_search import SLOPES, Found, StepSearch

PSNR_TOLERANCE_DB = 0.1
RELATIVE_RATE_TOLERANCE = 0.02
SAMPLED_SHARE = 0.25
"""Share of the tolerance for a search before any tile is coded, or on all tiles that a model knows."""
MAX_ATTEMPTS = 3
"""How often a scene is encoded to meet its target."""
FINEST_SHARE = 2.0**-20
"""Finest step of a search for floats, as a fraction of the largest sample, if that is smaller than the codec's."""

_FEWEST_TILES = {"psnr": 1, "bpppc": 2}  # in a sample; rates differ more between tiles
_GROWTH = ((0, 0.8), (1 / 6, 0.8), (1 / 3, 0.7))
"""Sizes of the sample, as shares of the scene, each with the share of the tolerance within which it meets a target."""
_SURVEYED_GROWTH = ((2, 1.0), (6, 0.6), (18, 0.6))
"""The same with a survey, in tiles: the numbers of strata in `TileSample`."""
_LARGEST_SURVEYED_SHARE = 0.4  # of the scene in a sample

_FEW_TRIALS = 3  # besides the first step, with a sample of each size
_MANY_TRIALS = 12  # instead, if the largest sample has at most `_FEW_TILES`
_FEW_TILES = 2
_FEW_TILES_SHARE = 0.8


@dataclass(frozen=True)
class Target:
    """A figure that a file should have.

    Attributes:
        kind: "psnr" or "bpppc" (bits per sample of the coded bands).
        value: in dB, or in bits per sample.
        peak: peak of the PSNR of `value`, as a fraction of the scale.
    """

    kind: Literal["psnr", "bpppc"]
    value: float
    peak: float = 1.0

    @property
    def figure(self) -> float:
        """The PSNR of peak 1, or log2 of the rate: both fall about linearly with the logarithm of the step."""
        return math.log2(self.value) if self.kind == "bpppc" else self.value - self.peak_db

    @property
    def peak_db(self) -> float:
        """By how much the PSNR of `peak` exceeds that of peak 1."""
        return 20 * math.log10(self.peak)

    @property
    def tolerance(self) -> float:
        """Largest allowed difference between `figure` and the file's figure."""
        return math.log2(1 + RELATIVE_RATE_TOLERANCE) if self.kind == "bpppc" else PSNR_TOLERANCE_DB


def sampled_psnr(codec: Codec, samples: Samples, num_tiles: int) -> float:
    """Return the PSNR in dB of at most `num_tiles` tiles of a scene."""

    def distortion(tile: Tile) -> Distortion:
        return measure(tile.cube, codec.reconstruct(*tile), tile.valid, samples.scale, codec.clips_to_scale)

    return sum(samples.in_threads(distortion, samples.tiles(num_tiles)), Distortion()).psnr


# -- of scenes ------------------------------------------------------------------------------------


class RateController:
    """Encodes a scene so that it meets a target, with a step found on a few tiles.

    Args:
        factory: factory of the codec, which must have a lossy mode.
        samples: samples of the scene.
        name: name of the codec in messages.
    """

    def __init__(self, factory: CodecFactory, samples: Samples, name: str) -> None:
        assert factory.lossy is not None
        self._factory, self._samples, self._name = factory, samples, name
        # Always the same codec for a step, since `samples` keeps the tiles that it has coded.
        self._lossy = functools.cache(factory.lossy)
        self._survey: Survey | None = None

    def write(self, write: Callable[[Codec], Written], target: Target) -> tuple[Written, str | None]:
        """Encode the scene, again with another step if it misses the target, at most `MAX_ATTEMPTS` times.

        Args:
            write: encodes the scene with a codec, replacing what it wrote before. `Samples.coded` has the tiles that
                the search has coded already.
            target: the target.

        Returns:
            The attempt nearest to the target, which is also the last one written, and a note if it misses the target.

        Raises:
            CodingError: the codec cannot take any step that was tried.
        """
        found, slope = self._settle(target)
        step, (finest, coarsest) = found.step, self._step_range
        nearest: tuple[float, Codec, str] | None = None
        last: tuple[float, float] | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            codec = self._lossy(step)
            written = write(codec)
            offset = self._offset(written, target)
            if abs(offset) <= target.tolerance:
                return written, None
            if nearest is None or abs(offset) < nearest[0]:
                nearest = abs(offset), codec, self._note(written, target, found, offset)
            if not found.is_met or not math.isfinite(offset) or attempt == MAX_ATTEMPTS:
                break
            if last is not None and (offset - last[1]) * (last[0] - step) > 0:
                slope = (offset - last[1]) / math.log2(last[0] / step)
            last = step, offset
            step = min(max(step * 2 ** (offset / slope), finest), coarsest)
        assert nearest is not None  # there was one attempt at least
        return written if nearest[1] is codec else write(nearest[1]), nearest[2]

    # -- the step ---------------------------------------------------------------------------------

    def _settle(self, target: Target) -> tuple[Found, float]:
        """Find a step with which a sample of the tiles meets the target.

        Returns:
            What was found, and about how much the figure falls when the step doubles.

        Raises:
            CodingError: the codec cannot take any step that was tried.
        """
        factory, kind, tolerance = self._factory, target.kind, target.tolerance
        first, slope = self._first(target), SLOPES[kind]
        if factory.model is not None:  # which knows the latents of the sampled tiles
            search = self._search(functools.partial(self._figure_of_tiles, kind), first, slope)
            found = search.find(target.figure, SAMPLED_SHARE * tolerance)
            return found, search.slope(target.figure)
        rates = factory.rates if kind == "bpppc" else None
        survey = self._survey = Survey(self._samples, rates) if rates is not None else None
        if survey is not None:
            search = self._search(lambda step: math.log2(survey.rate(step)), first, slope)
            first, slope = search.find(target.figure, SAMPLED_SHARE * tolerance).step, search.slope(target.figure)
        sample = TileSample(self._samples, self._survey, first)
        shares = self._growth(len(sample), kind)
        for count, share in shares.items():
            search = self._search(functools.partial(self._figure, kind, sample, count), first, slope)
            is_thorough = count == max(shares) <= _FEW_TILES
            share, max_trials = (_FEW_TILES_SHARE, _MANY_TRIALS) if is_thorough else (share, _FEW_TRIALS)
            found = search.find(target.figure, share * tolerance, max_trials)
            if found.end is None and not is_thorough:
                found = replace(found, is_met=True)  # as nearly as so few trials can
            elif found.end is not None and count >= factory.num_tiles:
                break
            first, slope = found.step, search.slope(target.figure)
        return found, slope

    def _growth(self, num_tiles: int, kind: str) -> dict[int, float]:
        """Return the sizes of the sample of at most `num_tiles`, each with its share of the tolerance."""
        fewest = _FEWEST_TILES[kind]
        if self._survey is None:
            return {max(fewest, math.ceil(size * num_tiles)): share for size, share in _GROWTH}
        largest = max(fewest, _LARGEST_SURVEYED_SHARE * num_tiles)
        return {size: share for size, share in _SURVEYED_GROWTH if size <= largest}

    def _first(self, target: Target) -> float:
        """Return a step to begin with."""
        if target.kind == "psnr":  # the step of a uniform quantizer with this PSNR
            return self._samples.scale / self._factory.unit * math.sqrt(12) * 10 ** (-float(target.figure) / 20)
        return self._factory.first

    def _search(self, figure: Callable[[float], float], first: float, slope: float) -> StepSearch:
        return StepSearch(figure, *self._step_range, first, slope)

    def _figure(self, kind: str, sample: TileSample, count: int, step: float) -> float:
        """Return the figure of the scene as the first `count` tiles of a sample have it."""
        codec = self._lossy(step)
        return math.log2(sample.rate(codec, step, count)) if kind == "bpppc" else sample.psnr(codec, count)

    def _figure_of_tiles(self, kind: str, step: float) -> float:
        """Return the figure of the tiles whose latents a model knows."""
        codec = self._lossy(step)
        if kind == "psnr":
            return sampled_psnr(codec, self._samples, self._factory.num_tiles)
        tiles = self._samples.tiles(self._factory.num_tiles)
        num_bytes = self._samples.in_threads(lambda tile: tile.num_bytes(codec.encode(*tile)), tiles)
        return math.log2(8 * sum(num_bytes) / sum(tile.cube.size for tile in tiles))

    @functools.cached_property
    def _step_range(self) -> tuple[float, float]:
        """Return the finest and the coarsest step of a search: the scale may say nothing of the samples' size."""
        factory = self._factory
        if self._survey is None:
            tiles = self._samples.tiles(factory.num_tiles)
            largest = max((largest_magnitude(tile.cube) for tile in tiles), default=0.0)
        else:
            largest = self._survey.largest
        if factory.model is not None or largest == 0:  # the steps of a model are in units of its own
            return factory.finest, factory.coarsest
        is_float = np.dtype(self._samples.dtype).kind == "f"
        finest = min(factory.finest, max(largest * FINEST_SHARE, MIN_STEP)) if is_float else factory.finest
        return finest, min(max(factory.coarsest, 2 * largest), MAX_STEP)

    def _offset(self, written: Written, target: Target) -> float:
        """Return by how much the figure of a written scene exceeds the target's figure."""
        return (math.log2(written.rate) if target.kind == "bpppc" else written.distortion.psnr) - target.figure

    def _note(self, written: Written, target: Target, found: Found, offset: float) -> str:
        """Describe a missed target."""
        if target.kind == "psnr":
            text = f"{psnr_text(written.distortion.psnr + target.peak_db)} instead of {target.value:g} dB"
        else:
            text = f"{written.rate:.4f} bpppc instead of {target.value:g} bpppc"
        if offset < 0 and found.end == "finest":
            lossless = " with a loss; --max-error 0 has none" if self._factory.lossless is not None else ""
            return f"{text}: {self._name} does no better{lossless}, however fine the step"
        if offset > 0 and found.end == "coarsest":
            return f"{text}: {self._name.split()[0]} goes no lower, since this is the coarsest step"
        if not found.is_met:
            return f"{text}: no step of {self._name} comes nearer"
        tiles = self._samples.tiles(self._factory.num_tiles)
        if sum(int(tile.valid.sum()) for tile in tiles) < written.distortion.samples:
            return f"{text}: the step was found on sampled tiles, and these differ from the rest"
        if target.kind == "bpppc":
            return f"{text}: the header, index and masks of the file count, which no step changes"
        return f"{text}: no step of {self._name} came nearer in {MAX_ATTEMPTS} attempts"
