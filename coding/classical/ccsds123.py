"""CCSDS 123.0-B-2: every sample predicted from its neighbors and from the preceding bands, without loss or nearly so.

    s --> (-) --> quantizer -- q --> mapping -- delta --> codewords --> bits
           ^          |
         s_hat        v
           |     bin center s' --> sample representative s"
           |                                 |
           +---- adaptive linear predictor <-+

"Low-Complexity Lossless and Near-Lossless Multispectral and Hyperspectral Image Compression", CCSDS 123.0-B-2, Blue
Book, issue 2, Consultative Committee for Space Data Systems, 2019; see also Kiely et al., "The New CCSDS Standard for
Low-Complexity Lossless and Near-Lossless Multispectral and Hyperspectral Image Compression", OBPDC 2018.

What is written is a compressed image of the standard, header included, and nothing else: dynamic range D = 2 to 16
bits, signed or unsigned, band-sequential order, output words of one byte, the sample-adaptive entropy coder, one
absolute error limit for all bands, register size R = 64, default weights, no weight exponent offsets, no supplementary
tables. What other encoders write is read as far as it has these properties. Written from the standard; not checked
against another implementation.

D is the smallest that holds the samples: the weights learn in steps that are measured in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from coding.base import Codec, CodingError, DamagedError, bound_of_step

if TYPE_CHECKING:
    from coding.classical.ccsds123_kernels import Settings

LOCAL_SUMS = ("wide neighbor", "narrow neighbor", "wide column", "narrow column")
"""Names of the local sums, by their numbers in the header."""

_DTYPES = (np.dtype("uint16"), np.dtype("int16"))
_MAX_SIZE = 2**16  # of a side

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
class Ccsds123(Codec):
    """Codec of cubes of uint16 or int16 whose sides are at most 65536 long.

    Images one pixel wide have no neighbors to the left or the right: they are coded in reduced mode, with the column
    oriented local sums, whatever the parameters say.

    Attributes:
        max_error: no sample changes by more, in units of the samples, 0 to 32767; 0 is lossless.
        prediction_bands: P, preceding bands that predict, 0 to 15.
        full_prediction: whether the local differences to the neighbors within the band predict too (full prediction
            mode; otherwise reduced).
        local_sums: one of `LOCAL_SUMS`.
        weight_resolution: Omega, 4 to 19.
        weight_interval_exponent: log2 of t_inc, the samples after which the weights learn half as fast, 4 to 11.
        weight_exponent_first: v_min, -6 to 9: the lower, the faster the weights learn at first.
        weight_exponent_last: v_max, v_min to 9: the same in the long run.
        representative_resolution: Theta, 0 to 4, bits of the next two.
        damping: phi, 0 to 2^Theta - 1: how far representatives move from the bin centers to the predictions.
        offset: psi, 0 to 2^Theta - 1: how far they move from the bin centers to the predictions' side of the bins. Of
            no effect, and 0 in the header, where nothing is lost.
        unary_limit: U_max, zeros of the longest codewords, 8 to 32.
        initial_count_exponent: gamma_0, 1 to 8.
        rescaling_exponent: gamma*, from 4 and gamma_0 + 1 on to 11: the lower, the faster the coder adapts.
        accumulator_exponent: K, about log2 of the first mapped quantizer indices, 0 to 14; at most D - 2 is used.

    Raises:
        CodingError: a parameter out of its range.
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

    def __post_init__(self):
        if self.local_sums not in LOCAL_SUMS:
            raise CodingError(f"local_sums={self.local_sums!r}: choose from {', '.join(LOCAL_SUMS)}")
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

    @classmethod
    def of_step(cls, step: float) -> Ccsds123:
        """The lossless or near-lossless codec of a step, see `bound_of_step`.

        Raises:
            CodingError: a step that is no number from 1e-9 to 1e9, or of more than the largest bound.
        """
        return cls(bound_of_step(step))

    def _check(self, ranges: Mapping[str, tuple[int, int]]) -> None:
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or not low <= value <= high:
                raise CodingError(f"{name}={value!r}: takes whole numbers from {low} to {high}")
            # One type of number, whatever NumPy's came in: the loop is compiled for it.
            object.__setattr__(self, name, int(value))

    def encode(self, cube: np.ndarray) -> bytes:
        """Cube (C, H, W) of uint16 or int16 to a compressed image.

        Raises:
            CodingError: another type or shape.
        """
        from coding.classical.ccsds123_kernels import CODE_BITS, code_band

        if cube.ndim != 3 or not cube.size or cube.dtype not in _DTYPES or max(cube.shape) > _MAX_SIZE:
            raise CodingError(
                f"a cube of {cube.dtype} and shape {cube.shape}: CCSDS 123 takes (C, H, W) of uint16 or int16, "
                f"no side longer than {_MAX_SIZE}"
            )
        _, height, width = cube.shape
        dynamic_range = self._dynamic_range(cube)
        codec = self._for_image(dynamic_range, width)
        settings = codec._settings(dynamic_range, cube.dtype)
        out = np.zeros((7 + height * width * (self.unary_limit + CODE_BITS)) // 8 + 2, np.uint8)
        chunks, bit = [codec._pack_header(dynamic_range, cube)], 0
        state = _initial_state(settings, height, width)
        for band in cube:
            samples = np.ascontiguousarray(band, np.int32)
            whole, bit = divmod(code_band(False, samples, *state, settings, out, bit), 8)
            chunks.append(out[:whole].tobytes())
            out[0] = out[whole]
        if bit:
            chunks.append(out[:1].tobytes())
        return b"".join(chunks)

    def decode(self, data: bytes) -> np.ndarray:
        """The cube (C, H, W) of a compressed image, whatever this codec's own parameters.

        Raises:
            DamagedError: no such image, or one of an option of the standard that this codec does not use.
        """
        from coding.classical.ccsds123_kernels import code_band

        codec, dynamic_range, dtype, (bands, height, width), body = _unpack_header(data)
        # A codeword has a bit or more: what a damaged header claims allocates no more than its data are worth.
        if bands * height * width > 8 * len(body):
            raise DamagedError(f"{len(body)} bytes are too few for an image of shape {(bands, height, width)}")
        settings = codec._settings(dynamic_range, dtype)
        cube = np.empty((bands, height, width), dtype)
        samples = np.empty((height, width), np.int32)
        state = _initial_state(settings, height, width)
        stream, bit = np.frombuffer(bytearray(body), np.uint8), 0
        for band in cube:
            bit = code_band(True, samples, *state, settings, stream, bit)
            if not 0 <= bit <= 8 * len(body):
                raise DamagedError("the codewords of a compressed image are damaged or end early")
            band[:] = samples
        if (bit + 7) // 8 != len(body) or (bit % 8 and body[-1] & (255 >> bit % 8)):
            raise DamagedError("a compressed image goes on behind its last sample")
        return cube

    def _dynamic_range(self, cube: np.ndarray) -> int:
        """D: bits that hold all samples, and one more than the error limit takes."""
        low, high = int(cube.min()), int(cube.max())
        bits = high.bit_length() if cube.dtype.kind == "u" else max(~low, high, low, ~high).bit_length() + 1
        return max(2, bits, self.max_error.bit_length() + 1)

    def _for_image(self, dynamic_range: int, width: int) -> Ccsds123:
        """The codec with the parameters that such an image may have."""
        codec = replace(self, accumulator_exponent=min(self.accumulator_exponent, dynamic_range - 2))
        if width > 1:
            return codec
        narrow = LOCAL_SUMS.index(self.local_sums) % 2
        return replace(codec, full_prediction=False, local_sums=LOCAL_SUMS[2 + narrow])

    def _settings(self, dynamic_range: int, dtype: np.dtype) -> Settings:
        from coding.classical.ccsds123_kernels import Settings

        middle = 2 ** (dynamic_range - 1) if dtype.kind == "u" else 0
        column, narrow = divmod(LOCAL_SUMS.index(self.local_sums), 2)
        return Settings(
            range_bits=dynamic_range,
            low=middle - 2 ** (dynamic_range - 1),
            middle=middle,
            high=middle + 2 ** (dynamic_range - 1) - 1,
            bands=self.prediction_bands,
            directions=3 if self.full_prediction else 0,
            narrow=narrow,
            column=column,
            weight_bits=self.weight_resolution,
            interval_bits=self.weight_interval_exponent,
            exponent_first=self.weight_exponent_first,
            exponent_last=self.weight_exponent_last,
            representative_bits=self.representative_resolution,
            damping=self.damping,
            offset=self.offset,
            max_error=self.max_error,
            unary_limit=self.unary_limit,
            count_bits=self.initial_count_exponent,
            rescale_bits=self.rescaling_exponent,
            accumulator_bits=self.accumulator_exponent,
        )

    def _pack_header(self, dynamic_range: int, cube: np.ndarray) -> bytes:
        """Image, predictor and entropy coder metadata."""
        bands, height, width = cube.shape
        representatives = self.damping > 0 or (self.offset > 0 and self.max_error > 0)
        values = {
            "user-defined": 0,
            "columns": width % _MAX_SIZE,
            "rows": height % _MAX_SIZE,
            "bands": bands % _MAX_SIZE,
            "signed": _DTYPES.index(cube.dtype),
            "dynamic range": dynamic_range % 16,
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
            "accumulator": self.accumulator_exponent,
        }
        parts = [_IMAGE, _PREDICTOR]
        if self.max_error:
            parts += [_ERROR_BITS, _max_error_layout(values["error bits"])]
        if representatives:
            parts.append(_REPRESENTATIVES)
        return b"".join(_pack(layout, values) for layout in [*parts, _ENTROPY_CODER])


# -- header ---------------------------------------------------------------------------------------

# A layout lists fields as (bits, name), or (bits, number) for what is reserved or has one value here.
_Layout = tuple[tuple[int, str | int], ...]

_IMAGE: _Layout = (
    (8, "user-defined"),
    (16, "columns"),
    (16, "rows"),
    (16, "bands"),
    (1, "signed"),
    (1, 0),
    (1, 0),  # D is no more than 16
    (4, "dynamic range"),  # modulo 16
    (1, 1),  # band-sequential
    (16, 0),  # sub-frame interleaving depth, of the other order
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
    (5, 0),  # resolution of the weights in it
)
_ERROR_BITS: _Layout = ((1, 0), (1, 0), (2, 0), (4, "error bits"))  # the second: the same for all bands
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
    """Add the fields in front of `data` to `values`; the bytes behind them."""
    length = sum(size for size, _ in layout) // 8
    if len(data) < length:
        raise DamagedError("the header of a compressed image is not complete")
    number, left = int.from_bytes(data[:length], "big"), 8 * length
    for size, field in layout:
        left -= size
        value = number >> left & ((1 << size) - 1)
        if isinstance(field, str):
            values[field] = value
        elif value != field:
            raise DamagedError("the header of a compressed image is damaged, or has options that are not supported")
    return data[length:]


def _unpack_header(data: bytes) -> tuple[Ccsds123, int, np.dtype, tuple[int, int, int], bytes]:
    """Codec, dynamic range, type and shape (C, H, W) of an image, and the bytes behind its header."""
    values = {"error bits": 0, "max error": 0, "resolution": 0, "damping": 0, "offset": 0}
    data = _unpack(_PREDICTOR, _unpack(_IMAGE, data, values), values)
    if values["fidelity"] > 1:
        raise DamagedError("a compressed image has relative error limits, which are not supported")
    if values["fidelity"]:
        data = _unpack(_ERROR_BITS, data, values)
        data = _unpack(_max_error_layout(values["error bits"]), data, values)
    if values["representatives"]:
        data = _unpack(_REPRESENTATIVES, data, values)
    data = _unpack(_ENTROPY_CODER, data, values)
    try:
        codec = Ccsds123(
            max_error=values["max error"],
            prediction_bands=values["prediction bands"],
            full_prediction=not values["reduced"],
            local_sums=LOCAL_SUMS[values["local sums"]],
            weight_resolution=values["weight resolution"] + 4,
            weight_interval_exponent=values["weight interval"] + 4,
            weight_exponent_first=values["first exponent"] - 6,
            weight_exponent_last=values["last exponent"] - 6,
            representative_resolution=values["resolution"],
            damping=values["damping"],
            offset=values["offset"],
            unary_limit=values["unary limit"] or 32,
            initial_count_exponent=values["initial count"] or 8,
            rescaling_exponent=values["rescaling"] + 4,
            accumulator_exponent=values["accumulator"],
        )
    except CodingError as error:
        raise DamagedError(f"the header of a compressed image is damaged ({error})") from None
    shape = tuple(values[side] or _MAX_SIZE for side in ("bands", "rows", "columns"))
    dynamic_range = values["dynamic range"] or 16
    limit = 2 ** (dynamic_range - 1)
    if dynamic_range < 2 or codec.max_error >= limit or codec != codec._for_image(dynamic_range, shape[2]):
        raise DamagedError("the header of a compressed image is damaged: parameters that such an image cannot have")
    return codec, dynamic_range, _DTYPES[values["signed"]], shape, data


def _initial_state(settings: Settings, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of local differences and sample representatives, as the loops take them before the first band."""
    vectors = np.zeros((height * width, settings.directions + settings.bands), np.int32)
    return vectors, np.full((height, width), settings.middle, np.int32)
