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

UNIT_BITS = 16
"""An expected value is in half steps / 2^`UNIT_BITS`."""

_LARGEST = 8  # magnitude of an input in half steps
_LARGEST_TARGET = 12  # magnitude that the prediction is adapted to
_NEIGHBORS = 16
_STRONGEST = 8  # first components
_LATEST = 8  # last components
_INPUTS = _NEIGHBORS + _STRONGEST + _LATEST
_NEIGHBORS_SHIFT, _OTHERS_SHIFT = 6, 5  # of the adaptation of weights
_REGULARIZATION = 4
_RECIPROCAL_BITS = 16
_RECIPROCALS = (1 << _RECIPROCAL_BITS) // (np.arange(_INPUTS * _LARGEST**2 + 1) + _REGULARIZATION)


class Expectation(NamedTuple):
    """The adaptive filter, and what it predicts from.

    Attributes:
        weights: int32 (orientations, inputs), in units of 2^-`UNIT_BITS`.
        inputs: int32 (inputs,), scratch.
        values: int8 (buffer,), clipped values of the component that is being coded.
        others: int8 (buffer, others), clipped values of other components.
    """

    weights: np.ndarray
    inputs: np.ndarray
    values: np.ndarray
    others: np.ndarray


def new_expectation(size: int, orientations: int) -> Expectation:
    """Return the filter before the first component, for buffers of `size` numbers."""
    return Expectation(
        np.zeros((orientations, _INPUTS), np.int32),
        np.zeros(_INPUTS, np.int32),
        np.zeros(size, np.int8),
        np.zeros((size, _STRONGEST + _LATEST), np.int8),
    )


def finish_component(expectation: Expectation, index: int) -> None:
    """Prepare the filter for the next component, after component `index`."""
    slot = index if index < _STRONGEST else _STRONGEST + index % _LATEST
    expectation.others[:, slot] = expectation.values
    expectation.values[:] = 0
    expectation.weights[:, _NEIGHBORS:] = 0


@inlined
def expect(expectation, orientation, p, stride):
    """Return the expected value of the coefficient at `p`, and the energy of the inputs, which are kept for `adapt`."""
    inputs, weights = expectation.inputs, expectation.weights
    _gather(expectation, p, stride)
    energy, total = np.int64(0), np.int64(0)
    for i in range(_INPUTS):
        number = np.int64(inputs[i])
        energy += number * number
        total += number * weights[orientation, i]
    return total, energy


@inlined
def _gather(expectation, p, stride):
    """Fill in the inputs."""
    inputs, values, others = expectation.inputs, expectation.values, expectation.others
    inputs[0] = values[p - 3 * stride]
    for x in range(5):
        inputs[1 + x] = values[p - 2 * stride - 2 + x]
    for x in range(7):
        inputs[6 + x] = values[p - stride - 3 + x]
    for x in range(3):
        inputs[13 + x] = values[p - 3 + x]
    for i in range(_STRONGEST + _LATEST):
        inputs[_NEIGHBORS + i] = others[p, i]


@inlined
def adapt(expectation, orientation, p, expected, energy, value):
    """Store the value of the coefficient at `p` in half steps, and adapt the weights to it.

    Args:
        expectation: an `Expectation`.
        orientation: of the subband.
        p: place in the buffer.
        expected: what `expect` returned.
        energy: what `expect` returned.
        value: the coefficient in half steps.
    """
    expectation.values[p] = min(max(value, -_LARGEST), _LARGEST)
    if not energy:
        return
    inputs, weights = expectation.inputs, expectation.weights
    error = (min(max(value, -_LARGEST_TARGET), _LARGEST_TARGET) << UNIT_BITS) - expected
    gain = (error * _RECIPROCALS[energy]) >> _RECIPROCAL_BITS
    for i in range(_NEIGHBORS):
        weights[orientation, i] += (gain * inputs[i] + (1 << (_NEIGHBORS_SHIFT - 1))) >> _NEIGHBORS_SHIFT
    for i in range(_NEIGHBORS, _INPUTS):
        weights[orientation, i] += (gain * inputs[i] + (1 << (_OTHERS_SHIFT - 1))) >> _OTHERS_SHIFT
