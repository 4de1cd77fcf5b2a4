"""Entropy coding with one stored distribution for each band, without contexts.

The symbols are coded by CompressAI's range coder (rANS, doi 10.48550/arXiv.2011.03029), like the latents of a
factorized entropy model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from compressai.ans import BufferedRansEncoder, RansDecoder

from coding.base import DamagedError, deflate, inflate, join_blocks, split_blocks
from coding.classical.codec import INTEGERS, ClassicalCodec, Modes

MAX_SYMBOLS = 4096
"""Most values of a band that have a frequency of their own; other values are escaped."""

_PROBABILITY_BITS = 16
_DAMAGED = "the distributions of factorized bands are damaged"


class Factorized(ClassicalCodec):
    """Lossless codec of integers, coded as differences from the smallest value of their type."""

    modes = Modes(lossless=INTEGERS)

    def encode_cube(self, cube: np.ndarray) -> bytes:
        bands = (cube.astype(np.int64) - np.iinfo(self.dtype).min).reshape(len(cube), -1)
        tables, offsets = [], []
        for band in bands:
            offset, counts = _most_frequent(np.bincount(band))
            tables.append(_frequencies(counts, escapes=int(band.size - counts.sum())))
            offsets.append(offset)
        encoder = BufferedRansEncoder()
        for band, table, offset in zip(bands, tables, offsets, strict=True):
            # CompressAI's encoder writes beyond its buffer for a single symbol, so a single symbol is coded twice.
            symbols = band.tolist() * (1 if cube.size > 1 else 2)
            encoder.encode_with_indexes(symbols, *_rans_arguments(table, offset, len(symbols)))
        return join_blocks([_pack_tables(tables, offsets), encoder.flush()])

    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        packed, stream = split_blocks(data, 2)
        count, pixels = shape[0], shape[1] * shape[2]
        tables, offsets = _unpack_tables(packed, count)
        # CompressAI's decoder does not check where its data ends: on damaged data it may read four bytes for a symbol,
        # and 15 times as much for an escaped symbol.
        stream += bytes(8 * count * pixels + 16 * len(stream) + 64)
        decoder = RansDecoder()
        decoder.set_stream(stream)
        values = np.empty((count, pixels), np.int64)
        for band, table, offset in zip(values, tables, offsets, strict=True):
            band[:] = decoder.decode_stream(*_rans_arguments(table, offset, pixels))
        if values.min() < 0 or values.max() >= 2**16:
            raise DamagedError("factorized bands are damaged")
        return values.reshape(shape) + np.iinfo(self.dtype).min


def _most_frequent(counts: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the first value and the counts of the range of at most `MAX_SYMBOLS` values with the most samples."""
    present = np.flatnonzero(counts)
    first, last = present[0], present[-1]
    if last - first >= MAX_SYMBOLS:
        sums = np.concatenate([[0], np.cumsum(counts)])
        inside = sums[MAX_SYMBOLS:] - sums[:-MAX_SYMBOLS]
        first = int(inside.argmax())
        last = first + MAX_SYMBOLS - 1
    return int(first), counts[first : last + 1]


def _frequencies(counts: np.ndarray, escapes: int) -> np.ndarray:
    """Return integers about proportional to `counts` and, last, `escapes`: each at least 1, their sum 2^16."""
    counts = np.append(counts, escapes).astype(np.int64)
    spare = 2**_PROBABILITY_BITS - len(counts)
    frequencies = 1 + counts * spare // counts.sum()
    frequencies[frequencies.argmax()] += 2**_PROBABILITY_BITS - frequencies.sum()
    return frequencies


def _pack_tables(tables: Sequence[np.ndarray], offsets: Sequence[int]) -> bytes:
    heads = np.array([(len(table), offset) for table, offset in zip(tables, offsets, strict=True)], "<u2")
    # Frequencies fit into 16 bits: there is always an escape, so no symbol has all 2^16.
    return deflate(heads.tobytes() + np.concatenate(tables).astype("<u2").tobytes())


def _unpack_tables(data: bytes, count: int) -> tuple[list[np.ndarray], list[int]]:
    content = inflate(data, limit=count * (4 + 2 * (MAX_SYMBOLS + 1)))
    if len(content) < 4 * count or len(content) % 2:
        raise DamagedError(_DAMAGED)
    lengths, offsets = np.frombuffer(content, "<u2", 2 * count).astype(np.int64).reshape(count, 2).T
    values = np.frombuffer(content, "<u2", offset=4 * count).astype(np.int64)
    if lengths.min(initial=2) < 2 or lengths.sum() != len(values):
        raise DamagedError(_DAMAGED)
    tables = np.split(values, np.cumsum(lengths)[:-1])
    if any(table.sum() != 2**_PROBABILITY_BITS or table.min() < 1 for table in tables):
        raise DamagedError(_DAMAGED)
    return tables, offsets.tolist()


def _rans_arguments(table: np.ndarray, offset: int, size: int) -> tuple:
    """Return arguments of CompressAI's coder for a band: indexes, cumulative distributions, their sizes, offsets."""
    distribution = [0, *np.cumsum(table).tolist()]
    return [0] * size, [distribution], [len(distribution)], [offset]
