"""The header of a compressed image of CCSDS 123.0-B-2: image, predictor and entropy coder metadata, from bits and back.

`unpack_header` reads every form of the standard for samples of up to 16 bits. `pack_header` writes those that
`coding.classical.ccsds123.image.Ccsds123` can ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from coding.base import DamagedError

MAX_SIZE = 2**16
"""Largest number of columns, rows or bands."""
MAX_RANGE_BITS = 16
"""Largest D that is read; the standard goes to 32."""
ENTROPY_CODERS = ("sample-adaptive", "hybrid", "block-adaptive")
"""Names of the entropy coders; their indices are the numbers in the header."""
NEVER = 16
"""log2 of the rows between two error limits if they hold for the whole image."""

_USER_K = 15  # in place of K: a table has one for each band
_FLOAT_TABLE = 2
_WHOLE_BITS = 8


class Limits(NamedTuple):
    """Error limits of one kind, absolute or relative.

    Attributes:
        bits: D_A or D_R, bits of a limit in the stream; 0 if there are none of this kind.
        per_band: whether each band has a limit of its own in the stream.
        table: int64 (periods, C), a_z or r_z.
    """

    bits: int
    per_band: bool
    table: np.ndarray


class ImageMetadata(NamedTuple):
    """What the header says of the image.

    Attributes:
        shape: (C, H, W).
        signed: whether samples are signed.
        range_bits: D.
        depth: sub-frame interleaving depth M of band-interleaved order; 0 for band-sequential order.
        word_size: bytes of an output word.
        entropy_coder: index in `ENTROPY_CODERS`.
        fidelity: 0 for lossless, 1 for absolute, 2 for relative, 3 for both kinds of error limits.
    """

    shape: tuple[int, int, int]
    signed: int
    range_bits: int
    depth: int
    word_size: int
    entropy_coder: int
    fidelity: int


class PredictorMetadata(NamedTuple):
    """What the header says of the predictor; arrays have a row for each band.

    Attributes:
        bands: P.
        directions: number of local differences within the band: 3 in full prediction mode, 0 in reduced mode.
        local_sums: number of the kind of local sums.
        register_bits: R.
        weight_bits: Omega.
        interval_bits: log2(t_inc).
        exponent_first: v_min.
        exponent_last: v_max.
        weights: int64 (C, directions + P), initial weights.
        exponent_offsets: int64 (C, directions + P), weight exponent offsets.
        period_bits: log2 of the rows after which error limits change, `NEVER` if they do not.
        absolute, relative: the error limits.
        representative_bits: Theta.
        dampings: int64 (C,), phi.
        offsets: int64 (C,), psi.
    """

    bands: int
    directions: int
    local_sums: int
    register_bits: int
    weight_bits: int
    interval_bits: int
    exponent_first: int
    exponent_last: int
    weights: np.ndarray
    exponent_offsets: np.ndarray
    period_bits: int
    absolute: Limits
    relative: Limits
    representative_bits: int
    dampings: np.ndarray
    offsets: np.ndarray


class CoderMetadata(NamedTuple):
    """What the header says of the entropy coder.

    Attributes:
        unary_limit: U_max.
        rescale_bits: gamma*.
        count_bits: gamma_0.
        accumulator_bits: int64 (C,), K or k''; zeros for the hybrid coder, which starts from any accumulators.
        block_size: J, of the block-adaptive coder only.
        interval: reference sample interval r, in blocks, of the block-adaptive coder only.
        restricted: whether the block-adaptive coder uses the restricted set of code options.
    """

    unary_limit: int
    rescale_bits: int
    count_bits: int
    accumulator_bits: np.ndarray
    block_size: int = 0
    interval: int = 0
    restricted: bool = False


@dataclass(frozen=True)
class Header:
    """The header of a compressed image."""

    image: ImageMetadata
    predictor: PredictorMetadata
    coder: CoderMetadata


# -- reading --------------------------------------------------------------------------------------


class _Reader:
    """Reads the fields of a header, most significant bit first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.bit = data, 0

    def table(self, count: int, size: int) -> np.ndarray:
        """Return the next `count` numbers of `size` bits, int64."""
        first, self.bit = self.bit, self.bit + count * size
        if self.bit > _WHOLE_BITS * len(self.data):
            raise DamagedError("the header of a compressed image is incomplete")
        held = np.frombuffer(self.data, np.uint8, -(-self.bit // 8) - first // 8, first // 8)
        bits = np.unpackbits(held)[first % 8 :][: count * size].reshape(count, size)
        return bits @ (1 << np.arange(size, dtype=np.int64)[::-1])

    def number(self, size: int) -> int:
        return int(self.table(1, size)[0])

    def reserved(self, size: int) -> None:
        check(self.number(size) == 0, "reserved bits are set")

    def align(self) -> None:
        self.bit += -self.bit % 8

    def rest(self) -> bytes:
        return self.data[self.bit // 8 :]


def check(is_valid: bool, problem: str) -> None:
    """Raise a `DamagedError` of a header unless `is_valid`."""
    if not is_valid:
        raise DamagedError(f"the header of a compressed image is damaged: {problem}")


def _refuse(is_unsupported: bool, option: str) -> None:
    if is_unsupported:
        raise DamagedError(f"a compressed image has {option}, which is not supported")


def unpack_header(data: bytes) -> tuple[Header, bytes]:
    """Return the header of a compressed image, and the bytes after it.

    Raises:
        DamagedError: the header is damaged, or has samples of more than 16 bits or tables that are kept elsewhere.
    """
    reader = _Reader(data)
    image = _read_image(reader)
    predictor = _read_predictor(reader, image)
    coder = _read_block_coder(reader, image) if image.entropy_coder == 2 else _read_sample_coder(reader, image)
    return Header(image, predictor, coder), reader.rest()


def _read_image(reader: _Reader) -> ImageMetadata:
    reader.number(8)  # user-defined
    width, height, bands = (reader.number(16) or MAX_SIZE for _ in range(3))
    signed = reader.number(1)
    reader.reserved(1)
    _refuse(reader.number(1) == 1, f"samples of more than {MAX_RANGE_BITS} bits")
    range_bits = reader.number(4) or MAX_RANGE_BITS
    check(range_bits >= 2, f"the dynamic range must be of 2 bits or more, got {range_bits}")
    sequential, depth = reader.number(1), reader.number(16)
    depth = 0 if sequential else depth or MAX_SIZE
    check(depth <= bands, f"the interleaving depth must be at most {bands}, the number of bands, got {depth}")
    reader.reserved(2)
    word_size, entropy_coder = reader.number(3) or 8, reader.number(2)
    check(entropy_coder < len(ENTROPY_CODERS), "the number of the entropy coder is unknown")
    reader.reserved(1)
    fidelity = reader.number(2)
    reader.reserved(2)
    for _ in range(reader.number(4)):
        _skip_supplementary_table(reader, (bands, height, width))
    return ImageMetadata((bands, height, width), signed, range_bits, depth, word_size, entropy_coder, fidelity)


def _skip_supplementary_table(reader: _Reader, shape: tuple[int, int, int]) -> None:
    """Skip a supplementary information table: it says nothing of how samples are coded."""
    bands, height, width = shape
    kind = reader.number(2)
    check(kind <= _FLOAT_TABLE, "the type of a supplementary table is unknown")
    reader.reserved(2)
    reader.number(4)  # purpose
    reader.reserved(1)
    count = (1, bands, bands * width, height * width)[reader.number(2)]
    reader.reserved(1)
    reader.number(4)  # user-defined
    size = reader.number(5)
    if kind == _FLOAT_TABLE:
        exponent_bits = reader.number(3) or 8
        reader.number(exponent_bits)  # bias
        size += exponent_bits + 1
    else:
        size = size or 32
    reader.bit += count * size
    reader.align()


def _read_predictor(reader: _Reader, image: ImageMetadata) -> PredictorMetadata:
    reader.reserved(1)
    has_representatives, bands = reader.number(1), reader.number(4)
    directions = 0 if reader.number(1) else 3
    has_offsets, local_sums = reader.number(1), reader.number(2)
    register_bits, weight_bits = reader.number(6) or 64, reader.number(4) + 4
    interval_bits, exponent_first, exponent_last = reader.number(4) + 4, reader.number(4) - 6, reader.number(4) - 6
    check(image.shape[2] > 1 or (not directions and local_sums >= 2), "one column allows no prediction from neighbors")
    least = max(32, image.range_bits + weight_bits + 2)
    check(least <= register_bits, f"the register size must be {least} or more, got {register_bits}")
    check(interval_bits <= 11, f"log2 of the weight interval must be at most 11, got {interval_bits}")
    check(exponent_first <= exponent_last, "v_min is above v_max")
    weights, exponent_offsets = _read_weight_tables(
        reader, (image.shape[0], bands, directions), weight_bits, bool(has_offsets)
    )
    period_bits, absolute, relative = _read_limits(reader, image)
    representative_bits, dampings, offsets = _read_representatives(reader, image, has_representatives)
    return PredictorMetadata(
        bands=bands,
        directions=directions,
        local_sums=local_sums,
        register_bits=register_bits,
        weight_bits=weight_bits,
        interval_bits=interval_bits,
        exponent_first=exponent_first,
        exponent_last=exponent_last,
        weights=weights,
        exponent_offsets=exponent_offsets,
        period_bits=period_bits,
        absolute=absolute,
        relative=relative,
        representative_bits=representative_bits,
        dampings=dampings,
        offsets=offsets,
    )


def _read_weight_tables(
    reader: _Reader, counts: tuple[int, int, int], weight_bits: int, has_offsets: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the initial weights and the weight exponent offsets; `counts` is the number of bands, P and directions."""
    has_offset_table, has_weights, has_weight_table = (bool(reader.number(1)) for _ in range(3))
    resolution = reader.number(5)
    _refuse(has_weights and not has_weight_table, "custom initial weights without a table in the header")
    _refuse(has_offsets and not has_offset_table, "weight exponent offsets without a table in the header")
    check(has_weights >= has_weight_table and has_offsets >= has_offset_table, "it has a table that nothing uses")
    check(not has_weights or 3 <= resolution <= weight_bits + 3, f"weights of {resolution} bits")
    count, bands, directions = counts
    used = np.arange(-directions, bands) < np.arange(count)[:, None]  # the first bands have fewer bands before them
    weights = (
        _read_weights(reader, used, weight_bits, resolution)
        if has_weights
        else _default_weights(count, bands, directions, weight_bits)
    )
    offsets = _read_exponent_offsets(reader, used, directions) if has_offsets else np.zeros(used.shape, np.int64)
    return weights, offsets


def _default_weights(count: int, bands: int, directions: int, weight_bits: int) -> np.ndarray:
    """Return the default initial weights of `count` bands, int64 (count, directions + P)."""
    spectral = [(7 << weight_bits) >> 3 * (i + 1) for i in range(bands)]
    return np.tile(np.array([0] * directions + spectral, np.int64), (count, 1))


def _read_signed(reader: _Reader, used: np.ndarray, size: int) -> np.ndarray:
    """Return a table of numbers in two's complement, 0 where `used` is False."""
    table = np.zeros(used.shape, np.int64)
    numbers = reader.table(int(used.sum()), size)
    table[used] = numbers - ((numbers >> (size - 1)) << size)
    reader.align()
    return table


def _read_weights(reader: _Reader, used: np.ndarray, weight_bits: int, resolution: int) -> np.ndarray:
    table = _read_signed(reader, used, resolution)
    # ceil(2^(Omega + 2 - Q) - 1), which is 0 for Q = Omega + 3.
    middle = max((1 << (weight_bits + 3 - resolution)) // 2 - 1, 0)
    return (table << (weight_bits + 3 - resolution)) + middle


def _read_exponent_offsets(reader: _Reader, used: np.ndarray, directions: int) -> np.ndarray:
    """Return the offsets by weight: the header has one for all directions of a band, before those of the bands."""
    columns = used[:, max(directions - 1, 0) :]
    table = _read_signed(reader, columns, 4)
    check(bool((abs(2 * table + 1) <= 11).all()), "weight exponent offsets must be from -6 to 5")
    return np.concatenate([table[:, :1]] * (directions - 1) + [table], 1) if directions else table


def _read_limits(reader: _Reader, image: ImageMetadata) -> tuple[int, Limits, Limits]:
    """Return log2 of the rows after which error limits change, and the absolute and relative limits."""
    period_bits = NEVER
    if image.fidelity and image.depth:
        reader.reserved(1)
        is_periodic = reader.number(1)
        reader.reserved(2)
        exponent = reader.number(4)
        check(exponent <= 9, f"log2 of the period of error limits must be at most 9, got {exponent}")
        period_bits = exponent if is_periodic else NEVER
    absolute = _read_limit(reader, image, period_bits, bool(image.fidelity & 1))
    relative = _read_limit(reader, image, period_bits, bool(image.fidelity & 2))
    return period_bits, absolute, relative


def _read_limit(reader: _Reader, image: ImageMetadata, period_bits: int, exists: bool) -> Limits:
    bands, height, _ = image.shape
    table = np.zeros((((height - 1) >> period_bits) + 1, bands), np.int64)
    if not exists:
        return Limits(0, False, table)
    reader.reserved(1)
    per_band = bool(reader.number(1))
    reader.reserved(2)
    bits = reader.number(4) or 16
    check(bits < image.range_bits, f"error limits must be of less than D = {image.range_bits} bits, got {bits}")
    if period_bits == NEVER:
        table[:] = reader.table(bands if per_band else 1, bits)
        reader.align()
    return Limits(bits, per_band, table)


def _read_representatives(
    reader: _Reader, image: ImageMetadata, has_representatives: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """Return Theta, and phi and psi of all bands."""
    count = image.shape[0]
    if not has_representatives:
        return 0, np.zeros(count, np.int64), np.zeros(count, np.int64)
    reader.reserved(5)
    bits = reader.number(3)
    check(bits <= 4, f"the resolution of representatives must be at most 4, got {bits}")
    fields = []
    for name in ("dampings", "offsets"):
        reader.reserved(1)
        per_band, has_table = reader.number(1), reader.number(1)
        reader.reserved(1)
        value = reader.number(4)
        _refuse(bool(per_band and not has_table), f"{name} of bands without a table in the header")
        check(per_band >= has_table and value < 1 << bits, f"{name} of representatives are out of range")
        fields.append((per_band, value))
    tables = []
    for per_band, value in fields:
        tables.append(reader.table(count, bits) if per_band else np.full(count, value, np.int64))
        reader.align()
    return bits, tables[0], tables[1]


def _read_sample_coder(reader: _Reader, image: ImageMetadata) -> CoderMetadata:
    unary_limit, rescale_bits = reader.number(5) or 32, reader.number(3) + 4
    count_bits, exponent, has_table = reader.number(3) or 8, reader.number(4), reader.number(1)
    check(unary_limit >= 8, f"the unary length limit must be 8 or more, got {unary_limit}")
    check(count_bits < rescale_bits, "the initial count is not below the rescaling count")
    exponents = np.full(image.shape[0], exponent, np.int64)
    if ENTROPY_CODERS[image.entropy_coder] == "hybrid":
        check(exponent == 0 and not has_table, "reserved bits are set")
        return CoderMetadata(unary_limit, rescale_bits, count_bits, exponents)
    _refuse(exponent == _USER_K and not has_table, "initial accumulators of bands without a table in the header")
    check((exponent == _USER_K) == bool(has_table), "it has a table of accumulators that nothing uses")
    if has_table:
        exponents = reader.table(image.shape[0], 4)
        reader.align()
    check(int(exponents.max()) <= min(image.range_bits - 2, 14), "an initial accumulator is too large")
    return CoderMetadata(unary_limit, rescale_bits, count_bits, exponents)


def _read_block_coder(reader: _Reader, image: ImageMetadata) -> CoderMetadata:
    reader.reserved(1)
    block_size, restricted, interval = 8 << reader.number(2), bool(reader.number(1)), reader.number(12) or 4096
    check(not restricted or image.range_bits <= 4, "restricted code options are for samples of up to 4 bits")
    return CoderMetadata(8, 4, 1, np.zeros(image.shape[0], np.int64), block_size, interval, restricted)


# -- writing --------------------------------------------------------------------------------------

# A layout lists fields as (bits, name), or as (bits, number) for reserved fields and fields with one value here.
_Layout = tuple[tuple[int, str | int], ...]

_IMAGE: _Layout = (
    (8, 0),  # user-defined
    (16, "columns"),
    (16, "rows"),
    (16, "bands"),
    (1, "signed"),
    (1, 0),
    (1, 0),  # D is at most 16
    (4, "dynamic range"),  # modulo 16
    (1, 1),  # band-sequential
    (16, 0),  # sub-frame interleaving depth, for band-interleaved order
    (2, 0),
    (3, 1),  # bytes of an output word
    (2, "entropy coder"),
    (1, 0),
    (2, "fidelity"),
    (2, 0),
    (4, 0),  # supplementary information tables
)
_PREDICTOR: _Layout = (
    (1, 0),
    (1, "representatives"),
    (4, "prediction bands"),
    (1, "reduced"),
    (1, 0),  # weight exponent offsets
    (2, "local sums"),
    (6, 0),  # R modulo 64
    (4, "weight resolution"),
    (4, "weight interval"),
    (4, "first exponent"),
    (4, "last exponent"),
    (1, 0),  # table of weight exponent offsets
    (1, 0),  # default weights
    (1, 0),  # table of weights
    (5, 0),  # resolution of the weights in the table
)
_ERROR_BITS: _Layout = ((1, 0), (1, 0), (2, 0), (4, "error bits"))  # second field: one limit for all bands
_REPRESENTATIVES: _Layout = (
    (5, 0),
    (3, "resolution"),
    (1, 0),
    (1, 0),  # the same damping for all bands
    (1, 0),  # table of dampings
    (1, 0),
    (4, "damping"),
    (1, 0),
    (1, 0),  # the same offset for all bands
    (1, 0),  # table of offsets
    (1, 0),
    (4, "offset"),
)
_ENTROPY_CODER: _Layout = (
    (5, "unary limit"),
    (3, "rescaling"),
    (3, "initial count"),
    (4, "accumulator"),
    (1, 0),  # table of initial accumulators
)


def _max_error_layout(bits: int) -> _Layout:
    return ((bits, "max error"), (-bits % 8, 0))


def _pack(layout: _Layout, values: Mapping[str, int]) -> bytes:
    number = bits = 0
    for size, field in layout:
        number = number << size | (values[field] if isinstance(field, str) else field)
        bits += size
    return number.to_bytes(bits // 8, "big")


def pack_header(values: Mapping[str, int]) -> bytes:
    """Return a header.

    Args:
        values: the named fields of the layouts. The fields of the error limit are written if "fidelity" is not 0, those
            of the sample representatives if "representatives" is not 0.
    """
    parts = [_IMAGE, _PREDICTOR]
    if values["fidelity"]:
        parts += [_ERROR_BITS, _max_error_layout(values["error bits"])]
    if values["representatives"]:
        parts.append(_REPRESENTATIVES)
    return b"".join(_pack(layout, values) for layout in [*parts, _ENTROPY_CODER])
