"""Dependent quantization: two quantizers whose turn the numbers before decide, and the numbers that cost least.

Quantizer 0 has the values 0, 1, -1, 2, -2, ... in steps, quantizer 1 the values 0, 1/2, -1/2, 3/2, -3/2, ...; which of
them a coefficient is for follows from a state, and the state from the parities of the numbers before it. Together they
fill the line twice as densely as each alone, so that the encoder, which looks for the best path through all states
(Viterbi, doi 10.1109/TIT.1967.1054010), has about 1 dB less error at the same rate: trellis-coded quantization
(Marcellin and Fischer, doi 10.1109/26.46532), in the form of Schwarz et al. (doi 10.1109/DCC.2019.00022).

The best path is that with the least squared error plus `PRICE` times bits. Only the encoder needs to know bits, and
they are estimated: from how large the neighbors of a coefficient are and how frequent numbers were there so far.
"""

from __future__ import annotations

import math

import numpy as np

from coding.entropy.compiled import compiled
from coding.kltcm.wavelet import FIRST, HEIGHT, PARENT, STRIDE, WIDTH

NEXT = np.array([[0, 2], [2, 0], [1, 3], [3, 1]], np.int64)
"""The state after a state and the parity of its number; states 0 and 1 use quantizer 0, 2 and 3 quantizer 1."""

PRICE = 0.14
"""Of a bit, in squared steps."""

_STATES = len(NEXT)
_NUMBERS = 16  # whose frequencies are counted; the bits of larger ones grow by `_SLOPE` each
_SLOPE = 0.3
_CLASSES = 40  # of neighborhoods
_PRIOR = 30  # numbers that a class begins with
_DEAD = 0.2  # steps that a first guess at a number is rounded further down


class Trellis:
    """Quantizes planes one after another; what it learns of one helps to estimate bits in the next.

    Args:
        table: of `Subbands`.
        pixels: H * W.
        size: of a buffer.
    """

    def __init__(self, table: np.ndarray, pixels: int, size: int):
        self._table = table
        self._counts = _typical_counts()
        self._bits = np.zeros_like(self._counts)
        self._guess = np.zeros(size, np.int64)
        self._classes = np.zeros(pixels, np.int64)
        self._paths = np.zeros((pixels, _STATES), np.int64)

    def quantize(self, coefficients: np.ndarray, last: np.ndarray, before: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Numbers, without sign, of coefficients in steps.

        Args:
            coefficients: float64 buffer.
            last, before, mean: int64 buffers, the context that earlier planes are, see `code_plane`.

        Returns:
            int64 buffer.
        """
        magnitudes = np.abs(coefficients)
        np.multiply(2, (magnitudes + (0.5 - _DEAD)).astype(np.int64), out=self._guess)
        frequencies = self._counts / self._counts.sum(axis=2, keepdims=True)
        np.negative(np.log2(frequencies), out=self._bits)
        self._bits[:, :, 1:] += 1  # signs
        numbers = np.zeros(len(coefficients), np.int64)
        _classify(self._table, self._guess, last, before, mean, self._classes)
        _find_path(self._table, magnitudes, self._classes, self._bits, self._counts, self._paths, numbers)
        return numbers


def _typical_counts() -> np.ndarray:
    """Of each class and quantizer, how frequent numbers are if they are Laplacian of the class's mean."""
    counts = np.zeros((_CLASSES, 2, _NUMBERS))
    for index in range(_CLASSES):
        scale = max(_class_start(index) / 140, 0.03) + 0.15
        for quantizer in range(2):
            edges = np.append(np.arange(_NUMBERS) - 0.5 * (1 + quantizer), math.inf)
            edges[0] = 0
            edges[1] += 0.15
            counts[index, quantizer] = np.maximum(-np.diff(np.exp(-edges / scale)), 1e-4)
    return _PRIOR * counts / counts.sum(axis=2, keepdims=True)


def _class_start(index: int) -> int:
    """The smallest neighborhood of a class."""
    return index if index < 4 else (2 + index % 2) << (index // 2 - 1)


@compiled
def _classify(table, guess, last, before, mean, classes):
    """How large neighbors are, in half octaves, for each coefficient in the order of coding."""
    n = 0
    for b in range(table.shape[0]):
        first, stride, parent = table[b, FIRST], table[b, STRIDE], table[b, PARENT]
        for y in range(table[b, HEIGHT]):
            for x in range(table[b, WIDTH]):
                p = first + y * stride + x
                near = 2 * (guess[p - stride] + guess[p - 1]) + guess[p - stride - 1] + guess[p - stride + 1]
                near += guess[p - 2 * stride] + guess[p - 2]
                across = 4 * last[p] + last[p - 1] + last[p + 1] + last[p - stride] + last[p + stride] + 2 * before[p]
                over = 0
                if parent >= 0:
                    row, column = min(y >> 1, table[parent, HEIGHT] - 1), min(x >> 1, table[parent, WIDTH] - 1)
                    over = guess[table[parent, FIRST] + row * table[parent, STRIDE] + column]
                total = 4 * near + 3 * across + 5 * over + (mean[p] >> 2)
                octaves = 0
                while total >= 4:
                    total >>= 1
                    octaves += 1
                classes[n] = min(2 * octaves + total, _CLASSES - 1)
                n += 1


@compiled
def _find_path(table, magnitudes, classes, bits, counts, paths, numbers):
    """Fill `numbers` with the best path and count them in `counts`."""
    costs, arrived = np.full(4, np.inf), np.zeros(4)
    costs[0] = 0.0
    candidates, prices = np.zeros((2, 3), np.int64), np.zeros((2, 3))
    n = 0
    for b in range(table.shape[0]):
        for y in range(table[b, HEIGHT]):
            for x in range(table[b, WIDTH]):
                magnitude = magnitudes[table[b, FIRST] + y * table[b, STRIDE] + x]
                for quantizer in range(2):
                    shift = 0.5 * quantizer
                    lower = int(magnitude + shift)
                    candidates[quantizer, 0], candidates[quantizer, 1] = lower, lower + 1
                    for i in range(3):
                        number = candidates[quantizer, i]
                        counted = min(number, _NUMBERS - 1)
                        value = number - shift if number else 0.0
                        rate = bits[classes[n], quantizer, counted] + _SLOPE * (number - counted)
                        prices[quantizer, i] = (magnitude - value) ** 2 + PRICE * rate
                arrived[:] = np.inf
                for state in range(4):
                    quantizer = state >> 1
                    for i in range(3):
                        number = candidates[quantizer, i]
                        cost = costs[state] + prices[quantizer, i]
                        after = NEXT[state, number & 1]
                        if cost < arrived[after]:
                            arrived[after] = cost
                            paths[n, after] = number << 2 | state
                least = min(min(arrived[0], arrived[1]), min(arrived[2], arrived[3]))
                for state in range(4):
                    costs[state] = arrived[state] - least
                n += 1
    state = 0
    for other in range(1, 4):
        if costs[other] < costs[state]:
            state = other
    for b in range(table.shape[0] - 1, -1, -1):
        for y in range(table[b, HEIGHT] - 1, -1, -1):
            for x in range(table[b, WIDTH] - 1, -1, -1):
                n -= 1
                number, state = paths[n, state] >> 2, paths[n, state] & 3
                numbers[table[b, FIRST] + y * table[b, STRIDE] + x] = number
                counts[classes[n], state >> 1, min(number, _NUMBERS - 1)] += 1
