r"""The codec `learned`: quantized and entropy-coded latents of any model of the registry, with its weights unchanged.

::

    samples ─► reflectance in [0, 1] ─► encoder ─► y ─► round(y / step of its channel) ─► planes coded without loss
                                                                        │
    samples ◄── x_hat ◄── decoder ◄── y_hat ◄── times the step ◄────────┘

With a bound on the error, the difference to the samples is coded as well (see `coding.learned.residuals`).

The step of a channel is its unit times `step`, which all channels share; see `units_of`. A unit is stored in a byte, as
eight times its log2 plus 128.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coding import MODEL_CODER, PLANE_CODERS
from coding.base import SHORT, Codec, CodingError, DamagedError, join_blocks, split_blocks, to_dtype
from coding.hsc.header import Header, check_parameters, is_bound, is_divisor, is_step
from coding.hsc.masks import fill_gaps
from coding.learned.network import Network, load_network
from coding.learned.residuals import NUM_BLOCKS, ResidualCoder
from coding.numbers import Numbers
from coding.planes import decode_planes, encode_planes
from models import models

DEFAULT_CODER = next(iter(PLANE_CODERS))
MAX_STEP = 2.0**32
MAX_LEVEL = 2**23
"""Largest magnitude of a quantized latent, within the range of which float32 represents every integer."""

_UNIT_CODES_PER_OCTAVE, _CODE_OF_UNIT_1 = 8, 128


@dataclass(frozen=True)
class Settings:
    """What a decoder must know besides weights and units; the file stores all settings.

    Attributes:
        coder: coder of the latents, one of `PLANE_CODERS`, or `MODEL_CODER`.
        step: quantizer step, in the channels' units; None (with a bound only) if the latents are taken as 0 and not
            coded.
        scale: sample value of reflectance 1.0.
        numbers: map from samples to integers, with the bound on the error.
        model_bands: indices of the model's bands among the coded bands, in the model's order. The other bands are coded
            without the model, which needs a bound.
        num_bands: number of coded bands.
    """

    coder: str
    step: float | None
    scale: float
    numbers: Numbers
    model_bands: tuple[int, ...]
    num_bands: int


class LearnedCodec(Codec):
    """Codec of the tiles of one scene, with one network.

    Args:
        network: a model with its weights.
        settings: settings for the scene.
        units: codes of the channels' units, uint8 (channels,).
        known: known latents: `id` of a cube -> the cube itself, and its latents.

    Raises:
        CodingError: the settings contradict each other or do not fit the network.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        units: np.ndarray,
        known: Mapping[int, tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        self.network, self.settings, self.units, self._known = network, settings, units, known or {}
        self.extra_bands = tuple(sorted(set(range(settings.num_bands)) - set(settings.model_bands)))
        if len(settings.model_bands) != network.num_bands:
            raise CodingError(f"{network.name} takes {network.num_bands} bands, got {len(settings.model_bands)}")
        if settings.step is not None and not is_step(settings.step, MAX_STEP):
            raise CodingError(f"the step must be a number above 0 and below {MAX_STEP:g}, got {settings.step:g}")
        if settings.numbers.bound is None and (self.extra_bands or settings.step is None):
            raise CodingError("coding bands that the model does not take, or coding without latents, needs a bound")
        numbers = settings.numbers
        unit = settings.scale * numbers.divisor
        self._residuals = ResidualCoder(numbers, unit, settings.model_bands, self.extra_bands)
        self.dtype, self.shared, self.clips_to_scale = numbers.dtype, units.tobytes(), numbers.bound is None
        self.parameters = {"coder": settings.coder, "step": settings.step}
        if numbers.bound is not None:
            extra_bands = [band + 1 for band in self.extra_bands]
            self.parameters |= {"divisor": numbers.divisor, "bound": numbers.bound, "extra_bands": extra_bands}

    # -- latents --------------------------------------------------------------------------------

    def latents(self, cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Return the latents (planes, h, w) of a tile; latents of pixels without data are copied from the nearest."""
        if id(cube) in self._known:
            return self._known[id(cube)][1]
        bands = list(self.settings.model_bands)
        y = self.network.encode(self.reflectance(cube[bands]))
        used = valid[bands].any(axis=0)
        return y if used.all() else fill_gaps(y, _coarsen(used, self.network.multiple)[None])

    def reflectance(self, cube: np.ndarray) -> np.ndarray:
        """Return samples as the reflectance that the model takes: float32, clipped to [0, 1] as in training."""
        with np.errstate(over="ignore"):
            return np.clip(cube.astype(np.float32) / np.float32(self.settings.scale), 0, 1)

    def levels(self, y: np.ndarray) -> np.ndarray:
        """Return the quantized latents, int64.

        Raises:
            CodingError: the step is so fine that a level exceeds `MAX_LEVEL`.
        """
        if self.settings.step is None:
            return np.zeros(y.shape, np.int64)
        with np.errstate(all="ignore"):
            levels = np.rint(y / self._steps(len(y)))
        if not np.abs(levels).max(initial=0) <= MAX_LEVEL:  # NaN, too
            raise CodingError(f"a step of {self.settings.step:g} needs more than 2^24 levels: give a coarser one")
        return levels.astype(np.int64)

    def restore(self, levels: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Return the reflectances (model's bands, H, W) that quantized latents decode to; `size` is (H, W)."""
        y_hat = levels.astype(np.float32) * self._steps(len(levels))
        return self.network.decode(y_hat, *size)

    def _steps(self, num_planes: int) -> np.ndarray:
        units = 2.0 ** ((self.units.astype(np.float64) - _CODE_OF_UNIT_1) / _UNIT_CODES_PER_OCTAVE)
        steps = (units * (self.settings.step or 0.0)).astype(np.float32)
        return np.repeat(steps, num_planes // len(steps))[:, None, None]

    def encode(self, cube: np.ndarray, valid: np.ndarray) -> bytes:
        """See `Codec.encode`.

        Raises:
            CodingError: the step is too fine for the latents.
        """
        return self.encode_and_decode(cube, valid)[0]

    def encode_and_decode(self, cube: np.ndarray, valid: np.ndarray) -> tuple[bytes, np.ndarray]:
        """See `Codec.encode_and_decode`; the encoder yields the decoded cube, too."""
        coded, x_hat = self._code_latents(self.latents(cube, valid), cube.shape[1:])
        if self.settings.numbers.bound is None:
            return coded, self.to_samples(x_hat)
        blocks, decoded = self._residuals.encode(x_hat, cube, valid)
        return join_blocks([coded, *blocks]), decoded

    def tiles_at_once(self, tile_size: int) -> int:
        """See `Codec.tiles_at_once`: as many as fit into a batch of the network."""
        return self.network.tiles_at_once(tile_size)

    def reconstruct(self, cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """See `Codec.reconstruct`; without a bound, the latents are not entropy-coded."""
        if self.settings.numbers.bound is not None:
            return self.encode_and_decode(cube, valid)[1]
        return self.to_samples(self.restore(self.levels(self.latents(cube, valid)), cube.shape[1:]))

    def side_bytes(self, data: bytes) -> int | None:
        """See `Codec.side_bytes`: the units of the steps."""
        return len(self.shared) if self.settings.numbers.bound is None else None

    def decode(self, data: bytes, valid: np.ndarray) -> np.ndarray:
        size = valid.shape[1:]
        if self.settings.numbers.bound is None:
            return self.to_samples(self._decode_latents(data, size))
        coded, *blocks = split_blocks(data, 1 + NUM_BLOCKS)
        return self._residuals.decode(blocks, self._decode_latents(coded, size), valid)

    def _code_latents(self, y: np.ndarray, size: Sequence[int]) -> tuple[bytes, np.ndarray]:
        """Return the bytes of latents, and the reflectances that they decode to."""
        levels = self.levels(y)
        coded = b"" if self.settings.step is None else encode_planes(levels, self.settings.coder)
        return coded, self.restore(levels, size)

    def _decode_latents(self, data: bytes, size: Sequence[int]) -> np.ndarray:
        """Return the reflectances (model's bands, H, W) of the bytes of latents."""
        shape = self.network.latent_size(*size)
        if self.settings.step is not None:
            return self.restore(decode_planes(data, shape), size)
        if data:
            raise DamagedError(f"a tile without latents must have no bytes for them, got {len(data)}")
        return self.restore(np.zeros(shape, np.int64), size)

    def to_samples(self, x_hat: np.ndarray) -> np.ndarray:
        """Return reflectances, clipped to [0, 1], as samples of type `dtype`."""
        x_hat = np.clip(x_hat, 0, 1)
        if self.dtype in ("float16", "float32"):
            return to_dtype(x_hat * np.float32(self.settings.scale), self.dtype)
        return to_dtype(x_hat.astype(np.float64) * self.settings.scale, self.dtype)


class EntropyModelCodec(LearnedCodec):
    """The codec of models that have an entropy model, which quantizes and codes the latents.

    The tables of the range coder are part of the weights, so that all machines decode the same latents.

    Args:
        network: a model with its weights.
        settings: settings for the scene; `coder` is `MODEL_CODER`, and `step` is not used.

    Raises:
        CodingError: as for `LearnedCodec`, or the model has no entropy model.
    """

    def __init__(self, network: Network, settings: Settings) -> None:
        if not network.has_entropy_model:
            raise CodingError(f"{network.name} with these weights has no entropy model: give another --coder")
        super().__init__(network, settings, np.zeros(0, np.uint8))
        self.parameters = {key: value for key, value in self.parameters.items() if key != "step"}

    def reconstruct(self, cube: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return self.encode_and_decode(cube, valid)[1]

    def side_bytes(self, data: bytes) -> int | None:
        """See `Codec.side_bytes`: the latents of the hyperprior."""
        if self.settings.numbers.bound is not None:
            return None
        return sum(map(len, split_blocks(data, self.network.num_strings)[1:]))

    def _code_latents(self, y: np.ndarray, size: Sequence[int]) -> tuple[bytes, np.ndarray]:
        strings = self.network.compress(y)
        return join_blocks(strings), self.network.decompress(strings, size[0], size[1])

    def _decode_latents(self, data: bytes, size: Sequence[int]) -> np.ndarray:
        strings = split_blocks(data, self.network.num_strings)
        return self.network.decompress(strings, size[0], size[1])


def _coarsen(mask: np.ndarray, multiple: int) -> np.ndarray:
    """Return a mask of the cells of multiple x multiple pixels in which `mask` (H, W) has a True."""
    if multiple == 1:
        return mask
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % multiple), (0, -width % multiple)))
    rows, columns = (size // multiple for size in padded.shape)
    return padded.reshape(rows, multiple, columns, multiple).any(axis=(1, 3))


def units_of(latents: Sequence[np.ndarray], sensitivity: np.ndarray) -> np.ndarray:
    """Return the codes of the channels' units, uint8 (channels,).

    The rate is least if every channel contributes the same error to the reconstruction: units are proportional to the
    inverse of `sensitivity`, and have the same geometric mean as the channels' standard deviations over `latents`. A
    unit is within a factor of 2^6 of its channel's standard deviation, so that channels of little influence are kept.

    Args:
        latents: arrays (planes, h, w).
        sensitivity: (channels,), from `Network.sensitivity`.
    """
    channels = len(sensitivity)
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for y in latents:
        values = y.reshape(channels, -1).astype(np.float64)
        count += values.shape[1]
        total += values.sum(axis=1)
        squares += np.square(values).sum(axis=1)
    spread = np.log2(np.sqrt(np.maximum(squares / count - np.square(total / count), 0)) + 1e-30)
    spread = np.maximum(spread, max(spread.max() - 8, -20))  # a constant channel would have -inf
    inverse = -np.log2(np.maximum(sensitivity, sensitivity.max() * 2.0**-20) + 1e-30)
    units = np.clip(inverse - inverse.mean() + spread.mean(), spread - 6, spread + 6)
    return np.clip(np.rint(_UNIT_CODES_PER_OCTAVE * units) + _CODE_OF_UNIT_1, 0, 255).astype(np.uint8)


# -- files ----------------------------------------------------------------------------------------


def open_codec(header: Header, shared: bytes, checkpoint: str | None = None, device: str = "cpu") -> LearnedCodec:
    """Return the codec that decodes the tiles of a file, with the weights of a checkpoint.

    Args:
        header: header of the file.
        shared: shared bytes of the file.
        checkpoint: file with the weights; None for the bundled sample weights.
        device: "cpu", or the number of a GPU.

    Raises:
        DamagedError: this codec did not write the header, or the model is unknown.
        CodingError: the weights are not those that the file was coded with.
        CheckpointError: the checkpoint holds no weights of the model.
        UsageError: the sample weights are not of this model, or there is no such device.
    """
    model = _model_of(header)
    name = model["name"]
    if name not in models:
        raise DamagedError(f"header field 'model.name' is {name!r}, which is not a model of the registry")
    return open_with(header, shared, load_network(name, checkpoint, model["num_channels"], device))


def _model_of(header: Header) -> dict[str, Any]:
    if header.model is None:
        raise DamagedError("the header names the codec 'learned', but no model")
    return header.model


def open_with(header: Header, shared: bytes, network: Network) -> LearnedCodec:
    """Return the codec that decodes the tiles of a file, with a network in memory.

    Raises:
        DamagedError: this codec did not write the header.
        CodingError: the weights are not those that the file was coded with.
    """
    model, parameters, num_coded = _model_of(header), header.parameters, len(header.coded_bands)
    if model["name"] != network.name or model["sha256"] != network.sha256:
        raise CodingError(
            f"the file was coded with the weights of {model['name']} ({model['sha256'][:12]}...), "
            f"not of {network.name} ({network.sha256[:12]}...): give those weights as --checkpoint"
        )

    def is_extra_bands(value: Any) -> bool:
        return (
            isinstance(value, list)
            and all(type(band) is int and 1 <= band <= num_coded for band in value)
            and len(value) == len(set(value)) == num_coded - network.num_bands
        )

    has_bound = header.max_error is not None
    if has_bound and header.scene.dtype not in SHORT:
        raise DamagedError(f"the header names a model with a bound for {header.scene.dtype}, which no encoder does")
    has_own_coder = parameters.get("coder") == MODEL_CODER and network.has_entropy_model
    rules: dict[str, Callable[[Any], bool]] = {"coder": lambda value: value == MODEL_CODER}
    if not has_own_coder:
        rules = {
            "coder": lambda value: isinstance(value, str) and value in PLANE_CODERS,
            "step": lambda value: is_step(value, MAX_STEP) or (has_bound and value is None),
        }
    if has_bound:
        rules |= {"divisor": is_divisor, "bound": is_bound, "extra_bands": is_extra_bands}
    check_parameters(header, rules)
    num_units = 0 if has_own_coder else network.channels
    if len(shared) != num_units:
        raise DamagedError(f"the shared block must have {num_units} bytes, one a channel, got {len(shared)}")
    extra = {band - 1 for band in parameters.get("extra_bands", ())}
    settings = Settings(
        coder=parameters["coder"],
        step=parameters.get("step"),
        scale=header.scale,
        numbers=Numbers(header.scene.dtype, parameters.get("divisor", 1), parameters.get("bound")),
        model_bands=tuple(band for band in range(num_coded) if band not in extra),
        num_bands=num_coded,
    )
    if has_own_coder:
        return EntropyModelCodec(network, replace(settings, step=1.0))
    return LearnedCodec(network, settings, np.frombuffer(shared, np.uint8))
