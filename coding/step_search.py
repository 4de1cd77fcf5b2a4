"""Search for the quantizer step with a target figure, such as a PSNR or a rate, in few trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from coding.base import CodingError

SLOPES = {"psnr": 6.0, "bpppc": 1.0}
"""About how much a target's figure falls when the step doubles."""

_MAX_TRIALS = 40
_MIN_STRIDE = 1e-3  # octaves
_FIRST_STRIDE = 2.0  # octaves, between steps that the codec cannot take
_FAR = 2.0  # octaves; slopes change, so that predictions farther away are followed in steps, each twice as large
_SECOND_STRIDE = 0.1  # octaves, where the predicted place did not reach the target; doubled with each trial
_REFUSED_WITHIN = 0.1  # octaves between the last step that the codec takes and one that it refuses
_MIN_BRACKET_SHARE = 0.05  # between a trial and either end of its bracket
_MIN_BASE = 0.05  # octaves between figures that show their slope, since they may jitter
_MAX_SLOPE_RATIO = 8.0  # of a slope between two figures and the usual one, either way
_MAX_PREDICTIONS = 2  # in a bracket
_MAX_INTERPOLATIONS = 8  # in a bracket; afterwards it is halved, since figures may fall in stairs


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        step: the step.
        figure: its figure.
        is_met: whether the figure is within the tolerance.
        end: "finest" or "coarsest" if the search ended at that end without reaching the target, else None.
    """

    step: float
    figure: float
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
        self._too_fine, self._too_coarse = self._low, self._high

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
        stride, far, inside = 0.0, _FAR, 0
        for _ in range(max_trials):
            nearest = self._nearest(target)
            if abs(self._figures[nearest] - target) <= tolerance:
                return self._found(nearest, True)
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
            place = self._beyond(at, target, (stride, far))
            if place is None:
                return self._found(at, False, "coarsest" if below is None else "finest")
            stride, far = max(2 * stride, _SECOND_STRIDE), 2 * far
            self._try(place)
        return self._found(self._nearest(target), False)

    def _found(self, at: float, is_met: bool, end: Literal["finest", "coarsest"] | None = None) -> Found:
        return Found(2.0**at, self._figures[at], is_met, end)

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
        """Measure a step; if the codec cannot take it, search only up to half of the way to it next."""
        try:
            self._figures[place] = self._figure(2.0**place)
        except CodingError:
            self._limit(place)
            return
        if place == self._high and self._too_coarse - place > 2 * _REFUSED_WITHIN:
            self._high = (self._too_coarse + place) / 2
        if place == self._low and place - self._too_fine > 2 * _REFUSED_WITHIN:
            self._low = (self._too_fine + place) / 2

    def _limit(self, refused: float) -> None:
        if refused < min(self._figures):
            self._too_fine = max(self._too_fine, refused)
            self._low = max(self._low, (refused + min(self._figures)) / 2)
        elif refused > max(self._figures):
            self._too_coarse = min(self._too_coarse, refused)
            self._high = min(self._high, (refused + max(self._figures)) / 2)
        else:
            self._figures[refused] = math.inf  # never the nearest

    def _between(self, above: float, below: float, target: float, number: int) -> float:
        """Return a place in a bracket: predicted, then interpolated in turn with its middle, since figures jitter."""
        high, low, width = self._figures[above], self._figures[below], below - above
        predicted = (self._predicted(target) - above) / width
        if number <= _MAX_PREDICTIONS and 0 < predicted < 1:  # other predictions contradict the bracket
            share = predicted
        elif number % 2 and number <= _MAX_INTERPOLATIONS and math.isfinite(high - low):
            share = (high - target) / (high - low)
        else:
            share = 0.5
        return above + min(max(share, _MIN_BRACKET_SHARE), 1 - _MIN_BRACKET_SHARE) * width

    def _beyond(self, at: float, target: float, strides: tuple[float, float]) -> float | None:
        """Return a place beyond `at`, the outermost one measured, between two strides; None if `at` is an end."""
        least, most = strides
        stride = max(least, min(abs(self._predicted(target) - at), most), _MIN_STRIDE)
        place = min(at + stride, self._high) if self._figures[at] > target else max(at - stride, self._low)
        return None if abs(place - at) < _MIN_STRIDE else place

    def _predicted(self, target: float) -> float:
        """Return where a line through the figure nearest to the target meets it."""
        nearest = self._nearest(target)
        if not math.isfinite(self._figures[nearest]):  # infinite figures are finer than any target
            return max(self._figures) + _FIRST_STRIDE
        return nearest + (self._figures[nearest] - target) / self.slope(target)

    def slope(self, target: float) -> float:
        """Return about how much the figure falls when the step doubles, near the target."""
        finite = [at for at, figure in self._figures.items() if math.isfinite(figure)]
        at, *others = sorted(finite, key=lambda at: abs(self._figures[at] - target)) or [0.0]
        for other in [other for other in others if abs(other - at) >= _MIN_BASE][:1]:
            measured = (self._figures[at] - self._figures[other]) / (other - at)
            if 1 / _MAX_SLOPE_RATIO < measured / self._slope < _MAX_SLOPE_RATIO:
                return measured
        return self._slope
