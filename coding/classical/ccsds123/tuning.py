"""The search for parameters of CCSDS 123.0-B-2 that suit a scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from coding.base import CodingError
from coding.classical.ccsds123.image import LOCAL_SUMS, Ccsds123

SEARCHED_SAMPLES = 2**20
"""Most samples of the rows that parameters are tried on."""

_PASSES = 2
_COUNTS = (
    "prediction_bands",
    "weight_exponent_last",
    "weight_exponent_first",
    "damping",
    "offset",
    "rescaling_exponent",
    "weight_interval_exponent",
)
"""Parameters that are searched in steps of 1, in this order."""
_NEIGHBOR_SUMS = LOCAL_SUMS[:2]


def starting_points(max_error: int) -> tuple[Ccsds123, ...]:
    """Return the parameters that searches start from: the defaults, and what suits land and what suits water."""
    default = Ccsds123(max_error)
    land = replace(default, full_prediction=False, prediction_bands=5, weight_exponent_first=1, weight_exponent_last=7)
    water = replace(default, prediction_bands=0, weight_exponent_first=-1, weight_exponent_last=3, damping=2)
    return default, land, water


def encode_tuned(cube: np.ndarray, max_error: int) -> bytes:
    """Encode a cube with the parameters of `search`, or with the defaults if those take fewer bytes.

    Args:
        cube: (C, H, W), uint16 or int16.
        max_error: the bound, 0 to 32767.

    Raises:
        CodingError: see `Ccsds123`.
    """
    default = Ccsds123(max_error)
    return min((codec.encode(cube) for codec in (default, search(cube, max_error))), key=len)


def search(cube: np.ndarray, max_error: int) -> Ccsds123:
    """Return parameters that a cube takes few bytes with.

    A coordinate descent, without randomness: from the best of `starting_points`, the mode of prediction, the local sums
    and each of `_COUNTS` are changed as long as that saves bytes, twice in turn. The bytes are those of up to
    `SEARCHED_SAMPLES` samples: rows from the middle of all bands. On real scenes it takes 35 to 55 trials, each of
    which encodes these samples: one or two seconds on one core.

    Args:
        cube: (C, H, W), uint16 or int16.
        max_error: the bound, 0 to 32767.

    Raises:
        CodingError: see `Ccsds123`.
    """
    trials = _Trials(_middle_rows(cube))
    best = min(starting_points(max_error), key=trials.size)
    for _ in range(_PASSES):
        before = best
        best = min((best, *_modes(best)), key=trials.size)
        for name in _COUNTS:
            best = _climb(best, name, trials)
        if best == before:
            break
    return best


class _Trials:
    """Sizes of encoded rows; those of parameters that come again are not measured again."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.sizes = rows, dict[Ccsds123, int]()

    def size(self, codec: Ccsds123) -> int:
        if codec not in self.sizes:
            self.sizes[codec] = len(codec.encode(self.rows))
        return self.sizes[codec]


def _middle_rows(cube: np.ndarray) -> np.ndarray:
    bands, height, width = cube.shape
    count = min(max(SEARCHED_SAMPLES // (bands * width), 1), height)
    first = (height - count) // 2
    return cube[:, first : first + count]


def _modes(codec: Ccsds123) -> Iterator[Ccsds123]:
    for full_prediction in (True, False):
        for local_sums in _NEIGHBOR_SUMS:
            yield replace(codec, full_prediction=full_prediction, local_sums=local_sums)


def _climb(codec: Ccsds123, name: str, trials: _Trials) -> Ccsds123:
    """Return the parameters with the one of that name increased or decreased as long as that saves bytes."""
    for step in (1, -1):
        start = codec
        while True:
            try:
                changed = replace(codec, **{name: getattr(codec, name) + step})
            except CodingError:  # out of its range
                break
            if trials.size(changed) >= trials.size(codec):
                break
            codec = changed
        if codec != start:
            break
    return codec
