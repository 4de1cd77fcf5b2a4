"""`klt-cm` on tiles: any bands, any sensor, no weights.

Without a bound a tile's bands are transformed by their own Karhunen-Loeve transform (`coding.klt`), and its components
coded as planes (`coefficients`). With one they are coded as whole numbers, predicted band by band (`samples`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, DamagedError, TileCoder, join_blocks, split_blocks
from coding.hsc.container import Header
from coding.hsc.masks import fill_gaps
from coding.hsc.parameters import check_parameters, is_step, number_rules
from coding.klt import fit_klt, unpack_klt
from coding.kltcm.coefficients import decode_coefficients, encode_coefficients
from coding.numbers import Numbers, avoid_nodata, number_of, restore_moves, round_samples
from coding.prediction.floats import decode_floats, encode_floats
from coding.prediction.samples import decode_samples, encode_samples

_MOST_STEP = 2.0**128  # float32 ends there


@dataclass(frozen=True)
class KltTiles(TileCoder):
    """The tiles of one scene.

    Attributes:
        numbers: how samples become whole numbers, with the bound on their error.
        step: of the quantizer without a bound, in the samples' units: the squared error is about step^2 / 12.
            None with one.
        nodata: of the scene.
    """

    numbers: Numbers
    step: float | None
    nodata: float | None

    codec = "klt-cm"
    clips_to_scale = False

    def parameters(self) -> dict:
        return {"step": self.step, "divisor": self.numbers.divisor, "bound": self.numbers.bound}

    def shared(self) -> bytes:
        return b""

    def check(self, samples: np.ndarray, valid: np.ndarray) -> None:
        """That samples can be coded at some step.

        Raises:
            CodingError: NaN or infinity among those that are valid.
        """
        if samples.dtype == np.float32 and not np.isfinite(samples[valid]).all():
            raise CodingError("NaN or infinity among the samples: name it as nodata, or mend it")

    def encode_tile(self, samples: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """See `TileCoder`.

        Raises:
            CodingError: NaN or infinity among the valid samples, or a step or a bound too fine for them.
        """
        self.check(samples, valid)
        filled = fill_gaps(samples, valid)
        if self.numbers.bound is None:
            klt, transform = fit_klt(filled, self.step**2 / 12)
            components = klt.forward(filled)
            coded, components = encode_coefficients(components) if len(components) else (b"", components)
            return join_blocks([transform, coded]), round_samples(klt.inverse(components), self.numbers, self.nodata)
        if self.numbers.divisor == 0:
            return encode_floats(filled), filled
        targets = self.numbers.of(filled)
        coded, decoded = encode_samples(targets, self.numbers.bound)
        moved = avoid_nodata(decoded, targets, valid, self.numbers.nodata)
        return join_blocks([coded, moved]), self.numbers.samples(decoded)

    def decode_tile(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        if self.numbers.divisor == 0:
            return decode_floats(data, valid.shape)
        first, second = split_blocks(data, 2)
        if self.numbers.bound is None:
            bands, *size = valid.shape
            klt = unpack_klt(first, bands, size[0] * size[1])
            count = klt.basis.shape[1]
            if not count and second:
                raise DamagedError("a tile without components has bytes of them")
            components = decode_coefficients(second, (count, *size)) if count else np.zeros((0, *size))
            return round_samples(klt.inverse(components), self.numbers, self.nodata)
        decoded = decode_samples(first, valid.shape, self.numbers.bound)
        if not restore_moves(decoded, valid, self.numbers.nodata, second):
            raise DamagedError("a tile has other samples at its nodata value than it says")
        return self.numbers.samples(self.numbers.clip(decoded))


def open_tiles(header: Header, shared: bytes, network: object) -> KltTiles:
    """The coder by which the tiles of a file can be decoded.

    Args:
        network: None: there is none.

    Raises:
        DamagedError: a header that this codec did not write.
    """
    rules = {
        "step": lambda value: value is None if header.max_error is not None else is_step(value, _MOST_STEP),
        **number_rules(header),
    }
    by_bits = header.scene.dtype == "float32" and header.parameters.get("bound") == 0
    if by_bits and header.parameters.get("divisor") == 0:
        del rules["divisor"]
    check_parameters(header, rules)
    if shared or network is not None:
        raise DamagedError("the header names klt-cm, which has neither a model nor a shared block")
    parameters, scene = header.parameters, header.scene
    divisor = parameters["divisor"]
    nodata = number_of(scene.nodata, scene.dtype, divisor) if divisor else None
    numbers = Numbers(scene.dtype, divisor, parameters["bound"], nodata)
    return KltTiles(numbers, parameters["step"], scene.nodata)
