"""Values that many samples of a tile of floats share exactly, such as 0 after clipping, or that of saturated pixels.

Among floats whose last bits are noise, such a value would cost as much as any other. Which samples have it is therefore
coded first, as planes of small integers with mixed contexts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import compiled
from coding.entropy.mixing import Mixer, code_mixed, new_mixer
from coding.entropy.neighbors import PAD
from coding.entropy.range_coder import check_decoder, finish_encoder, new_decoder, new_encoder
from coding.prediction.lines import ordered_bits

MAX_VALUES = 3
"""Frequent values of a tile."""

_MIN_SHARE = 1 / 256  # of the samples
_MIN_RATIO = 16  # of the number of samples with a value and with values next to it
_NEIGHBORS = 8  # next values on each side
_SAMPLED = 2**16  # samples that are counted, about
_KINDS = MAX_VALUES + 1
_BAND_CONTEXTS = 1024
_MAX_BYTES = 2 * MAX_VALUES + 1  # of a sample

# First counter of each kind of context; docs/format.md uses the same names.
_BY_NEAR = 0
_BY_BAND = _BY_NEAR + _KINDS**5 * MAX_VALUES
_BY_BEFORE = _BY_BAND + _BAND_CONTEXTS * _KINDS * MAX_VALUES
_COUNTERS = _BY_BEFORE + _KINDS**6 * MAX_VALUES


class State(NamedTuple):
    """The state that is carried from band to band.

    Attributes:
        planes: uint8 (C + 2, H + 4, W + 4), kinds with a margin of 0; the first two planes precede the first band.
        is_coded: bool (C, H, W), False in gaps.
        mixer: mixer of decisions.
        num_values: number of frequent values.
    """

    planes: np.ndarray
    is_coded: np.ndarray
    mixer: Mixer
    num_values: int


def find_frequent(cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return at most `MAX_VALUES` values that stand out from those next to them.

    Args:
        cube: (C, H, W), finite floats. 0.0 and -0.0 are different values.
        valid: bool (C, H, W), False in gaps.
    """
    step = max(cube.size // _SAMPLED, 1) | 1  # odd: not always the same columns
    sampled = cube.ravel()[::step][valid.ravel()[::step]]
    values, first, counts = np.unique(ordered_bits(sampled), return_index=True, return_counts=True)
    sums = np.concatenate([[0], np.cumsum(counts)])
    places = np.flatnonzero(counts >= max(_MIN_SHARE * len(sampled), _MIN_RATIO))
    start, end = np.maximum(places - _NEIGHBORS, 0), np.minimum(places + _NEIGHBORS + 1, len(values))
    around = (sums[end] - sums[start] - counts[places]) / np.maximum(end - start - 1, 1)
    places = places[counts[places] >= _MIN_RATIO * around]
    places = places[np.argsort(-counts[places], kind="stable")[:MAX_VALUES]]
    return sampled[first[places]]


def kinds_of(cube: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the kinds of samples, uint8 (C, H, W): 0, or 1 + the index of the sample's value in `values`."""
    kinds = np.zeros(cube.shape, np.uint8)
    bits = cube.view(f"i{cube.itemsize}")
    for index, value in enumerate(values.view(bits.dtype)):
        kinds[bits == value] = index + 1
    return kinds


def encode_kinds(kinds: np.ndarray, valid: np.ndarray, count: int) -> bytes:
    """Encode kinds (C, H, W) from 0 to `count`, 0 in gaps, where `valid` is False."""
    state = _new_state(valid, count)
    state.planes[2:, PAD:-PAD, PAD:-PAD] = kinds
    coder = new_encoder(_MAX_BYTES * kinds.size + 64)
    _code_kinds(coder, state)
    return finish_encoder(coder)


def decode_kinds(data: bytes, valid: np.ndarray, count: int) -> np.ndarray:
    """Return the kinds, uint8 (C, H, W), that `encode_kinds` encoded.

    Raises:
        DamagedError: `data` is damaged.
    """
    state, coder = _new_state(valid, count), new_decoder(data)
    _code_kinds(coder, state)
    check_decoder(coder)
    return np.ascontiguousarray(state.planes[2:, PAD:-PAD, PAD:-PAD])


def _new_state(valid: np.ndarray, count: int) -> State:
    bands, height, width = valid.shape
    planes = np.zeros((bands + 2, height + 2 * PAD, width + 2 * PAD), np.uint8)
    return State(planes, np.ascontiguousarray(valid), new_mixer(_COUNTERS, MAX_VALUES, 3), count)


@compiled
def _code_kinds(coder, state):
    """Encode the kinds of all bands from their planes, or decode them."""
    planes = state.planes
    bands, height, width = planes.shape
    for b in range(2, bands):
        for y in range(PAD, height - PAD):
            for x in range(PAD, width - PAD):
                if not state.is_coded[b - 2, y - PAD, x - PAD]:
                    continue
                west, north = np.int64(planes[b, y, x - 1]), np.int64(planes[b, y - 1, x])
                corners = np.int64(planes[b, y - 1, x - 1]) * _KINDS + planes[b, y - 1, x + 1]
                center = np.int64(planes[b - 1, y, x]) * _KINDS + planes[b - 2, y, x]
                sides = np.int64(planes[b - 1, y, x + 1]) * _KINDS + planes[b - 1, y + 1, x]
                near = ((west * _KINDS + north) * _KINDS**2 + corners) * _KINDS + planes[b - 1, y, x]
                before = ((center * _KINDS**2 + sides) * _KINDS + west) * _KINDS + north
                contexts = (
                    _BY_NEAR + near * MAX_VALUES,
                    _BY_BAND + (min(b - 2, _BAND_CONTEXTS - 1) * _KINDS + planes[b - 1, y, x]) * MAX_VALUES,
                    _BY_BEFORE + before * MAX_VALUES,
                )
                kind = np.int64(0)
                for number in range(1, state.num_values + 1):
                    if code_mixed(coder, state.mixer, contexts, 0, number - 1, int(planes[b, y, x] == number)):
                        kind = np.int64(number)
                        break
                planes[b, y, x] = kind
