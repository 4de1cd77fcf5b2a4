"""Lossless coding of floats of any type, for floats that are not integer multiples of a common unit.

A float is split into a number and a rest: |float| = (|number| + rest) unit, 0 <= rest < 1. The unit is a power of two,
so small that all but the largest outliers have at most `_NUMBER_BITS` bits, which is far below the noise of a sensor.

Numbers are coded like integers (`coding.prediction.samples`), but prediction errors are counted in floats: `digits` is
the largest number of significant bits of a tile's samples, 24 at most in float32, and only integers with so many bits
are numbers of samples. The rest has those of the `digits` bits that are below the unit. It is noise, and stored as it
is. For floats below the unit the number is 0; their exponents and signs are coded with adaptive contexts. Values that
many samples share are coded on their own (`coding.prediction.frequent`).

Since `digits` depends on the samples alone, float64 whose samples are float32 take as many bytes as float32.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from coding.base import DamagedError, deflate, inflate, join_blocks, split_blocks
from coding.entropy.compiled import compiled, inlined
from coding.entropy.mixing import NODES, Mixer, code_magnitude, code_mixed, new_mixer
from coding.entropy.neighbors import bit_length
from coding.entropy.range_coder import check_decoder, code_bits, finish_encoder, new_decoder, new_encoder, take_bytes
from coding.prediction.bands import GAP
from coding.prediction.frequent import MAX_VALUES, decode_kinds, encode_kinds, find_frequent, kinds_of
from coding.prediction.lines import decode_lines, encode_lines, find_lines
from coding.prediction.samples import Known, decode_samples, encode_samples

_NUMBER_BITS = 30
_MAX_DIGITS = 53  # of float64
_OUTLIER_SHARE = 1 / 1024  # of the samples, which are allowed to exceed the others
_HEADROOM_BITS = 8  # how much larger these may be; still larger samples are stored as they are
_MAX_BYTES = 96  # of a sample: some 40 decisions of at most 2 bytes each
_DEPTHS = 16  # that contexts distinguish

_HEADER = struct.Struct("<hB")  # exponent of the unit, digits; plus `_HAS_RESTS` if there are rests
_HAS_RESTS = 0x80
_ON_LINES = 0  # digits of tiles that are coded by `coding.prediction.lines`


class Scale(NamedTuple):
    """What all samples of a tile have in common.

    Attributes:
        exponent: of the unit, 2^exponent.
        digits: significant bits of the samples, 1 to 53.
        top: samples of 2^top or more are outliers.
        has_rests: whether samples have bits below the unit, or are -0.0.
    """

    exponent: int
    digits: int
    top: int
    has_rests: bool


class RestModel(NamedTuple):
    """The adaptive state of the coding of floats below the unit.

    Attributes:
        depths: mixer of depths.
        signs: mixer of signs.
        last: int64 (1,), depth of the last such float.
    """

    depths: Mixer
    signs: Mixer
    last: np.ndarray


class Parts(NamedTuple):
    """Floats of a band in parts, int64 (H, W) each.

    Attributes:
        numbers: multiples of the unit, with a sign.
        rests: the bits below the unit; if the number is 0, the bits below the highest.
        depths: where the number is 0: twice how many binary places the highest bit lies below the unit's, 0 for 0.0,
            plus 1 if the float is negative. Undefined elsewhere.
    """

    numbers: np.ndarray
    rests: np.ndarray
    depths: np.ndarray


def encode_floats(cube: np.ndarray, valid: np.ndarray) -> bytes:
    """Encode a cube (C, H, W) of finite floats of any type without loss, except where `valid` is False."""
    lines = find_lines(cube)
    coded_lines = None if lines is None else encode_lines(cube, lines, Known.gaps(valid))
    if coded_lines is not None:
        return _HEADER.pack(0, _ON_LINES) + coded_lines
    values = find_frequent(cube, valid)
    kinds = np.where(valid, kinds_of(cube, values), np.uint8(0))
    others = np.where(valid & (kinds == 0), cube, cube.dtype.type(0))
    scale = _scale_of(others)
    outliers = np.flatnonzero(_exponents(others) > scale.top)
    listed = outliers.astype("<u4").tobytes() + _to_bytes(cube.ravel()[outliers])
    if len(outliers):
        others = others.copy()
        others.ravel()[outliers] = 0
    known = _known(kinds, values, valid, scale)
    numbers, rests = _encode_rests(others, known.kinds, scale)
    for index, number in enumerate(known.values):
        numbers[kinds == index + 1] = number
    coded, _ = encode_samples(numbers, 0, scale.digits, known)
    coded_kinds = encode_kinds(kinds, valid, len(values)) if len(values) else b""
    head = _HEADER.pack(scale.exponent, scale.digits + _HAS_RESTS * scale.has_rests)
    return head + join_blocks([deflate(listed) if listed else b"", _to_bytes(values), coded_kinds, coded, rests])


def decode_floats(data: bytes, valid: np.ndarray, dtype: str) -> np.ndarray:
    """Return the cube (C, H, W) that `encode_floats` encoded.

    Args:
        data: the bytes.
        valid: bool (C, H, W), as given to `encode_floats`; other samples have no meaning.
        dtype: type of the samples.

    Raises:
        DamagedError: `data` is damaged.
    """
    if len(data) < _HEADER.size:
        raise DamagedError(f"coded floats must have {_HEADER.size} bytes or more, got {len(data)}")
    exponent, flags = _HEADER.unpack_from(data)
    if flags == _ON_LINES:
        return decode_lines(data[_HEADER.size :], valid.shape, dtype, Known.gaps(valid))
    scale = Scale(exponent, flags & ~_HAS_RESTS, exponent + _NUMBER_BITS, bool(flags & _HAS_RESTS))
    if not 1 <= scale.digits <= _MAX_DIGITS:
        raise DamagedError(f"floats must have 1 to {_MAX_DIGITS} significant bits, got {scale.digits}")
    listed, packed_values, coded_kinds, coded, stream = split_blocks(data[_HEADER.size :], 5)
    values = _from_bytes(packed_values, dtype)
    if len(values) > MAX_VALUES or (coded_kinds and not len(values)):
        raise DamagedError("the frequent values of a tile are damaged")
    kinds = decode_kinds(coded_kinds, valid, len(values)) if len(values) else np.zeros(valid.shape, np.uint8)
    known = _known(kinds, values, valid, scale)
    numbers = decode_samples(coded, valid.shape, 0, scale.digits, known)
    with np.errstate(over="ignore"):  # gaps, and damaged samples
        cube = _decode_rests(stream, numbers, known.kinds, scale).astype(dtype)
    for index, value in enumerate(values):
        cube[kinds == index + 1] = value
    _put_outliers(cube, inflate(listed, cube.size * (4 + cube.itemsize)) if listed else b"")
    return cube


def _known(kinds: np.ndarray, values: np.ndarray, valid: np.ndarray, scale: Scale) -> Known:
    """Return the gaps, the samples with frequent values, and the numbers nearest to these values."""
    most = 2**_NUMBER_BITS - 1
    with np.errstate(over="ignore"):
        numbers = np.clip(np.ldexp(np.nan_to_num(values.astype(np.float64)), -scale.exponent), -most, most)
    return Known(np.where(valid, kinds, np.uint8(GAP)), tuple(int(number) for number in numbers))


def _encode_rests(cube: np.ndarray, kinds: np.ndarray, scale: Scale) -> tuple[np.ndarray, bytes]:
    """Return the numbers of floats (C, H, W), int32, and the stream of their rests."""
    numbers = np.empty(cube.shape, np.int32)
    coder, written, model = new_encoder(_MAX_BYTES * cube[0].size), [], _new_model()
    for band, place, band_kinds in zip(cube, numbers, kinds, strict=True):
        parts = _split(band, scale)
        place[:] = parts.numbers
        if scale.has_rests:
            _code_rests(coder, model, parts, band_kinds, scale.digits)
            written.append(take_bytes(coder))
    return numbers, finish_encoder(coder, written) if scale.has_rests else b""


def _decode_rests(stream: bytes, numbers: np.ndarray, kinds: np.ndarray, scale: Scale) -> np.ndarray:
    """Return the floats (C, H, W), float64, of numbers and the stream of their rests."""
    cube, coder, model = np.empty(numbers.shape), new_decoder(stream), _new_model()
    for band, band_numbers, band_kinds in zip(cube, numbers, kinds, strict=True):
        parts = Parts(band_numbers.astype(np.int64), *np.zeros((2, *band.shape), np.int64))
        if scale.has_rests:
            _code_rests(coder, model, parts, band_kinds, scale.digits)
        band[:] = _join(parts, scale)
    check_decoder(coder)
    return cube


def _to_bytes(values: np.ndarray) -> bytes:
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def _from_bytes(data: bytes, dtype: str) -> np.ndarray:
    """Return the values of `_to_bytes`.

    Raises:
        DamagedError: the bytes are not whole values.
    """
    kind = np.dtype(dtype)
    if len(data) % kind.itemsize:
        raise DamagedError(f"values of {dtype} must have {kind.itemsize} bytes each, got {len(data)} bytes")
    return np.frombuffer(data, kind.newbyteorder("<")).astype(kind)


def _put_outliers(cube: np.ndarray, listed: bytes) -> None:
    """Replace the samples that are stored as they are."""
    count, rest = divmod(len(listed), 4 + cube.itemsize)
    positions = np.frombuffer(listed[: 4 * count], "<u4")
    if rest or positions.max(initial=0) >= cube.size:
        raise DamagedError("the list of outliers is damaged")
    cube.ravel()[positions] = _from_bytes(listed[4 * count :], cube.dtype.name)


def _exponents(samples: np.ndarray) -> np.ndarray:
    """Return e with 2^(e - 1) <= |sample| < 2^e, int32; 0 for samples of 0."""
    return np.frexp(samples)[1].astype(np.int32)


def _scale_of(cube: np.ndarray) -> Scale:
    """Return the scale of a tile."""
    counts = np.zeros(4096, np.int64)  # of exponents, from -2048
    used, lowest, has_rests = np.int64(0), 2047, False
    for band in cube:
        fractions, exponents = np.frexp(np.abs(band[band != 0]).astype(np.float64))
        wholes = np.ldexp(fractions, _MAX_DIGITS).astype(np.int64)
        used |= np.bitwise_or.reduce(wholes, initial=0)
        last_bits = np.frexp((wholes & -wholes).astype(np.float64))[1] - 1
        lowest = min(lowest, int((exponents - _MAX_DIGITS + last_bits).min(initial=2047)))
        counts += np.bincount(exponents + 2048, minlength=len(counts))
        has_rests = has_rests or bool(np.signbit(band[band == 0]).any())
    if not used:
        return Scale(0, 1, 2047, has_rests)
    digits = _MAX_DIGITS + 1 - int(used & -used).bit_length()
    highest = int(counts.nonzero()[0][-1]) - 2048
    above = counts[::-1].cumsum()[::-1]  # counts of samples with this exponent or a larger one
    usual = int((above > counts.sum() * _OUTLIER_SHARE).nonzero()[0][-1]) - 2048
    top = min(highest, usual + _HEADROOM_BITS)
    exponent = max(top - _NUMBER_BITS, lowest)
    return Scale(exponent, digits, top, has_rests or lowest < exponent)


def _split(band: np.ndarray, scale: Scale) -> Parts:
    """Return the parts of floats (H, W), all below 2^top."""
    fractions, exponents = np.frexp(np.abs(band).astype(np.float64))
    wholes = np.ldexp(fractions, scale.digits).astype(np.int64)
    bits = exponents.astype(np.int64) - scale.exponent
    below = np.clip(scale.digits - bits, 0, scale.digits)
    numbers = wholes >> below << np.maximum(bits - scale.digits, 0)
    rests = wholes & ((1 << np.where(numbers == 0, scale.digits - 1, below)) - 1)
    negative = np.signbit(band)
    depths = 2 * np.where(wholes > 0, 1 - bits, 0) + negative
    return Parts(np.where(negative, -numbers, numbers), rests, depths)


def _join(parts: Parts, scale: Scale) -> np.ndarray:
    """Return the floats (H, W) of parts, float64."""
    sizes, is_zero = np.abs(parts.numbers), parts.numbers == 0
    bits = np.frexp(sizes.astype(np.float64))[1].astype(np.int64)
    depths = parts.depths >> 1
    below = np.maximum(scale.digits - bits, 0)
    wholes = np.where(is_zero, (depths > 0) * (1 << (scale.digits - 1)), sizes << np.where(is_zero, 0, below))
    below = np.where(is_zero, scale.digits - 1 + depths, below)
    values = np.ldexp((wholes | parts.rests).astype(np.float64), (scale.exponent - below).astype(np.int32))
    return np.where(np.where(is_zero, parts.depths & 1 == 1, parts.numbers < 0), -values, values)


def _new_model() -> RestModel:
    return RestModel(new_mixer((1 + _DEPTHS) * NODES, NODES, 2), new_mixer(1 + _DEPTHS, 1, 2), np.zeros(1, np.int64))


@compiled
def _code_rests(coder, model, parts, kinds, digits):
    """Encode the rests and depths of the samples of kind 0 of a band, or decode them."""
    numbers, rests, depths = parts.numbers.ravel(), parts.rests.ravel(), parts.depths.ravel()
    is_known = kinds.ravel()
    for i in range(len(numbers)):
        if is_known[i]:
            continue
        bits = bit_length(abs(numbers[i]))
        if bits == 0:
            depths[i] = _code_depth(coder, model, depths[i])
            bits = digits if depths[i] < 2 else 1
        if bits < digits:
            rests[i] = code_bits(coder, rests[i], digits - bits)


@inlined
def _code_depth(coder, model, depth):
    """Code the depth and the sign of a float below the unit."""
    last = min(model.last[0], _DEPTHS - 1)
    contexts = (0, (1 + last) * NODES)
    size = code_magnitude(coder, model.depths, contexts, 0, depth >> 1)
    model.last[0] = size
    sign = code_mixed(coder, model.signs, (0, 1 + min(size, _DEPTHS - 1)), 0, 0, depth & 1)
    return 2 * size + sign
