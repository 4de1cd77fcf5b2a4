"""Trellis-coded quantization: two interleaved quantizers, selected by the parity of previous levels.

Quantizer 0 has the values 0, 1, -1, 2, -2, ... in steps, quantizer 1 the values 0, 1/2, -1/2, 3/2, -3/2, ... A state
selects the quantizer of a coefficient, and the parity of the level that is chosen leads to the next state. Together the
quantizers are twice as dense as each alone. The encoder looks for the path of least cost through all states (Viterbi,
doi 10.1109/TIT.1967.1054010), and has about 1 dB less error at the same rate: trellis-coded quantization (Marcellin and
Fischer, doi 10.1109/26.46532), in the form of Schwarz et al. (doi 10.1109/DCC.2019.00022).

The cost is the squared error plus `COST_PER_BIT` times the bits. Only the encoder needs bits, and they are estimated:
from the neighborhood of a coefficient, and how frequent the levels were in such neighborhoods so far.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import compiled, inlined
from coding.entropy.neighbors import half
from coding.kltcm.neighborhoods import History, neighborhood
from coding.kltcm.wavelet import Subbands

NEXT_STATE = np.array([[0, 2], [2, 0], [1, 3], [3, 1]], np.int64)
"""The state after a state and the parity of its level; states 0 and 1 use quantizer 0, 2 and 3 quantizer 1."""

COST_PER_BIT = 0.14
"""In squared steps."""

_STATES = len(NEXT_STATE)
_CANDIDATES = 3  # levels that are tried for a coefficient
_COUNTED_LEVELS = 16  # levels whose frequencies are counted
_BITS_PER_LEVEL = 0.3  # beyond these
_CLASSES = 40  # of neighborhoods
_PRIOR_WEIGHT = 30  # levels that the typical frequencies of a class count for
_GUESS_DEAD_ZONE = 0.2  # steps by which a first guess at a level is rounded further down


class Search(NamedTuple):
    """What the search for a path needs to know, and what it finds.

    Attributes:
        magnitudes: float64 (N,), of the coefficients in the order of coding, in steps.
        classes: int64 (N,), of their neighborhoods.
        bits: float64 (classes, quantizers, counted levels), estimated.
        paths: int64 (N, states), level and state before, of the best path to each state.
        levels: int64 (N,), of the best path.
        quantizers: int64 (N,), of the best path.
    """

    magnitudes: np.ndarray
    classes: np.ndarray
    bits: np.ndarray
    paths: np.ndarray
    levels: np.ndarray
    quantizers: np.ndarray


class Trellis:
    """Quantizes components one after another; what it learns of one helps to estimate bits in the next.

    Args:
        subbands: of the components.
    """

    def __init__(self, subbands: Subbands) -> None:
        self._subbands = subbands
        self._counts = _typical_counts()
        size = len(subbands.scan)
        whole = [np.zeros(size, np.int64) for _ in range(3)]
        self._search = Search(
            np.zeros(size), whole[0], np.zeros_like(self._counts), np.zeros((size, _STATES), np.int64), *whole[1:]
        )

    def quantize(self, coefficients: np.ndarray, history: History) -> np.ndarray:
        """Return the levels, without sign, of coefficients.

        Args:
            coefficients: float64 buffer, in steps.
            history: of the components before.

        Returns:
            int64 buffer.
        """
        subbands, search, levels = self._subbands, self._search, np.zeros(len(coefficients), np.int64)
        magnitudes = np.abs(coefficients)
        guess = 2 * (magnitudes + (0.5 - _GUESS_DEAD_ZONE)).astype(np.int64)
        _classify(subbands, history, guess, search.classes)
        np.take(magnitudes, subbands.scan, out=search.magnitudes)
        np.negative(np.log2(self._counts / self._counts.sum(axis=2, keepdims=True)), out=search.bits)
        search.bits[:, :, 1:] += 1  # signs
        _find_path(search)
        levels[subbands.scan] = search.levels
        counted = np.minimum(search.levels, _COUNTED_LEVELS - 1)
        np.add.at(self._counts, (search.classes, search.quantizers, counted), 1)
        return levels


def _typical_counts() -> np.ndarray:
    """Return the frequencies of levels by class and quantizer, for Laplacian coefficients of the class's mean."""
    counts = np.zeros((_CLASSES, 2, _COUNTED_LEVELS))
    for index in range(_CLASSES):
        scale = max(_class_start(index) / 140, 0.03) + 0.15
        for quantizer in range(2):
            edges = np.append(np.arange(_COUNTED_LEVELS) - 0.5 * (1 + quantizer), math.inf)
            edges[0] = 0
            edges[1] += 0.15
            counts[index, quantizer] = np.maximum(-np.diff(np.exp(-edges / scale)), 1e-4)
    return _PRIOR_WEIGHT * counts / counts.sum(axis=2, keepdims=True)


def _class_start(index: int) -> int:
    """Return the smallest total of a neighborhood of a class."""
    return index if index < 4 else (2 + index % 2) << (index // 2 - 1)


@compiled
def _classify(subbands, history, guess, classes):
    """Fill `classes` with those of the neighborhoods, as they are around a first guess at the magnitudes."""
    end = 0
    for b in range(len(subbands.counts)):
        start, end = end, end + subbands.counts[b]
        for n in range(start, end):
            classes[n] = min(half(neighborhood(subbands, history, guess, b, n).total), _CLASSES - 1)


@compiled
def _find_path(search):
    """Fill the levels and quantizers of a search with those of the path of least cost."""
    costs, arrived = np.full(_STATES, np.inf), np.zeros(_STATES)
    costs[0] = 0.0
    levels, prices = np.zeros((2, _CANDIDATES), np.int64), np.zeros((2, _CANDIDATES))
    for n in range(len(search.magnitudes)):
        for quantizer in range(2):
            _price(search, n, quantizer, levels[quantizer], prices[quantizer])
        arrived[:] = np.inf
        for state in range(_STATES):
            for i in range(_CANDIDATES):
                level = levels[state >> 1, i]
                cost = costs[state] + prices[state >> 1, i]
                after = NEXT_STATE[state, level & 1]
                if cost < arrived[after]:
                    arrived[after] = cost
                    search.paths[n, after] = level << 2 | state
        least = min(min(arrived[0], arrived[1]), min(arrived[2], arrived[3]))
        for state in range(_STATES):
            costs[state] = arrived[state] - least
    _trace(search, costs)


@inlined
def _price(search, n, quantizer, levels, prices):
    """Fill in the candidates for a level, the two nearest and 0, and their costs."""
    magnitude, offset = search.magnitudes[n], 0.5 * quantizer
    levels[0] = int(magnitude + offset)
    levels[1] = levels[0] + 1
    for i in range(_CANDIDATES):
        level = levels[i]
        counted = min(level, _COUNTED_LEVELS - 1)
        value = level - offset if level else 0.0
        bits = search.bits[search.classes[n], quantizer, counted] + _BITS_PER_LEVEL * (level - counted)
        prices[i] = (magnitude - value) ** 2 + COST_PER_BIT * bits


@inlined
def _trace(search, costs):
    """Follow the path of least cost back from its last state."""
    state = 0
    for other in range(1, _STATES):
        if costs[other] < costs[state]:
            state = other
    for n in range(len(search.levels) - 1, -1, -1):
        search.levels[n] = search.paths[n, state] >> 2
        state = search.paths[n, state] & 3
        search.quantizers[n] = state >> 1
