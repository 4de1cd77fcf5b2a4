"""Run `benchmark.py rd`: every codec on every image, and the report."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from benchmarks.rd.images import image_name, read_image, split_paths
from benchmarks.rd.jobs import Job, run_jobs
from benchmarks.rd.report import Report, write_report
from benchmarks.rd.store import Point, code_sha256, image_sha256, points_folder
from benchmarks.report import command_line, read_report, report_folder
from coding import MODEL_CODER, PLANE_CODERS, codecs
from coding.base import CodecFactory
from coding.learned.codec import DEFAULT_CODER
from coding.learned.factory import ModelFactory
from coding.learned.network import SAMPLE_WEIGHTS, load_network, recognize
from coding.samples import Samples
from datasets.enmap import SCALE
from models import aliases, models
from utils.devices import get_device
from utils.environment import device_name, provenance
from utils.errors import UsageError
from utils.processes import num_cores
from utils.workers import fitting_workers

DEFAULT_ANCHOR = "klt-jpeg2000"
LIBRARY_BYTES = 1_100_000_000
"""Memory of a worker without an image: libraries, and what a model needs for any."""
MAX_PEAK_PER_BYTE = 50
"""Bytes that the hungriest codecs take for each byte of an image."""
POINTS_FOLDER = ".points"
"""Subfolder of a report that stores the points of its runs."""
KINDS = ("fixed", "quantized", "trained", "lossy", "bounded", "lossless")
"""Kinds of points, in the order in which they are measured."""


class Entry(NamedTuple):
    """A codec in the comparison.

    Attributes:
        codec: its name in the report.
        curve: name of the curve that it is a point of; several weights of a model make one.
        key: name of the folder that stores its points.
        settings: what its points depend on, besides image and code.
        modules: that implement it.
        make_factory: returns the codec's factory for samples.
        kinds: of points that it may have.
    """

    codec: str
    curve: str
    key: str
    settings: dict
    modules: tuple[str, ...]
    make_factory: Callable[[Samples], CodecFactory]
    kinds: Sequence[str] = KINDS


def run(args: argparse.Namespace) -> int:
    """Measure all points that are not stored yet, and write the report.

    Raises:
        UsageError: flags that do not go together.
        DatasetError: images that cannot be read.
        CheckpointError: weights that cannot be read, or whose model cannot be recognized.
    """
    if args.redraw:
        folder = Path(args.save_dir) / args.redraw
        return publish(Report(read_report(folder / "rd.json")), folder, args)
    paths = image_paths(args)
    entries = codec_entries(args)
    names = [entry.codec for entry in entries]
    anchors = check_anchors(args.anchor, list(dict.fromkeys([*names, *(entry.curve for entry in entries)])))
    settings = settings_of(args, paths, entries)
    folder = report_folder(args, settings["git_commit"])
    hashes, largest = read_images(paths, args)
    job_bytes = LIBRARY_BYTES + MAX_PEAK_PER_BYTE * largest
    num_workers = args.num_workers
    if not num_workers and not args.scheduler:
        num_workers = fitting_workers(num_cores(), job_bytes)
    rows = run_jobs(jobs_of(args, paths, hashes, entries, folder), num_workers, args.scheduler, job_bytes)
    devices = "; ".join(sorted({row["device"] for row in rows if "device" in row}))
    settings = {
        "name": folder.name,
        **settings,
        "processes": None if args.scheduler else num_workers,
        "core_hours": round(sum(row.get("seconds", 0) for row in rows) / 3600, 3),
        "device": devices or settings["device"],
    }
    return publish(write_report(folder, rows, settings, anchors, args.band_rate, names), folder, args)


def jobs_of(
    args: argparse.Namespace, paths: Sequence[Path], hashes: Sequence[str], entries: Sequence[Entry], folder: Path
) -> list[Job]:
    """Return the jobs of all codecs on all images, whose points are stored in the folder of the report.

    They go image by image, so that a run that is stopped has whole images, and the time that is left can be estimated.
    Learned codecs take longest: if they begin first, they leave no core idle at the end.
    """
    return [
        Job(
            codec=entry.codec,
            image=image_name(path),
            make_factory=entry.make_factory,
            load=partial(read_image, path.resolve(), args.int16, args.peak),
            wanted=wanted_points(entry.kinds, args.rates, args.bounds),
            folder=stored_at(folder.resolve() / POINTS_FOLDER, entry, image),
        )
        for path, image in zip(paths, hashes, strict=True)
        for entry in sorted(entries, key=lambda entry: entry.codec in args.codecs)
    ]


def settings_of(args: argparse.Namespace, paths: Sequence[Path], entries: Sequence[Entry]) -> dict:
    """Return the settings of a run, without paths of this machine."""
    return {
        "dataset": None if args.images else Path(args.dataset).resolve().name,
        "mode": None if args.images else args.mode,
        "split": None if args.images else args.split,
        "sample_seed": args.seed if args.sample else None,
        "images": [image_name(path) for path in paths],
        "original": args.int16,
        "is_reflectance": not args.int16,
        "peak": args.peak if args.int16 else SCALE,
        "rates": args.rates,
        "bounds": args.bounds,
        "curves": {entry.codec: entry.curve for entry in entries},
        "command": command_line(args.argv),
        "learned_device": device_name(get_device(args.device, "--device")),
        **provenance(torch.device("cpu")),
    }


def wanted_points(kinds: Sequence[str], rates: Sequence[float], bounds: Sequence[int]) -> list[Point]:
    """Return kind and target of every point that a codec might have."""
    targets: Mapping[str, Sequence[float | None]] = {"lossy": sorted(rates), "bounded": sorted(bounds)}
    return [(kind, target) for kind in kinds for target in targets.get(kind, [None])]


def stored_at(folder: Path, entry: Entry, image: str) -> Path:
    """Return the folder for the points of a codec on the image of a hash."""
    has_model = "model" in entry.settings
    return points_folder(folder / entry.key, image, entry.settings, code_sha256(entry.modules, has_model))


def publish(report: Report, folder: Path, args: argparse.Namespace) -> int:
    """Draw a report into `folder`, print it, and export it if asked to."""
    print(report.draw(folder, args.per_image))
    print(f"written: {folder / 'rd.md'}, rd.json and figures next to it")
    if args.export_compressai:
        report.export(Path(args.export_compressai))
        print(f"exported: {args.export_compressai}, a file for each codec")
    return 0


def image_paths(args: argparse.Namespace) -> list[Path]:
    """Return the images to compare codecs on.

    Raises:
        DatasetError: no such split.
    """
    paths = [Path(path) for path in args.images] or split_paths(
        Path(args.dataset), args.mode, args.split, original=args.int16
    )
    return random_part(paths, args.sample, args.seed) if args.sample else paths[: args.limit]


def random_part(paths: Sequence[Path], count: int, seed: int) -> list[Path]:
    """Return `count` random images in their order, the same on every machine; a larger count only adds images."""
    ranks = [hashlib.sha256(f"{seed} {image_name(path)}".encode()).digest() for path in paths]
    chosen = set(sorted(range(len(paths)), key=lambda index: ranks[index])[:count])
    return [path for index, path in enumerate(paths) if index in chosen]


def read_images(paths: Sequence[Path], args: argparse.Namespace) -> tuple[list[str], int]:
    """Read all images, which also checks them.

    Returns:
        The hash of each image, and the bytes of the largest.

    Raises:
        UsageError: a file of unknown format.
        DatasetError: a file that is no image, or has no sample to measure.
    """

    def hash_and_size(path: Path) -> tuple[str, int]:
        image = read_image(path, args.int16, args.peak)
        return image_sha256(image), image.cube.nbytes

    with ThreadPoolExecutor(args.num_workers or num_cores()) as executor:
        found = executor.map(hash_and_size, paths)
        try:
            images = list(tqdm(found, "reading", len(paths), unit=" images", leave=False, disable=None))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
    hashes, sizes = zip(*images, strict=True)
    return list(hashes), max(sizes)


def codec_entries(args: argparse.Namespace) -> list[Entry]:
    """Return the codecs to compare, each learned model once for each coder of its latents.

    Raises:
        UsageError: no such model, or no codec at all.
        CheckpointError: weights that cannot be read, or whose model cannot be recognized.
    """
    entries = [
        Entry(name, name, name, {"codec": name}, (codecs[name].factory.partition(":")[0],), codecs[name].make_factory)
        for name in args.codecs
    ]
    given = args.checkpoints if args.checkpoints is not None else [str(SAMPLE_WEIGHTS)]
    weights = [named_weights(text, args.num_channels) for text in given]
    for model, path in weights:
        entries += learned_entries(model, path, [other for other, _ in weights].count(model) > 1, args)
    if not entries:
        raise UsageError("nothing to compare: give --codecs, --checkpoints or both")
    return entries


def named_weights(text: str, num_channels: int) -> tuple[str, str]:
    """Return model and path of a value of --checkpoints.

    Raises:
        UsageError: no such model.
        CheckpointError: weights that cannot be read, or whose model cannot be recognized.
    """
    model, is_named, path = text.rpartition("=")
    if is_named and model not in (*models, *aliases):
        raise UsageError(f"--checkpoints {text}: {model} must be one of {', '.join(models)}")
    return aliases.get(model, model) or recognize(path, num_channels), path


def learned_entries(model: str, path: str, is_one_of_several: bool, args: argparse.Namespace) -> list[Entry]:
    """Return an entry of some weights for each coder of latents.

    Args:
        model: its name.
        path: of the weights.
        is_one_of_several: whether the weights must be told from others of the same model.
        args: of the command line.

    Raises:
        UsageError: no such device.
        CheckpointError: weights that cannot be read.
    """
    network = load_network(model, path, args.num_channels, "cpu")
    key = f"{model}-{network.sha256[:8]}"
    name = key if is_one_of_several else model
    plane_coders = (codecs[codec].factory.partition(":")[0] for codec in PLANE_CODERS.values())
    modules = ("coding.learned.factory", type(network.model).__module__, *plane_coders)
    device = get_device(args.device, "--device").type
    own_coder = MODEL_CODER if network.has_entropy_model else DEFAULT_CODER
    entries = []
    for number, coder in enumerate(args.coder or [None]):
        factory = ModelFactory(model, str(Path(path).resolve()), args.num_channels, args.device, coder)
        ending = "" if coder in (None, DEFAULT_CODER) else f"-{coder}"
        settings = {"model": model, "weights": network.sha256, "coder": coder or own_coder, "device": device}
        # The coder does not change float32 latents: measure them once.
        kinds = tuple(kind for kind in KINDS if kind != "fixed" or number == 0)
        entries.append(Entry(name + ending, model + ending, key + ending, settings, modules, factory, kinds))
    return entries


def check_anchors(given: list[str] | None, codecs: Sequence[str]) -> list[str]:
    """Return the anchors of Bjontegaard's deltas.

    Raises:
        UsageError: an anchor that is not among `codecs`.
    """
    anchors = given or [DEFAULT_ANCHOR if DEFAULT_ANCHOR in codecs else codecs[0]]
    for anchor in anchors:
        if anchor not in codecs:
            raise UsageError(f"--anchor {anchor}: must be one of {', '.join(codecs)}")
    return anchors
