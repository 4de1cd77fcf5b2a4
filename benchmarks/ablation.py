"""Measure what each part of klt-cm is worth: the codec with one constant changed, compared with the codec as it is.

    python -m benchmarks.ablation SCENE.TIF CUBE.npy ... --name ablation-klt-cm

Scenes are integers; of EnMAP's 224 bands the 202 that HySpecNet-11k keeps. Each scene is coded as one tile. The report
is ablation.json and ablation.md in SAVE_DIR/<name>/.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
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
from benchmarks.rd.images import image_name, read_image
from benchmarks.report import markdown_table, report_folder
from utils.environment import provenance
from utils.errors import ProjectError, run_script
from utils.files import atomic_write
from utils.processes import num_cores
from utils.results import write_json

STEPS = (8, 16, 32, 64, 128)
BOUNDS = (0, 10)
PEAK = 10_000.0
CODER = "coding.kltcm.codec"


class Change(NamedTuple):
    """Constants of klt-cm that an ablation changes.

    Attributes:
        title: of the row in the report.
        is_lossy: whether the row is about coding with loss; otherwise lossless and with a bound.
        values: "module:constant" -> the value that it gets.
    """

    title: str
    is_lossy: bool
    values: dict[str, Any]


_FEATURES, _TRELLIS, _WAVELET = "coding.kltcm.features", "coding.kltcm.trellis", "coding.kltcm.wavelet"
_CONTEXTS, _REGRESSION = "coding.kltcm.contexts", "coding.prediction.regression"
_ONE_QUANTIZER = [[0, 0], [0, 0], [0, 0], [0, 0]]
CHANGES = (
    Change("no price of bits: the path of least error", True, {f"{_TRELLIS}:COST_PER_BIT": 1e-6}),
    Change("bits a third cheaper", True, {f"{_TRELLIS}:COST_PER_BIT": 0.10}),
    Change("bits a third dearer", True, {f"{_TRELLIS}:COST_PER_BIT": 0.18}),
    Change(
        "one quantizer instead of two",
        True,
        {f"{_TRELLIS}:NEXT_STATE": _ONE_QUANTIZER, f"{_CONTEXTS}:NEXT_STATE": _ONE_QUANTIZER},
    ),
    Change("no wavelet", True, {f"{_WAVELET}:MAX_LEVELS": 0}),
    Change("two levels of the wavelet instead of five", True, {f"{_WAVELET}:MAX_LEVELS": 2}),
    Change("no prediction of components", True, {f"{_FEATURES}:_MAX_USED": 0}),
    Change("prediction from products only", True, {f"{_FEATURES}:_WITH_DERIVATIVES": 0}),
    Change(
        "prediction from derivatives only",
        True,
        {f"{_FEATURES}:_WITH_PRODUCTS": 0, f"{_FEATURES}:_WITH_CUBES": 0},
    ),
    *(
        Change(
            f"{count} bands before instead of 32",
            False,
            {f"{_REGRESSION}:_LAGS": count, f"{_REGRESSION}:_CORNER_LAGS": min(count, 8)},
        )
        for count in (4, 8, 16, 48)
    ),
    Change("no neighbors in other bands", False, {f"{_REGRESSION}:_CORNER_LAGS": 0, f"{_REGRESSION}:_CROSS_LAGS": 0}),
    Change("in other bands neighbors to the left and above only", False, {f"{_REGRESSION}:_CROSS_LAGS": 0}),
    Change(
        "four neighbors in the band itself instead of ten",
        False,
        {f"{_REGRESSION}:_OWN_PLACES": [[0, -1], [-1, 0], [-1, -1], [-1, 1]]},
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all changes, write the report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("scenes", nargs="+", metavar="SCENE", help=".tif or .npy of integers")
    parser.add_argument("--name", default=None, help="folder for the report; date and time if not given")
    parser.add_argument("--save-dir", default="./results/benchmarks/", help="folder for the reports' folders")
    parser.add_argument("--allow-dirty", action="store_true", help="let a named report come from a dirty work tree")
    parser.add_argument("--changes", default=None, help=argparse.SUPPRESS)  # of a process of its own
    args = parser.parse_args(argv)
    if args.changes is not None:
        print(json.dumps(measure(args.scenes, json.loads(args.changes))))
        return 0
    origin = provenance(torch.device("cpu"))
    folder = report_folder(args, origin["git_commit"])
    with ThreadPoolExecutor(num_cores()) as executor:
        found = list(executor.map(partial(measure_apart, args.scenes), [{}, *(change.values for change in CHANGES)]))
    names = [image_name(Path(scene)) for scene in args.scenes]
    words = [Path(scene).name for scene in args.scenes] + (["--name", args.name] if args.name else [])
    settings = {"command": shlex.join(["python", "-m", "benchmarks.ablation", *words]), "scenes": names, **origin}
    rows = [
        {"change": change.title, "is_lossy": change.is_lossy, **compare(change, found[0], result)}
        for change, result in zip(CHANGES, found[1:], strict=True)
    ]
    write_json(folder / "ablation.json", {"name": folder.name, "settings": settings, "rows": rows})
    text = f"# Ablation: {folder.name}\n\n{tables(rows, names)}\n"
    with atomic_write(folder / "ablation.md", "w") as file:
        file.write(text)
    print(f"{text}\nwritten: {folder / 'ablation.md'}, ablation.json next to it")
    return 0


def measure_apart(scenes: Sequence[str], values: dict[str, Any]) -> list[dict]:
    """Return the result of `measure` in a process of its own, whose kernels are compiled with these constants.

    Raises:
        ProjectError: the process failed.
    """
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ablation", *scenes, "--changes", json.dumps(values)],
            env={**os.environ, "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise ProjectError(f"{values}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(scenes: Sequence[str], values: dict[str, Any]) -> list[dict]:
    """Return bytes and PSNR of every step, and bytes of every bound, on each scene.

    Args:
        scenes: files.
        values: "module:constant" -> value, set before any kernel is compiled.

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
    codec = importlib.import_module(CODER).KltCm
    samples = importlib.import_module("coding.samples").CubeSamples
    found = []
    for scene in scenes:
        image = read_image(Path(scene), original=True, peak=PEAK)
        valid = np.ones(image.cube.shape, bool)
        factory = codec.factory(samples(image.cube, valid, PEAK))
        curve = []
        for step in STEPS:
            data, decoded = factory.lossy(step).encode_and_decode(image.cube, valid)
            mse = np.square((decoded.astype(np.float64) - image.cube) / PEAK).mean()
            curve.append((8 * len(data) / image.cube.size, -10 * float(np.log10(mse))))
        sizes = [len(factory.bounded(bound).encode(image.cube, valid)) for bound in BOUNDS]
        found.append({"curve": curve[::-1], "bytes": sizes})
    return found


def compare(change: Change, base: Sequence[dict], changed: Sequence[dict]) -> dict[str, list]:
    """Return per cent on each scene: BD-rate with loss, bytes for each of `BOUNDS` otherwise."""
    if change.is_lossy:
        return {
            "bd_rate": [
                bjontegaard_deltas(before["curve"], after["curve"])["bd_rate"]
                for before, after in zip(base, changed, strict=True)
            ]
        }
    return {
        "bytes": [
            [100 * (new / old - 1) for old, new in zip(before["bytes"], after["bytes"], strict=True)]
            for before, after in zip(base, changed, strict=True)
        ]
    }


def tables(rows: Sequence[dict], names: Sequence[str]) -> str:
    """Return the two tables of a report in Markdown, in per cent; plus is worse."""
    lossy = [[row["change"], *_percent(row["bd_rate"])] for row in rows if row["is_lossy"]]
    exact = []
    for row in (row for row in rows if not row["is_lossy"]):
        columns = [_percent(values) for values in zip(*row["bytes"], strict=True)]
        exact.append([row["change"], *(" / ".join(pair) for pair in zip(*columns, strict=True))])
    header = ["changed", "mean", *names]
    return (
        f"With loss, BD-rate:\n\n{markdown_table(header, lossy)}\n\n"
        f"Bytes, lossless / no error above {BOUNDS[-1]}:\n\n{markdown_table(header, exact)}"
    )


def _percent(values: Sequence[float]) -> list[str]:
    series = pd.Series(values, dtype=float)
    return [f"{value:+.1f}" for value in (series.mean(), *series)]


if __name__ == "__main__":
    run_script(main)
