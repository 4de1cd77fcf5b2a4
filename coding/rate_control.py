"""Rate control: find the step for a target PSNR or rate on a few tiles, then correct it by the whole scene."""

from __future__ import annotations

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

PSNR_TOLERANCE_DB = 0.1
RELATIVE_RATE_TOLERANCE = 0.02
SAMPLED_SHARE = 0.25
"""Share of the tolerance for the sampled tiles; the rest is for the difference between them and the scene."""
MAX_ATTEMPTS = 3
"""How often a scene is encoded to meet its target."""
FINEST_SHARE = 2.0**-20
"""Finest step of a search for floats, as a fraction of the largest sample, if that is smaller than the codec's."""
SLOPES = {"psnr": 6.0, "bpppc": 1.0}
"""About how much a target's figure falls when the step doubles."""

_MAX_TRIALS = 40
_MIN_STRIDE = 1e-3  # octaves
_FIRST_STRIDE = 2.0  # octaves; doubled with each trial
_MIN_BRACKET_SHARE = 0.1  # between a trial and either end of its bracket
_MAX_INTERPOLATIONS = 6  # afterwards the bracket is halved, since figures may fall in stairs


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


# -- the search -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        step: the step.
        is_met: whether the figure is within the tolerance.
        end: "finest" or "coarsest" if the search ended at that end without reaching the target, else None.
    """

    step: float
    is_met: bool
    end: Literal["finest", "coarsest"] | None = None


class StepSearch:
    """Finds the step for a figure that falls as the step grows; searches for further targets reuse what was measured.

    Args:
        figure: returns the figure of a step; raises `CodingError` if the codec cannot take the step.
        finest: smallest step to try.
        coarsest: largest step to try.
        first: step to begin with.
        slope: about how much the figure falls when the step doubles.
    """

    def __init__(
        self, figure: Callable[[float], float], finest: float, coarsest: float, first: float, slope: float
    ) -> None:
        self._figure, self._slope = figure, slope
        self._low, self._high = math.log2(finest), math.log2(coarsest)
        self._starts = self._outwards(min(max(math.log2(first), self._low), self._high))
        self._figures: dict[float, float] = {}  # by the logarithm of the step
        self._refused: list[float] = []

    def find(self, target: float, tolerance: float, max_trials: int = _MAX_TRIALS) -> Found:
        """Return a step whose figure is within `tolerance` of `target`, or else the nearest one found.

        Args:
            target: the figure to reach.
            tolerance: largest allowed difference from `target`.
            max_trials: largest number of steps to measure.

        Raises:
            CodingError: the codec cannot take any step that was tried.
        """
        target = float(target)
        if not self._figures:
            self._begin()
        stride, inside = _FIRST_STRIDE, 0
        for _ in range(max_trials):
            nearest = self._nearest(target)
            if abs(self._figures[nearest] - target) <= tolerance:
                return Found(2.0**nearest, True)
            above = max((at for at, figure in self._figures.items() if figure > target), default=None)
            below = min((at for at, figure in self._figures.items() if figure <= target), default=None)
            if above is not None and below is not None:
                if below - above < _MIN_STRIDE:
                    break
                inside += 1
                self._try(self._between(above, below, target, inside))
                continue
            at = above if below is None else below
            assert at is not None  # one figure at least is above the target or not
            place = self._beyond(at, target, stride)
            if place is None:
                return Found(2.0**at, False, "coarsest" if below is None else "finest")
            stride *= 2
            self._try(place)
        return Found(2.0 ** self._nearest(target), False)

    def _nearest(self, target: float) -> float:
        return min(self._figures, key=lambda at: abs(self._figures[at] - target))

    def _outwards(self, first: float) -> Iterator[float]:
        """Yield places (log2 of steps) to begin at: `first`, then ever coarser ones, then ever finer ones."""
        yield first
        for sign, end in ((1, self._high), (-1, self._low)):
            place = first
            while place != end:
                place = min(place + _FIRST_STRIDE, end) if sign > 0 else max(place - _FIRST_STRIDE, end)
                yield place

    def _begin(self) -> None:
        """Measure a first step that the codec takes."""
        error = CodingError("the codec cannot take any step")
        for place in self._starts:
            try:
                self._figures[place] = self._figure(2.0**place)
            except CodingError as caught:
                error = caught if not self._refused else error
                self._refused.append(place)
                continue
            for refused in self._refused:
                self._limit(refused)
            return
        raise error

    def _try(self, place: float) -> None:
        """Measure a step; if the codec cannot take it, never search beyond half of the way to it again."""
        try:
            self._figures[place] = self._figure(2.0**place)
        except CodingError:
            self._limit(place)

    def _limit(self, refused: float) -> None:
        if refused < min(self._figures):
            self._low = max(self._low, (refused + min(self._figures)) / 2)
        elif refused > max(self._figures):
            self._high = min(self._high, (refused + max(self._figures)) / 2)
        else:
            self._figures[refused] = math.inf  # never the nearest

    def _between(self, above: float, below: float, target: float, number: int) -> float:
        """Return a place in a bracket: interpolated, or its middle after `_MAX_INTERPOLATIONS` trials."""
        high, low = self._figures[above], self._figures[below]
        share = 0.5
        if number <= _MAX_INTERPOLATIONS and math.isfinite(high) and math.isfinite(low):
            share = min(max((high - target) / (high - low), _MIN_BRACKET_SHARE), 1 - _MIN_BRACKET_SHARE)
        return above + share * (below - above)

    def _beyond(self, at: float, target: float, stride: float) -> float | None:
        """Return a place beyond `at`, the outermost one measured; None if `at` is the end of the search range."""
        distance = (self._figures[at] - target) / self._slope
        stride = max(stride, abs(distance)) if math.isfinite(distance) else stride
        place = min(at + stride, self._high) if distance > 0 else max(at - stride, self._low)
        return None if abs(place - at) < _MIN_STRIDE else place


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
        self._factory, self._lossy, self._samples, self._name = factory, factory.lossy, samples, name

    def write(self, write: Callable[[Codec], Written], target: Target) -> tuple[Written, str | None]:
        """Encode the scene, again with another step if it misses the target, at most `MAX_ATTEMPTS` times.

        Args:
            write: encodes the scene with a codec, replacing what it wrote before.
            target: the target.

        Returns:
            The attempt nearest to the target, which is also the last one written, and a note if it misses the target.

        Raises:
            CodingError: the codec cannot take any step that was tried.
        """
        search = self._search(target)
        aim = target.figure
        nearest: tuple[float, Codec, str] | None = None
        for _ in range(MAX_ATTEMPTS):
            found = search.find(aim, SAMPLED_SHARE * target.tolerance)
            codec = self._lossy(found.step)
            written = write(codec)
            offset = self._offset(written, target)
            if abs(offset) <= target.tolerance:
                return written, None
            if nearest is None or abs(offset) < nearest[0]:
                nearest = abs(offset), codec, self._note(written, target, found, offset)
            if not found.is_met or not math.isfinite(offset):
                break
            aim -= offset
        assert nearest is not None  # there was one attempt at least
        return written if nearest[1] is codec else write(nearest[1]), nearest[2]

    def _search(self, target: Target) -> StepSearch:
        factory = self._factory
        first = factory.first
        if target.kind == "psnr":  # the step of a uniform quantizer with this PSNR
            first = self._samples.scale / factory.unit * math.sqrt(12) * 10 ** (-float(target.figure) / 20)

        def figure(step: float) -> float:
            codec = self._lossy(step)
            if target.kind == "bpppc":
                return math.log2(self._rate(codec))
            return sampled_psnr(codec, self._samples, factory.num_tiles)

        return StepSearch(figure, *self._step_range(), first, SLOPES[target.kind])

    def _step_range(self) -> tuple[float, float]:
        """Return the finest and the coarsest step of a search: the scale may say nothing of the samples' size."""
        factory, tiles = self._factory, self._samples.tiles(self._factory.num_tiles)
        largest = max((float(np.abs(tile.cube, dtype=np.float64).max()) for tile in tiles), default=0.0)
        if factory.model is not None or largest == 0:  # the steps of a model are in units of its own
            return factory.finest, factory.coarsest
        is_float = tiles[0].cube.dtype.kind == "f"
        finest = min(factory.finest, max(largest * FINEST_SHARE, MIN_STEP)) if is_float else factory.finest
        return finest, min(max(factory.coarsest, 2 * largest), MAX_STEP)

    def _rate(self, codec: Codec) -> float:
        """Return the bits per sample of the sampled tiles' records."""
        tiles = self._samples.tiles(self._factory.num_tiles)
        num_bytes = self._samples.in_threads(lambda tile: tile.num_bytes(codec.encode(*tile)), tiles)
        return 8 * sum(num_bytes) / sum(tile.cube.size for tile in tiles)

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
