"""Run `benchmark.py rd`: every codec on every image, and the report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.rd.images import image_name, read_image, split_paths
from benchmarks.rd.points import Job, run_jobs
from benchmarks.rd.report import Report, write_report
from benchmarks.report import check_clean, command_line, read_report, report_folder
from coding import codecs
from coding.base import CodecFactory
from coding.learned.codec import DEFAULT_CODER
from coding.learned.factory import ModelFactory
from coding.learned.network import SAMPLE_WEIGHTS, load_network, recognize
from coding.samples import Samples
from datasets.enmap import SCALE
from datasets.scenes import open_scene
from models import aliases, models
from utils.devices import get_device
from utils.environment import device_name, provenance
from utils.errors import UsageError
from utils.processes import num_cores
from utils.results import write_json

DEFAULT_ANCHOR = "klt-jpeg2000"
POINTS_FOLDER = ".points"
"""Subfolder of a report that stores the points of a run."""
FIXED_SETTINGS = ("dataset", "mode", "split", "images", "original", "peak")
"""Settings that a resumed run must share with the stored points."""


class Entry(NamedTuple):
    """A codec in the comparison.

    Attributes:
        codec: its name in the report.
        key: name of the folder that stores its points.
        make_factory: returns the codec's factory for samples.
    """

    codec: str
    key: str
    make_factory: Callable[[Samples], CodecFactory]


def run(args: argparse.Namespace) -> int:
    """Measure all points that are not stored yet, and write the report.

    Raises:
        UsageError: flags that do not go together, or a folder that holds another run.
        DatasetError: images that cannot be read.
        CheckpointError: weights that cannot be read, or whose model cannot be recognized.
    """
    if args.redraw:
        folder = Path(args.save_dir) / args.redraw
        return publish(Report(read_report(folder / "rd.json")), folder, args)
    paths = image_paths(args)
    entries = codec_entries(args)
    names = [entry.codec for entry in entries]
    anchors = check_anchors(args.anchor, names)
    settings = settings_of(args, paths)
    folder = report_folder(args, settings["git_commit"])
    settings = {"name": folder.name, **settings}
    check_stored(folder / POINTS_FOLDER / "settings.json", settings, args)
    write_json(folder / POINTS_FOLDER / "settings.json", settings)
    jobs = [
        Job(
            codec=entry.codec,
            image=image_name(path),
            make_factory=entry.make_factory,
            load=partial(read_image, path, args.int16, args.peak),
            rates=args.rates,
            bounds=args.bounds,
            path=folder / POINTS_FOLDER / entry.key / f"{number:05}.jsonl",
            num_threads=max(num_cores() // settings["processes"], 1),
        )
        for entry in entries
        for number, path in enumerate(paths)
    ]
    # Learned models take longest: if they begin first, they leave no core idle at the end.
    jobs.sort(key=lambda job: job.codec in args.codecs)
    rows = run_jobs(jobs, settings["processes"], lambda text: print(text, file=sys.stderr, flush=True))
    return publish(write_report(folder, rows, settings, anchors, args.band_rate, names), folder, args)


def settings_of(args: argparse.Namespace, paths: Sequence[Path]) -> dict:
    """Return what the points of a run depend on, without paths of this machine."""
    return {
        "dataset": None if args.images else Path(args.dataset).resolve().name,
        "mode": None if args.images else args.mode,
        "split": None if args.images else args.split,
        "images": [image_name(path) for path in paths],
        "original": args.int16,
        "is_reflectance": not args.int16,
        "peak": args.peak if args.int16 else SCALE,
        "rates": args.rates,
        "bounds": args.bounds,
        "processes": args.num_workers or num_cores(),
        "command": command_line(args.argv),
        "learned_device": device_name(get_device(args.device, "--device")),
        **provenance(torch.device("cpu")),
    }


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
        UsageError: a file of unknown format.
        DatasetError: no such split, or a file that is no image.
    """
    paths = [Path(path) for path in args.images] or split_paths(
        Path(args.dataset), args.mode, args.split, original=args.int16
    )
    paths = paths[: args.limit]
    for path in paths:
        with open_scene(path):
            pass
    return paths


def codec_entries(args: argparse.Namespace) -> list[Entry]:
    """Return the codecs to compare, each learned model once for each coder of its latents.

    Raises:
        UsageError: no such model, or no codec at all.
        CheckpointError: weights that cannot be read, or whose model cannot be recognized.
    """
    entries = [Entry(name, name, codecs[name].make_factory) for name in args.codecs]
    for text in args.checkpoints if args.checkpoints is not None else [str(SAMPLE_WEIGHTS)]:
        model, is_named, path = text.rpartition("=")
        if is_named and model not in (*models, *aliases):
            raise UsageError(f"--checkpoints {text}: {model} must be one of {', '.join(models)}")
        model = aliases.get(model, model) or recognize(path, args.num_channels)
        key = f"{model}-{load_network(model, path, args.num_channels, 'cpu').sha256[:8]}"
        name = key if any(entry.codec == model for entry in entries) else model
        for number, coder in enumerate(args.coder or [None]):
            factory = ModelFactory(model, path, args.num_channels, args.device, coder)
            ending = "" if coder in (None, DEFAULT_CODER) else f"-{coder}"
            # The coder does not change float32 latents: measure them once.
            entries.append(Entry(name + ending, key + ending, partial(without_fixed, factory) if number else factory))
    if not entries:
        raise UsageError("nothing to compare: give --codecs, --checkpoints or both")
    return entries


def without_fixed(make_factory: Callable[[Samples], CodecFactory], samples: Samples) -> CodecFactory:
    """Return a codec's factory without its mode `fixed`."""
    return replace(make_factory(samples), fixed=None)


def check_anchors(given: list[str] | None, codecs: list[str]) -> list[str]:
    """Return the anchors of Bjontegaard's deltas.

    Raises:
        UsageError: an anchor that is not among `codecs`.
    """
    anchors = given or [DEFAULT_ANCHOR if DEFAULT_ANCHOR in codecs else codecs[0]]
    for anchor in anchors:
        if anchor not in codecs:
            raise UsageError(f"--anchor {anchor}: must be one of {', '.join(codecs)}")
    return anchors


def check_stored(path: Path, settings: Mapping, args: argparse.Namespace) -> None:
    """Check that a run may use its folder, which may hold the points of an earlier run.

    Args:
        path: of the settings that are stored with the points.
        settings: of the run.
        args: with `resume` and `allow_dirty`.

    Raises:
        UsageError: the folder holds a run, and `--resume` is not given or the run is of other images or a dirty tree.
    """
    if not path.is_file():
        return
    folder = path.parents[1]
    if not args.resume:
        raise UsageError(f"{folder} holds a run: resume it with --resume, or give another --name")
    stored = json.loads(path.read_text(encoding="utf-8"))
    for key in FIXED_SETTINGS:
        if stored[key] != settings[key]:
            raise UsageError(f"{folder}: {key} must be {stored[key]}, got {settings[key]}: give another --name")
    if stored["git_commit"] is not None:
        check_clean(folder, stored["git_commit"], args.allow_dirty)
    if stored["git_commit"] != settings["git_commit"]:
        print("note: the stored points were measured with another version of the code", file=sys.stderr)
