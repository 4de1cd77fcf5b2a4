"""Figures of hyperspectral images: false color, spectra, and original against reconstruction.

Images are arrays (C, H, W) of reflectance in [0, 1]. The figures are independent of pyplot: save one with
`figure.savefig(path)` or pass it to TensorBoard's `add_figure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from utils.metrics import psnr_per_band

RGB_BANDS = (43, 28, 10)
"""Indices of red, green and blue among 202 bands from 420 to 2450 nm."""

# Distinct to color-blind readers: Okabe and Ito, "Color universal design", 2008.
COLORS = ("#0072B2", "#D55E00", "#009E73")

MIN_RANGE = 1e-4
"""Smallest range of a color scale: one digital number, in reflectance."""


def rgb_bands(channels: int) -> tuple[int, ...]:
    """Return the bands at the relative positions of `RGB_BANDS` in an image of any number of channels."""
    return tuple(round(band * (channels - 1) / 201) for band in RGB_BANDS)


def stretch_limits(cube: ArrayLike, bands: Sequence[int] | None = None) -> np.ndarray:
    """Return the reflectances (3, 2) that `false_color` shows as black and as full color.

    They are percentiles 2 and 98 of each band. To compare a reconstruction with its original, show both with
    the limits of the original: its own limits would hide a shift.
    """
    limits = np.percentile(_rgb(cube, bands), (2, 98), axis=(1, 2)).T
    # A constant band would be divided by zero, and its noise amplified.
    limits[:, 1] = np.maximum(limits[:, 1], limits[:, 0] + MIN_RANGE)
    return limits


def false_color(cube: ArrayLike, bands: Sequence[int] | None = None, limits: ArrayLike | None = None) -> np.ndarray:
    """Return the colors (H, W, 3) in [0, 1] of an image.

    Args:
        cube: the image (C, H, W); NaN is shown as black.
        bands: 0-based indices of red, green and blue; default `rgb_bands(C)`.
        limits: the limits (3, 2) of another image, from `stretch_limits`; default those of this image.
    """
    limits = stretch_limits(cube, bands) if limits is None else np.asarray(limits)
    low, high = limits.T[:, :, None, None]
    stretched = (np.clip(_rgb(cube, bands), low, high) - low) / (high - low)
    return np.moveaxis(np.nan_to_num(stretched), 0, -1)


def spectra_figure(x: ArrayLike, x_hat: ArrayLike, pixels: Sequence[tuple[int, int]]) -> Figure:
    """Draw the spectra at a few pixels, (row, column) each: original solid, reconstruction dashed."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    _draw_spectra(axes, _image(x), _image(x_hat), pixels)
    axes.set_title("Spectra, original (solid) and reconstruction (dashed)")
    axes.legend(fontsize="small")
    return figure


def curves_figure(curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> Figure:
    """Draw lines through points (x, y), one line per name, with a logarithmic x axis."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves.items()):
        axes.plot(*zip(*points, strict=True), ".-", color=COLORS[number % len(COLORS)], label=name)
    axes.set(xlabel=x_label, ylabel=y_label, xscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def comparison_figure(cases: Sequence[tuple[str, ArrayLike, ArrayLike]]) -> Figure:
    """Draw originals against reconstructions, one row for each (title, x, x_hat) in `cases`.

    A row shows both in false color with the limits of the original, the error of each pixel (root mean square
    over the bands), the spectra of a dark, a medium and a bright pixel (squares of the same color), and the PSNR
    of each band, with gaps for bands without error.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)  # inches; the default squeezes the panels
    figure = Figure(figsize=(17, 3.6 * len(cases)), layout=layout)
    rows = figure.subfigures(len(cases), 1, squeeze=False)[:, 0]
    for row, (title, x, x_hat) in zip(rows, cases, strict=True):
        _draw_case(row, title, _image(x), _image(x_hat))
    return figure


def _image(cube: ArrayLike) -> np.ndarray:
    # Sums over an image would overflow in half precision.
    return np.asarray(cube, dtype=np.float64)


def _rgb(cube: ArrayLike, bands: Sequence[int] | None) -> np.ndarray:
    cube = np.asarray(cube)
    return _image(cube[list(rgb_bands(len(cube)) if bands is None else bands)])


def _draw_case(figure: SubFigure, title: str, x: np.ndarray, x_hat: np.ndarray) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    original, reconstruction, error, spectra, psnr = figure.subplots(1, 5, width_ratios=(1, 1, 1, 1.3, 1.3))
    limits = stretch_limits(x)
    pixels = _dark_to_bright(x)

    original.imshow(false_color(x, limits=limits))
    original.set_title("Original")
    for (row, column), color in zip(pixels, COLORS, strict=False):
        original.plot(column, row, "s", color=color, markeredgecolor="white", markersize=8)
    reconstruction.imshow(false_color(x_hat, limits=limits))
    reconstruction.set_title("Reconstruction")
    for axes in (original, reconstruction, error):
        axes.set_xticks([])
        axes.set_yticks([])

    pixel_error = np.sqrt(((x_hat - x) ** 2).mean(axis=0))
    # The initial value is the upper limit of a map without finite errors.
    largest = pixel_error.max(initial=MIN_RANGE, where=np.isfinite(pixel_error))
    shown = error.imshow(pixel_error, cmap="magma", vmin=0, vmax=largest)
    error.set_title("Error per pixel (RMSE)")
    figure.colorbar(shown, ax=error, label="reflectance")

    _draw_spectra(spectra, x, x_hat, pixels)
    spectra.set_title("Spectra (dashed: reconstruction)")

    _draw_band_psnr(psnr, x, x_hat)


def _draw_band_psnr(axes: Axes, x: np.ndarray, x_hat: np.ndarray) -> None:
    psnr = psnr_per_band(torch.from_numpy(x_hat), torch.from_numpy(x)).numpy()
    psnr[np.isinf(psnr)] = np.nan  # a gap
    if np.isnan(psnr).all():
        axes.text(0.5, 0.5, "no band has a finite PSNR", ha="center", transform=axes.transAxes)
    axes.plot(psnr, ".-", color="black", linewidth=0.8, markersize=3)
    axes.set_title("PSNR per band")
    axes.set_ylabel("PSNR (dB)")
    axes.ticklabel_format(axis="y", useOffset=False)
    _band_axis(axes, len(x))


def _draw_spectra(axes: Axes, x: np.ndarray, x_hat: np.ndarray, pixels: Sequence[tuple[int, int]]) -> None:
    markers = ("o", "x") if len(x) == 1 else ("", "")  # a line through one point is invisible
    for index, (row, column) in enumerate(pixels):
        color = COLORS[index % len(COLORS)]
        label = f"row {row}, column {column}"
        axes.plot(x[:, row, column], marker=markers[0], color=color, linewidth=1.2, label=label)
        axes.plot(x_hat[:, row, column], "--", marker=markers[1], color="black", linewidth=0.9)
    axes.set_ylabel("reflectance")
    _band_axis(axes, len(x))


def _band_axis(axes: Axes, channels: int) -> None:
    axes.set_xlim(-0.5, channels - 0.5)
    axes.set_xlabel("band (kept bands, from 0)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def _dark_to_bright(x: np.ndarray) -> list[tuple[int, int]]:
    """Return the pixels (row, column) at percentiles 5, 50 and 95 of brightness, fewer in an image with fewer."""
    order = np.argsort(x.mean(axis=0), axis=None, kind="stable")
    chosen = dict.fromkeys(order[round(share * (order.size - 1))] for share in (0.05, 0.5, 0.95))
    return [(int(row), int(column)) for row, column in (np.unravel_index(index, x.shape[1:]) for index in chosen)]
