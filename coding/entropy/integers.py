"""Lossless coding of small arrays of integers, for side information such as the basis of a transform.

Each number is predicted from the one to its left, with a weight for each row, which is stored. The remainder is split
into binary decisions: the number of bits of its magnitude (unary), the bit below the highest, its sign. They are coded
with mixed contexts that depend on the neighboring remainders; further bits are stored as they are. The decoder does not
use floating point, so that every machine decodes the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coding.base import DamagedError
from coding.entropy.compiled import compiled, inlined
from coding.entropy.mixing import Mixer, code_mixed, new_mixer
from coding.entropy.neighbors import (
    PAD,
    above_sum,
    bit_length,
    half,
    left_sum,
    surround_left,
    surround_right,
)
from coding.entropy.range_coder import check_decoder, code_bits, finish_encoder, new_decoder, new_encoder

_WEIGHTS = 9  # of the prediction: 0 to 8 eighths of the number to the left
_WEIGHT_BITS = 4
_MAX_BITS = 33  # of a remainder, as numbers have 32 bits
_NODES = _MAX_BITS + 1
_MAX_BYTES = 96  # of a number: some 40 decisions of at most 2 bytes each
_SIZES = 64
_PAIRED_SIZES = _SIZES // 2  # in a context of two sizes
_COLUMNS = 256

# First counter of each kind of context; docs/format.md uses the same names.
_BY_CAUSAL = 0
_BY_LEFT = _BY_CAUSAL + _SIZES * _NODES
_BY_ABOVE = _BY_LEFT + _SIZES * _NODES
_BY_SIDES = _BY_ABOVE + _SIZES * _NODES
_BY_COLUMN = _BY_SIDES + _PAIRED_SIZES * _PAIRED_SIZES * _NODES
_LENGTH_COUNTERS = _BY_COLUMN + _COLUMNS * _NODES


class Model(NamedTuple):
    """The adaptive state after the numbers so far.

    Attributes:
        weights: mixer of the weights of rows.
        lengths: mixer of the numbers of bits.
        bits: mixer of the bits below the highest.
        signs: mixer of signs.
        stride: distance of two rows in the planes.
        magnitudes: int64 ((R + 4) (L + 4),), a plane of the magnitudes of the remainders.
        signed: int64 ((R + 4) (L + 4),), a plane: 0 for remainders of 0, 1 for positive, 2 for negative ones.
    """

    weights: Mixer
    lengths: Mixer
    bits: Mixer
    signs: Mixer
    stride: int
    magnitudes: np.ndarray
    signed: np.ndarray


def encode_integers(values: np.ndarray) -> bytes:
    """Encode an array (..., L) of integers within the range of int32.

    The more alike neighbors along the last axis are, the fewer bytes it takes.
    """
    if not values.size:
        return b""
    rows = values.reshape(-1, values.shape[-1]).astype(np.int64)
    coder = new_encoder(_MAX_BYTES * (rows.size + len(rows)))
    _code_rows(coder, _new_model(*rows.shape), rows, _best_weights(rows))
    return finish_encoder(coder)


def decode_integers(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array that `encode_integers` encoded, int32.

    Args:
        data: the bytes.
        shape: shape of the array.

    Raises:
        DamagedError: `data` is damaged.
    """
    rows = np.zeros(shape, np.int64).reshape(-1, shape[-1] or 1)
    coder = new_decoder(data)
    if rows.size:
        _code_rows(coder, _new_model(*rows.shape), rows, np.zeros(len(rows), np.int64))
        check_decoder(coder)
    limits = np.iinfo(np.int32)
    if (data and not rows.size) or rows.min(initial=0) < limits.min or rows.max(initial=0) > limits.max:
        raise DamagedError(f"an array of integers of shape {shape} is damaged")
    return rows.astype(np.int32).reshape(shape)


def _new_model(rows: int, columns: int) -> Model:
    stride = columns + 2 * PAD
    size = (rows + 2 * PAD) * stride
    return Model(
        new_mixer(1 << _WEIGHT_BITS, 1, 1),
        new_mixer(_LENGTH_COUNTERS, _NODES, 5),
        new_mixer((1 + _SIZES) * _NODES, 1, 2),
        new_mixer(1 + 3**2, 1, 2),
        stride,
        np.zeros(size, np.int64),
        np.zeros(size, np.int64),
    )


def _best_weights(rows: np.ndarray) -> np.ndarray:
    """Return the weight of each row that leaves the smallest remainders."""
    before = np.pad(rows[:, :-1], ((0, 0), (1, 0)))
    costs = [
        np.log2(1 + np.abs(rows - ((weight * before + 4) >> 3)).astype(np.float64)).sum(axis=1)
        for weight in range(_WEIGHTS)
    ]
    return np.argmin(costs, axis=0)


@compiled
def _code_rows(coder, model, rows, weights):
    """Encode an array (R, L), or decode into it."""
    for i in range(rows.shape[0]):
        weight = min(_code_weight(coder, model, weights[i]), _WEIGHTS - 1)
        start = (i + PAD) * model.stride + PAD
        surround_left(model.magnitudes, start, model.stride)
        surround_left(model.signed, start, model.stride)
        number = np.int64(0)
        for j in range(rows.shape[1]):
            predicted = (weight * number + 4) >> 3
            number = predicted + _code_remainder(coder, model, start + j, j, rows[i, j] - predicted)
            rows[i, j] = number
        surround_right(model.magnitudes, start, model.stride)
        surround_right(model.signed, start, model.stride)


@inlined
def _code_weight(coder, model, weight):
    node = 1
    for place in range(_WEIGHT_BITS - 1, -1, -1):
        node = 2 * node + code_mixed(coder, model.weights, (node,), 0, 0, (weight >> place) & 1)
    return node - (1 << _WEIGHT_BITS)


@inlined
def _code_remainder(coder, model, p, column, remainder):
    """Code the remainder at place `p`; return it."""
    left, above = left_sum(model.magnitudes, p), above_sum(model.magnitudes, p, model.stride)
    causal = min(half(left + above), _SIZES - 1)
    left, above = min(half(left), _SIZES - 1), min(half(above), _SIZES - 1)
    contexts = (
        _BY_CAUSAL + causal * _NODES,
        _BY_LEFT + left * _NODES,
        _BY_ABOVE + above * _NODES,
        _BY_SIDES + ((left >> 1) * _PAIRED_SIZES + (above >> 1)) * _NODES,
        _BY_COLUMN + min(column, _COLUMNS - 1) * _NODES,
    )
    magnitude = _code_magnitude(coder, model, contexts, causal, abs(remainder))
    sign = _code_sign(coder, model, p, remainder < 0) if magnitude else 0
    model.magnitudes[p], model.signed[p] = magnitude, sign
    return -magnitude if sign == 2 else magnitude


@inlined
def _code_magnitude(coder, model, contexts, causal, magnitude):
    target = bit_length(magnitude)
    length = np.int64(0)
    while length < _MAX_BITS and code_mixed(coder, model.lengths, contexts, 0, length, int(length < target)):
        length += 1
    if length < 2:
        return length
    below = length - 2
    contexts = (length, (1 + causal) * _NODES + length)
    second = code_mixed(coder, model.bits, contexts, 0, 0, (magnitude >> below) & 1)
    return ((2 + second) << below) | code_bits(coder, magnitude & ((1 << below) - 1), below)


@inlined
def _code_sign(coder, model, p, is_negative):
    """Code the sign of a remainder that is not 0; return 1 if it is positive, 2 if it is negative."""
    sides = 3 * model.signed[p - 1] + model.signed[p - model.stride]
    return 1 + code_mixed(coder, model.signs, (0, 1 + sides), 0, 0, int(is_negative))
