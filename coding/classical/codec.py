"""The base of classical codecs: their modes, their factory and opener, and the handling of errors in libraries."""

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
from datasets.base import DTYPES, INTEGER_RANGES
from utils.errors import ProjectError, one_line

INTEGERS = ("uint8", "int8", "int16", "uint16")
"""Integers of at most 16 bits."""
ANY = DTYPES
MAX_BOUND = 2**16 - 1
"""Largest bound; with it, all integers of 16 bits are within the bound of one another."""

_LIBRARY_ERRORS = (RuntimeError, ValueError, OverflowError, struct.error)


class Modes(NamedTuple):
    """The types of samples that a codec takes in each mode; empty for a mode that it lacks."""

    lossy: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()
    lossless: tuple[str, ...] = ()


class ClassicalCodec(Codec):
    """A codec without training: lossy with a step, bounded, or lossless.

    Args:
        dtype: type of the samples.
        step: see `CodecFactory.lossy`; None with a bound.
        max_error: bound on the error of every sample, in the samples' units; 0 is lossless. For integers it is rounded
            down.

    Attributes:
        modes: types of samples by mode.
        max_bound: largest bound.
        bounds_steps: whether a step stands for the largest bound whose bins are no wider, see `bound_of_step`.

    Raises:
        CodingError: the codec does not take the type or lacks the mode, or the step or the bound is out of range.
    """

    modes: ClassVar[Modes]
    max_bound: ClassVar[int] = MAX_BOUND
    bounds_steps: ClassVar[bool] = False

    def __init__(self, dtype: str, step: float | None = None, max_error: float = 0) -> None:
        self.dtype, self.step, self.max_error = dtype, step, max_error
        self.parameters = {} if step is None else {"step": step}
        mode = "lossy" if step is not None else "lossless" if self.modes.lossless and max_error == 0 else "bounded"
        dtypes = getattr(self.modes, mode)
        if not dtypes:
            raise CodingError(f"{type(self).__name__} has no {mode} mode")
        if dtype not in dtypes:
            raise CodingError(
                f"samples must be {', '.join(dtypes[:-1])} or {dtypes[-1]} for this codec and mode, got {dtype}: "
                "choose another codec, such as klt-cm"
            )
        if step is not None:
            check_step(step)
            if self.bounds_steps:
                self.max_error = bound_of_step(step)
        check_max_error(self.max_error, self.max_bound)
        if dtype in INTEGER_RANGES:
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
            DamagedError: this codec did not write the header.
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
                f"a cube of shape {cube.shape} cannot be coded ({one_line(error)}): try another codec"
            ) from None

    def decode(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        try:
            cube = self.decode_cube(data, valid.shape)
        except ProjectError:
            raise
        except _LIBRARY_ERRORS as error:
            raise DamagedError(f"the stream of a cube of shape {valid.shape} is damaged ({one_line(error)})") from None
        if cube.shape != valid.shape:
            raise DamagedError(f"the decoded cube must be of shape {valid.shape}, got {cube.shape}")
        return to_dtype(cube, self.dtype)

    @abstractmethod
    def encode_cube(self, cube: np.ndarray) -> bytes:
        """Encode a cube (C, H, W); may raise errors of libraries."""

    @abstractmethod
    def decode_cube(self, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Decode the bytes of `encode_cube`: a cube (C, H, W), any type, not rounded; may raise errors of libraries."""
