"""Coding small arrays of whole numbers without loss, for side information such as the basis of a transform.

Each number is predicted from the one before it in its row, by a weight that the row carries, and what remains is split
into binary decisions: how many bits its magnitude has (unary), those bits (Exp-Golomb), its sign. An adaptive binary
range coder (Martin, "Range encoding", Video & Data Recording Conference 1979) codes the decisions, each with the
probability that decisions of its context had so far; the context of a magnitude is how large its neighbors are.
Nothing here computes with floating point, so that every machine decodes the same numbers.
"""

from __future__ import annotations

import numpy as np

from coding.base import DamagedError
from coding.entropy.compiled import compiled

_CERTAINTY = 2**16  # a probability of 1
_LEAST = 2**5  # smallest probability of a decision: no surprise costs more than 11 bits
_MEMORY = 400  # decisions: the probabilities of a context follow changes about so fast
_INTERVAL = 40  # bits of the coder's interval, of which 8 leave it at a time
_LOW, _WIDTH, _POSITION, _CACHE, _PENDING, _IS_DECODER = range(6)  # what the coder's state holds

_WEIGHTS = 9  # of the prediction: 0 to 8 eighths of the number before
_SIZES = 48  # contexts of a magnitude, by its neighbors
_MOST_BITS = 34  # of a remainder: numbers have 32 bits, their predictions no more
_BYTES_EACH = 2 * _MOST_BITS * 11 // 8  # at most, of a number


def encode_integers(values: np.ndarray) -> bytes:
    """Whole numbers (..., L) that int32 holds to bytes: the fewer, the more alike neighbors in a row are."""
    if not values.size:
        return b""
    rows = values.reshape(-1, values.shape[-1]).astype(np.int64)
    data = np.zeros(_BYTES_EACH * rows.size + 8 * len(rows) + 16, np.uint8)
    length = _encode(rows, _best_weights(rows), data)
    return data[:length].tobytes()


def decode_integers(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of `encode_integers`, int32, by their shape.

    Raises:
        DamagedError: bytes that hold no such array.
    """
    rows = np.zeros(shape, np.int64).reshape(-1, shape[-1] or 1)
    position = _decode(rows, np.frombuffer(data, np.uint8).copy()) if rows.size else 0
    limits = np.iinfo(np.int32)
    # The encoder drops the zeros at the end, and the decoder takes as many as it wants: it is told by bytes too many.
    if len(data) > position or rows.min(initial=0) < limits.min or rows.max(initial=0) > limits.max:
        raise DamagedError("an array of whole numbers is damaged")
    return rows.astype(np.int32).reshape(shape)


def _best_weights(rows: np.ndarray) -> np.ndarray:
    """The weight of each row that leaves the least to code."""
    before = np.pad(rows[:, :-1], ((0, 0), (1, 0)))
    costs = [
        np.log2(1 + np.abs(rows - ((weight * before + 4) >> 3)).astype(np.float64)).sum(axis=1)
        for weight in range(_WEIGHTS)
    ]
    return np.argmin(costs, axis=0)


# -- the model ------------------------------------------------------------------------------------


@compiled
def _encode(rows, weights, data):
    """Code `rows` (R, L) into `data`; returns how many bytes of it that took."""
    coder = np.zeros(6, np.int64)
    coder[_WIDTH] = 1 << _INTERVAL
    coder[_CACHE] = -1
    _code_rows(rows, weights, coder, data)
    return _finish(coder, data)


@compiled
def _decode(rows, data):
    """Fill `rows` (R, L) from `data`; returns how many bytes the encoder had before it dropped zeros at the end."""
    coder = np.zeros(6, np.int64)
    coder[_WIDTH] = 1 << _INTERVAL
    coder[_IS_DECODER] = 1
    for _ in range(_INTERVAL // 8):
        _shift(coder, data)
    _code_rows(rows, np.zeros(rows.shape[0], np.int64), coder, data)
    return coder[_POSITION]


@compiled
def _code_rows(rows, weights, coder, data):
    """Both directions in one walk, so that they cannot differ: an encoder reads `rows`, a decoder fills it."""
    weight_model = _fresh_model(1, 16)
    bits_model = _fresh_model(_SIZES, _MOST_BITS + 1)
    mantissa_model = _fresh_model(_MOST_BITS + 1, _MOST_BITS + 4)
    sign_model = _fresh_model(1, 1)
    above = np.zeros(rows.shape[1] + 2, np.int64)
    for i in range(rows.shape[0]):
        weight = min(_code_bits(coder, data, weight_model[0], weights[i], 4), _WEIGHTS - 1)
        sizes = np.zeros(rows.shape[1] + 2, np.int64)  # magnitudes of the remainders, two zeros after the row
        for j in range(rows.shape[1]):
            before = rows[i, j - 1] if j else 0
            predicted = (weight * before + 4) >> 3
            context = _context(sizes, above, i, j)
            remainder = _code_number(
                coder, data, bits_model[context], mantissa_model, sign_model[0, 0], rows[i, j] - predicted
            )
            rows[i, j] = predicted + remainder
            sizes[j] = abs(remainder)
        above = sizes


@compiled
def _context(sizes, above, i, j):
    """How large a remainder probably is, in half octaves: from two before it and three of the row above it."""
    left = 2 * sizes[j - 1] + sizes[j - 2] if j > 1 else 3 * sizes[0] if j else 0
    over = 2 * above[j] + above[j + 1] + (above[j - 1] if j else above[j])
    if i == 0:
        total = 7 * left // 3
    elif j == 0:
        total = 7 * over // 4
    else:
        total = left + over
    bits = _bit_length(total)
    if bits < 2:
        return bits
    return min(2 * bits - 2 + ((total >> (bits - 2)) & 1), _SIZES - 1)


@compiled
def _code_number(coder, data, bits_model, mantissa_model, sign_model, number):
    """A whole number of at most `_MOST_BITS` bits; an encoder is given it."""
    magnitude = abs(number)
    target = _bit_length(magnitude)
    bits = 0
    while bits < _MOST_BITS and _code_bit(coder, data, bits_model[bits], int(bits < target)):
        bits += 1
    if bits == 0:
        return 0
    decoded = 1
    for place in range(bits - 2, -1, -1):
        # The two bits behind the first have contexts of what came before them, the others of their place.
        context = decoded if decoded < 4 else 4 + place
        decoded = 2 * decoded + _code_bit(coder, data, mantissa_model[bits, context], (magnitude >> place) & 1)
    return -decoded if _code_bit(coder, data, sign_model, int(number < 0)) else decoded


@compiled
def _code_bits(coder, data, model, number, count):
    """A number of `count` bits, by a tree of decisions."""
    node = 1
    for place in range(count - 1, -1, -1):
        node = 2 * node + _code_bit(coder, data, model[node], (number >> place) & 1)
    return node - (1 << count)


@compiled
def _bit_length(number):
    bits = 0
    while number >> bits:
        bits += 1
    return bits


# -- the coder ------------------------------------------------------------------------------------


@compiled
def _fresh_model(rows, columns):
    """Of each context, the probability of a 0 and 2 + how many decisions it rests on."""
    model = np.empty((rows, columns, 2), np.int64)
    model[:, :, 0] = _CERTAINTY // 2
    model[:, :, 1] = 2
    return model


@compiled
def _code_bit(coder, data, model, bit):
    """Code one decision and learn from it; an encoder is given `bit`, both return it."""
    bound = (coder[_WIDTH] // _CERTAINTY) * model[0]
    if coder[_IS_DECODER]:
        bit = int(coder[_LOW] >= bound)
    if bit:
        coder[_LOW] += -bound if coder[_IS_DECODER] else bound
        coder[_WIDTH] -= bound
    else:
        coder[_WIDTH] = bound
    # While few decisions are known this is the estimate of Krichevsky and Trofimov (doi 10.1109/TIT.1981.1056331).
    model[0] += ((1 - bit) * _CERTAINTY - model[0]) // model[1]
    model[0] = min(max(model[0], _LEAST), _CERTAINTY - _LEAST)
    model[1] = min(model[1] + 1, _MEMORY)
    while coder[_WIDTH] < 1 << (_INTERVAL - 8):
        coder[_WIDTH] <<= 8
        _shift(coder, data)
    return bit


@compiled
def _shift(coder, data):
    """Move the interval's first 8 bits out of the encoder's `low`, or the next 8 bits into the decoder's."""
    if coder[_IS_DECODER]:
        position = coder[_POSITION]
        coder[_LOW] = (coder[_LOW] << 8) + (data[position] if position < len(data) else 0)
        coder[_POSITION] += 1
        return
    top = coder[_LOW] >> (_INTERVAL - 8)
    if top == 0xFF:  # a carry may still run through it
        coder[_PENDING] += 1
    else:
        carry = top >> 8
        if coder[_CACHE] >= 0:
            _put(coder, data, coder[_CACHE] + carry)
        while coder[_PENDING]:
            _put(coder, data, (0xFF + carry) & 0xFF)
            coder[_PENDING] -= 1
        coder[_CACHE] = top & 0xFF
    coder[_LOW] = (coder[_LOW] & ((1 << (_INTERVAL - 8)) - 1)) << 8


@compiled
def _put(coder, data, byte):
    data[coder[_POSITION]] = byte
    coder[_POSITION] += 1


@compiled
def _finish(coder, data):
    """Write the number of the interval with the most zeros at its end, without these; returns the length."""
    zeros = _INTERVAL
    while True:
        number = ((coder[_LOW] + (1 << zeros) - 1) >> zeros) << zeros
        if number < coder[_LOW] + coder[_WIDTH]:
            break
        zeros -= 1
    coder[_LOW] = number
    for _ in range(_INTERVAL // 8 + 1):
        _shift(coder, data)
    while coder[_POSITION] and data[coder[_POSITION] - 1] == 0:
        coder[_POSITION] -= 1
    return coder[_POSITION]
