"""Measure what each part of klt-cm is worth: the codec with one part changed, compared with the unchanged codec.

    python -m benchmarks.ablation SCENE.TIF CUBE.npy ... --name ablation-klt-cm

Scenes hold integers; of EnMAP's 224 bands only the 202 that HySpecNet-11k keeps are coded. Each scene is one tile. The
report is ablation.json and ablation.md in SAVE_DIR/<name>/.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from benchmarks.rd.bjontegaard import bjontegaard_deltas
from benchmarks.rd.images import Image, image_name, read_image
from benchmarks.report import command_line, markdown_table, report_folder
from coding.hsc.distortion import measure as distortion_of
from coding.kltcm.codec import KltCm
from coding.numbers import Numbers
from utils.environment import provenance
from utils.errors import ProjectError
from utils.files import atomic_write
from utils.processes import num_cores
from utils.results import write_json
from utils.scripts import run_script

STEPS = (8, 16, 32, 64, 128)
BOUNDS = (0, 10)
PEAK = 10_000.0


class Change(NamedTuple):
    """Constants of klt-cm that an ablation changes.

    Attributes:
        title: of the row in the report.
        is_lossy: whether the row is about lossy coding; otherwise about lossless and bounded coding.
        values: "module:constant" -> its changed value.
    """

    title: str
    is_lossy: bool
    values: dict[str, Any]


_FEATURES, _TRELLIS, _WAVELET = "coding.kltcm.features", "coding.kltcm.trellis", "coding.kltcm.wavelet"
_CONTEXTS, _REGRESSION = "coding.kltcm.contexts", "coding.prediction.regression"
_EXPECTATION = "coding.kltcm.expectation"
UNCHANGED = (Change("", True, {}), Change("", False, {}))
_ALWAYS_QUANTIZER_0 = 8  # a shift that leaves nothing of a state
CHANGES = (
    Change("bits cost nothing: the path of least error", True, {f"{_TRELLIS}:COST_PER_BIT": 1e-6}),
    Change("a bit costs 0.12 squared steps instead of 0.155", True, {f"{_TRELLIS}:COST_PER_BIT": 0.12}),
    Change("a bit costs 0.19 squared steps instead of 0.155", True, {f"{_TRELLIS}:COST_PER_BIT": 0.19}),
    Change(
        "one quantizer instead of two",
        True,
        {f"{_TRELLIS}:QUANTIZER_SHIFT": _ALWAYS_QUANTIZER_0, f"{_CONTEXTS}:QUANTIZER_SHIFT": _ALWAYS_QUANTIZER_0},
    ),
    Change("values of coefficients are not predicted", True, {f"{_EXPECTATION}:_LARGEST": 0}),
    Change("no wavelet", True, {f"{_WAVELET}:MAX_LEVELS": 0}),
    Change("a wavelet of two levels instead of five", True, {f"{_WAVELET}:MAX_LEVELS": 2}),
    Change("no prediction of components", True, {f"{_FEATURES}:_MAX_USED": 0}),
    Change("prediction of components from products only", True, {f"{_FEATURES}:_WITH_DERIVATIVES": 0}),
    Change(
        "prediction of components from derivatives only",
        True,
        {f"{_FEATURES}:_WITH_PRODUCTS": 0, f"{_FEATURES}:_WITH_CUBES": 0},
    ),
    *(
        Change(
            f"prediction from {count} bands instead of 32",
            False,
            {f"{_REGRESSION}:_LAGS": count, f"{_REGRESSION}:_CORNER_LAGS": min(count, 8)},
        )
        for count in (4, 8, 16, 48)
    ),
    Change("no neighbors in other bands", False, {f"{_REGRESSION}:_CORNER_LAGS": 0, f"{_REGRESSION}:_CROSS_LAGS": 0}),
    Change("neighbors in other bands only to the left and above", False, {f"{_REGRESSION}:_CROSS_LAGS": 0}),
    Change(
        "four neighbors in the band itself instead of ten",
        False,
        {f"{_REGRESSION}:_OWN_PLACES": [[0, -1], [-1, 0], [-1, -1], [-1, 1]]},
    ),
    Change("no phases of resampling", False, {"coding.prediction.phases:_MIN_PEAK": math.inf}),
    Change("predictions are not corrected", False, {"coding.prediction.adaptive:_SHARE": 0}),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all changes, write the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenes", nargs="+", metavar="SCENE", help=".tif or .npy of integers")
    parser.add_argument("--name", default=None, help="folder for the report; date and time if not given")
    parser.add_argument("--save-dir", default="./results/benchmarks/", help="folder for the reports' folders")
    parser.add_argument("--allow-dirty", action="store_true", help="let a named report come from a dirty working tree")
    parser.add_argument("--measure", default=None, help=argparse.SUPPRESS)  # arguments of `measure`, as JSON
    args = parser.parse_args(argv)
    if args.measure is not None:
        print(json.dumps(measure(args.scenes, **json.loads(args.measure))))
        return 0
    origin = provenance(torch.device("cpu"))
    folder = report_folder(args, origin["git_commit"])
    with ThreadPoolExecutor(num_cores()) as executor:
        runs = [*UNCHANGED, *CHANGES]
        results = list(executor.map(partial(measure_apart, args.scenes), runs))
    lossy, exact = results[: len(UNCHANGED)]
    rows = [
        {"change": change.title, "is_lossy": change.is_lossy, "percent": compare(change, result, lossy, exact)}
        for change, result in zip(CHANGES, results[len(UNCHANGED) :], strict=True)
    ]
    names = [image_name(Path(scene)) for scene in args.scenes]
    command = command_line(sys.argv[1:] if argv is None else argv, ("-m", "benchmarks.ablation"))
    settings = {"command": command, "scenes": names, **origin}
    write_json(folder / "ablation.json", {"name": folder.name, "settings": settings, "rows": rows})
    text = f"# Ablation: {folder.name}\n\n{tables(rows, names)}\n"
    with atomic_write(folder / "ablation.md", "w") as file:
        file.write(text)
    print(f"{text}\nwritten: {folder / 'ablation.md'}, ablation.json next to it")
    return 0


def measure_apart(scenes: Sequence[str], change: Change) -> list:
    """Return the result of `measure` from a process of its own, which compiles kernels with the changed constants.

    Raises:
        ProjectError: the process failed.
    """
    arguments = json.dumps({"values": change.values, "is_lossy": change.is_lossy})
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ablation", *scenes, "--measure", arguments],
            env={**os.environ, "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ProjectError(f"{change.values}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(scenes: Sequence[str], values: dict[str, Any], is_lossy: bool) -> list:
    """Return for each scene a curve (rate, PSNR) over `STEPS` if `is_lossy`, else the bytes at each of `BOUNDS`.

    Args:
        scenes: files.
        values: "module:constant" -> value, set before any kernel is compiled.
        is_lossy: what to measure.

    Raises:
        AttributeError: a constant that does not exist.
    """
    for place, value in values.items():
        path, _, name = place.partition(":")
        module = importlib.import_module(path)
        old = getattr(module, name)
        if isinstance(old, np.ndarray):
            value = np.array(value, old.dtype)
        elif isinstance(old, tuple):
            value = tuple(map(tuple, value))
        setattr(module, name, value)
    images = [read_image(Path(scene), original=True, peak=PEAK) for scene in scenes]
    if is_lossy:
        return [[lossy_point(image, step) for step in STEPS] for image in images]
    return [[bounded_bytes(image, bound) for bound in BOUNDS] for image in images]


def lossy_point(image: Image, step: float) -> tuple[float, float]:
    """Return the rate in bits per sample and the PSNR of the valid samples in dB, by a quantizer step."""
    codec = KltCm(Numbers(image.cube.dtype.name), step)
    data, decoded = codec.encode_and_decode(image.cube, image.valid)
    distortion = distortion_of(image.cube, decoded, image.valid, image.peak, codec.clips_to_scale)
    return 8 * len(data) / image.cube.size, distortion.psnr


def bounded_bytes(image: Image, bound: int) -> int:
    """Return the coded size in bytes with no error above `bound`."""
    codec = KltCm(Numbers(image.cube.dtype.name, 1, bound))
    return len(codec.encode(image.cube, image.valid))


def compare(change: Change, results: Sequence, lossy: Sequence, exact: Sequence) -> list:
    """Return the change on each scene in percent: BD-rate if lossy, else the bytes at each of `BOUNDS`."""
    if change.is_lossy:
        return [bjontegaard_deltas(old, new)["bd_rate"] for old, new in zip(lossy, results, strict=True)]
    return [(100 * (np.divide(new, old) - 1)).tolist() for old, new in zip(exact, results, strict=True)]


def tables(rows: Sequence[dict], names: Sequence[str]) -> str:
    """Return the two tables of a report in Markdown."""
    lossy = [[row["change"], *_percent(row["percent"])] for row in rows if row["is_lossy"]]
    exact = []
    for row in (row for row in rows if not row["is_lossy"]):
        columns = [_percent(values) for values in zip(*row["percent"], strict=True)]
        exact.append([row["change"], *(" / ".join(pair) for pair in zip(*columns, strict=True))])
    header = ["changed", "mean", *names]
    return (
        f"Lossy, BD-rate in %:\n\n{markdown_table(header, lossy)}\n\n"
        f"Change of bytes in %, lossless / no error above {BOUNDS[-1]}:\n\n{markdown_table(header, exact)}"
    )


def _percent(values: Sequence[float]) -> list[str]:
    series = pd.Series(values, dtype=float)
    return [f"{value:+.1f}" for value in (series.mean(), *series)]


if __name__ == "__main__":
    run_script(main)
