"""Compress a scene into a file with any codec of the registry: the work of compress.py."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from coding import codecs
from coding.base import Codec, CodecFactory, CodingError
from coding.batch import (
    Figures,
    Task,
    collected_notes,
    file_sha256,
    largest_first,
    memory_of,
    run_batch,
    sources_of,
    tasks_of,
)
from coding.hsc.distortion import Distortion, largest_allowed, measure, psnr_text
from coding.hsc.fills import count_fills, fill_hint
from coding.hsc.header import MAX_TILE_SAMPLES, MAX_TILE_SIZE, MIN_TILE_SIZE, Header
from coding.hsc.records import Parts
from coding.hsc.tiling import Written, compress_scene, tiles_of
from coding.rate_control import RateController, Target
from coding.samples import CubeSamples, Samples, SceneSamples
from datasets.base import FLOATS, INTEGER_RANGES, Loss, SceneInfo, SceneReader
from datasets.enmap import KEPT_INDICES, NUM_BANDS, NUM_CHANNELS
from datasets.npy import AXES
from datasets.scenes import open_scene, settle_losses
from utils.errors import ProjectError, UsageError
from utils.files import atomic_write, check_output
from utils.processes import num_cores, sigterm_raises, use_cores
from utils.progress import pixel_bar

INTEGER_SCALE = 10_000
"""Sample value of reflectance 1 in EnMAP products and most other integer products."""
MAX_PEAK_TILES = 4
DROPPED_FOR = "not among the model's bands"
MAX_ERROR_SHARE = 0.5
"""Share of squared errors in squared samples from which on a note says that little is left."""
SETTINGS = (
    *("codec", "quality", "step", "target_psnr", "target_bpppc", "max_error"),
    *("tile_size", "axes", "nodata", "scale", "peak", "drop", "raw"),
)
"""Arguments that the content of a file depends on, besides the scene."""
MODEL_SETTINGS = ("model", "num_channels", "coder", "device")
"""The same of a model, besides its weights."""
STEP_AT_QUALITY_0 = 2.0**-8
"""Step of --quality 0, as a fraction of the scale."""


def compress(args: argparse.Namespace) -> int:
    """Compress a scene into a file, and print its rate and quality; or compress many, see `compress_many`.

    Args:
        args: arguments of compress.py.

    Returns:
        The exit code: 0 for a single scene.

    Raises:
        UsageError: a flag does not fit the scene or the codec.
        ProjectError: the scene cannot be read, or cannot be coded as requested.
    """
    if args.output_dir is not None:
        return compress_many(args)
    with sigterm_raises():
        written, source_bytes, seconds = compress_file(args)
    print(report(args, written, source_bytes, seconds))
    return 0


def compress_file(args: argparse.Namespace) -> tuple[Written, int, float]:
    """Compress a scene into a file, and print notes on stderr.

    Returns:
        What was written, the size in bytes of the file that was read, and the time in seconds.

    Raises:
        UsageError, ProjectError: see `compress`.
    """
    output = check_output(args.output, args.scene, args.overwrite)
    started = time.monotonic()
    num_workers = args.num_workers or num_cores()
    with open_scene(args.scene, args.nodata, args.axes) as scene:
        check_output(args.output, str(scene.path), args.overwrite)  # an ENVI header names another file
        settle_losses(args.scene, [*scene.losses, *losses_of_coding(args, scene.info)], args.drop)
        hint = axes_hint(args, scene.info)
        if hint:
            print(f"note: {hint}", file=sys.stderr)
        header = header_of(args, scene.info)
        try:
            written, note = write_scene(args, scene, header, output, num_workers)
        except CodingError as error:
            hint = fill_hint(sum((count_fills(parts) for _, parts in tiles_of(scene, header)), Counter[float]()))
            raise CodingError(f"{args.scene}: {error}{hint and '; ' + hint}") from error
        source_bytes = scene.path.stat().st_size
    for text in (note, fill_hint(written.fills), emptiness(written.distortion)):
        if text:
            print(f"note: {text}", file=sys.stderr)
    return written, source_bytes, time.monotonic() - started


def write_scene(
    args: argparse.Namespace, scene: SceneReader, header: Header, output: Path, num_workers: int
) -> tuple[Written, str | None]:
    """Code a scene into a file with the codec and the mode of the flags.

    Returns:
        What was written, and a note if it misses its target.

    Raises:
        UsageError: a flag does not fit the scene or the codec.
        CodingError: the codec cannot code the scene as requested.
    """
    samples = raw_samples(args, scene, header) if args.raw else SceneSamples(scene, header, num_workers)
    factory = codecs[args.codec].make_factory(samples, **options_of(args, header))
    use_cores(num_workers)  # here, since it also limits torch, which a model has loaded by now
    header = replace(header, model=factory.model)
    with atomic_write(output) as file:

        def write(codec: Codec) -> Written:
            if args.raw:
                written = write_raw(file, header, codec, samples)
            else:
                with pixel_bar("compressing", scene.info.height * scene.info.width) as advance:
                    coded = samples.coded(codec)
                    written = compress_scene(scene, file, header, codec, num_workers, advance, coded)
            check_bound(args, written)
            return written

        return write_as_asked(args, factory, samples, write)


def losses_of_coding(args: argparse.Namespace, info: SceneInfo) -> list[Loss]:
    """Return what of a scene this program never keeps."""
    if args.raw:
        return [
            Loss("container", "a bare stream keeps samples only: no georeference, nodata value, masks, names or tags")
        ]
    if not (info.masks or (alpha_bands(info) and args.max_error != 0)):
        return []
    value = "nodata" if info.band_nodata else "0" if info.nodata is None else f"{info.nodata:g}"
    return [Loss("masked", f"values of masked samples, which are decoded as {value}")]


def axes_hint(args: argparse.Namespace, info: SceneInfo) -> str:
    """Return a hint at --axes if a `.npy` whose axes nobody named has fewer rows or columns than bands."""
    lengths = dict(zip(AXES, (info.bands, info.height, info.width), strict=True))
    smallest, second, _ = sorted(AXES, key=lengths.__getitem__)
    is_likely = smallest != "b" and lengths[smallest] < lengths[second]
    if args.axes is not None or Path(args.scene).suffix.lower() != ".npy" or not is_likely:
        return ""
    axes = "rbc" if smallest == "r" else "rcb"
    taken = f"shape {tuple(lengths.values())} is taken as (bands, rows, columns)"
    return f"{args.scene}: {taken}: give --axes {axes} if the smallest is the bands"


def alpha_bands(info: SceneInfo) -> tuple[int, ...]:
    """Return the 1-based numbers of the alpha bands; none if there is no other band."""
    bands = tuple(band for band, color in enumerate(info.colors, start=1) if color == "alpha")
    return bands if len(bands) < info.bands else ()


def emptiness(distortion: Distortion) -> str:
    """Return a note if next to nothing of the samples is left, else nothing."""
    if not distortion.energy or distortion.squared_error < MAX_ERROR_SHARE * distortion.energy:
        return ""
    return (
        "the errors are as large as the samples, so that next to nothing is left of these: give a smaller step, or the "
        "samples' own --scale or --peak"
    )


def header_of(args: argparse.Namespace, info: SceneInfo) -> Header:
    """Return the header of the file, except for the codec's parameters and model.

    Raises:
        UsageError: the model does not take the scene's bands, or the tile size is out of range.
    """
    largest = min(MAX_TILE_SIZE, math.isqrt(MAX_TILE_SAMPLES // info.bands))
    if not MIN_TILE_SIZE <= args.tile_size <= largest:
        raise UsageError(
            f"--tile-size must be {MIN_TILE_SIZE} to {largest} for {info.bands} bands, got {args.tile_size}"
        )
    exact = () if args.raw else alpha_bands(info)
    coded = model_bands(args, info) if codecs[args.codec].has_weights else range(info.bands)
    others = tuple(band + 1 for band in sorted(set(range(info.bands)) - set(coded)) if band + 1 not in exact)
    return Header(
        codec=args.codec,
        parameters={},
        model=None,
        scene=info,
        scale=args.scale or (1.0 if info.dtype in FLOATS else float(min(INTEGER_SCALE, INTEGER_RANGES[info.dtype][1]))),
        dropped={DROPPED_FOR: others} if others and args.max_error is None else {},
        tile_size=args.tile_size,
        max_error=args.max_error,
        exact=exact,
    )


def model_bands(args: argparse.Namespace, info: SceneInfo) -> tuple[int, ...]:
    """Return the 0-based indices of the scene's bands that the model takes.

    Raises:
        UsageError: the scene's number of bands does not fit the model.
    """
    bands = [band for band in range(info.bands) if band + 1 not in alpha_bands(info)]
    if len(bands) == args.num_channels:
        return tuple(bands)
    if (len(bands), args.num_channels) == (NUM_BANDS, NUM_CHANNELS):
        return tuple(bands[index] for index in KEPT_INDICES)
    raise UsageError(
        f"{args.scene} has {len(bands)} bands, the model takes {args.num_channels}: "
        f"give --checkpoint with weights for {len(bands)} bands, and --num-channels {len(bands)}"
    )


def options_of(args: argparse.Namespace, header: Header) -> dict[str, Any]:
    """Return the options of the codec's factory; none for a codec without weights."""
    if not codecs[args.codec].has_weights:
        return {}
    places = {band: place for place, band in enumerate(header.coded_bands)}
    return {
        "model": args.model,
        "checkpoint": args.checkpoint,
        "num_channels": args.num_channels,
        "device": args.device,
        "coder": args.coder,
        "model_bands": [places[band] for band in model_bands(args, header.scene)],
    }


def write_as_asked(
    args: argparse.Namespace, factory: CodecFactory, samples: Samples, write: Callable[[Codec], Written]
) -> tuple[Written, str | None]:
    """Write the scene with the bound, the step or the target of the flags.

    Returns:
        What was written, and a note if it misses its target.

    Raises:
        UsageError: the codec lacks the mode that the flags choose.
    """
    step = args.step
    if args.quality is not None:
        step = samples.scale * STEP_AT_QUALITY_0 * 2.0 ** (-args.quality / 10) / factory.unit
    if args.max_error is not None:
        return write(bounded_codec(args, factory, step)), None
    has_target = args.target_psnr is not None or args.target_bpppc is not None
    if factory.quantized is not None and step is None and not has_target:
        return write(factory.quantized()), None
    if factory.lossy is None:
        reason = ": the steps of this model are learned" if factory.quantized else " has no lossy mode"
        raise UsageError(f"--codec {args.codec}{reason}: leave step, quality and target out")
    if step is not None:
        return write(factory.lossy(step)), None
    if not has_target:
        raise UsageError(f"--codec {args.codec} has no default step: give a step, a quality or a target")
    target = Target("bpppc", args.target_bpppc)
    if args.target_psnr is not None:
        target = Target("psnr", args.target_psnr, peak_of(args, samples.scale))
        check_peak(args, samples, target)
    name = f"{args.model} with these weights" if codecs[args.codec].has_weights else args.codec
    return RateController(factory, samples, name).write(write, target)


def peak_of(args: argparse.Namespace, scale: float) -> float:
    """Return the peak of the PSNR, as a fraction of the scale."""
    return 1.0 if args.peak is None else args.peak / scale


def check_peak(args: argparse.Namespace, samples: Samples, target: Target) -> None:
    """Check that a PSNR whose peak nobody chose leaves something of the samples.

    Raises:
        UsageError: the errors may be larger than the samples.
    """
    if args.peak is not None or args.scale is not None:
        return
    tiles = samples.tiles(MAX_PEAK_TILES)
    largest = max(float(np.abs(tile.cube[tile.valid]).max(initial=0)) for tile in tiles)
    count = sum(int(tile.valid.sum()) for tile in tiles)
    energy = sum(float(np.square(tile.cube[tile.valid], dtype=np.float64).sum()) for tile in tiles)
    error = samples.scale * 10 ** (-target.figure / 20)
    if count and error**2 >= MAX_ERROR_SHARE * energy / count > 0:
        raise UsageError(
            f"{args.scene}: --target-psnr {target.value:g} with a peak of {samples.scale:g} allows errors of "
            f"{error:.3g}, but samples are at most {largest:.3g}: give their peak by --peak, such as {largest:.3g}"
        )


def bounded_codec(args: argparse.Namespace, factory: CodecFactory, step: float | None) -> Codec:
    """Return the codec of --max-error.

    Args:
        args: arguments of compress.py.
        factory: factory of the codec.
        step: step of a model's latents; None for the step of the smallest file.

    Raises:
        UsageError: the codec cannot keep the bound.
    """
    if args.max_error == 0 and step is None and factory.lossless is not None:
        return factory.lossless()
    if factory.bounded is None and factory.lossless is None:
        raise UsageError(f"--codec {args.codec} is always lossy: give a step, a quality or a target")
    if factory.bounded is None:
        raise UsageError(f"--codec {args.codec} cannot bound the error: leave --max-error out, or give 0")
    return factory.bounded(args.max_error) if step is None else factory.bounded(args.max_error, step)


def check_bound(args: argparse.Namespace, written: Written) -> None:
    """Check that the decoded samples keep the bound, if there is one.

    Raises:
        ProjectError: an error exceeds the bound, which is a bug of the codec.
    """
    if args.max_error is None:
        return
    distortion = written.distortion
    if distortion.largest_error > largest_allowed(args.max_error, distortion, written.header.scene.dtype):
        raise ProjectError(
            f"{args.scene}: errors must be at most {args.max_error:g} (--max-error), got {distortion.largest_error:g}"
        )


def report(args: argparse.Namespace, written: Written, source_bytes: int, seconds: float) -> str:
    """Describe a written file: its rate, its quality, and what was lost."""
    header, distortion, info = written.header, written.distortion, written.header.scene
    num_samples = info.height * info.width * info.bands
    lines = []
    if distortion.clipped:
        share = distortion.clipped / max(distortion.samples, 1)
        lines.append(
            f"clipped before coding, as in training: {distortion.clipped} samples ({share:.2%}) below 0 or above "
            f"{header.scale:g}, by up to {distortion.largest_clip:g}"
        )
    if written.lost:
        num_dropped = sum(len(bands) for bands in header.dropped.values())
        lines.append(f"not coded without --max-error: {written.lost} valid samples in {num_dropped} bands")
    figures = [
        f"{written.rate:.4f} bpppc",
        f"{source_bytes / written.num_bytes:.2f} times smaller than the file",
        f"{2 * num_samples / written.num_bytes:.2f} than int16",
        f"PSNR {psnr_text(distortion.psnr + 20 * math.log10(peak_of(args, header.scale)))}",
        f"largest error {distortion.largest_error:g}",
        f"spectral angle {distortion.spectral_angle:.3f} degrees",
        f"{np.dtype(info.dtype).itemsize * num_samples / 1e6 / seconds:.2f} MB/s",
    ]
    return "\n".join([*lines, f"{args.output}: " + ", ".join(figures)])


# -- many scenes ----------------------------------------------------------------------------------


def compress_many(args: argparse.Namespace) -> int:
    """Compress scenes into files of a folder; those that are finished are skipped, see `coding.batch`.

    Args:
        args: arguments of compress.py, with `scenes` and `output_dir`.

    Returns:
        The exit code: 1 if a scene failed.

    Raises:
        UsageError, ProjectError, OSError: see `coding.batch.run_batch`.
    """
    tasks = tasks_of(sources_of(args.scenes, args.list), Path(args.output_dir), ".bin" if args.raw else ".hsc")
    if args.checkpoint is not None:
        args.checkpoint = os.path.abspath(args.checkpoint)
    names = (*SETTINGS, *(MODEL_SETTINGS if codecs[args.codec].has_weights else ()))
    memory = functools.partial(worker_bytes, args, [task.source for task in tasks])
    return run_batch(args, names, tasks, functools.partial(compress_task, args), memory)


def compress_task(args: argparse.Namespace, task: Task, num_threads: int) -> Figures:
    """Compress one of many scenes in a worker.

    Raises:
        UsageError, ProjectError: see `compress`.
    """
    changes = {"scene": task.source, "output": task.output, "num_workers": num_threads, "overwrite": True}
    args = argparse.Namespace(**{**vars(args), **changes})
    with collected_notes() as notes:
        written, _, seconds = compress_file(args)
    return Figures(
        num_bytes=written.num_bytes,
        sha256=file_sha256(task.output),
        seconds=seconds,
        rate=written.rate,
        psnr=written.distortion.psnr + 20 * math.log10(peak_of(args, written.header.scale)),
        largest_error=written.distortion.largest_error,
        notes=tuple(notes),
    )


def worker_bytes(args: argparse.Namespace, sources: Sequence[str], num_threads: int) -> int:
    """Return the memory that coding the largest of the scenes takes; the largest in bytes that can be read.

    Args:
        args: arguments of compress.py.
        sources: the scenes.
        num_threads: tiles coded at a time.
    """
    for source in largest_first(sources):
        with contextlib.suppress(ProjectError), open_scene(source, args.nodata, args.axes) as scene:
            return memory_of(scene.info, args.tile_size, num_threads, args.codec, is_whole=args.raw)
    return memory_of(None, args.tile_size, num_threads, args.codec)


# -- bare streams ---------------------------------------------------------------------------------


def raw_samples(args: argparse.Namespace, scene: SceneReader, header: Header) -> Samples:
    """Return the samples of the whole scene, which a bare stream holds as one image.

    Raises:
        UsageError: the scene has gaps, which a lossy bare stream would not keep.
    """
    window = 0, 0, scene.info.height, scene.info.width
    parts = Parts.of(scene.read(*window), scene.read_masks(*window), header)
    if args.max_error != 0 and not parts.valid.all():
        band, row, column = np.argwhere(~parts.valid)[0]
        raise UsageError(
            f"{args.scene}: {np.count_nonzero(~parts.valid)} samples without data, the first in band {band + 1} at row "
            f"{row}, column {column}, which only a lossless bare stream keeps: leave --raw out, or code without loss"
        )
    return CubeSamples(parts.cube, np.ones(parts.cube.shape, bool), header.scale)


def write_raw(file: IO[bytes], header: Header, codec: Codec, samples: Samples) -> Written:
    """Replace the content of `file` with the codec's bytes of the whole scene."""
    (tile,) = samples.tiles(1)
    data, decoded = codec.encode_and_decode(*tile)
    file.seek(0)
    file.truncate()
    file.write(data)
    return Written(header, len(data), measure(tile.cube, decoded, tile.valid, header.scale, False), 0)
