"""The codec `klt-cm`, for any bands of any sensor and samples of any type, without weights.

Without a bound, the bands of a tile are transformed by their own Karhunen-Loeve transform (`coding.klt`), and the
components are coded as planes (`coding.kltcm.coefficients`). With a bound, the bands are coded as integers, each
predicted from the preceding ones (`coding.prediction.samples`), or, where that is impossible, without loss as floats
(`coding.prediction.floats`).
"""

from __future__ import annotations

import numpy as np

from coding.base import (
    Codec,
    CodecFactory,
    CodingError,
    DamagedError,
    deflate,
    inflate,
    join_blocks,
    split_blocks,
    to_dtype,
)
from coding.hsc.header import Header, check_parameters, check_plain, is_bound, is_divisor, is_step
from coding.klt import fit_klt, unpack_klt
from coding.klt_rates import klt_rates
from coding.kltcm.coefficients import decode_coefficients, encode_coefficients
from coding.numbers import Numbers, numbers_of
from coding.prediction.floats import decode_floats, encode_floats
from coding.prediction.samples import Known, decode_samples, encode_samples
from coding.samples import Samples
from datasets.base import INTEGER_RANGES

_FLAGS = ("has_short_quotient", "has_negative_zeros")
"""Attributes of `Numbers` that are parameters in the header where they are True."""


class KltCm(Codec):
    """Codec of all types of samples.

    Args:
        numbers: map from samples to integers, with the bound on the error.
        step: quantizer step, in the samples' units; None with a bound. On images the squared error is 0.9 to 1.1 times
            step^2 / 12; rounding to integers adds 1 / 12.

    Raises:
        CodingError: the step is not a number above 0, or not exactly one of step and bound is given.
    """

    def __init__(self, numbers: Numbers, step: float | None = None) -> None:
        self.numbers, self.step, self.dtype = numbers, step, numbers.dtype
        if (step is None) == (numbers.bound is None):
            raise CodingError("klt-cm needs either a step or a bound")
        if step is None:
            flags = {name: True for name in _FLAGS if getattr(numbers, name)}
            self.parameters = {"divisor": numbers.divisor, "bound": numbers.bound, **flags}
        elif is_step(step):
            self.parameters = {"step": step}
        else:
            raise CodingError(f"the step must be a number above 0, got {step:g}")

    @classmethod
    def factory(cls, samples: Samples) -> CodecFactory:
        """Return the factory for `samples`."""

        def bounded(max_error: float) -> KltCm:
            return cls(numbers_of(samples.dtype, max_error, samples.values(), codes_bits=True))

        return CodecFactory(
            lossy=lambda step: cls(Numbers(samples.dtype), step),
            bounded=bounded,
            lossless=lambda: bounded(0),
            finest=samples.scale * 2.0**-20,
            coarsest=samples.scale * 2.0,
            first=samples.scale * 2.0**-8,
            rates=klt_rates,
        )

    @classmethod
    def open(cls, header: Header, shared: bytes) -> KltCm:
        """Return the codec that decodes the tiles of a file.

        Raises:
            DamagedError: this codec did not write the header.
        """
        check_plain(header, shared)
        dtype, parameters = header.scene.dtype, header.parameters
        if header.max_error is None:
            check_parameters(header, {"step": is_step})
            return cls(Numbers(dtype), parameters["step"])
        is_float, flags = dtype not in INTEGER_RANGES, {name: True for name in _FLAGS if name in parameters}
        by_bits = is_float and parameters.get("bound") == 0 and parameters.get("divisor") == 0
        is_known = {"divisor": (lambda value: value == 0) if by_bits else is_divisor, "bound": is_bound}
        check_parameters(header, {**is_known, **dict.fromkeys(flags, lambda value: value is True and is_float)})
        return cls(Numbers(dtype, parameters["divisor"], parameters["bound"], **flags))

    def encode(self, cube: np.ndarray, valid: np.ndarray) -> bytes:
        """See `Codec.encode`.

        Raises:
            CodingError: the step or the bound is too fine for the samples.
        """
        return self.encode_and_decode(cube, valid)[0]

    def encode_and_decode(self, cube: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """See `Codec.encode_and_decode`; the encoder yields the decoded cube, too."""
        if self.numbers.divisor == 0:
            return encode_floats(cube, valid), cube
        if self.numbers.bound is not None:
            data, numbers = encode_samples(self.numbers.of(cube), self.numbers.bound, known=Known.gaps(valid))
            decoded = self.numbers.samples(numbers)
            if not self.numbers.has_negative_zeros:
                return data, decoded
            signs = np.packbits(np.signbit(cube[(decoded == 0) & valid]))
            return join_blocks([deflate(signs.tobytes()), data]), np.where(valid, cube, decoded)
        assert self.step is not None  # there is a step or a bound
        klt, transform = fit_klt(cube, self.step**2 / 12)
        components = klt.forward(cube)
        coded, components = encode_coefficients(components) if len(components) else (b"", components)
        return join_blocks([transform, coded]), to_dtype(klt.inverse(components), self.dtype)

    def side_bytes(self, data: bytes) -> int | None:
        """See `Codec.side_bytes`: mean and basis; unknown with a bound, where predictors adapt to decoded samples."""
        return len(split_blocks(data, 2)[0]) if self.numbers.bound is None else None

    def decode(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        if self.numbers.divisor == 0:
            return decode_floats(data, valid, self.dtype)
        if self.numbers.bound is not None:
            signs, data = split_blocks(data, 2) if self.numbers.has_negative_zeros else (b"", data)
            decoded = decode_samples(data, valid.shape, self.numbers.bound, known=Known.gaps(valid))
            decoded = self.numbers.samples(self.numbers.clip(decoded))
            return _with_negative_zeros(decoded, signs, valid) if self.numbers.has_negative_zeros else decoded
        transform, coded = split_blocks(data, 2)
        bands, height, width = valid.shape
        klt = unpack_klt(transform, bands, height * width)
        count = klt.basis.shape[1]
        if not count and coded:
            raise DamagedError(f"a tile without components must have no bytes for them, got {len(coded)}")
        components = decode_coefficients(coded, (count, height, width)) if count else np.zeros((0, height, width))
        return to_dtype(klt.inverse(components), self.dtype)


def _with_negative_zeros(cube: np.ndarray, signs: bytes, valid: np.ndarray) -> np.ndarray:
    """Return the cube with the signs of its zeros."""
    zeros = (cube == 0) & valid
    count = int(zeros.sum())
    bits = np.frombuffer(inflate(signs, -(-count // 8)), np.uint8)
    if len(bits) != -(-count // 8):
        raise DamagedError(f"the signs of {count} zeros must have {-(-count // 8)} bytes, got {len(bits)}")
    cube[zeros] = np.where(np.unpackbits(bits, count=count), -0.0, 0.0)
    return cube
