"""Run `benchmark.py speed`: its parts one after the other, with the report written after every row."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from benchmarks.report import command_line, read_report, report_folder
from benchmarks.speed.data import make_patches, measure_loading, measure_loading_to, measure_preprocessing
from benchmarks.speed.gpu import measure_gpu
from benchmarks.speed.measure import SEED, interleaved
from benchmarks.speed.models import BANDS, MIN_SIDE, measure_limits, measure_work, reason_to_leave_out
from benchmarks.speed.report import Report
from benchmarks.speed.textbook import has_textbook
from models import aliases, models
from utils.devices import get_device
from utils.environment import device_name, provenance
from utils.errors import ProjectError, UsageError

ROOT = Path(__file__).resolve().parents[2]
MAX_TRAIN_SIDE = 64
"""Height and width in pixels of the largest images to train on."""
COMMANDS = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    **{f"{script} --help": [script, "--help"] for script in ("train.py", "test.py", "benchmark.py")},
}
"""Arguments of `python` of the commands that are timed, by their names in the report."""
SCALING_MODELS = ("cae1d", "sscnet")
SCALING_BATCH = 4
SCALING_SIDE = 64
"""Height and width in pixels of the patches that one process and two processes train on."""


def run(args: argparse.Namespace) -> int:
    """Measure the parts that `args.only` names and write their report.

    Raises:
        UsageError: an invalid device or image size, or a named report from a dirty tree.
        DatasetError: a data set that cannot be read.
    """
    if args.redraw:
        folder = Path(args.save_dir) / args.redraw
        return publish(Report(folder, read_report(folder / "speed.json")))
    devices = {name: get_device(name, "--devices") for name in args.devices}
    tasks = [model_and_side(name, args.size) for name in args.models] if {"models", "gpu"} & {*args.only} else []
    origin = provenance(devices[args.devices[0]])
    slug = re.sub(r"[^a-z0-9]+", "-", origin.pop("device").lower()).strip("-")
    folder = report_folder(args, origin["git_commit"], slug)
    settings = {
        "devices": {name: device_name(device) for name, device in devices.items()},
        "cores": torch.get_num_threads(),
        "dataset": Path(args.dataset).resolve().name,
        "seed": SEED,
        "command": command_line(args.argv),
        **origin,
    }
    report = Report.of_run(folder, settings)
    if "models" in args.only:
        measure_models(report, tasks, devices, args)
    if "gpu" in args.only:
        measure_gpus(report, [name for name, _ in tasks], devices)
    if "data" in args.only:
        measure_data(report, args)
    if "scripts" in args.only:
        measure_scripts(report, args.repeats)
    if "scaling" in args.only:
        measure_scaling(report, args.quick)
    return publish(report)


def publish(report: Report) -> int:
    """Write a report and print it."""
    report.write()
    print(f"\n{report.tables()}\nwritten: {report.folder / 'speed.json'}, {report.folder / 'speed.md'}")
    return 0


def model_and_side(name: str, size: int) -> tuple[str, int]:
    """Return the registry's name and the image side of `MODEL` or `MODEL@SIDE`.

    Raises:
        UsageError: the model has no textbook form, it cannot take such images, or they are too small to measure with.
    """
    name, _, own_side = name.partition("@")
    name, side = aliases.get(name, name), int(own_side or size)
    if not has_textbook(name):
        raise UsageError(f"--models {name}: there is no textbook form to compare this model with")
    if side < MIN_SIDE:
        raise UsageError(f"--size must be at least {MIN_SIDE}, got {side}")
    try:
        models[name]().check_size(torch.empty(1, BANDS, side, side, device="meta"))
    except ValueError as error:
        raise UsageError(f"--size {side}: {error}") from None
    return name, side


def measure_models(report: Report, tasks: Sequence, devices: Mapping, args: argparse.Namespace) -> None:
    """Measure the limits of every device and precision, then each work of each model against its textbook form."""
    combinations = []
    for device_number, device in devices.items():
        for precision in args.precision:
            reason = reason_to_leave_out(device, precision)
            if reason:
                report.leave_out(f"{precision} on {device_number}: {reason}")
                continue
            report.say(f"limits of {device_number} in {precision}")
            limits = {"device": device_number, "precision": precision, **measure_limits(device, precision)}
            report.add("limits", limits)
            combinations.append((device, limits))
    for name, image_side in tasks:
        for device, limits in combinations:
            for work in args.works:
                side = image_side
                if work == "train":
                    side = min(MAX_TRAIN_SIDE, max(MIN_SIDE, side // 2) if args.quick else side)
                report.say(f"{name}, {side} px, {work}, {limits['device']}, {limits['precision']}")
                report.add("models", measure_work(name, side, work, device, limits, args.repeats))


def measure_gpus(report: Report, names: Sequence[str], devices: Mapping[str, torch.device]) -> None:
    """Measure loading, training and coding on every GPU among `devices`."""
    for number, device in devices.items():
        if device.type == "cuda":
            for row in measure_loading_to(device, report.folder, report.say):
                report.add("gpu", {"device": number, **row})
            for row in measure_gpu(names, device, report.say):
                report.add("gpu", {"device": number, **row})


def measure_data(report: Report, args: argparse.Namespace) -> None:
    """Measure preprocessing and loading on the disk of the report's folder."""
    for row in measure_preprocessing(Path(args.dataset), report.folder, args.quick, report.say):
        report.add("preprocessing", row)
    for row in measure_loading(report.folder, args.quick, args.repeats, report.say):
        report.add("loading", row)


def measure_scripts(report: Report, repeats: int) -> None:
    """Measure the seconds that each of `COMMANDS` takes from start to end."""
    report.say("starting scripts")
    calls = [
        partial(subprocess.run, [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        for arguments in COMMANDS.values()
    ]
    for call in calls:
        call()
    for name, times in zip(COMMANDS, interleaved(calls, repeats), strict=True):
        report.add("scripts", {"command": name, "seconds": statistics.median(times), "all_seconds": times})


def measure_scaling(report: Report, quick: bool) -> None:
    """Measure the images/s of train.py with one process and with two, of one thread each."""
    num_patches, epochs = (8, 2) if quick else (32, 4)
    with tempfile.TemporaryDirectory(dir=report.folder, prefix=".scaling-") as folder:
        make_patches(Path(folder), num_patches, "uint16", SCALING_SIDE)
        for model in SCALING_MODELS:
            rates = {}
            for processes in (1, 2):
                report.say(f"training {model}, processes: {processes}")
                flags = ["-m", model, "-d", folder, "--allow-overlap", "-e", str(epochs), "-n", "1"]
                rates[processes] = training_rate(Path(folder) / f"{model}-{processes}", processes, flags)
            row = {
                "model": model,
                "patches": num_patches,
                "images_per_second": rates[1],
                "images_per_second_of_two": rates[2],
                "share_of_twice": rates[2] / (2 * rates[1]),
            }
            report.add("scaling", row)


def training_rate(save_dir: Path, processes: int, flags: Sequence[str]) -> float:
    """Return the images/s of train.py on the CPU, the median over all epochs but the first.

    Raises:
        ProjectError: train.py failed.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = [str(ROOT / "train.py"), "--devices", "cpu", "--save-dir", str(save_dir)]
    done = subprocess.run(
        [sys.executable, *launcher, *script, "--train-batch-size", str(SCALING_BATCH), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ProjectError(f"train.py failed: {(done.stderr.strip() or 'without a message').splitlines()[-1]}")
    (metrics,) = save_dir.glob("*/metrics.csv")
    return float(pd.read_csv(metrics)["train_images_per_second"][1:].median())
