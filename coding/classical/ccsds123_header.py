"""The header of a compressed image of CCSDS 123.0-B-2, to bits and back."""

from __future__ import annotations

from collections.abc import Mapping

from coding.base import DamagedError

MAX_SIZE = 2**16
"""Largest number of columns, rows or bands."""

# A layout lists fields as (bits, name), or as (bits, number) for reserved fields and fields with one value here.
_Layout = tuple[tuple[int, str | int], ...]

_IMAGE: _Layout = (
    (8, "user-defined"),
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
    (2, 0),  # sample-adaptive entropy coder
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


def _unpack(layout: _Layout, data: bytes, values: dict[str, int]) -> bytes:
    """Add the fields at the beginning of `data` to `values`, and return the bytes after them."""
    length = sum(size for size, _ in layout) // 8
    if len(data) < length:
        raise DamagedError("the header of a compressed image is incomplete")
    number, left = int.from_bytes(data[:length], "big"), 8 * length
    for size, field in layout:
        left -= size
        value = number >> left & ((1 << size) - 1)
        if isinstance(field, str):
            values[field] = value
        elif value != field:
            raise DamagedError("the header of a compressed image is damaged, or has options that are not supported")
    return data[length:]


def pack_header(values: Mapping[str, int]) -> bytes:
    """Return the header: image, predictor and entropy coder metadata.

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


def unpack_header(data: bytes) -> tuple[dict[str, int], bytes]:
    """Return the fields of a header, 0 for optional fields that are missing, and the bytes after it.

    Raises:
        DamagedError: the header is damaged, or uses an option of the standard that is not supported.
    """
    values = {"error bits": 0, "max error": 0, "resolution": 0, "damping": 0, "offset": 0}
    data = _unpack(_PREDICTOR, _unpack(_IMAGE, data, values), values)
    if values["fidelity"] > 1:
        raise DamagedError("a compressed image has relative error limits, which are not supported")
    if values["fidelity"]:
        data = _unpack(_ERROR_BITS, data, values)
        data = _unpack(_max_error_layout(values["error bits"]), data, values)
    if values["representatives"]:
        data = _unpack(_REPRESENTATIVES, data, values)
    return values, _unpack(_ENTROPY_CODER, data, values)
