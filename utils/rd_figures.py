"""Figures of `benchmark.py rd`: quality over rate and over speed, and along the bands. As PNG and PDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .files import atomic_write

# Distinct to colour-blind readers too: Okabe and Ito, "Color universal design", 2008.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SIZE = (8, 5)  # inches
_DPI = 150

SPEEDS = {
    "encoding": ("encoding_mbps", "encoding (MB/s)"),
    "decoding": ("decoding_mbps", "decoding (MB/s)"),
}
QUALITIES = {
    "psnr": ("psnr", "PSNR (dB)"),
    "ssim": ("ssim", "1 - SSIM"),
    "spectral_angle": ("sa", "spectral angle (degrees)"),
}


def write_figures(
    folder: Path,
    means: Mapping[str, Sequence[Mapping]],
    bands: Sequence[Mapping],
    rate: float | None,
    published: Sequence[Mapping],
) -> None:
    """Write all figures that there are points for.

    Args:
        means: points of each codec, by rate, in the order of the legend.
        bands: rows `codec`, `band` and `psnr` at the wanted `rate`.
        published: points of others, shown as marks of their own.
    """
    styles = {codec: _style(index) for index, codec in enumerate(means)}
    for name, (key, label) in QUALITIES.items():
        _save(folder, name, _over_rate(means, styles, key, label, published if key == "psnr" else ()))
    for name, (key, label) in SPEEDS.items():
        _save(folder, name, _over_speed(means, styles, key, label))
    if bands:
        _save(folder, "bands", _along_bands(bands, styles, rate))


def _style(index: int) -> dict:
    count = len(_COLOURS)
    return {
        "color": _COLOURS[index % count],
        "linestyle": _LINES[index // count % len(_LINES)],
        "marker": _MARKERS[(index + index // count) % len(_MARKERS)],
        "markersize": 4,
        "linewidth": 1.2,
    }


def _save(folder: Path, name: str, figure: Figure) -> None:
    for suffix in ("png", "pdf"):
        with atomic_write(folder / f"{name}.{suffix}") as file:
            # Without the time of writing, equal runs make equal files.
            metadata = {"CreationDate": None} if suffix == "pdf" else None
            figure.savefig(file, dpi=_DPI, format=suffix, metadata=metadata)


def _over_rate(means, styles, key: str, label: str, published: Sequence[Mapping]) -> Figure:
    figure, axes = _axes("rate (bits per pixel per channel)", label)
    for codec, points in means.items():
        found = [(mean["bpppc"], _value(mean, key)) for mean in points if mean["kind"] in ("lossy", "fixed")]
        found = [(rate, value) for rate, value in found if value is not None]
        if found:
            axes.plot(*zip(*found, strict=True), label=codec, **styles[codec])
        if key == "psnr":
            # What is lossless has a rate and no PSNR: a stroke at the foot of the figure.
            rates = [mean["bpppc"] for mean in points if mean["kind"] == "lossless"]
            colour = styles[codec]["color"]
            axes.plot(rates, [0.015] * len(rates), "|", color=colour, ms=12, transform=axes.get_xaxis_transform())
    if key == "psnr":
        axes.plot([], [], "|", color="grey", ms=12, label="lossless, rate only")
    if published:
        _mark(axes, published)
    if key == "ssim":
        axes.set_yscale("log")
    _finish(figure, axes)
    return figure


def _value(mean: Mapping, key: str) -> float | None:
    """What is drawn of a metric: of SSIM what is missing, as all of them are close to 1."""
    value = mean[key]
    if key == "ssim" and value is not None:
        return 1 - value if value < 1 else None
    return value


def _mark(axes: Axes, published: Sequence[Mapping]) -> None:
    """Published points in grey, the best at its rate of each method with its name."""
    rates, values = ([row[key] for row in published] for key in ("bpppc", "psnr"))
    axes.plot(rates, values, "o", mfc="none", mec="grey", ms=6, label="published, other images")
    best = {row["method"]: row for row in sorted(published, key=lambda row: row["psnr"])}
    for method, row in best.items():
        axes.annotate(
            method,
            (row["bpppc"], row["psnr"]),
            xytext=(6, -3),
            textcoords="offset points",
            fontsize=7,
            color="grey",
        )


def _over_speed(means, styles, key: str, label: str) -> Figure:
    figure, axes = _axes(label, "PSNR (dB)")
    for codec, points in means.items():
        found = [(mean[key], mean["psnr"]) for mean in points if mean["kind"] in ("lossy", "fixed") and mean["psnr"]]
        if found:
            axes.plot(*zip(*found, strict=True), label=codec, **styles[codec])
    _finish(figure, axes)
    return figure


def _along_bands(rows: Sequence[Mapping], styles, rate: float) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for codec in dict.fromkeys(row["codec"] for row in rows):
        values = [float("nan") if row["psnr"] is None else row["psnr"] for row in rows if row["codec"] == codec]
        axes.plot(values, label=codec, **{**styles[codec], "marker": "", "linewidth": 0.9})
    axes.set(xlabel="band (coded bands, from 0)", ylabel="PSNR (dB)", title=f"at {rate:g} bpppc")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, axes)
    return figure


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure, axes


def _finish(figure: Figure, axes: Axes) -> None:
    axes.grid(alpha=0.3, which="both")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
