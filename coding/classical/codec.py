"""What classical codecs share: their modes, their factory and opener, and how errors of libraries are reported."""

from __future__ import annotations

import functools
import math
import struct
from abc import abstractmethod
from typing import ClassVar, NamedTuple, Self

import numpy as np

from coding.base import (
    Codec,
    CodecFactory,
    CodingError,
    DamagedError,
    bound_of_step,
    check_max_error,
    check_step,
    to_dtype,
)
from coding.hsc.header import Header, check_parameters, check_plain, is_step
from coding.samples import Samples
from datasets.base import DTYPES
from utils.errors import ProjectError, one_line

INTEGERS = ("int16", "uint16")
ANY = DTYPES
MOST_ERROR = 2**16 - 1
"""Largest bound: beyond it, any cube of integers will do."""

_LIBRARY_ERRORS = (RuntimeError, ValueError, OverflowError, struct.error)


class Modes(NamedTuple):
    """The types of samples that a codec takes in each mode, none where it does not have the mode."""

    lossy: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    lossless: tuple[str, ...] = ()


class ClassicalCodec(Codec):
    """A codec that learns nothing from other images: with loss by a step, with a bound, or without loss.

    Args:
        dtype: type of the samples.
        step: see `CodecFactory.lossy`; None with a bound.
        max_error: bound on the error of every sample, 0 for no loss; of integers, its whole part counts.

    Attributes:
        modes: types of samples by mode.
        most_error: largest bound.
        bounds_steps: whether a lossy codec is that of the largest bound whose bins are no wider than the step.

    Raises:
        CodingError: a type that the codec does not take, or a step or a bound out of its range.
    """

    modes: ClassVar[Modes]
    most_error: ClassVar[int] = MOST_ERROR
    bounds_steps: ClassVar[bool] = False

    def __init__(self, dtype: str, step: float | None = None, max_error: float = 0) -> None:
        self.dtype, self.step, self.max_error = dtype, step, max_error
        self.parameters = {} if step is None else {"step": step}
        mode = "lossy" if step is not None else "lossless" if self.modes.lossless and max_error == 0 else "bounded"
        dtypes = getattr(self.modes, mode)
        if not dtypes:
            raise CodingError(f"{type(self).__name__} has no {mode} mode")
        if dtype not in dtypes:
            raise CodingError(f"samples must be {' or '.join(dtypes)} for this codec, got {dtype}")
        if step is not None:
            check_step(step)
            if self.bounds_steps:
                self.max_error = bound_of_step(step)
        check_max_error(self.max_error, self.most_error)
        if dtype in INTEGERS:
            self.max_error = math.floor(self.max_error)

    @classmethod
    def factory(cls, samples: Samples) -> CodecFactory:
        """Return the factory for `samples`."""
        dtype, scale = samples.dtype, samples.scale
        return CodecFactory(
            lossy=functools.partial(cls, dtype) if cls.modes.lossy else None,
            bounded=functools.partial(cls, dtype, None) if cls.modes.bounded else None,
            lossless=functools.partial(cls, dtype) if cls.modes.lossless else None,
            finest=scale * 2.0**-20,
            coarsest=scale * 2.0,
            first=scale * 2.0**-8,
        )

    @classmethod
    def open(cls, header: Header, shared: bytes) -> Self:
        """Return the codec that decodes the tiles of a file.

        Raises:
            DamagedError: a header that this codec did not write.
        """
        check_plain(header, shared)
        check_parameters(header, {"step": is_step} if header.max_error is None else {})
        try:
            return cls(header.scene.dtype, header.parameters.get("step"), header.max_error or 0)
        except CodingError as error:
            raise DamagedError(f"the header names {header.codec}: {error}") from None

    def encode(self, cube: np.ndarray, valid: np.ndarray) -> bytes:
        try:
            return self.encode_cube(cube)
        except ProjectError:
            raise
        except _LIBRARY_ERRORS as error:
            raise CodingError(
                f"a cube of {cube.shape} cannot be coded ({one_line(error)}): try another codec"
            ) from None

    def decode(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        try:
            cube = self.decode_cube(data, valid.shape)
        except ProjectError:
            raise
        except _LIBRARY_ERRORS as error:
            raise DamagedError(f"the stream of a cube of {valid.shape} is damaged ({one_line(error)})") from None
        if cube.shape != valid.shape:
            raise DamagedError(f"the decoded cube must be of shape {valid.shape}, got {cube.shape}")
        return to_dtype(cube, self.dtype)

    @abstractmethod
    def encode_cube(self, cube: np.ndarray) -> bytes:
        """Encode a cube (C, H, W); errors of libraries pass through."""

    @abstractmethod
    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Return the cube (C, H, W) of `encode_cube`, of any type and not rounded; errors of libraries pass through."""
