"""Run `benchmark.py curves`: validation PSNR of several trainings over the seconds of their steps."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from benchmarks.report import report_folder
from training.run_folder import read_settings
from utils.errors import UsageError
from utils.files import atomic_write
from utils.plots import curves_figure

COLUMNS = ["epoch", "seconds", "val_psnr"]
DPI = 100


def run(args: argparse.Namespace) -> int:
    """Write curves.csv and curves.png.

    Raises:
        UsageError: a folder that is not the one of a run of train.py.
    """
    curves = pd.concat(label_runs([Path(run) for run in args.runs]), names=["run"]).reset_index("run")
    folder = report_folder(args)
    with atomic_write(folder / "curves.csv", "w") as file:
        curves.to_csv(file, index=False)
    points = {
        name: list(zip(curve["seconds"], curve["val_psnr"], strict=True))
        for name, curve in curves.groupby("run", sort=False)
    }
    with atomic_write(folder / "curves.png") as file:
        figure = curves_figure(points, "seconds of training", "PSNR of the validation split (dB)")
        figure.savefig(file, dpi=DPI, format="png")
    print(f"written: {folder / 'curves.csv'}, {folder / 'curves.png'}")
    return 0


def label_runs(runs: list[Path]) -> dict[str, pd.DataFrame]:
    """Read the curve of each run, by a label: model and transform, and the folder's name where these are not unique.

    Raises:
        UsageError: a folder that is not the one of a run of train.py.
    """
    curves: dict[str, pd.DataFrame] = {}
    for run in runs:
        starts = read_settings(run).get("starts")
        if not starts or not (run / "metrics.csv").is_file():
            raise UsageError(f"{run}: not the folder of a run of train.py, which holds settings.json and metrics.csv")
        arguments = starts[-1]["arguments"]
        label = f"{arguments['model']}, {arguments['transform']}"
        label += f", {run.resolve().name}" if label in curves else ""
        curves[label] = pd.read_csv(run / "metrics.csv")[COLUMNS].astype(float)
    return curves
