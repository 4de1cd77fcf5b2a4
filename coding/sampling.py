"""Estimates of what a scene will take at a step, from a few coded tiles and, for some codecs, a survey of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from coding.base import Codec
from coding.hsc.distortion import Distortion
from coding.hsc.records import Tile
from coding.samples import Samples

MAX_SURVEYED = 64
"""Most tiles in a survey, or in a sample."""

_GRID = 4  # steps to an octave for which a survey is computed; between them, rates are interpolated
_MIN_SPREAD = 0.05  # of tiles' rates, in units of their mean, for a line through them
_LEAST_RATE = 1e-4  # bits per sample of a tile in a survey, such as one without data


def largest_magnitude(cube: np.ndarray) -> float:
    """Return the largest magnitude of a sample."""
    return max(abs(float(cube.min(initial=0))), abs(float(cube.max(initial=0))))


class Survey:
    """Estimated rates of tiles spread over a scene, at any step.

    Args:
        samples: samples of the scene.
        rates: see `CodecFactory.rates`.

    Attributes:
        numbers: numbers of the tiles.
        largest: largest magnitude of a sample in them.
    """

    def __init__(self, samples: Samples, rates: Callable[[np.ndarray], Callable[[float], float]]) -> None:
        self.numbers = _spread_tiles(samples)
        self._samples = samples
        self._sizes = np.zeros(len(self.numbers))
        surveyed = samples.in_threads(lambda tile: (rates(tile.cube), largest_magnitude(tile.cube)), self._tiles())
        self._rates = [rate for rate, _ in surveyed]
        self.largest = max(largest for _, largest in surveyed)
        self._grid: dict[int, np.ndarray] = {}  # log2 of the tiles' rates

    def _tiles(self) -> Iterator[Tile]:
        for place, parts in enumerate(self._samples.parts_of(self.numbers)):
            self._sizes[place] = parts.cube.size
            yield Tile.of(parts.cube, parts.valid)

    def rates(self, step: float) -> np.ndarray:
        place = _GRID * math.log2(step)
        first = math.floor(place)
        return 2 ** (self._at(first) + (place - first) * (self._at(first + 1) - self._at(first)))

    def rate(self, step: float) -> float:
        """Return about the bits per sample of the scene."""
        return float(self.rates(step) @ self._sizes / self._sizes.sum())

    def _at(self, place: int) -> np.ndarray:
        if place not in self._grid:
            step = 2 ** (place / _GRID)
            rates = np.array(self._samples.in_threads(lambda rate: rate(step), self._rates))
            self._grid[place] = np.log2(rates + _LEAST_RATE)
        return self._grid[place]


class TileSample:
    """A sample of the tiles of a scene that grows; of any size, it is spread over the scene.

    Args:
        samples: samples of the scene.
        survey: survey of the scene, if there is one. Samples of 2, 6 and 18 tiles then stand for as many strata of
            tiles with similar rates at `step`, and the rate of a sample is corrected for the difference between sample
            and scene in the survey.
        step: a step near the one to find; only with a survey.
    """

    def __init__(self, samples: Samples, survey: Survey | None = None, step: float = 1.0) -> None:
        self._samples, self._survey = samples, survey
        numbers = _spread_tiles(samples)
        if survey is None:
            self._order = _in_spread_order(numbers)
        else:
            self._order = _in_strata([numbers[place] for place in np.argsort(survey.rates(step), kind="stable")])
        with_data = (place for place, number in enumerate(self._order) if samples.parts(number).valid.any())
        self._order.insert(0, self._order.pop(next(with_data, 0)))

    def __len__(self) -> int:
        return len(self._order)

    def psnr(self, codec: Codec, count: int) -> float:
        """Return the PSNR in dB of the first `count` tiles.

        Raises:
            CodingError: the codec cannot code them.
        """
        tiles = self._samples.code(codec, self._order[:count])
        return sum((tile.distortion for tile in tiles), Distortion()).psnr

    def rate(self, codec: Codec, step: float, count: int) -> float:
        """Return about the bits per sample of the scene, from the first `count` tiles.

        Raises:
            CodingError: the codec cannot code them.
        """
        numbers = self._order[:count]
        tiles = self._samples.code(codec, numbers)
        sizes = np.array([tile.size for tile in tiles])
        rates = np.array([8 * len(tile.record) for tile in tiles]) / sizes
        if self._survey is None:
            return float(rates @ sizes / sizes.sum())
        expected = dict(zip(self._survey.numbers, self._survey.rates(step), strict=True))
        return _of_scene(rates, np.array([expected[number] for number in numbers]), self._survey.rate(step))


def _of_scene(rates: np.ndarray, expected: np.ndarray, scene: float) -> float:
    """Return about the rate of a scene, from the rates of tiles and what a survey has for them and for the scene.

    Of few tiles the ratio counts, of many the line through them.
    """
    ratio = rates.mean() / expected.mean()
    slope = ratio
    if np.ptp(expected) > _MIN_SPREAD * expected.mean():
        line = min(max(np.polyfit(expected, rates, 1)[0], 0), 2 * ratio)
        slope += (line - ratio) * max(len(rates) - 2, 0) / (len(rates) + 2)
    return float(max(rates.mean() + slope * (scene - expected.mean()), ratio * scene / 2))


def _spread_tiles(samples: Samples) -> list[int]:
    """Return the numbers of tiles that are spread evenly over a scene, in rising order."""
    count = min(samples.tile_count, MAX_SURVEYED)
    return [(2 * index + 1) * samples.tile_count // (2 * count) for index in range(count)]


def _in_spread_order(numbers: Sequence[int]) -> list[int]:
    """Return the numbers in an order whose first ones, however many, are spread evenly (van der Corput's sequence)."""
    places: dict[int, None] = {}
    index = 1
    while len(places) < len(numbers):
        fraction, digit, rest = 0.0, 0.5, index
        while rest:
            fraction, digit, rest = fraction + digit * (rest & 1), digit / 2, rest >> 1
        places[int(fraction * len(numbers))] = None
        index += 1
    return [numbers[place] for place in places]


def _in_strata(numbers: Sequence[int]) -> list[int]:
    """Return the numbers in an order whose first 2, 6, 18 ... ones are the middles of as many equal parts."""
    places: dict[int, None] = {}
    count = 2
    while len(places) < len(numbers):
        places |= dict.fromkeys((2 * index + 1) * len(numbers) // (2 * count) for index in range(count))
        count *= 3
    return [numbers[place] for place in places]
