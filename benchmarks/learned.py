"""Compare learned codecs with Karhunen-Loeve codecs at equal real rates, from a report of `benchmark.py rd`.

    python -m benchmarks.learned rd-learned

draws learned.png into the folder of the report. A trained model has one rate on an image, so each of its points is
compared with the curves of the other codecs at that rate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.rd.bjontegaard import rising
from benchmarks.rd.figures import MARKERS
from benchmarks.rd.report import Report
from benchmarks.report import DASH, NAMED_REPORTS, markdown_table, read_report, save_png
from utils.scripts import run_script

CLASSICAL = ("klt-cm", "klt-jpeg2000", "klt-jpegxl")
FIGURE_INCHES = (10, 4.6)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure of a report, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learned", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name", help="folder of the report")
    parser.add_argument("--save-dir", default=str(NAMED_REPORTS), help="folder that holds the reports")
    args = parser.parse_args(argv)
    folder = Path(args.save_dir) / args.name
    save_png(figure(Report(read_report(folder / "rd.json"))), folder / "learned.png")
    print(f"written: {folder / 'learned.png'}")
    return 0


def tables(report: Report) -> str:
    """Return the learned points of each image next to the other codecs at their rates, in Markdown."""
    parts = []
    for image, points in report.points.groupby("image", sort=False):
        parts += [f"#### {image}", _learned_table(points), _classical_table(points)]
    return "\n\n".join(parts)


def _learned_table(points: pd.DataFrame) -> str:
    curves = [curve_of(points, codec) for codec in CLASSICAL]
    rows = []
    for point in learned_points(points).to_dict("records"):
        rate, psnr = float(point["bpppc"]), float(point["psnr"])
        others = [psnr_at(curve, rate) for curve in curves]
        gain = DASH if math.isnan(others[0]) else f"{psnr - others[0]:+.2f}"
        cells = [DASH if math.isnan(other) else f"{other:.2f}" for other in others]
        rows.append([str(point["model"]), f"{rate:.3f}", _share(point), f"{psnr:.2f}", *cells, gain])
    names = [f"{codec} there" for codec in CLASSICAL]
    return markdown_table(["model", "bpppc", "side information", "PSNR dB", *names, f"against {CLASSICAL[0]}"], rows)


def _classical_table(points: pd.DataFrame) -> str:
    lossy = points[(points["kind"] == "lossy") & points["codec"].isin(CLASSICAL)]
    targets = sorted(lossy["target"].unique())
    rows = []
    for codec in CLASSICAL:
        records = lossy[lossy["codec"] == codec].to_dict("records")
        cells = {point["target"]: f"{point['psnr']:.2f} ({_share(point)})" for point in records}
        rows.append([codec, *(cells.get(rate, DASH) for rate in targets)])
    return markdown_table(["PSNR dB (side information)", *(f"{rate:g} bpppc" for rate in targets)], rows)


def _share(point: Mapping) -> str:
    """Return the share of the bytes of a point that is side information."""
    return f"{100 * point['side_bytes'] / point['num_bytes']:.1f} %"


def learned_points(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points with quantized latents, by rate within each model.

    A column `model` names the model, and the coder unless that is the model's own. Names of codecs end in a hash if
    several weights of a model were compared.
    """
    found = points[points["kind"].isin(("quantized", "trained"))]
    is_trained = found["kind"] == "trained"
    models = found["codec"].str.partition("-")[0].where(is_trained, lambda names: names + ", context coder")
    return found.assign(model=models).sort_values(["model", "bpppc"], kind="stable")


def curve_of(points: pd.DataFrame, codec: str) -> list[tuple[float, float]]:
    """Return the rising points (rate, PSNR) of a lossy codec."""
    found = points[(points["codec"] == codec) & (points["kind"] == "lossy")]
    return rising(list(found[["bpppc", "psnr"]].itertuples(index=False, name=None)))


def psnr_at(curve: Sequence[tuple[float, float]], rate: float) -> float:
    """Return the PSNR of a curve at a rate, linear in its logarithm; NaN outside of the curve."""
    if not curve:
        return math.nan
    rates, psnr = zip(*curve, strict=True)
    return float(np.interp(math.log(rate), np.log(rates), psnr, left=math.nan, right=math.nan))


def figure(report: Report) -> Figure:
    """Return PSNR over rate, one diagram for each image: curves of classical codecs, points of models."""
    images = list(report.points.groupby("image", sort=False))
    drawing = Figure(figsize=FIGURE_INCHES, layout="constrained")
    models = sorted(learned_points(report.points)["model"].unique())
    for axes, (image, points) in zip(drawing.subplots(1, len(images), squeeze=False)[0], images, strict=True):
        for codec, line in zip(CLASSICAL, ("-", "--", ":"), strict=True):
            axes.plot(*zip(*curve_of(points, codec), strict=True), line, color="#0072B2", label=codec)
        learned = learned_points(points)
        for model, marker in zip(models, MARKERS, strict=False):
            found = learned[learned["model"] == model]
            axes.plot(found["bpppc"], found["psnr"], marker=marker, linewidth=0.8, label=model)
        axes.set(title=image, xlabel="rate (bpppc)", ylabel="PSNR (dB)", xscale="log")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return drawing


if __name__ == "__main__":
    run_script(main)
