"""Adaptive prediction of quantized coefficients, as a context of their magnitudes and signs.

Wavelet coefficients are nearly uncorrelated where an image is smooth. They are not where detectors leave stripes that
georeferencing has turned, or where the components of a region depend on one another otherwise than in the rest of the
tile. The value of a coefficient is therefore predicted from its neighbors and from other components at its place by
weights that follow the coefficients: the normalized least mean squares filter (Widrow and Hoff, "Adaptive switching
circuits", 1960; Nagumo and Noda, doi 10.1109/TAC.1967.1098599). Nothing here uses floating point.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.entropy.compiled import inlined
from coding.entropy.neighbors import at
from coding.entropy.vectors import LANES, add_products_of_words, aligned_zeros, sums_of_words, word_at

UNIT_BITS = 16
"""An expected value is in half steps / 2^`UNIT_BITS`."""

_LARGEST = 8  # magnitude of an input in half steps
_LARGEST_TARGET = 12  # magnitude that the prediction is adapted to
_NEIGHBORS = (1, 5, 7, 3)  # in the rows from the third above to that of the coefficient; see `neighbors`
_STRONGEST = 8  # first components
_LATEST = 8  # last components
_OTHERS = _STRONGEST + _LATEST
_NEIGHBORS_SHIFT, _OTHERS_SHIFT = 6, 5  # of the adaptation of weights
_REGULARIZATION = 4
_RECIPROCAL_BITS = 16
_RECIPROCALS = (1 << _RECIPROCAL_BITS) // (np.arange((sum(_NEIGHBORS) + _OTHERS) * _LARGEST**2 + 1) + _REGULARIZATION)
_NEAR_WEIGHTS = LANES * len(_NEIGHBORS)  # for each orientation: a vector for each row, with unused lanes
_ROW_MASKS = tuple((1 << 8 * count) - 1 for count in _NEIGHBORS)


class Expectation(NamedTuple):
    """The adaptive filter, and what it predicts from.

    Attributes:
        near: int32 (orientations x `_NEAR_WEIGHTS`,), weights of neighbors in units of 2^-`UNIT_BITS`.
        far: int32 (orientations x others,), weights of other components.
        values: int8 (buffer + `LANES`,), clipped values of the component that is being coded.
        others: int8 (buffer x others,), clipped values of other components.
        energies: int32 (buffer,), sums of the squares of `others`.
    """

    near: np.ndarray
    far: np.ndarray
    values: np.ndarray
    others: np.ndarray
    energies: np.ndarray


def new_expectation(size: int, orientations: int) -> Expectation:
    """Return the filter before the first component, for buffers of `size` numbers."""
    return Expectation(
        aligned_zeros((orientations * _NEAR_WEIGHTS,), np.int32),
        aligned_zeros((orientations * _OTHERS,), np.int32),
        np.zeros(size + LANES, np.int8),
        np.zeros(size * _OTHERS, np.int8),
        np.zeros(size, np.int32),
    )


def finish_component(expectation: Expectation, index: int) -> None:
    """Prepare the filter for the next component, after component `index`."""
    slot = index if index < _STRONGEST else _STRONGEST + index % _LATEST
    energies = expectation.energies
    others, values = expectation.others[slot::_OTHERS], expectation.values[: len(energies)]
    energies += np.square(values, dtype=np.int32) - np.square(others, dtype=np.int32)
    others[:] = values
    values[:] = 0
    expectation.far[:] = 0


@inlined
def neighbors(expectation, p, stride, before):
    """Return the values that the coefficient at `p` is predicted from, as words of eight.

    Args:
        expectation: an `Expectation`.
        p: place in the buffer.
        stride: distance of two rows.
        before: `preceding` values.
    """
    values, others = expectation.values, expectation.others
    near = (
        word_at(values, p - 3 * stride) & _ROW_MASKS[0],
        word_at(values, p - 2 * stride - 2) & _ROW_MASKS[1],
        word_at(values, p - stride - 3) & _ROW_MASKS[2],
        before,
    )
    return near, (word_at(others, _OTHERS * p), word_at(others, _OTHERS * p + LANES))


@inlined
def preceding(expectation, p):
    """Return the word of the values to the left of `p`; `follow` keeps it up to date without a look at memory."""
    return word_at(expectation.values, p - 3) & _ROW_MASKS[3]


@inlined
def expect(expectation, orientation, p, words):
    """Return the expected value of the coefficient at `p`, and the energy of what it is predicted from.

    Only damaged streams can make the sums wrap around.

    Args:
        expectation: an `Expectation`.
        orientation: of the subband.
        p: place in the buffer.
        words: what `neighbors` returned.
    """
    near, energy = sums_of_words(expectation.near, orientation * _NEAR_WEIGHTS, words[0])
    far, _ = sums_of_words(expectation.far, orientation * _OTHERS, words[1])
    return near + far, energy + at(expectation.energies, p)


@inlined
def adapt(expectation, orientation, p, words, forecast, value):
    """Store the value of the coefficient at `p`, and adapt the weights to it.

    Args:
        expectation: an `Expectation`.
        orientation: of the subband.
        p: place in the buffer.
        words: what `neighbors` returned.
        forecast: what `expect` returned.
        value: the coefficient in half steps.

    Returns:
        The word of the values to the left of `p` + 1.
    """
    expected, energy = forecast
    clipped = min(max(value, -_LARGEST), _LARGEST)
    expectation.values[np.uint64(p)] = clipped
    if energy:
        error = (min(max(value, -_LARGEST_TARGET), _LARGEST_TARGET) << UNIT_BITS) - expected
        gain = (error * at(_RECIPROCALS, energy)) >> _RECIPROCAL_BITS
        add_products_of_words(expectation.near, orientation * _NEAR_WEIGHTS, words[0], gain, _NEIGHBORS_SHIFT)
        add_products_of_words(expectation.far, orientation * _OTHERS, words[1], gain, _OTHERS_SHIFT)
    return (words[0][3] >> 8) | (clipped & 255) << 16
