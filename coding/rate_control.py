"""Rate control: find the step for a target PSNR or rate on a few tiles, then correct it by the whole scene.

The search codes one tile, or, where the codec has estimates of its rates, none. Then ever more tiles are coded: as long
as they are few, the step is corrected by what they take. The tiles that were coded with the final step are not coded
again for the file, so that a search without corrections costs little.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from coding.base import MAX_STEP, MIN_STEP, Codec, CodecFactory, CodingError
from coding.hsc.distortion import Distortion, measure, psnr_text
from coding.hsc.records import Tile
from coding.hsc.tiling import Written
from coding.samples import Samples
from coding.sampling import Survey, TileSample
from coding.step_search import SLOPES, Found, StepSearch

PSNR_TOLERANCE_DB = 0.1
RELATIVE_RATE_TOLERANCE = 0.02
SAMPLED_SHARE = 0.25
"""Share of the tolerance for the search; the rest is for the difference between its tiles and the scene."""
MAX_ATTEMPTS = 3
"""How often a scene is encoded to meet its target."""
FINEST_SHARE = 2.0**-20
"""Finest step of a search for floats, as a fraction of the largest sample, if that is smaller than the codec's."""

_GROWTH = ((0, 0.8), (1 / 6, 0.5), (1 / 3, 0.6))
"""Sizes of the sample, as shares of the scene, and from which share of the tolerance on the step is corrected."""
_MAX_CORRECTIONS = 3  # for each size
_MAX_GAIN = 2.0  # of a correction, by how much more or less than expected the last one changed the figure


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
        search, found = self._settle(target)
        nearest: tuple[float, Codec, str] | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            codec = self._lossy(found.step)
            written = write(codec)
            offset = self._offset(written, target)
            if abs(offset) <= target.tolerance:
                return written, None
            if nearest is None or abs(offset) < nearest[0]:
                nearest = abs(offset), codec, self._note(written, target, found, offset)
            if not found.is_met or not math.isfinite(offset) or attempt == MAX_ATTEMPTS:
                break
            found = search.find(found.figure - offset, SAMPLED_SHARE * target.tolerance)
        assert nearest is not None  # there was one attempt at least
        return written if nearest[1] is codec else write(nearest[1]), nearest[2]

    # -- the step ---------------------------------------------------------------------------------

    def _settle(self, target: Target) -> tuple[StepSearch, Found]:
        """Find a step with which a sample of the tiles meets the target.

        Returns:
            The search, whose figures may be off by about the same number at neighboring steps, and what it found.

        Raises:
            CodingError: the codec cannot take any step that was tried.
        """
        result, error = None, CodingError("the codec cannot take any step")
        for search, sample in self._searches(target):
            try:
                found = self._grow(search, sample, target)
            except CodingError as caught:
                error = caught
                continue
            result = search, found
            if found.is_met:
                break
        if result is None:
            raise error
        return result

    def _searches(self, target: Target) -> Iterator[tuple[StepSearch, TileSample | None]]:
        """Yield searches, from the fastest to the safest, each with the sample by which it is corrected."""
        num_tiles = self._factory.num_tiles
        if self._factory.model is not None:  # which knows the latents of these tiles
            yield self._search(target, functools.partial(self._figure_of_tiles, target.kind)), None
            return
        if target.kind == "bpppc" and self._factory.rates is not None:
            survey = Survey(self._samples, self._factory.rates)
            search = self._search(target, lambda step: math.log2(survey.rate(step)))
            near = search.find(target.figure, target.tolerance).step
            yield search, TileSample(self._samples, survey, near)
        sample = TileSample(self._samples)
        for count in (1, num_tiles):
            yield self._search(target, functools.partial(self._figure, target.kind, sample, count)), sample

    def _grow(self, search: StepSearch, sample: TileSample | None, target: Target) -> Found:
        """Search a step, and correct it while the sample grows."""
        found = search.find(target.figure, SAMPLED_SHARE * target.tolerance)
        if sample is None:
            return found
        shares = {max(1, math.ceil(size * len(sample))): share for size, share in _GROWTH}
        for count, share in shares.items():
            if found.is_met:
                figure = functools.partial(self._figure, target.kind, sample, count)
                found = _corrected(search, found, figure, target, share)
        return found

    def _search(self, target: Target, figure: Callable[[float], float]) -> StepSearch:
        factory = self._factory
        first = factory.first
        if target.kind == "psnr":  # the step of a uniform quantizer with this PSNR
            first = self._samples.scale / factory.unit * math.sqrt(12) * 10 ** (-float(target.figure) / 20)
        return StepSearch(figure, *self._step_range(), first, SLOPES[target.kind])

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

    def _step_range(self) -> tuple[float, float]:
        """Return the finest and the coarsest step of a search: the scale may say nothing of the samples' size."""
        factory, tiles = self._factory, self._samples.tiles(self._factory.num_tiles)
        largest = max((float(np.abs(tile.cube, dtype=np.float64).max()) for tile in tiles), default=0.0)
        if factory.model is not None or largest == 0:  # the steps of a model are in units of its own
            return factory.finest, factory.coarsest
        is_float = tiles[0].cube.dtype.kind == "f"
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


def _corrected(
    search: StepSearch, found: Found, figure: Callable[[float], float], target: Target, share: float
) -> Found:
    """Correct a step by another figure than that of its search, until it misses by at most a share of the tolerance."""
    gain, last = 1.0, None
    for _ in range(_MAX_CORRECTIONS):
        offset = figure(found.step) - target.figure
        if not found.is_met or abs(offset) <= share * target.tolerance or not math.isfinite(offset):
            break
        if last is not None and offset != last[1]:
            gain = min(max((found.figure - last[0]) / (offset - last[1]), 1 / _MAX_GAIN), _MAX_GAIN)
        last = found.figure, offset
        found = search.find(found.figure - gain * offset, SAMPLED_SHARE * target.tolerance)
    return found
