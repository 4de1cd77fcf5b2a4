"""Run `benchmark.py curves`: validation PSNR of several trainings over the seconds of training."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pandas as pd
import torch

from benchmarks.report import DASH, command_line, markdown_table, report_folder, save_png
from training.run_folder import read_settings
from utils.environment import provenance
from utils.errors import UsageError
from utils.files import atomic_write
from utils.plots import curves_figure
from utils.results import write_json

COLUMNS = ["epoch", "seconds", "val_psnr"]


def run(args: argparse.Namespace) -> int:
    """Write curves.json, curves.md and curves.png.

    Raises:
        UsageError: a folder that is not a run of train.py.
    """
    runs = read_runs([Path(run) for run in args.runs])
    folder = report_folder(args)
    curves = pd.concat({name: curve for name, (curve, _) in runs.items()}, names=["run"]).reset_index("run")
    settings = {
        "command": command_line(args.argv),
        "runs": {name: start for name, (_, start) in runs.items()},
        **provenance(torch.device("cpu")),
    }
    content = {"name": folder.name, "settings": settings, "curves": curves.to_dict("split", index=False)}
    write_json(folder / "curves.json", content)
    with atomic_write(folder / "curves.md", "w") as file:
        file.write(f"# Training curves: {folder.name}\n\n{curves_table(curves)}\n\n![PSNR over time](curves.png)\n")
    points = {
        str(name): list(zip(curve["seconds"], curve["val_psnr"], strict=True))
        for name, curve in curves.groupby("run", sort=False)
    }
    figure = curves_figure(points, "seconds of training", "PSNR of the validation split (dB)")
    save_png(figure, folder / "curves.png")
    print(f"written: {folder / 'curves.md'}, curves.json and curves.png next to it")
    return 0


def curves_table(curves: pd.DataFrame) -> str:
    """Return a Markdown table of the seconds in which each run reached the highest whole dB that all runs reached.

    Args:
        curves: columns `run`, `seconds` and `val_psnr`.
    """
    level = math.floor(curves.groupby("run")["val_psnr"].max().min())
    rows = []
    for name, curve in curves.groupby("run", sort=False):
        reached = curve.loc[curve["val_psnr"] >= level, "seconds"]
        seconds = f"{reached.iloc[0]:.0f}" if len(reached) else DASH
        rows.append([str(name), seconds, f"{curve['seconds'].iloc[-1]:.0f}", f"{curve['val_psnr'].max():.2f}"])
    return markdown_table(["run", f"seconds to {level} dB", "seconds in all", "best PSNR dB"], rows)


def read_runs(runs: list[Path]) -> dict[str, tuple[pd.DataFrame, dict]]:
    """Return curve and last start of each run by its label: model and transform, and the folder if a label repeats.

    Raises:
        UsageError: a folder that is not a run of train.py.
    """
    found: dict[str, tuple[pd.DataFrame, dict]] = {}
    for run in runs:
        starts = read_settings(run).get("starts")
        if not starts or not (run / "metrics.csv").is_file():
            raise UsageError(f"{run} must be the folder of a run of train.py, with settings.json and metrics.csv")
        start = {key: starts[-1][key] for key in ("device", "git_commit", "arguments")}
        label = f"{start['arguments']['model']}, {start['arguments']['transform']}"
        label += f", {run.resolve().name}" if label in found else ""
        start["arguments"] = {
            key: value for key, value in start["arguments"].items() if key not in ("dataset", "save_dir", "checkpoint")
        }
        found[label] = pd.read_csv(run / "metrics.csv")[COLUMNS].astype(float), start
    return found
