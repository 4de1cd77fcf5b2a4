"""Figures of images: what they show, and that odd images are drawn without a warning."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard._utils import figure_to_image

from utils import plots


@pytest.fixture
def cube() -> np.ndarray:
    return np.random.default_rng(0).random((202, 16, 12), dtype=np.float32)


def draw(figure: Figure) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", dpi=20)


def panels(figure: Figure) -> dict:
    return {axes.get_title(): axes for axes in figure.axes}


def test_rgb_bands_keep_their_place_in_other_sensors():
    assert plots.rgb_bands(202) == (43, 28, 10)
    assert plots.rgb_bands(101) == (21, 14, 5)
    assert plots.rgb_bands(1) == (0, 0, 0)


def test_false_color_stretches_each_band_between_its_percentiles(cube):
    colors = plots.false_color(cube)
    assert colors.shape == (16, 12, 3)
    for channel, band in enumerate((43, 28, 10)):
        low, high = np.percentile(cube[band], (2, 98))
        expected = np.clip((cube[band] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(colors[..., channel], expected, atol=1e-6)


def test_false_color_takes_other_bands(cube):
    same = plots.false_color(cube, bands=(5, 5, 7))
    assert np.array_equal(same[..., 0], same[..., 1])
    assert not np.array_equal(same[..., 0], same[..., 2])


def test_a_reconstruction_is_shown_with_the_stretch_of_its_original(cube):
    darker = cube / 2
    limits = plots.stretch_limits(cube)
    assert np.allclose(plots.false_color(darker), plots.false_color(cube), atol=1e-6)
    assert plots.false_color(darker, limits=limits).mean() < plots.false_color(cube).mean() - 0.2


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_constant_image_and_its_noise_below_the_data_step_are_black(value):
    flat = np.full((202, 8, 8), value)
    assert not plots.false_color(flat).any()
    noisy = flat + 1e-6 * np.random.default_rng(0).random(flat.shape)
    assert plots.false_color(noisy).max() < 0.02


def test_false_color_takes_the_output_of_a_diverged_model(cube):
    limits = plots.stretch_limits(cube)
    broken = cube.copy()
    broken[:, 0, 0], broken[:, 0, 1], broken[:, 0, 2] = np.nan, np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colors = plots.false_color(broken, limits=limits)
    assert colors[0, :3].tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert np.array_equal(colors[1:], plots.false_color(cube, limits=limits)[1:])


def test_spectra_figure_lays_the_original_over_the_reconstruction(cube):
    x_hat = cube + 0.1
    figure = plots.spectra_figure(cube, x_hat, [(0, 0), (3, 5)])
    draw(figure)
    (axes,) = figure.axes
    curves = [line.get_ydata() for line in axes.lines]
    assert len(curves) == 4
    assert np.array_equal(curves[2], cube[:, 3, 5].astype(np.float64))
    assert np.array_equal(curves[3], x_hat[:, 3, 5].astype(np.float64))
    assert axes.lines[2].get_linestyle() == "-" and axes.lines[3].get_linestyle() == "--"
    assert axes.get_xlabel() and axes.get_ylabel() == "reflectance"
    assert len(axes.get_legend().get_texts()) == 2


def test_spectra_figure_goes_to_tensorboard(cube):
    image = figure_to_image(plots.spectra_figure(cube, cube, [(0, 0)]))
    assert image.shape[0] == 3 and image.std() > 0


def test_the_comparison_shows_errors_in_reflectance_and_decibels(cube):
    x_hat = cube.astype(np.float64) + 0.01
    x_hat[50:60] = cube[50:60]
    figure = plots.comparison_figure([("worst", cube, x_hat), ("best", cube, cube)])
    draw(figure)
    assert [row.get_suptitle() for row in figure.subfigs] == ["worst", "best"]

    worst = panels(figure.subfigs[0])
    error = worst["Error per pixel (RMSE)"].images[0].get_array()
    np.testing.assert_allclose(error, np.sqrt(192 / 202) * 0.01, rtol=1e-6)
    reconstruction = worst["Reconstruction"].images[0].get_array()
    assert np.array_equal(reconstruction, plots.false_color(x_hat, limits=plots.stretch_limits(cube)))
    assert worst["PSNR per band"].get_xlim() == (-0.5, 201.5)
    psnr = worst["PSNR per band"].lines[0].get_ydata()
    assert np.isnan(psnr[50:60]).all()
    np.testing.assert_allclose(np.delete(psnr, range(50, 60)), 40, rtol=1e-6)
    assert len(worst["Spectra (dashed: reconstruction)"].lines) == 6

    best = panels(figure.subfigs[1])
    assert not best["Error per pixel (RMSE)"].images[0].get_array().any()
    assert [text.get_text() for text in best["PSNR per band"].texts] == ["no band has a finite PSNR"]


def test_the_error_map_is_scaled_by_its_finite_errors():
    x = np.zeros((3, 4, 4))
    broken = x.copy()
    broken[:, 0, 0], broken[:, 0, 1], broken[:, 0, 2] = 0.5, np.nan, np.inf
    for x_hat, largest in ((broken, 0.5), (x, plots.MIN_RANGE)):
        error = panels(plots.comparison_figure([("", x, x_hat)]))["Error per pixel (RMSE)"]
        assert error.images[0].get_clim() == (0, largest)


def test_half_precision_is_not_rounded_any_further():
    x, x_hat = (torch.full((2, 4, 4), value).half() for value in (0.5, 0.51))
    figure = plots.comparison_figure([("", x, x_hat)])
    psnr = panels(figure)["PSNR per band"].lines[0].get_ydata()
    difference = x_hat[0, 0, 0].item() - x[0, 0, 0].item()
    np.testing.assert_allclose(psnr, -20 * np.log10(difference), rtol=1e-9)


def test_the_comparison_picks_pixels_from_dark_to_bright():
    x = np.zeros((3, 10, 10)) + np.arange(100).reshape(10, 10) / 100
    figure = plots.comparison_figure([("", x, x)])
    spectra = panels(figure)["Spectra (dashed: reconstruction)"]
    assert [line.get_ydata()[0] for line in spectra.lines[::2]] == [0.05, 0.5, 0.94]


ODD = {
    "zero": np.zeros((202, 8, 8)),
    "one band": np.linspace(0, 1, 64).reshape(1, 8, 8),
    "two bands": np.linspace(0, 1, 128).reshape(2, 8, 8),
    "one pixel": np.linspace(0, 1, 202).reshape(202, 1, 1),
    "one value": np.full((1, 1, 1), 0.5),
    "half precision tensor": torch.rand(202, 8, 8).half(),
}


@pytest.mark.parametrize("error", [0, np.nan])
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_drawn_without_a_warning(name, error):
    x = ODD[name]
    draw(plots.comparison_figure([(name, x, x + error)]))
    draw(plots.spectra_figure(x, x + error, [(0, 0)]))
