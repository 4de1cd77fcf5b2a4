"""Coding planes of whole numbers without loss: what a quantizer leaves, or a prediction.

Three coders, by name in `plane_coders`:

jpegxl       the planes below one another as one image of JPEG XL (ISO/IEC 18181-1), lossless: each sample is
             predicted from its neighbors and coded by the contexts that they make
factorized   a distribution for each plane, learned from the plane itself and stored, without any context; coded by
             the range coder of CompressAI (doi 10.48550/arXiv.2011.03029)
context      each plane predicted linearly from those before it and from itself, the errors coded by mixed contexts:
             what codec `klt-cm` does without loss, see `coding.prediction.samples`

None computes with floating point where encoder and decoder must agree.
"""

from __future__ import annotations

import math
import struct

import numpy as np

from coding.base import DamagedError, deflate, inflate, join_blocks, split_blocks

_FEW_PIXELS = 32 * 32  # of a plane: what `context` stores and learns for it may not pay
_HEADER = struct.Struct("<BBq")  # coder, bytes of a sample, lowest value
_EFFORT = 5  # of JPEG XL, 1 to 9: more takes longer and gained nothing on latents
_PRECISION = 16  # bits of a probability
_MAX_SYMBOLS = 4096  # of a plane; rarer values beside them are escaped


def encode_planes(planes: np.ndarray, coder: str) -> bytes:
    """Planes (P, H, W) of whole numbers, in a range of less than 2^32, to bytes.

    Args:
        coder: one of `plane_coders`; with `context`, small planes are coded by JPEG XL where that takes fewer bytes.
    """
    low = int(planes.min(initial=planes.flat[0])) if planes.size else 0
    span = int(planes.max(initial=low)) - low
    if not span:
        return _HEADER.pack(0, 0, low)
    itemsize = 1 if span < 2**8 else 2 if span < 2**16 else 4
    shifted = planes.astype(np.int64) - low
    if itemsize == 4:  # upper halves, then lower halves
        shifted = np.concatenate([shifted >> 16, shifted & 0xFFFF])
    shifted = shifted.astype(f"u{min(itemsize, 2)}")
    tried = ("context", "jpegxl") if coder == "context" and planes[0].size <= _FEW_PIXELS else (coder,)
    coded = {list(plane_coders).index(name) + 1: plane_coders[name][0](shifted) for name in tried}
    number = min(coded, key=lambda number: len(coded[number]))
    return _HEADER.pack(number, itemsize, low) + coded[number]


def decode_planes(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The planes (P, H, W) of `encode_planes`, int64.

    Raises:
        DamagedError: other bytes.
    """
    if len(data) < _HEADER.size:
        raise DamagedError("planes without a header")
    number, itemsize, low = _HEADER.unpack_from(data)
    if number == 0:
        return np.full(shape, low, np.int64)
    if number > len(plane_coders) or itemsize not in (1, 2, 4):
        raise DamagedError(f"planes by the unknown coder {number}, {itemsize} bytes a sample")
    if math.prod(shape) == 0:
        raise DamagedError("planes where there are none")
    decode = list(plane_coders.values())[number - 1][1]
    halves = 2 if itemsize == 4 else 1
    values = decode(data[_HEADER.size :], (halves * shape[0], *shape[1:]), np.dtype(f"u{min(itemsize, 2)}"))
    values = values.astype(np.int64)
    if itemsize == 4:
        values = (values[: shape[0]] << 16) + values[shape[0] :]
    return values + low


# -- JPEG XL --------------------------------------------------------------------------------------


def _encode_jpegxl(planes: np.ndarray) -> bytes:
    import imagecodecs

    count, height, width = planes.shape
    return imagecodecs.jpegxl_encode(planes.reshape(count * height, width), lossless=True, effort=_EFFORT, numthreads=1)


def _decode_jpegxl(data: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    import imagecodecs

    count, height, width = shape
    image = np.empty((count * height, width), dtype)
    try:
        # Into an image that is there: what the data claims of its size allocates nothing.
        imagecodecs.jpegxl_decode(data, out=image, numthreads=1)
    except (imagecodecs.JpegxlError, ValueError, RuntimeError) as error:
        raise DamagedError(f"planes of JPEG XL are damaged ({str(error) or type(error).__name__})") from None
    return image.reshape(shape)


# -- factorized -----------------------------------------------------------------------------------


def _encode_factorized(planes: np.ndarray) -> bytes:
    from compressai.ans import BufferedRansEncoder

    flat = planes.reshape(len(planes), -1)
    tables, offsets = [], []
    for plane in flat:
        offset, counts = _most_frequent(np.bincount(plane))
        tables.append(_frequencies(counts, escapes=int(plane.size - counts.sum())))
        offsets.append(offset)
    model = _pack_tables(tables, offsets)
    encoder = BufferedRansEncoder()
    for plane, table, offset in zip(flat, tables, offsets, strict=True):
        encoder.encode_with_indexes(plane.tolist(), *_rans_arguments(table, offset, plane.size))
    return join_blocks([model, encoder.flush()])


def _decode_factorized(data: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    from compressai.ans import RansDecoder

    model, stream = split_blocks(data, 2)
    count, per_plane = shape[0], shape[1] * shape[2]
    tables, offsets = _unpack_tables(model, count)
    # CompressAI's decoder does not look where its data ends: of damaged data it may take four bytes for a symbol,
    # and an escaped symbol in it may ask for 15 times what stands there.
    stream += bytes(8 * count * per_plane + 16 * len(stream) + 64)
    decoder = RansDecoder()
    decoder.set_stream(stream)
    values = np.empty((count, per_plane), np.int64)
    for plane, table, offset in zip(values, tables, offsets, strict=True):
        plane[:] = decoder.decode_stream(*_rans_arguments(table, offset, per_plane))
    values = values.reshape(shape)
    if values.min(initial=0) < 0 or values.max(initial=0) > np.iinfo(dtype).max:
        raise DamagedError("factorized planes are damaged")
    return values


def _most_frequent(counts: np.ndarray) -> tuple[int, np.ndarray]:
    """The window of at most `_MAX_SYMBOLS` values that holds the most samples: its first value, its counts."""
    present = np.flatnonzero(counts)
    first, last = present[0], present[-1]
    if last - first >= _MAX_SYMBOLS:
        sums = np.concatenate([[0], np.cumsum(counts)])
        inside = sums[_MAX_SYMBOLS:] - sums[:-_MAX_SYMBOLS]
        first = int(inside.argmax())
        last = first + _MAX_SYMBOLS - 1
    return int(first), counts[first : last + 1]


def _frequencies(counts: np.ndarray, escapes: int) -> np.ndarray:
    """Whole numbers, at least 1 each and 2^16 together, about as `counts` and, last, `escapes`."""
    counts = np.append(counts, escapes).astype(np.int64)
    spare = 2**_PRECISION - len(counts)
    frequencies = 1 + counts * spare // counts.sum()
    frequencies[frequencies.argmax()] += 2**_PRECISION - frequencies.sum()
    return frequencies


def _pack_tables(tables: list[np.ndarray], offsets: list[int]) -> bytes:
    heads = np.array([(len(table), offset) for table, offset in zip(tables, offsets, strict=True)], "<u2")
    # A single symbol has all 2^16, which is 0 in 16 bits; there is an escape beside each, so none has.
    return deflate(heads.tobytes() + np.concatenate(tables).astype("<u2").tobytes())


def _unpack_tables(data: bytes, count: int) -> tuple[list[np.ndarray], list[int]]:
    content = inflate(data, limit=count * (4 + 2 * (_MAX_SYMBOLS + 1)))
    if len(content) < 4 * count or len(content) % 2:
        raise DamagedError("the distributions of factorized planes are damaged")
    lengths, offsets = np.frombuffer(content, "<u2", 2 * count).astype(np.int64).reshape(count, 2).T
    values = np.frombuffer(content, "<u2", offset=4 * count).astype(np.int64)
    if lengths.min(initial=2) < 2 or lengths.sum() != len(values):
        raise DamagedError("the distributions of factorized planes are damaged")
    tables = np.split(values, np.cumsum(lengths)[:-1])
    if any(table.sum() != 2**_PRECISION or table.min() < 1 for table in tables):
        raise DamagedError("the distributions of factorized planes are damaged")
    return tables, offsets.tolist()


def _rans_arguments(table: np.ndarray, offset: int, size: int) -> tuple:
    """Indexes, cumulative distributions, their sizes and offsets of one plane, as CompressAI's coder takes them."""
    distribution = [0, *np.cumsum(table).tolist()]
    return [0] * size, [distribution], [len(distribution)], [offset]


# -- context --------------------------------------------------------------------------------------


def _encode_context(planes: np.ndarray) -> bytes:
    from coding.prediction.samples import encode_samples

    return encode_samples(planes.astype(np.int32), 0)[0]


def _decode_context(data: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    from coding.prediction.samples import decode_samples

    values = decode_samples(data, shape, 0)
    if values.min() < 0 or values.max() > np.iinfo(dtype).max:
        raise DamagedError("planes of mixed contexts are damaged")
    return values


plane_coders = {
    "jpegxl": (_encode_jpegxl, _decode_jpegxl),
    "factorized": (_encode_factorized, _decode_factorized),
    "context": (_encode_context, _decode_context),
}
"""Name -> encode, decode. A coder's number in the file is its place here, from 1: add at the end."""
