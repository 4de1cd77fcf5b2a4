"""Figures of `benchmark.py rd` as PNG: quality over rate and over speed, and along the bands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.rd.results import CURVE_KINDS, FLOAT32_SUFFIX
from benchmarks.report import save_png


class Group(NamedTuple):
    """Codecs that are drawn in one color.

    Attributes:
        title: in the legend.
        color: of lines and markers.
        names: of codecs; a name that ends in a hyphen is a prefix of names.
    """

    title: str
    color: str
    names: tuple[str, ...]

    def holds(self, codec: str) -> bool:
        """Return whether a codec belongs to the group."""
        return any(codec == name or (name.endswith("-") and codec.startswith(name)) for name in self.names)


# Distinct to color-blind readers: Okabe and Ito, "Color universal design", 2008.
GROUPS = (
    Group("Karhunen-Loève", "#0072B2", ("klt-", "pca-")),
    Group("3-D", "#009E73", ("sperr", "sz3", "zfp")),
    Group("CCSDS", "#000000", ("aec", "ccsds123", "ccsds123-tuned")),
    Group("band by band", "#D55E00", ("jpeg2000", "jpeg2000-mc", "htj2k", "jpegxl", "jpegls")),
)
LEARNED = Group("learned", "#CC79A7", ())
"""The group of all codecs that are in none of `GROUPS`."""

LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PUBLISHED_MARKERS = ("o", "s", "^", "D", "v", "p", "h")
FIGURE_INCHES = (8, 5.6)
DPI = 150
BANDS_PER_MARKER = 24
MARKER_SHIFT = 5
"""Bands by which the markers of neighboring lines are shifted, so that they do not hide each other."""
DRAWN_KINDS = (*CURVE_KINDS, "fixed")

QUALITIES = {
    "psnr": ("psnr", "PSNR (dB)"),
    "ssim": ("ssim", "1 - SSIM"),
    "spectral_angle": ("sa", "spectral angle (degrees)"),
}
SPEEDS = {
    "encoding": ("encoding_mbps", "encoding (MB/s)"),
    "decoding": ("decoding_mbps", "decoding (MB/s)"),
}
CAPTIONS = {
    "psnr": "PSNR over rate",
    "ssim": "1 - SSIM over rate",
    "spectral_angle": "Spectral angle over rate",
    "encoding": "PSNR over encoding speed",
    "decoding": "PSNR over decoding speed",
    "bands": "PSNR of each band",
}


def write_figures(
    folder: Path,
    means: pd.DataFrame,
    codecs: Sequence[str],
    bands: Mapping[str, Sequence[float | None]],
    rate: float | None,
    published: pd.DataFrame,
) -> list[str]:
    """Write all figures as `folder`/<name>.png, and delete old ones that have no data now.

    Args:
        folder: of the report.
        means: points of each codec, see `benchmarks.rd.results.mean_points`.
        codecs: names in the order of the legend.
        bands: PSNR of each band of a codec in dB, None where a band is exact.
        rate: target in bpppc that `bands` belong to.
        published: points by other authors with columns `method`, `bpppc` and `psnr`, shown as marks of their own.

    Returns:
        The names of the figures that were written.
    """
    styles = codec_styles(codecs)
    figures = {name: _over_rate(means, styles, *labels, published[:0]) for name, labels in QUALITIES.items()}
    figures["psnr"] = _over_rate(means, styles, *QUALITIES["psnr"], published)
    figures |= {name: _over_speed(means, styles, *labels) for name, labels in SPEEDS.items()}
    figures["bands"] = _along_bands(bands, styles, rate) if bands and rate is not None else None
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            save_png(figure, path, DPI)
    return [name for name, figure in figures.items() if figure is not None]


def codec_styles(codecs: Sequence[str]) -> dict[str, dict]:
    """Return matplotlib's line properties of each codec: the color of its group, a marker and a line of its own.

    The latents of a model as float32 look like the model, with hollow markers.
    """
    styles: dict[str, dict] = {}
    count: dict[str, int] = {}
    for model in sorted({codec.removesuffix(FLOAT32_SUFFIX) for codec in codecs}):
        group = _group(model)
        index = count[group.title] = count.get(group.title, -1) + 1
        styles[model] = {
            "color": group.color,
            "linestyle": LINES[index % len(LINES)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
            "linewidth": 1.2,
        }
        styles[model + FLOAT32_SUFFIX] = {**styles[model], "markerfacecolor": "none", "linestyle": ""}
    return {codec: styles[codec] for codec in codecs}


def _group(codec: str) -> Group:
    return next((group for group in GROUPS if group.holds(codec)), LEARNED)


def _over_rate(
    means: pd.DataFrame, styles: Mapping[str, dict], metric: str, label: str, published: pd.DataFrame
) -> Figure | None:
    quality = means[metric]
    if metric == "ssim":
        quality = 1 - quality  # all of them are close to 1
    if metric != "psnr":
        quality = quality.where(quality > 0)  # the axis is logarithmic
    curves = _curves(means, means["bpppc"], quality)
    lossless = means[means["kind"] == "lossless"] if metric == "psnr" else means[:0]
    if not curves and lossless.empty:
        return None
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    if lossless.empty:
        axes = figure.subplots()
    else:
        strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 6))
        _draw_lossless(strip, lossless, styles)
    _draw(axes, curves, styles)
    marks = _mark(axes, published)
    axes.set(xlabel="rate (bits per pixel per channel)", ylabel=label)
    _log_x(axes)
    if metric != "psnr":
        axes.set_yscale("log")
    _legend(figure, [codec for codec in styles if codec in curves or codec in set(lossless["codec"])], styles, marks)
    return figure


def _over_speed(means: pd.DataFrame, styles: Mapping[str, dict], metric: str, label: str) -> Figure | None:
    curves = _curves(means, means[metric], means["psnr"])
    if not curves:
        return None
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    axes = figure.subplots()
    _draw(axes, curves, styles)
    axes.set(xlabel=label, ylabel="PSNR (dB)")
    _log_x(axes)
    _legend(figure, [codec for codec in styles if codec in curves], styles)
    return figure


def _along_bands(bands: Mapping[str, Sequence[float | None]], styles: Mapping[str, dict], rate: float) -> Figure:
    figure = Figure(figsize=FIGURE_INCHES, layout="constrained")
    axes = figure.subplots()
    codecs = [codec for codec in styles if codec in bands]
    for index, codec in enumerate(codecs):
        psnr = pd.Series(bands[codec], dtype=float)
        markers = range(index * MARKER_SHIFT % BANDS_PER_MARKER, len(psnr), BANDS_PER_MARKER)
        axes.plot(psnr, **{**styles[codec], "linewidth": 0.8}, markevery=list(markers))
    axes.set(xlabel="band (coded bands, from 0)", ylabel="PSNR (dB)", title=f"at {rate:g} bpppc")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    _legend(figure, codecs, styles)
    return figure


def _curves(means: pd.DataFrame, x: pd.Series, y: pd.Series) -> dict[str, pd.DataFrame]:
    """Return the points (x, y) of each codec that have a y, in the order of `means`."""
    points = pd.DataFrame({"codec": means["codec"], "x": x, "y": y})[means["kind"].isin(DRAWN_KINDS)].dropna()
    return dict(iter(points.groupby("codec", sort=False)))


def _draw(axes: Axes, curves: Mapping[str, pd.DataFrame], styles: Mapping[str, dict]) -> None:
    for codec in styles:
        if codec in curves:
            axes.plot(curves[codec]["x"], curves[codec]["y"], **styles[codec])


def _draw_lossless(axes: Axes, lossless: pd.DataFrame, styles: Mapping[str, dict]) -> None:
    """Draw the rates of lossless codecs, which have no PSNR, each at a height of its own, the lowest at the top."""
    rates = lossless.sort_values("bpppc", ascending=False)
    for place, (codec, rate) in enumerate(zip(rates["codec"], rates["bpppc"], strict=True)):
        axes.plot([rate], [place], **{**styles[codec], "linestyle": ""})
    axes.set(ylim=(-1, len(rates)), yticks=[], ylabel="lossless")
    axes.tick_params(labelbottom=False)
    axes.grid(alpha=0.3)


def _mark(axes: Axes, published: pd.DataFrame) -> list[Line2D]:
    """Draw published points in gray behind the measured ones, a marker for each method; return the lines."""
    marks = []
    for index, (method, points) in enumerate(published.groupby("method", sort=False)):
        marks += axes.plot(
            points["bpppc"],
            points["psnr"],
            PUBLISHED_MARKERS[index % len(PUBLISHED_MARKERS)],
            label=method,
            markerfacecolor="none",
            markeredgecolor="gray",
            markersize=7,
            markeredgewidth=0.8,
            zorder=1,
        )
    return marks


def _log_x(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def _legend(
    figure: Figure, codecs: Iterable[str], styles: Mapping[str, dict], published: Sequence[Line2D] = ()
) -> None:
    """Name the codecs, the colors of their groups, and the methods of published points, to the right of the axes."""
    handles = [Line2D([], [], **styles[codec], label=codec) for codec in codecs]
    groups = dict.fromkeys(_group(codec.removesuffix(FLOAT32_SUFFIX)) for codec in codecs)
    handles += [Line2D([], [], linestyle="", marker="s", color=group.color, label=group.title) for group in groups]
    figure.legend(handles=handles, loc="outside right upper", fontsize=7, handlelength=3.5)
    if published:
        title = "published (HySpecNet-11k\ntest set, easy split)"
        figure.legend(handles=published, loc="outside right lower", fontsize=7, title=title, title_fontsize=7)
