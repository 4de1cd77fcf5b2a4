"""Compressed images of CCSDS 123.0-B-2: encoding with chosen parameters, and decoding with any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np

from coding.base import CodingError, DamagedError
from coding.classical.ccsds123 import block_adaptive, hybrid, sample_adaptive
from coding.classical.ccsds123.header import ENTROPY_CODERS, MAX_SIZE, pack_header, unpack_header
from coding.classical.ccsds123.predictor import indices_to_samples, samples_to_indices

LOCAL_SUMS = ("wide neighbor", "narrow neighbor", "wide column", "narrow column")
"""Names of the local sums; their indices are the numbers in the header."""

DTYPES: tuple[np.dtype, np.dtype] = (np.dtype("uint16"), np.dtype("int16"))
"""Type of unsigned and of signed samples."""

_WRITTEN_CODERS = ("hybrid", "sample-adaptive")
_DECODERS = {
    "sample-adaptive": sample_adaptive.decode,
    "hybrid": hybrid.decode,
    "block-adaptive": block_adaptive.decode,
}
_MOST_SAMPLES_PER_BIT = {"sample-adaptive": 1, "hybrid": 256, "block-adaptive": 600}

_RANGES = {
    "max_error": (0, 2**15 - 1),
    "prediction_bands": (0, 15),
    "weight_resolution": (4, 19),
    "weight_interval_exponent": (4, 11),
    "weight_exponent_first": (-6, 9),
    "representative_resolution": (0, 4),
    "unary_limit": (8, 32),
    "initial_count_exponent": (1, 8),
    "accumulator_exponent": (0, 14),
}


@dataclass(frozen=True)
class Ccsds123:
    """The parameters of compressed images of the standard: cubes of uint16 or int16, sides up to 65536 long.

    Images one pixel wide have no neighbors to the left or right: they are coded in reduced mode with column-oriented
    local sums, whatever the parameters are.

    Attributes:
        max_error: largest error of a sample, in the samples' units, 0 to 32767; 0 is lossless.
        prediction_bands: P, number of preceding bands that predict, 0 to 15.
        full_prediction: whether the local differences to the neighbors within the band predict, too (full prediction
            mode; otherwise reduced).
        local_sums: one of `LOCAL_SUMS`.
        weight_resolution: Omega, 4 to 19.
        weight_interval_exponent: log2 of t_inc, the number of samples after which the learning rate of the weights
            halves, 4 to 11.
        weight_exponent_first: v_min, -6 to 9: the lower, the faster the weights learn at first.
        weight_exponent_last: v_max, v_min to 9: the lower, the faster the weights learn in the long run.
        representative_resolution: Theta, 0 to 4, bits of `damping` and `offset`.
        damping: phi, 0 to 2^Theta - 1: how far representatives move from the bin centers to the predictions.
        offset: psi, 0 to 2^Theta - 1: how far representatives move from the bin centers to the side of the predictions.
            It has no effect, and is 0 in the header, if `max_error` is 0.
        unary_limit: U_max, number of zeros of the longest codewords, 8 to 32.
        initial_count_exponent: gamma_0, 1 to 8.
        rescaling_exponent: gamma*, max(4, gamma_0 + 1) to 11: the lower, the faster the coder adapts.
        accumulator_exponent: K, about log2 of the first mapped quantizer indices, 0 to 14; at most D - 2 is used. With
            the hybrid coder it matters to the first band, and is not in the header.
        entropy_coder: "hybrid", or "sample-adaptive", which takes a bit or more for each sample.

    Raises:
        CodingError: a parameter is out of its range.
    """

    max_error: int = 0
    prediction_bands: int = 3
    full_prediction: bool = True
    local_sums: str = LOCAL_SUMS[0]
    weight_resolution: int = 19
    weight_interval_exponent: int = 6
    weight_exponent_first: int = 0
    weight_exponent_last: int = 5
    representative_resolution: int = 3
    damping: int = 0
    offset: int = 6
    unary_limit: int = 18
    initial_count_exponent: int = 1
    rescaling_exponent: int = 6
    accumulator_exponent: int = 5
    entropy_coder: str = "hybrid"

    def __post_init__(self) -> None:
        if self.local_sums not in LOCAL_SUMS:
            raise CodingError(f"local_sums must be one of {', '.join(LOCAL_SUMS)}, got {self.local_sums!r}")
        if self.entropy_coder not in _WRITTEN_CODERS:
            raise CodingError(f"entropy_coder must be {' or '.join(_WRITTEN_CODERS)}, got {self.entropy_coder!r}")
        self._check(_RANGES)
        shift = 2**self.representative_resolution - 1
        self._check(
            {
                "weight_exponent_last": (self.weight_exponent_first, 9),
                "damping": (0, shift),
                "offset": (0, shift),
                "rescaling_exponent": (max(4, self.initial_count_exponent + 1), 11),
            }
        )

    def _check(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or not low <= int(value) <= high:
                raise CodingError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
            # The loop is compiled for Python's int; NumPy's integers would compile it again.
            object.__setattr__(self, name, int(value))

    def encode(self, cube: np.ndarray) -> bytes:
        """Encode a cube (C, H, W) of uint16 or int16 as a compressed image.

        Raises:
            CodingError: the cube has another type, is empty, or has a side longer than 65536.
        """
        if cube.ndim != 3 or not cube.size or cube.dtype not in DTYPES or max(cube.shape) > MAX_SIZE:
            raise CodingError(
                f"CCSDS 123 takes cubes (C, H, W) of uint16 or int16, no side longer than {MAX_SIZE}, "
                f"got {cube.dtype} {cube.shape}"
            )
        dynamic_range = self._dynamic_range(cube)
        codec = self._for_image(dynamic_range, cube.shape[2])
        packed = codec._pack_header(dynamic_range, cube)
        header, _ = unpack_header(packed)
        values = np.array(cube, order="C").view(np.uint16)
        samples_to_indices(values, header)
        if self.entropy_coder == "hybrid":
            return packed + hybrid.encode(values, header, 1 << codec.accumulator_exponent)
        return packed + sample_adaptive.encode(values, header)

    def _dynamic_range(self, cube: np.ndarray) -> int:
        """Return the smallest D whose D bits hold all samples, and whose D - 1 bits hold the error limit."""
        low, high = int(cube.min()), int(cube.max())
        bits = high.bit_length() if cube.dtype.kind == "u" else max(~low, high, low, ~high).bit_length() + 1
        return max(2, bits, self.max_error.bit_length() + 1)

    def _for_image(self, dynamic_range: int, width: int) -> Ccsds123:
        """Return the parameters that an image of this dynamic range and width is coded with."""
        codec = replace(self, accumulator_exponent=min(self.accumulator_exponent, dynamic_range - 2))
        if width > 1:
            return codec
        narrow = LOCAL_SUMS.index(self.local_sums) % 2
        return replace(codec, full_prediction=False, local_sums=LOCAL_SUMS[2 + narrow])

    def _pack_header(self, dynamic_range: int, cube: np.ndarray) -> bytes:
        """Return the header of the compressed image."""
        bands, height, width = cube.shape
        representatives = self.damping > 0 or (self.offset > 0 and self.max_error > 0)
        values = {
            "columns": width % MAX_SIZE,
            "rows": height % MAX_SIZE,
            "bands": bands % MAX_SIZE,
            "signed": DTYPES.index(cube.dtype),
            "dynamic range": dynamic_range % 16,
            "entropy coder": ENTROPY_CODERS.index(self.entropy_coder),
            "fidelity": int(self.max_error > 0),
            "representatives": int(representatives),
            "prediction bands": self.prediction_bands,
            "reduced": int(not self.full_prediction),
            "local sums": LOCAL_SUMS.index(self.local_sums),
            "weight resolution": self.weight_resolution - 4,
            "weight interval": self.weight_interval_exponent - 4,
            "first exponent": self.weight_exponent_first + 6,
            "last exponent": self.weight_exponent_last + 6,
            "error bits": self.max_error.bit_length(),
            "max error": self.max_error,
            "resolution": self.representative_resolution,
            "damping": self.damping,
            "offset": self.offset if self.max_error else 0,
            "unary limit": self.unary_limit % 32,
            "rescaling": self.rescaling_exponent - 4,
            "initial count": self.initial_count_exponent % 8,
            "accumulator": 0 if self.entropy_coder == "hybrid" else self.accumulator_exponent,
        }
        return pack_header(values)


def decode(data: bytes) -> np.ndarray:
    """Decode a compressed image with any parameters.

    Returns:
        The cube (C, H, W), uint16 or int16.

    Raises:
        DamagedError: the image is damaged, or uses an option of the standard that is not supported.
    """
    header, body = unpack_header(data)
    image = header.image
    coder = ENTROPY_CODERS[image.entropy_coder]
    # Without this check, a damaged header could claim all of the memory.
    if math.prod(image.shape) > 8 * len(body) * _MOST_SAMPLES_PER_BIT[coder]:
        raise DamagedError(f"{len(body)} bytes are too few for an image of shape {image.shape}")
    if len(data) % image.word_size:
        raise DamagedError(f"the length of a compressed image must be a multiple of {image.word_size} bytes")
    values = _DECODERS[coder](body, header)
    for limits in (header.predictor.absolute, header.predictor.relative):
        if not limits.per_band:
            limits.table[:] = limits.table[:, :1]  # limits between the codewords are read into the first column
    if not indices_to_samples(values, header):
        raise DamagedError("the codewords of a compressed image are damaged: some stand for no sample")
    return values.view(DTYPES[image.signed])
