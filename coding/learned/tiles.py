r"""Any model of the registry as a codec: its latents quantized and entropy-coded, its weights as they are.

::

    samples ─► reflectance in [0, 1] ─► encoder ─► y ─► round(y / step of its channel) ─► planes coded without loss
                                                                        │
    samples ◄── x_hat ◄── decoder ◄── y_hat ◄── times the step ◄────────┘

with a bound on the error: x_hat as whole numbers (see `coding.learned.bounds`), the quantized difference to the samples
coded after it, and the bands that the model does not take coded by themselves.

A channel's step is its unit, times one `step` for all: see `units_of`. Units are stored as eighths of powers of
two, a byte each.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coding import PLANE_CODERS
from coding.base import BoundNotGuaranteed, CodingError, DamagedError, TileCoder, join_blocks, split_blocks
from coding.hsc.container import Header
from coding.hsc.masks import fill_gaps
from coding.hsc.parameters import check_parameters, is_step, number_rules
from coding.learned.bounds import MAX_GRID, choose_grid, quantize, round_as_listed, round_to_grid
from coding.learned.network import Network
from coding.numbers import Numbers, avoid_nodata, number_of, restore_moves, round_samples
from coding.planes import decode_planes, encode_planes, plane_coders

DEFAULT_CODER = PLANE_CODERS[0]
_UNIT_STEPS, _UNIT_ZERO = 8, 128  # a unit u has the code 8 log2(u) + 128
MAX_STEP = 2.0**32
_MAX_LEVEL = 2**23  # of a quantized latent: beyond, float32 steps over whole numbers
_BLOCKS = 6  # of a tile's record with a bound


@dataclass(frozen=True)
class Settings:
    """What a decoder must know beside weights and units; all of it is in the file.

    Attributes:
        coder: of `plane_coders`.
        step: of the quantizer, in the channels' units.
        scale: sample value of reflectance 1.0.
        nodata: of the scene.
        numbers: how samples become whole numbers.
        model_bands: places of the model's bands among the coded ones, in its order; the others are coded
            by themselves, which needs a bound.
        num_bands: of the coded ones.
    """

    coder: str
    step: float
    scale: float
    nodata: float | None
    numbers: Numbers
    model_bands: tuple[int, ...]
    num_bands: int


class LearnedTiles(TileCoder):
    """The tiles of one scene by one network.

    Args:
        units: codes of the channels' units, uint8 (channels,).
    """

    codec = "learned"

    @property
    def clips_to_scale(self) -> bool:
        return self.settings.numbers.bound is None

    def __init__(self, network: Network, settings: Settings, units: np.ndarray):
        self.network, self.settings, self.units = network, settings, units
        self.extra_bands = tuple(sorted(set(range(settings.num_bands)) - set(settings.model_bands)))
        if len(settings.model_bands) != network.num_bands:
            raise CodingError(f"{network.name} was made for {network.num_bands} bands, not {len(settings.model_bands)}")
        if not 0 < settings.step < MAX_STEP:
            raise CodingError(f"a step of {settings.step:g}: give one above 0 and below {MAX_STEP:g}")
        if self.extra_bands and settings.numbers.bound is None:
            raise CodingError("bands beside the model's need a bound on the error")

    def parameters(self) -> dict:
        numbers = self.settings.numbers
        return {
            "coder": self.settings.coder,
            "step": self.settings.step,
            "divisor": numbers.divisor,
            "bound": numbers.bound,
            "extra_bands": [band + 1 for band in self.extra_bands],
        }

    def shared(self) -> bytes:
        return self.units.tobytes()

    # -- the way to bytes -----------------------------------------------------------------------

    def latents(self, samples: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Latents (planes, h, w) of a tile, those of pixels without data like their neighbors'."""
        bands = list(self.settings.model_bands)
        if samples.dtype == np.float32 and not np.isfinite(samples[valid]).all():
            raise CodingError("NaN or infinity among the samples: name it as nodata, or mend it")
        y = self.network.encode(fill_gaps(self.reflectance(samples[bands]), valid[bands]))
        used = valid[bands].any(axis=0)
        return y if used.all() else fill_gaps(y, _coarsen(used, self.network.multiple)[None])

    def reflectance(self, samples: np.ndarray) -> np.ndarray:
        """What the model sees: float32 in [0, 1], clipped as in training."""
        with np.errstate(invalid="ignore"):
            x = samples.astype(np.float32) / np.float32(self.settings.scale)
        return np.nan_to_num(np.clip(x, 0, 1), copy=False)

    def encode_tile(self, samples: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        return self.encode_latents(self.latents(samples, valid), samples, valid)

    def encode_latents(self, y: np.ndarray, samples: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """`encode_tile` with the latents at hand."""
        levels = self.levels(y)
        coded = encode_planes(levels, self.settings.coder)
        x_hat = self.reconstruct(levels, samples.shape[1:])
        if self.settings.numbers.bound is None:
            return join_blocks([coded]), self.to_samples(x_hat)
        return self._encode_bounded(coded, x_hat, samples, valid)

    def levels(self, y: np.ndarray) -> np.ndarray:
        """Quantized latents, int64.

        Raises:
            CodingError: the step is too fine for that.
        """
        with np.errstate(all="ignore"):
            levels = np.rint(y / self._steps(len(y)))
        if not np.abs(levels).max(initial=0) <= _MAX_LEVEL:  # NaN, too
            raise CodingError(f"a step of {self.settings.step:g} makes more than 2^24 levels: give a coarser one")
        return levels.astype(np.int64)

    def reconstruct(self, levels: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Reflectances (C, H, W) of the model's bands."""
        y_hat = levels.astype(np.float32) * self._steps(len(levels))
        return self.network.decode(y_hat, *size)

    def _steps(self, num_planes: int) -> np.ndarray:
        units = 2.0 ** ((self.units.astype(np.float64) - _UNIT_ZERO) / _UNIT_STEPS)
        steps = (units * self.settings.step).astype(np.float32)
        return np.repeat(steps, num_planes // len(steps))[:, None, None]

    def to_samples(self, x_hat: np.ndarray) -> np.ndarray:
        """Reflectances in the scene's type, none of them its nodata value."""
        settings = self.settings
        if settings.numbers.dtype == "float32":
            values = np.clip(x_hat, 0, 1) * np.float32(settings.scale)
        else:
            values = np.clip(np.nan_to_num(x_hat), 0, 1).astype(np.float64) * settings.scale
        return round_samples(values, settings.numbers, settings.nodata)

    # -- with a bound ---------------------------------------------------------------------------

    def _predict(self, x_hat: np.ndarray) -> np.ndarray:
        """The model's bands in steps of the samples, float64, within their range."""
        settings = self.settings
        prediction = x_hat.astype(np.float64) * (settings.scale * settings.numbers.divisor)
        return settings.numbers.clip(np.nan_to_num(prediction))

    def _encode_bounded(
        self, coded: bytes, x_hat: np.ndarray, samples: np.ndarray, valid: np.ndarray
    ) -> tuple[bytes, np.ndarray]:
        settings, numbers = self.settings, self.settings.numbers
        bands = list(settings.model_bands)
        targets = numbers.of(np.where(valid, samples, 0))
        prediction = self._predict(x_hat)
        grid = choose_grid(prediction, targets[bands], valid[bands], numbers.bound)
        rounded, listed = round_to_grid(prediction, grid)
        levels = quantize(self._wrap(targets[bands] - rounded), numbers.bound)
        levels[~valid[bands]] = 0
        decoded = np.zeros(samples.shape, np.int32)
        decoded[bands] = self._restore(rounded, levels)
        extra, kinds = [], []
        for band in self.extra_bands:
            kind, level = self._encode_extra(targets, decoded, valid, band)
            kinds.append(kind)
            extra.append(level)
            decoded[band] = self._restore(self._extra_prediction(decoded, band, kind), level)
        moved = avoid_nodata(decoded, targets, valid, numbers.nodata)
        decoded[~valid] = 0
        shape = samples.shape[1:]
        record = join_blocks(
            [
                coded,
                listed,
                grid.to_bytes(4, "little") + zlib.crc32(decoded.astype("<i4", copy=False)).to_bytes(4, "little"),
                encode_planes(levels, DEFAULT_CODER),
                bytes(kinds) + encode_planes(np.array(extra, np.int64).reshape(-1, *shape), DEFAULT_CODER),
                moved,
            ]
        )
        return record, numbers.samples(decoded)

    def _encode_extra(self, targets, decoded, valid, band: int) -> tuple[int, np.ndarray]:
        """The better of two predictions of a band without the model: nothing, or the band before it."""
        candidates = []
        for kind in (0, 1):
            residual = self._wrap(targets[band] - self._extra_prediction(decoded, band, kind))
            level = quantize(np.where(valid[band], residual, 0), self.settings.numbers.bound)
            roughness = int(np.abs(np.diff(level, axis=0)).sum() + np.abs(np.diff(level, axis=1)).sum())
            candidates.append((roughness, kind, level))
        _, kind, level = min(candidates, key=lambda candidate: candidate[:2])
        return kind, level

    @staticmethod
    def _extra_prediction(decoded: np.ndarray, band: int, kind: int) -> np.ndarray:
        return decoded[band - 1] if kind and band else np.zeros_like(decoded[band])

    def _wrap(self, residual: np.ndarray) -> np.ndarray:
        """Residuals of integers without loss, modulo 2^16: twice the range would not go into 16 bits."""
        if self.settings.numbers.bound == 0 and self.settings.numbers.dtype != "float32":
            return (residual + 2**15) % 2**16 - 2**15
        return residual

    def _restore(self, prediction: np.ndarray, levels: np.ndarray) -> np.ndarray:
        numbers = self.settings.numbers
        value = prediction + levels.astype(np.int64) * (2 * numbers.bound + 1)
        if numbers.bound == 0 and numbers.dtype != "float32":
            low = int(numbers.clip(np.int64(-(2**40))))
            return (value - low) % 2**16 + low
        return numbers.clip(value)

    def decode_tile(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        settings, numbers = self.settings, self.settings.numbers
        shape = valid.shape
        blocks = split_blocks(data, 1 if numbers.bound is None else _BLOCKS)
        levels = decode_planes(blocks[0], self.network.latent_size(*shape[1:]))
        x_hat = self.reconstruct(levels, shape[1:])
        if numbers.bound is None:
            return self.to_samples(x_hat)
        _, listed, facts, residuals, extra, moved = blocks
        if len(facts) != 8 or len(extra) < len(self.extra_bands):
            raise DamagedError("the record of a tile is damaged")
        grid, checksum = int.from_bytes(facts[:4], "little"), int.from_bytes(facts[4:], "little")
        if not 1 <= grid <= MAX_GRID:
            raise DamagedError(f"a grid of {grid}")
        bands = list(settings.model_bands)
        rounded = round_as_listed(self._predict(x_hat), grid, listed)
        decoded = np.zeros(shape, np.int32)
        decoded[bands] = self._restore(rounded, decode_planes(residuals, (len(bands), *shape[1:])))
        kinds = extra[: len(self.extra_bands)]
        extra_levels = decode_planes(extra[len(kinds) :], (len(kinds), *shape[1:]))
        for band, kind, level in zip(self.extra_bands, kinds, extra_levels, strict=True):
            decoded[band] = self._restore(self._extra_prediction(decoded, band, kind), level)
        is_same = restore_moves(decoded, valid, numbers.nodata, moved)
        decoded[~valid] = 0
        samples = numbers.samples(decoded)
        if not is_same or zlib.crc32(decoded.astype("<i4", copy=False)) != checksum:
            raise BoundNotGuaranteed(samples)
        return samples


def _coarsen(mask: np.ndarray, multiple: int) -> np.ndarray:
    """Which cells of multiple x multiple pixels hold a True."""
    if multiple == 1:
        return mask
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % multiple), (0, -width % multiple)))
    rows, columns = (size // multiple for size in padded.shape)
    return padded.reshape(rows, multiple, columns, multiple).any(axis=(1, 3))


def units_of(latents: Sequence[np.ndarray], sensitivity: np.ndarray) -> np.ndarray:
    """Codes of the channels' units, uint8 (channels,).

    Equal errors of the reconstruction cost least where every channel adds the same: units are as the inverse of
    `sensitivity`, and their geometric mean is that of the spreads (standard deviations) over `latents`, arrays
    (planes, h, w). None is further from its channel's spread than a factor of 2^6, so that what hardly matters
    still comes through.
    """
    channels = len(sensitivity)
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for y in latents:
        values = y.reshape(channels, -1).astype(np.float64)
        count += values.shape[1]
        total += values.sum(axis=1)
        squares += np.square(values).sum(axis=1)
    spread = np.log2(np.sqrt(np.maximum(squares / count - np.square(total / count), 0)) + 1e-30)
    spread = np.maximum(spread, max(spread.max() - 8, -20))  # a constant channel has none to speak of
    inverse = -np.log2(np.maximum(sensitivity, sensitivity.max() * 2.0**-20) + 1e-30)
    units = np.clip(inverse - inverse.mean() + spread.mean(), spread - 6, spread + 6)
    return np.clip(np.rint(_UNIT_STEPS * units) + _UNIT_ZERO, 0, 255).astype(np.uint8)


def open_tiles(header: Header, shared: bytes, network: Network | None) -> LearnedTiles:
    """The coder by which the tiles of a file can be decoded.

    Raises:
        CodingError: `network` has other weights than those that the file was coded with.
        DamagedError: a header that this codec did not write.
    """
    model, parameters = header.model, header.parameters
    if model is None or network is None:
        raise DamagedError("the header names the codec 'learned' and no model")
    if model["name"] != network.name or model["sha256"] != network.sha256:
        raise CodingError(
            f"the file was coded with the weights of {model['name']} ({model['sha256'][:12]}...), "
            f"not of {network.name} ({network.sha256[:12]}...): give those by --checkpoint"
        )
    num_coded = len(header.coded_bands)
    rules = {
        "coder": lambda value: value in plane_coders,
        "step": lambda value: is_step(value, MAX_STEP),
        **number_rules(header),
        "extra_bands": lambda value: (
            isinstance(value, list)
            and all(type(band) is int and 1 <= band <= num_coded for band in value)
            and len(value) == len(set(value)) == num_coded - network.num_bands
        ),
    }
    check_parameters(header, rules)
    if len(shared) != network.channels:
        raise DamagedError(f"the shared block has {len(shared)} bytes, {network.channels} channels need one each")
    extra = {band - 1 for band in parameters["extra_bands"]}
    numbers = Numbers(
        header.scene.dtype,
        parameters["divisor"],
        parameters["bound"],
        number_of(header.scene.nodata, header.scene.dtype, parameters["divisor"]),
    )
    settings = Settings(
        parameters["coder"],
        parameters["step"],
        header.scale,
        header.scene.nodata,
        numbers,
        tuple(band for band in range(num_coded) if band not in extra),
        num_coded,
    )
    return LearnedTiles(network, settings, np.frombuffer(shared, np.uint8))
