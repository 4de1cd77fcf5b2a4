"""Rate and distortion of codecs on images: points at wanted rates, each with its time and memory.

Every codec meets every image in a process of its own, which keeps each point as soon as it is measured: a run that
was killed goes on after the last of them. Samples without data are no part of any metric; codecs are given
the values of the nearest valid samples there, and the mask, coded once, counts in every rate.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.measure import peak_bytes, release_memory, reset_peak, resident_bytes
from coding.base import Codec, CodingError, Family, join_blocks, split_blocks
from coding.hsc.masks import encode_mask, fill_gaps
from utils.errors import one_line
from utils.evaluation import timed
from utils.metrics import psnr_from_mse, valid_metrics
from utils.processes import OutOfMemory, in_fresh_process

TOLERANCE = 0.03
"""Of a rate that is aimed at, as a share of it."""
MISSED = 0.15
"""A codec whose nearest rate is off by more has no point there: bounds are whole numbers, headers have a length."""
MAX_TRIES = 12  # of encodings for one rate
INTERPOLATED = 4  # of them; from then on a bracket is halved, as rates may fall by steps
FINEST, COARSEST = 2.0**-20, 2.0**0.5  # steps to look at, in parts of the peak
FIRST = 2.0**-10
WARM_UP_SIDE = 16  # pixels
LONG = 2.0  # seconds: what takes longer is timed once
PRELOADED = (
    *("benchmarks.rd.points", "coding.classical", "coding.learned.codec"),
    *("compressai.models", "imagecodecs", "numba"),
)
"""Of each process, before it is a codec's own."""


@dataclass(frozen=True)
class Job:
    """One codec and one image.

    Attributes:
        codec, image: names.
        family: makes the codec's family for a peak, in units of the samples.
        load: returns the image: an object with `cube`, `valid` and `peak` as of `benchmarks.rd.images.Image`.
        rates: in bpppc, of lossy points.
        bounds: on the error, in units of the samples, of bounded points.
        path: of the file that keeps the points, a line of JSON each.
        num_threads: of torch.
    """

    codec: str
    image: str
    family: Callable[[float], Family]
    load: Callable[[], object]
    rates: Sequence[float]
    bounds: Sequence[int]
    path: Path
    num_threads: int


def run_jobs(jobs: Sequence[Job], num_workers: int, say: Callable[[str], None]) -> list[dict]:
    """Every point and note of the jobs, those measured before and those that were missing.

    Args:
        num_workers: processes beside each other.
        say: told each finished job in a line.
    """

    def run(job: Job) -> str:
        try:
            in_fresh_process("benchmarks.rd.points:run_job", job, preload=PRELOADED)
        except OutOfMemory:
            return "its process was killed, or needs more memory than there is"
        except RuntimeError as error:
            return str(error).strip().splitlines()[-1]
        return ""

    rows = []
    with (
        _threads_of_libraries(max((job.num_threads for job in jobs), default=1)),
        ThreadPoolExecutor(num_workers) as executor,
    ):
        futures = [executor.submit(run, job) for job in jobs]
        try:
            for number, (job, future) in enumerate(zip(jobs, futures, strict=True), start=1):
                failure = future.result()
                found = read_rows(job.path)
                if failure:
                    kind, target = next(
                        key for key in [*wanted_points(job), ("job", None)] if key not in keys_of(found)
                    )
                    row = {"codec": job.codec, "image": job.image, "kind": kind, "target": target, "note": failure}
                    found.append(row)
                rows += found
                count = sum("bpppc" in row for row in found)
                say(f"{number}/{len(jobs)} {job.codec}, {job.image}: {count} points{failure and ', ' + failure}")
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    return rows


@contextlib.contextmanager
def _threads_of_libraries(count: int) -> Iterator[None]:
    """Processes started meanwhile do linear algebra on so many threads: numpy would take all cores in each of them."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_job(job: Job) -> None:
    """Measure what of a job is not yet in its file.

    A line is a point, or a note: `{"note": text}` with the `kind` and `target` of the point that it stands for.
    """
    torch.set_num_threads(job.num_threads)
    gc.freeze()  # collecting garbage before each measurement would search all imported libraries, for 0.2 s
    job.path.parent.mkdir(parents=True, exist_ok=True)
    with open(job.path, "a", encoding="utf-8") as file:
        # The process of a run that was killed may still be at it.
        fcntl.flock(file, fcntl.LOCK_EX)
        done = keys_of(read_rows(job.path))
        wanted = [key for key in wanted_points(job) if key not in done]
        if not wanted:
            return
        image = job.load()
        bench = Bench(image.cube, image.valid, image.peak)
        for kind, target, point in measured(job.family(image.peak), bench, wanted):
            row = {"codec": job.codec, "image": job.image, "kind": kind, "target": target}
            file.write(json.dumps({**row, **(point if isinstance(point, dict) else {"note": point})}) + "\n")
            file.flush()


def keys_of(rows: Sequence[dict]) -> set[tuple[str, float | None]]:
    """Kind and target of each row."""
    return {(row["kind"], row["target"]) for row in rows}


def wanted_points(job: Job) -> list[tuple[str, float | None]]:
    """Kind and target of every point that the job's family might have."""
    lossy = [("lossy", rate) for rate in sorted(job.rates)]
    bounded = [("bounded", bound) for bound in sorted(job.bounds)]
    return [("fixed", None), ("quantized", None), *lossy, *bounded, ("lossless", None)]


def read_rows(path: Path) -> list[dict]:
    """The lines of a job's file; a last one that a killed run left unfinished is taken away."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def measured(family: Family, bench: Bench, wanted: Sequence[tuple]) -> Iterator[tuple[str, float | None, dict | str]]:
    """Kind, target, and the figures of each wanted point or a line that says why there are none."""
    curve = Curve(family.lossy, bench) if family.lossy else None
    for kind, target in wanted:
        make = getattr(family, kind)
        if make is None:
            yield kind, target, ""
            continue
        try:
            if kind == "lossy":
                trial = curve.seek(target)
            elif kind == "bounded":
                trial = bench.encode(make(target), target)
            else:
                trial = bench.encode(make(), None)
            yield kind, target, bench.point(trial)
        except CodingError as error:
            yield kind, target, one_line(error)


@dataclass
class Trial:
    """An image once encoded.

    Attributes:
        setting: the step or the bound, in units of the samples; None where there is nothing to set.
        data: with the mask.
    """

    codec: Codec
    setting: float | None
    data: bytes = field(repr=False)
    rate: float  # bpppc
    seconds: float
    peak_bytes: int | None


class Bench:
    """An image on which codecs are measured.

    Args:
        cube: (C, H, W).
        valid: bool (C, H, W).
        peak: what counts as 1 in the metrics.
    """

    def __init__(self, cube: np.ndarray, valid: np.ndarray, peak: float):
        self.cube, self.valid, self.peak = fill_gaps(cube, valid), valid, peak
        self.mask = encode_mask(valid)
        self._warm: set[type] = set()

    def encode(self, codec: Codec, setting: float | None) -> Trial:
        """Encode the image, and a small one before the first time of each codec, so that code is loaded and compiled.

        Raises:
            CodingError: the codec cannot take the image.
        """
        if type(codec) not in self._warm:
            small = np.ascontiguousarray(self.cube[:, :WARM_UP_SIDE, :WARM_UP_SIDE])
            with contextlib.suppress(CodingError):  # too small perhaps; what is wrong with the image comes out below
                codec.decode(codec.encode(small))
            self._warm.add(type(codec))
        data, seconds, peak = _measured(lambda: codec.encode(self.cube))
        data = join_blocks([self.mask, data])
        return Trial(codec, setting, data, 8 * len(data) / self.cube.size, seconds, peak)

    def point(self, trial: Trial) -> dict:
        """The figures of an encoded image: decodes it and compares."""
        _, data = split_blocks(trial.data, 2)
        decoded, seconds, peak = _measured(lambda: trial.codec.decode(data))
        encoding_time = _repeated(trial.seconds, lambda: trial.codec.encode(self.cube))
        seconds = _repeated(seconds, lambda: trial.codec.decode(data))
        x_hat, x = (torch.from_numpy(cube.astype(np.float64) / self.peak) for cube in (decoded, self.cube))
        metrics = valid_metrics(x_hat, x, torch.from_numpy(self.valid))
        errors = np.where(self.valid, decoded.astype(np.float64) - self.cube, 0)
        with np.errstate(invalid="ignore"):  # bands without any data
            per_band = np.square(errors / self.peak).sum(axis=(1, 2)) / self.valid.sum(axis=(1, 2))
        megabytes = self.cube.nbytes / 1e6
        return {
            "bands": len(self.cube),
            "setting": trial.setting,
            "num_bytes": len(trial.data),
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


def _measured(function: Callable) -> tuple:
    """What `function` returns, its seconds, and the bytes by which memory grew at its peak, None if unknown."""
    release_memory()
    before = resident_bytes()
    reset_peak()
    value, seconds = timed(function, torch.device("cpu"))
    peak = peak_bytes()
    return value, seconds, None if peak is None else max(peak - before, 0)


def _repeated(seconds: float, function: Callable) -> float:
    """The median of `seconds`, taken by a first call, and those of two more where they do not take long."""
    if seconds > LONG:
        return seconds
    return statistics.median([seconds, *(timed(function, torch.device("cpu"))[1] for _ in range(2))])


def _plain(value: float | None) -> float | None:
    """JSON knows no infinity: the PSNR of what is lossless is null."""
    return None if value is None or not math.isfinite(value) else value


class Curve:
    """The lossy settings of a codec on one image, by rate; what was encoded for one rate helps to find the next.

    Args:
        make: a codec of a step, in units of the samples.
        bench: with the image.
    """

    def __init__(self, make: Callable[[float], Codec], bench: Bench):
        self._make, self._bench = make, bench
        self._trials: dict[float, Trial] = {}  # by the logarithm of the step
        self._finest, self._coarsest = (math.log2(step * bench.peak) for step in (FINEST, COARSEST))

    def seek(self, rate: float) -> Trial:
        """The image encoded at about `rate` bpppc.

        Raises:
            CodingError: the codec has no such rate, or cannot take the image.
        """
        for number in range(MAX_TRIES):
            position = self._next(rate, number < INTERPOLATED)
            if position is None:
                break
            self._try(position)
        best = min(self._trials.values(), key=lambda trial: _distance(trial, rate))
        if _distance(best, rate) > math.log2(1 + MISSED):
            raise CodingError(f"no rate near {rate:g} bpppc, the nearest is {best.rate:.4f}")
        return best

    def _try(self, position: float) -> None:
        try:
            self._trials[position] = self._bench.encode(self._make(2.0**position), 2.0**position)
        except CodingError:
            if not self._trials:
                raise
            # A step that this codec cannot take: look between it and those that it could.
            if position < min(self._trials):
                self._finest = (position + min(self._trials)) / 2
            else:
                self._coarsest = (position + max(self._trials)) / 2

    def _next(self, rate: float, interpolate: bool) -> float | None:
        """Where to look for `rate`, by the logarithm of the step; None if there is no better place."""
        if not self._trials:
            return math.log2(FIRST * self._bench.peak)
        if min(_distance(trial, rate) for trial in self._trials.values()) <= math.log2(1 + TOLERANCE):
            return None
        above = max((at for at, trial in self._trials.items() if trial.rate > rate), default=None)
        below = min((at for at, trial in self._trials.items() if trial.rate <= rate), default=None)
        if above is None or below is None:
            return self._outside(rate, below if above is None else above)
        if below - above < 0.01:
            return None
        if not interpolate:
            return (above + below) / 2
        high, low = math.log2(self._trials[above].rate / rate), math.log2(rate / self._trials[below].rate)
        return above + (below - above) * float(np.clip(high / (high + low), 0.1, 0.9))

    def _outside(self, rate: float, at: float) -> float | None:
        """A place beyond all that were tried: the rate about halves where the step doubles, at low ones sooner."""
        position = at + math.log2(self._trials[at].rate / rate)
        position = float(np.clip(position, at - 4, at + 4))
        position = min(max(position, self._finest), self._coarsest)
        return None if abs(position - at) < 0.01 else position


def _distance(trial: Trial, rate: float) -> float:
    return abs(math.log2(trial.rate / rate))
