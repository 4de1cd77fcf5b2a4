"""Points of one codec on one image: rate, distortion, time and memory, at target rates and in every other mode.

An image is coded as one tile, and its rate counts what a `.hsc` file would hold for it: the tile's record with the
mask, the codec's side information and its parameters. Samples without data count in no metric.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from benchmarks.speed.measure import peak_bytes, release_memory, reset_peak, resident_bytes
from coding.base import Codec, CodecFactory, CodingError
from coding.hsc.records import Tile
from coding.samples import CubeSamples, Samples
from coding.step_search import StepSearch
from utils.errors import one_line
from utils.evaluation import timed
from utils.metrics import psnr_from_mse, valid_metrics

Result = TypeVar("Result")

RATE_TOLERANCE = 0.03
"""Relative error at which the search for a rate ends."""
MAX_RATE_ERROR = 0.15
"""Relative error up to which a point is kept; bounds are integers and headers have a size, so some rates are missed."""
MAX_TRIALS = 12  # encodings for one rate
WARM_UP_SIDE = 16  # pixels
TIMED_ONCE_SECONDS = 2.0  # work that takes longer is timed once


def measured(
    make_factory: Callable[[Samples], CodecFactory], bench: Bench, wanted: Sequence[tuple]
) -> Iterator[tuple[str, float | None, dict | str]]:
    """Yield kind, target and figures of each wanted point; instead of figures the reason if there are none.

    The reason is empty if the codec does not have the kind.
    """
    factory = make_factory(bench.samples())
    curve = Curve(make_factory, factory, bench) if factory.lossy else None
    for kind, target in wanted:
        if _mode(factory, kind) is None:
            yield kind, target, ""
            continue
        try:
            if curve and kind == "lossy":
                trial = curve.seek(target)
            else:
                arguments = () if target is None else (target,)
                trial = bench.encode(functools.partial(_make, make_factory, kind, arguments), target, kind)
            yield kind, target, bench.point(trial)
        except CodingError as error:
            yield kind, target, one_line(error)


def _make(
    make_factory: Callable[[Samples], CodecFactory], kind: str, arguments: Sequence[float], samples: Samples
) -> Codec:
    """Return a codec of a kind for samples, from a new factory, which has nothing cached."""
    make = _mode(make_factory(samples), kind)
    assert make is not None  # `measured` has looked
    return make(*arguments)


def _mode(factory: CodecFactory, kind: str) -> Callable[..., Codec] | None:
    """Return what makes the codecs of a kind; None if the factory lacks it.

    Models that have learned their steps have no lossy mode. The rate of their quantized latents is that of their
    training: such points are of the kind `trained`.
    """
    if kind == "trained":
        return None if factory.lossy else factory.quantized
    if kind == "quantized":
        return factory.quantized if factory.lossy else None
    return getattr(factory, kind)


@dataclass
class Trial:
    """One encoding of an image.

    Attributes:
        make: returns the codec for samples.
        codec: the codec.
        setting: the step or the bound, in units of the samples; None where there is nothing to set.
        data: the codec's bytes.
        num_bytes: size with the mask, side information and parameters.
        rate: in bpppc.
        seconds: of making the codec and encoding.
        peak_bytes: growth of memory at its peak; None if unknown.
    """

    make: Callable[[Samples], Codec]
    codec: Codec
    setting: float | None
    data: bytes = field(repr=False)
    num_bytes: int
    rate: float
    seconds: float
    peak_bytes: int | None


class Bench:
    """An image on which codecs are measured.

    Args:
        cube: (C, H, W).
        valid: bool (C, H, W).
        peak: sample value that counts as 1 in the metrics.
    """

    def __init__(self, cube: np.ndarray, valid: np.ndarray, peak: float) -> None:
        self.cube, self.valid = Tile.of(cube, valid)
        self.peak = peak
        self._warm: set[str] = set()

    def samples(self) -> Samples:
        """Return the image as codecs are made for it, each time a new object, which has nothing cached."""
        return CubeSamples(self.cube, self.valid, self.peak)

    def encode(self, make: Callable[[Samples], Codec], setting: float | None, kind: str) -> Trial:
        """Encode the image; before the first of each kind also a small part, so that code is loaded and compiled.

        Args:
            make: returns the codec for samples.
            setting: for the report.
            kind: of the point.

        Raises:
            CodingError: the codec cannot take the image.
        """
        if kind not in self._warm:
            small, valid = (
                np.ascontiguousarray(array[:, :WARM_UP_SIDE, :WARM_UP_SIDE]) for array in (self.cube, self.valid)
            )
            with contextlib.suppress(CodingError):  # it may be too small; faults of the image are raised below
                codec = make(CubeSamples(small, valid, self.peak))
                codec.decode(codec.encode(small, valid), valid)
            self._warm.add(kind)
        (codec, data), seconds, peak = _measured(lambda: self._encode(make))
        parameters = json.dumps(dict(codec.parameters), separators=(",", ":")) if codec.parameters else ""
        num_bytes = Tile(self.cube, self.valid).num_bytes(data) + len(codec.shared) + len(parameters)
        return Trial(make, codec, setting, data, num_bytes, 8 * num_bytes / self.cube.size, seconds, peak)

    def _encode(self, make: Callable[[Samples], Codec]) -> tuple[Codec, bytes]:
        codec = make(self.samples())
        return codec, codec.encode(self.cube, self.valid)

    def point(self, trial: Trial) -> dict:
        """Decode an encoded image, and return its figures."""
        decoded, seconds, peak = _measured(lambda: trial.codec.decode(trial.data, self.valid))
        encoding_time = _repeated(trial.seconds, lambda: self._encode(trial.make))
        seconds = _repeated(seconds, lambda: trial.codec.decode(trial.data, self.valid))
        x_hat, x = (torch.from_numpy(cube.astype(np.float64) / self.peak) for cube in (decoded, self.cube))
        metrics = valid_metrics(x_hat, x, torch.from_numpy(self.valid))
        errors = np.where(self.valid, decoded.astype(np.float64) - self.cube, 0)
        with np.errstate(invalid="ignore"):  # bands without any data
            per_band = np.square(errors / self.peak).sum(axis=(1, 2)) / self.valid.sum(axis=(1, 2))
        megabytes = self.cube.nbytes / 1e6
        return {
            "bands": len(self.cube),
            "setting": trial.setting,
            "num_bytes": trial.num_bytes,
            "side_bytes": trial.codec.side_bytes(trial.data),
            "bpppc": trial.rate,
            **{key: _plain(value) for key, value in metrics.items()},
            "largest_error": float(np.abs(errors).max()),
            "encoding_time": encoding_time,
            "decoding_time": seconds,
            "encoding_mbps": megabytes / encoding_time,
            "decoding_mbps": megabytes / seconds,
            "encoding_peak_mb": trial.peak_bytes and trial.peak_bytes / 1e6,
            "decoding_peak_mb": peak and peak / 1e6,
            "band_psnr": [_plain(value) for value in psnr_from_mse(torch.from_numpy(per_band)).tolist()],
        }


def _measured(function: Callable[[], Result]) -> tuple[Result, float, int | None]:
    """Return the result of `function`, its seconds, and the growth of memory at its peak in bytes, None if unknown."""
    release_memory()
    before = resident_bytes()
    reset_peak()
    value, seconds = timed(function, torch.device("cpu"))
    peak = peak_bytes()
    return value, seconds, None if peak is None or before is None else max(peak - before, 0)


def _repeated(seconds: float, function: Callable) -> float:
    """Return the median of `seconds`, those of a first call, and of two more calls; of slow calls `seconds`."""
    if seconds > TIMED_ONCE_SECONDS:
        return seconds
    return statistics.median([seconds, *(timed(function, torch.device("cpu"))[1] for _ in range(2))])


def _plain(value: float | None) -> float | None:
    """Return a value for JSON, which has no infinity: the PSNR of a lossless point is null."""
    return None if value is None or not math.isfinite(value) else value


class Curve:
    """A search for steps at which a codec codes one image at target rates; trials for one rate help to find the next.

    Args:
        make_factory: returns the codec's factory for samples.
        factory: for the image.
        bench: with the image.
    """

    def __init__(self, make_factory: Callable[[Samples], CodecFactory], factory: CodecFactory, bench: Bench) -> None:
        self._make_factory, self._unit, self._bench = make_factory, factory.unit, bench
        self.trials: dict[float, Trial] = {}  # by the step
        self._search = StepSearch(self._figure, factory.finest, factory.coarsest, factory.first, slope=1.0)

    def seek(self, rate: float) -> Trial:
        """Return the image encoded at about `rate` bpppc.

        Raises:
            CodingError: the codec has no such rate, or cannot take the image.
        """
        self._search.find(math.log2(rate), math.log2(1 + RATE_TOLERANCE), MAX_TRIALS)
        nearest = min(self.trials.values(), key=lambda trial: abs(math.log2(trial.rate / rate)))
        if abs(math.log2(nearest.rate / rate)) > math.log2(1 + MAX_RATE_ERROR):
            raise CodingError(f"no rate near {rate:g} bpppc, the nearest is {nearest.rate:.4f}")
        return nearest

    def _figure(self, step: float) -> float:
        """Encode the image with a step, and return the figure for `StepSearch`: log2 of the rate."""
        make = functools.partial(_make, self._make_factory, "lossy", (step,))
        self.trials[step] = self._bench.encode(make, step * self._unit, "lossy")
        return math.log2(self.trials[step].rate)
