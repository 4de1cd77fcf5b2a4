"""Trellis-coded quantization: two interleaved quantizers, selected by the parity of preceding levels.

Quantizer 0 has the values 0, 1, -1, 2, -2, ... in steps, quantizer 1 the values 0, 1/2, -1/2, 3/2, -3/2, ... A state
selects the quantizer of a coefficient, and the parity of the chosen level leads to the next state. Together the
quantizers are twice as dense as each alone. The encoder searches for the path of least cost through all states
(Viterbi, doi 10.1109/TIT.1967.1054010), which lowers the error by about 1 dB at the same rate: trellis-coded
quantization (Marcellin and Fischer, doi 10.1109/26.46532), in the form of Schwarz et al. (doi 10.1109/DCC.2019.00022).

The cost is the squared error plus `COST_PER_BIT` times the bits. The encoder estimates the bits from the neighborhood
of a coefficient, and from the frequencies of levels in such neighborhoods so far.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from coding.entropy.compiled import compiled, inlined
from coding.entropy.neighbors import half
from coding.entropy.vectors import INT32, INT64, array_data
from coding.kltcm.neighborhoods import History, neighborhood
from coding.kltcm.wavelet import Subbands

_MEMORY = 4  # bits of a state


def _next_states() -> np.ndarray:
    """Return the next state by state and parity of the level (Ungerboeck, doi 10.1109/TIT.1982.1056454, code 23/04)."""
    table = np.zeros((1 << _MEMORY, 2), np.int64)
    for state, parity in np.ndindex(table.shape):
        quantizer, second, third, fourth = (state >> place & 1 for place in (3, 2, 1, 0))
        table[state, parity] = (second ^ quantizer) << 3 | (third ^ parity) << 2 | fourth << 1 | quantizer
    return table


NEXT_STATE = _next_states()
"""The next state, by state and parity of the level."""

QUANTIZER_SHIFT = _MEMORY - 1
"""The states from 2^`QUANTIZER_SHIFT` on use quantizer 1."""

COST_PER_BIT = 0.155
"""Squared steps of error that count as much as a bit."""

_STATES = len(NEXT_STATE)
_BEFORE = NEXT_STATE.argsort(axis=0)
"""The state before, by state and parity of the level."""
_COUNTED_LEVELS = 16  # levels whose frequencies are counted
_BITS_PER_LEVEL = 0.3  # for each level beyond the counted ones
_CLASSES = 40  # of neighborhoods
_KEPT = 0.7  # weight of the frequencies so far from one component to the next; those that are kept too long confirm
# themselves, as the path prefers levels that seem cheap
_PRIOR_WEIGHT = 30  # number of levels that the typical frequencies of a class count as
_GUESS_DEAD_ZONE = 0.2  # steps that are subtracted before a first guess at a level is rounded


class Search(NamedTuple):
    """Input and output of the search for a path.

    Attributes:
        magnitudes: float64 (N,), magnitudes of the coefficients in the order of coding, in steps.
        classes: int64 (N,), classes of their neighborhoods.
        bits: float64 (classes, quantizers, counted levels), estimated bits.
        candidates: int32 (N, quantizers x parities), the best level of each parity for each quantizer.
        is_odd: uint16 (N,), the states, as bits, whose better branch has an odd level.
        levels: int32 buffer, the levels of the best path.
        counts: float64 (classes, quantizers, counted levels), frequencies so far, to which this path is added.
    """

    magnitudes: np.ndarray
    classes: np.ndarray
    bits: np.ndarray
    candidates: np.ndarray
    is_odd: np.ndarray
    levels: np.ndarray
    counts: np.ndarray


class Trellis:
    """Quantizes components one after another; levels counted in one improve the estimates of bits in the next.

    Args:
        subbands: layout of a component.
    """

    def __init__(self, subbands: Subbands) -> None:
        self._subbands = subbands
        self._typical = _typical_counts()
        self._counts = self._typical.copy()
        size = len(subbands.scan)
        self._magnitudes, self._classes = np.zeros(size), np.zeros(size, np.int64)
        self._candidates, self._is_odd = np.zeros((size, 4), np.int32), np.zeros(size, np.uint16)

    def quantize(self, coefficients: np.ndarray, history: History) -> np.ndarray:
        """Quantize a component.

        Args:
            coefficients: float64 buffer, in steps.
            history: magnitudes of the preceding components.

        Returns:
            The levels without signs, an int32 buffer.
        """
        subbands = self._subbands
        magnitudes = np.abs(coefficients)
        guess = 2 * (magnitudes + (0.5 - _GUESS_DEAD_ZONE)).astype(np.int32)
        _classify(subbands, history, guess, self._classes)
        np.take(magnitudes, subbands.scan, out=self._magnitudes)
        bits = -np.log2(self._counts / self._counts.sum(axis=2, keepdims=True))
        bits[:, :, 1:] += 1  # signs
        levels = np.zeros(len(coefficients), np.int32)
        search = Search(self._magnitudes, self._classes, bits, self._candidates, self._is_odd, levels, self._counts)
        _trace(search, subbands.scan, _find_path(search))
        self._counts *= _KEPT
        self._counts += (1 - _KEPT) * self._typical
        return levels


def _typical_counts() -> np.ndarray:
    """Return the expected frequencies of levels by class and quantizer, for Laplacian coefficients."""
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
    """Return the smallest `Neighborhood.total` in a class."""
    return index if index < 4 else (2 + index % 2) << (index // 2 - 1)


@compiled
def _classify(subbands, history, guess, classes):
    """Fill `classes` with the classes of the neighborhoods, computed from a first guess at the magnitudes."""
    end = 0
    for b in range(len(subbands.counts)):
        start, end = end, end + subbands.counts[b]
        for n in range(start, end):
            classes[n] = min(half(neighborhood(subbands, history, guess, b, n).total), _CLASSES - 1)


@compiled
def _find_path(search):
    """Find the paths of least cost to all states; fill in candidates and branches, and return the best last state."""
    costs, prices = np.full(_STATES, np.inf), np.zeros(4)
    costs[0] = 0.0
    for n in range(len(search.magnitudes)):
        for quantizer in range(2):
            _price(search, n, quantizer, prices)
        search.is_odd[n] = _advance(costs, prices)
    return costs.argmin()


@intrinsic
def _advance(typing, costs, prices):
    """Add the better of the two branches into each state to the costs, float64 (states,), of the paths.

    Prices, float64 (4,), are those of the even and odd levels of both quantizers. Returns the states whose better
    branch has an odd level, as bits of an int64.
    """

    def generate(context, builder, signature, args):
        cost_data, price_data = (array_data(context, builder, signature, args, index) for index in (0, 1))
        pointer = builder.bitcast(cost_data, ir.VectorType(ir.DoubleType(), _STATES).as_pointer())
        before = builder.load(pointer, align=8)
        levels = builder.load(builder.bitcast(price_data, ir.VectorType(ir.DoubleType(), 4).as_pointer()), align=8)
        even, odd = (
            builder.fadd(
                _picked(builder, before, _BEFORE[:, parity]),
                _picked(builder, levels, 2 * (_BEFORE[:, parity] >> QUANTIZER_SHIFT) + parity),
            )
            for parity in range(2)
        )
        is_odd = builder.fcmp_ordered("<", odd, even)
        builder.store(builder.select(is_odd, odd, even), pointer, align=8)
        return builder.zext(builder.bitcast(is_odd, ir.IntType(_STATES)), INT64)

    return types.int64(costs, prices), generate


def _picked(builder: ir.IRBuilder, vector: ir.Value, lanes: np.ndarray) -> ir.Value:
    """Return the vector of some lanes of a vector."""
    order = ir.Constant(ir.VectorType(INT32, len(lanes)), lanes.tolist())
    return builder.shuffle_vector(vector, vector, order)


@inlined
def _price(search, n, quantizer, prices):
    """Fill in the levels of both parities, of the two nearest and 0, that cost least, and their costs."""
    magnitude, offset = search.magnitudes[n], 0.5 * quantizer
    below = int(magnitude + offset)
    bits = search.bits[search.classes[n], quantizer]
    for level in range(below, below + 2):
        counted = min(level, _COUNTED_LEVELS - 1)
        error = magnitude - (level - offset) if level else magnitude
        price = error * error + COST_PER_BIT * (bits[counted] + _BITS_PER_LEVEL * (level - counted))
        which = 2 * quantizer + (level & 1)
        search.candidates[n, which], prices[which] = level, price
    zero = magnitude * magnitude + COST_PER_BIT * bits[0]
    if zero < prices[2 * quantizer]:
        search.candidates[n, 2 * quantizer], prices[2 * quantizer] = 0, zero


@compiled
def _trace(search, scan, state):
    """Fill in and count the levels along the best path to the last state."""
    for n in range(len(scan) - 1, -1, -1):
        parity = (search.is_odd[n] >> state) & 1
        state = _BEFORE[state, parity]
        quantizer = state >> QUANTIZER_SHIFT
        level = search.candidates[n, 2 * quantizer + parity]
        search.levels[scan[n]] = level
        search.counts[search.classes[n], quantizer, min(level, _COUNTED_LEVELS - 1)] += 1
