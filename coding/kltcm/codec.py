"""`klt-cm` of cubes in memory: one tile, behind the interface that all codecs share."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from coding.base import Codec, CodingError, DamagedError, check_max_error, check_step
from coding.classical.header import pack_cube_header
from coding.classical.streams import seal, unseal
from coding.kltcm.tiles import KltTiles
from coding.numbers import MOST_DIVISOR, Numbers, numbers_of
from datasets.base import DTYPES

_FACTS = struct.Struct("<Ii")  # divisor, bound or -1


@dataclass(frozen=True)
class KltCm(Codec):
    """Takes uint16, int16 and float32.

    Attributes:
        step: see `Family.lossy`; None with a bound. On images the squared error is 0.9 to 1.1 times step^2 / 12;
            rounding to integers adds 1 / 12.
        max_error: bound on the error of every sample, 0 for no loss; None for none.

    Raises:
        CodingError: a step or a bound out of range, or not exactly one of them; from `encode`, NaN or infinity, or
            samples for which the step or the bound is too fine.
    """

    step: float | None = None
    max_error: int | None = None

    def __post_init__(self):
        if (self.step is None) == (self.max_error is None):
            raise CodingError("a step or a largest error: give one of them")
        if self.step is not None:
            check_step(self.step)
        else:
            check_max_error(self.max_error)

    @classmethod
    def of_bound(cls, max_error: int = 0) -> KltCm:
        return cls(max_error=max_error)

    def encode(self, cube: np.ndarray) -> bytes:
        header = pack_cube_header(cube, DTYPES)
        numbers = numbers_of(cube.dtype.name, None, self.max_error, [cube], knows_bits=True)
        record, _ = KltTiles(numbers, self.step, None).encode_tile(cube, np.ones(cube.shape, bool))
        return seal(header, _FACTS.pack(numbers.divisor, -1 if numbers.bound is None else numbers.bound) + record)

    def decode(self, data: bytes) -> np.ndarray:
        dtype, shape, body = unseal(data, DTYPES)
        if len(body) < _FACTS.size:
            raise DamagedError(f"{len(body)} bytes are too few for a cube of {shape}")
        divisor, bound = _FACTS.unpack_from(body)
        by_bits = divisor == bound == 0 and dtype == np.float32
        if not (1 <= divisor <= MOST_DIVISOR or by_bits) or bound < -1:
            raise DamagedError(f"a cube of {shape} with the divisor {divisor} and the bound {bound}")
        numbers = Numbers(dtype.name, divisor, None if bound < 0 else bound)
        return KltTiles(numbers, None, None).decode_tile(body[_FACTS.size :], np.ones(shape, bool))
