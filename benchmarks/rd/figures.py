"""Figures of `benchmark.py rd`: quality over rate and over speed, and along the bands. As PNG and PDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from utils.files import atomic_write

# Title, color and codecs, by name or by how it begins; what is in none of them is learned. The colors are distinct
# to color-blind readers too: Okabe and Ito, "Color universal design", 2008.
_GROUPS = (
    ("Karhunen-Loève", "#0072B2", ("klt-", "pca-")),
    ("3-D", "#009E73", ("sperr", "sz3", "zfp")),
    ("CCSDS", "#000000", ("aec", "ccsds123")),
    ("band by band", "#D55E00", ("jpeg2000", "jpeg2000-mc", "htj2k", "jpegxl", "jpegls")),
)
_LEARNED = ("learned", "#CC79A7")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_PUBLISHED_MARKERS = ("o", "s", "^", "D", "v", "p", "h")
_SIZE = (8, 5.6)  # inches
_DPI = 150
_MARKED_BANDS = 24  # bands between two marks of a line

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
    """Write all figures; one that there is nothing for is taken away.

    Args:
        means: points of each codec, by rate, in the order of the legend.
        bands: rows `codec`, `band` and `psnr` at the wanted `rate`, in bpppc.
        published: points of others, `method`, `bpppc` and `psnr`, shown as marks of their own.
    """
    styles = codec_styles(list(means))
    figures = {
        name: _over_rate(means, styles, key, label, published if key == "psnr" else ())
        for name, (key, label) in QUALITIES.items()
    }
    figures |= {name: _over_speed(means, styles, key, label) for name, (key, label) in SPEEDS.items()}
    figures["bands"] = _along_bands(bands, styles, rate) if bands else None
    for name, figure in figures.items():
        _save(folder, name, figure)


def codec_styles(codecs: Sequence[str]) -> dict[str, dict]:
    """How each codec is drawn: a color for its group, a marker and a line of its own within it.

    The latents of a model as float32 look like the model.
    """
    styles, count = {}, {}
    for codec in sorted(codecs):
        model = codec.removesuffix(" float32")
        if model not in styles:
            title, color = _group(model)
            index = count[title] = count.get(title, -1) + 1
            styles[model] = {
                "color": color,
                "linestyle": _LINES[index % len(_LINES)],
                "marker": _MARKERS[index % len(_MARKERS)],
            }
        styles[codec] = {**styles[model], "markersize": 4.5, "linewidth": 1.2}
        if codec != model:
            styles[codec] |= {"markerfacecolor": "none", "linestyle": ""}
    return {codec: styles[codec] for codec in codecs}


def _group(codec: str) -> tuple[str, str]:
    for title, color, names in _GROUPS:
        if any(codec == name or (name.endswith("-") and codec.startswith(name)) for name in names):
            return title, color
    return _LEARNED


def _save(folder: Path, name: str, figure: Figure | None) -> None:
    for suffix in ("png", "pdf"):
        path = folder / f"{name}.{suffix}"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        # Without the time of writing, equal runs make equal files.
        metadata = {"CreationDate": None} if suffix == "pdf" else None
        # Publishers refuse fonts of type 3, the default.
        with atomic_write(path) as file, matplotlib.rc_context({"pdf.fonttype": 42}):
            figure.savefig(file, dpi=_DPI, format=suffix, metadata=metadata)


def _over_rate(means, styles, key: str, label: str, published: Sequence[Mapping]) -> Figure | None:
    curves = {
        codec: _pairs((mean["bpppc"], _value(mean, key)) for mean in points if mean["kind"] in ("lossy", "fixed"))
        for codec, points in means.items()
    }
    lossless = {
        codec: [mean["bpppc"] for mean in points if mean["kind"] == "lossless"] for codec, points in means.items()
    }
    lossless = {codec: rates for codec, rates in lossless.items() if rates} if key == "psnr" else {}
    if not any(curves.values()) and not lossless:
        return None
    figure = _figure()
    if lossless:
        strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 6))
        _draw_lossless(strip, lossless, styles)
    else:
        axes = figure.subplots()
    _draw(axes, curves, styles)
    marks = _mark(axes, published)
    axes.set(xlabel="rate (bits per pixel per channel)", ylabel=label)
    _log_x(axes)
    if key != "psnr" and any(curves.values()):
        axes.set_yscale("log")
    _legend(figure, [codec for codec in means if curves[codec] or codec in lossless], styles, marks)
    return figure


def _draw_lossless(axes: Axes, rates: Mapping[str, Sequence[float]], styles) -> None:
    """What is lossless has a rate and no PSNR: a mark of its own height, the lowest rate at the top."""
    for height, codec in enumerate(sorted(rates, key=rates.get, reverse=True)):
        axes.plot(rates[codec], [height], **{**styles[codec], "linestyle": ""})
    axes.set(ylim=(-1, len(rates)), yticks=[], ylabel="lossless")
    axes.tick_params(labelbottom=False)
    axes.grid(alpha=0.3)


def _value(mean: Mapping, key: str) -> float | None:
    """What is drawn of a metric: of SSIM what is missing, as all of them are close to 1. None for no error at all."""
    value = mean[key]
    if key == "ssim" and value is not None:
        value = 1 - value
    return value if key == "psnr" or (value is not None and value > 0) else None


def _over_speed(means, styles, key: str, label: str) -> Figure | None:
    curves = {
        codec: _pairs((mean[key], mean["psnr"]) for mean in points if mean["kind"] in ("lossy", "fixed"))
        for codec, points in means.items()
    }
    if not any(curves.values()):
        return None
    figure = _figure()
    axes = figure.subplots()
    _draw(axes, curves, styles)
    axes.set(xlabel=label, ylabel="PSNR (dB)")
    _log_x(axes)
    _legend(figure, [codec for codec in means if curves[codec]], styles, [])
    return figure


def _along_bands(rows: Sequence[Mapping], styles, rate: float) -> Figure:
    figure = _figure()
    axes = figure.subplots()
    codecs = [codec for codec in styles if any(row["codec"] == codec for row in rows)]
    for index, codec in enumerate(codecs):
        values = [float("nan") if row["psnr"] is None else row["psnr"] for row in rows if row["codec"] == codec]
        # Marks of neighboring lines at different bands, so that they do not hide each other.
        marks = range(index * 5 % _MARKED_BANDS, len(values), _MARKED_BANDS)
        axes.plot(values, **{**styles[codec], "linewidth": 0.8}, markevery=list(marks))
    axes.set(xlabel="band (coded bands, from 0)", ylabel="PSNR (dB)", title=f"at {rate:g} bpppc")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    _legend(figure, codecs, styles, [])
    return figure


def _pairs(points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None]


def _figure() -> Figure:
    return Figure(figsize=_SIZE, layout="constrained")


def _draw(axes: Axes, curves: Mapping[str, Sequence[tuple[float, float]]], styles) -> None:
    for codec, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), **styles[codec])


def _mark(axes: Axes, published: Sequence[Mapping]) -> list[Line2D]:
    """Published points in gray, a marker for each method, below what was measured; returns them for the legend."""
    marks = []
    for index, method in enumerate(dict.fromkeys(row["method"] for row in published)):
        points = [(row["bpppc"], row["psnr"]) for row in published if row["method"] == method]
        marker = _PUBLISHED_MARKERS[index % len(_PUBLISHED_MARKERS)]
        marks += axes.plot(
            *zip(*points, strict=True), marker, mfc="none", mec="gray", ms=7, mew=0.8, zorder=1, label=method
        )
    return marks


def _log_x(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)


def _legend(figure: Figure, codecs: Sequence[str], styles, marks: Sequence[Line2D]) -> None:
    """Beside the axes: the codecs, what the colors mean, and whose the marks in gray are."""
    handles = [Line2D([], [], **styles[codec], label=codec) for codec in codecs]
    groups = dict.fromkeys(_group(codec.removesuffix(" float32")) for codec in codecs)
    handles += [Line2D([], [], linestyle="", marker="s", color=color, label=title) for title, color in groups]
    figure.legend(handles=handles, loc="outside right upper", fontsize=7, handlelength=3.5)
    if marks:
        title = "published (HySpecNet-11k\ntest set, easy split)"
        figure.legend(handles=marks, loc="outside right lower", fontsize=7, title=title, title_fontsize=7)
