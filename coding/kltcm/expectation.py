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

UNIT_BITS = 16
"""An expected value is in half steps / 2^`UNIT_BITS`."""

_LARGEST = 8  # magnitude of an input in half steps
_LARGEST_TARGET = 12  # magnitude that the prediction is adapted to
_NEIGHBORS = 16
_STRONGEST = 8  # first components
_LATEST = 8  # last components
_OTHERS = _STRONGEST + _LATEST
_NEIGHBORS_SHIFT, _OTHERS_SHIFT = 6, 5  # of the adaptation of weights
_REGULARIZATION = 4
_RECIPROCAL_BITS = 16
_RECIPROCALS = (1 << _RECIPROCAL_BITS) // (np.arange((_NEIGHBORS + _OTHERS) * _LARGEST**2 + 1) + _REGULARIZATION)


class Expectation(NamedTuple):
    """The adaptive filter, and what it predicts from.

    Attributes:
        near: int32 (orientations, neighbors), weights in units of 2^-`UNIT_BITS`.
        far: int32 (orientations, others), weights of other components.
        values: int8 (buffer,), clipped values of the component that is being coded.
        others: int8 (buffer, others), clipped values of other components.
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
        np.zeros((orientations, _NEIGHBORS), np.int32),
        np.zeros((orientations, _OTHERS), np.int32),
        np.zeros(size, np.int8),
        np.zeros((size, _OTHERS), np.int8),
        np.zeros(size, np.int32),
    )


def finish_component(expectation: Expectation, index: int) -> None:
    """Prepare the filter for the next component, after component `index`."""
    slot = index if index < _STRONGEST else _STRONGEST + index % _LATEST
    others, values, energies = expectation.others[:, slot], expectation.values, expectation.energies
    energies += np.square(values, dtype=np.int32) - np.square(others, dtype=np.int32)
    others[:] = values
    values[:] = 0
    expectation.far[:] = 0


@inlined
def expect(expectation, orientation, p, stride):
    """Return the expected value of the coefficient at `p`, and the energy of what it is predicted from.

    Sums are kept in int32, which vectorizes; only damaged streams can make them wrap around.
    """
    values, others, weights = (
        expectation.values,
        expectation.others[np.uint64(p)],
        expectation.far[np.uint64(orientation)],
    )
    total, energy = _dot(values, expectation.near[np.uint64(orientation)], p, stride)
    for i in range(_OTHERS):
        total = np.int32(total + np.int32(others[i] * weights[i]))
    return np.int64(total), np.int64(energy) + at(expectation.energies, p)


@inlined
def _dot(values, weights, p, stride):
    """Return the weighted sum of the neighbors of `p`, and the sum of their squares."""
    number = at(values, p - 3 * stride)
    total, energy = np.int32(number * weights[0]), np.int32(number * number)
    for x in range(5):
        number = at(values, p - 2 * stride - 2 + x)
        total, energy = np.int32(total + np.int32(number * weights[1 + x])), np.int32(energy + number * number)
    for x in range(7):
        number = at(values, p - stride - 3 + x)
        total, energy = np.int32(total + np.int32(number * weights[6 + x])), np.int32(energy + number * number)
    for x in range(3):
        number = at(values, p - 3 + x)
        total, energy = np.int32(total + np.int32(number * weights[13 + x])), np.int32(energy + number * number)
    return total, energy


@inlined
def adapt(expectation, orientation, p, stride, expected, energy, value):
    """Store the value of the coefficient at `p` in half steps, and adapt the weights to it.

    Args:
        expectation: an `Expectation`.
        orientation: of the subband.
        p: place in the buffer.
        stride: distance of two rows.
        expected: what `expect` returned.
        energy: what `expect` returned.
        value: the coefficient in half steps.
    """
    values, others, far = expectation.values, expectation.others[np.uint64(p)], expectation.far[np.uint64(orientation)]
    values[p] = min(max(value, -_LARGEST), _LARGEST)
    if not energy:
        return
    error = (min(max(value, -_LARGEST_TARGET), _LARGEST_TARGET) << UNIT_BITS) - expected
    gain = np.int32((error * at(_RECIPROCALS, energy)) >> _RECIPROCAL_BITS)
    for i in range(_OTHERS):
        far[i] += np.int32(gain * others[i] + (1 << (_OTHERS_SHIFT - 1))) >> _OTHERS_SHIFT
    near = expectation.near[np.uint64(orientation)]
    _adapt_weight(near, 0, gain, at(values, p - 3 * stride))
    for x in range(5):
        _adapt_weight(near, 1 + x, gain, at(values, p - 2 * stride - 2 + x))
    for x in range(7):
        _adapt_weight(near, 6 + x, gain, at(values, p - stride - 3 + x))
    for x in range(3):
        _adapt_weight(near, 13 + x, gain, at(values, p - 3 + x))


@inlined
def _adapt_weight(weights, i, gain, number):
    weights[i] += np.int32(gain * number + (1 << (_NEIGHBORS_SHIFT - 1))) >> _NEIGHBORS_SHIFT
