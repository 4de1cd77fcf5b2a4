"""The metrics against their definitions, written out in numpy, and on the inputs that break naive ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import pytorch_msssim
import torch

from utils import metrics


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 5, 12, 14, generator=generator)
    # a different error in every image, so that pooling over the batch would show
    scale = torch.tensor([0.1, 0.01, 0.001]).reshape(3, 1, 1, 1)
    return x + scale * torch.randn(x.shape, generator=generator), x


def spectrum(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)


def test_mse_and_psnr_are_computed_for_each_image(pair):
    x_hat, x = (t.double().numpy() for t in pair)
    expected = ((x_hat - x) ** 2).reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(metrics.mse(*pair), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.psnr(*pair), 10 * np.log10(1 / expected), rtol=1e-12)


def test_psnr_of_identical_images_is_infinite(pair):
    x = pair[1]
    assert metrics.psnr(x, x).tolist() == [math.inf] * 3


def test_psnr_per_band(pair):
    x_hat, x = pair[0][0], pair[1][0].clone()
    x[2] = x_hat[2]
    error = ((x_hat.double() - x.double()) ** 2).mean(dim=(1, 2)).numpy()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(metrics.psnr_per_band(x_hat, x), -10 * np.log10(error), rtol=1e-12)
    assert metrics.psnr_per_band(x_hat, x)[2] == math.inf


def test_ssim_is_the_mean_of_the_formula_over_windows_and_bands(pair):
    x_hat, x = (t[0].double().numpy() for t in pair)
    profile = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(profile, profile) / profile.sum() ** 2
    values = []
    for a, b in zip(x_hat, x, strict=True):
        for row in range(12 - 10):
            for column in range(14 - 10):
                u, v = (t[row : row + 11, column : column + 11] for t in (a, b))
                mean_u, mean_v = (window * u).sum(), (window * v).sum()
                var_u, var_v = (window * (u - mean_u) ** 2).sum(), (window * (v - mean_v) ** 2).sum()
                covariance = (window * (u - mean_u) * (v - mean_v)).sum()
                values.append(
                    (2 * mean_u * mean_v + 1e-4)
                    * (2 * covariance + 9e-4)
                    / ((mean_u**2 + mean_v**2 + 1e-4) * (var_u + var_v + 9e-4))
                )
    assert metrics.ssim(*pair)[0].item() == pytest.approx(np.mean(values), abs=1e-6)


def test_ssim_is_pytorch_msssims(pair):
    reference = pytorch_msssim.SSIM(data_range=1.0, channel=5, size_average=False)(*pair)
    np.testing.assert_allclose(metrics.ssim(*pair), reference, atol=1e-6)


def test_ssim_needs_a_full_window():
    small = torch.zeros(1, 2, 11, 10)
    with pytest.raises(ValueError, match="at least 11 pixels, got 11 x 10"):
        metrics.ssim(small, small)
    least = torch.zeros(1, 2, 11, 11)
    assert metrics.ssim(least, least).item() == 1


def test_ssim_is_not_rounded_by_autocast(pair):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = metrics.ssim(*pair)
    assert torch.equal(under_autocast, metrics.ssim(*pair))


def test_spectral_angle_is_the_mean_arc_cosine_over_pixels(pair):
    x_hat, x = (t.double().numpy() for t in pair)
    cosine = (x_hat * x).sum(1) / np.sqrt((x_hat**2).sum(1) * (x**2).sum(1))
    expected = np.degrees(np.arccos(cosine)).mean(axis=(1, 2))
    np.testing.assert_allclose(metrics.spectral_angle(*pair), expected, rtol=1e-7)


@pytest.mark.parametrize("degrees", [1e-6, 0.01, 45, 90, 179.99, 180])
def test_spectral_angle_is_exact_at_every_angle(degrees):
    angle = math.radians(degrees)
    x = torch.tensor([3.0, 0.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    x_hat = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64).reshape(1, 2, 1, 1)
    assert metrics.spectral_angle(x_hat, x).item() == pytest.approx(degrees, rel=1e-9)


@pytest.mark.parametrize(
    ("x_hat", "x", "degrees"),
    [
        (spectrum(0, 0, 0), spectrum(0, 0, 0), 0),
        (spectrum(0, 0, 0), spectrum(0.1, 0.2, 0), 90),
        (spectrum(0.1, 0.2, 0), spectrum(0, 0, 0), 90),
        (spectrum(0.1, 0.7, 0.3), spectrum(0.1, 0.7, 0.3), 0),
        (spectrum(1e-44, 0, 0), spectrum(0, 3e38, 0), 90),
        (spectrum(1e-44, 0, 0), spectrum(3e38, 0, 0), 0),
    ],
)
def test_spectral_angle_of_zero_equal_and_extreme_spectra(x_hat, x, degrees):
    assert metrics.spectral_angle(x_hat, x).item() == pytest.approx(degrees, abs=1e-12)


def test_spectral_angle_of_huge_float64_spectra_does_not_overflow():
    x = torch.tensor([1e300, 1e300], dtype=torch.float64).reshape(1, 2, 1, 1)
    x_hat = torch.tensor([1e-300, 0], dtype=torch.float64).reshape(1, 2, 1, 1)
    assert metrics.spectral_angle(x_hat, x).item() == pytest.approx(45, rel=1e-12)


def test_spectral_angle_of_nearly_equal_float32_spectra_is_not_nan():
    # One in five of these has a float32 cosine over 1.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 202, 16, 16, generator=generator)
    x_hat = x + 1e-4 * torch.randn(x.shape, generator=generator)
    a, b = x_hat.double().numpy(), x.double().numpy()
    expected = np.degrees(np.arccos((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)))).mean()
    assert metrics.spectral_angle(x_hat, x).item() == pytest.approx(expected, rel=1e-5)


def test_no_metric_depends_on_the_batch_size(pair):
    together = metrics.image_metrics(*pair)
    for index in range(3):
        alone = metrics.image_metrics(pair[0][index : index + 1], pair[1][index : index + 1])
        assert {key: value.item() for key, value in alone.items()} == {
            key: value[index].item() for key, value in together.items()
        }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_or_better(pair, dtype):
    x_hat, x = pair[0].to(dtype), pair[1]
    expected = metrics.image_metrics(x_hat.float(), x)
    for key, value in metrics.image_metrics(x_hat, x).items():
        assert torch.equal(value, expected[key]), key


def test_image_metrics_has_every_metric(pair):
    values = metrics.image_metrics(*pair)
    assert list(values) == ["mse", "psnr", "ssim", "sa"]
    assert torch.equal(values["mse"], metrics.mse(*pair))
    assert torch.equal(values["psnr"], metrics.psnr(*pair))
    assert torch.equal(values["ssim"], metrics.ssim(*pair))
    assert torch.equal(values["sa"], metrics.spectral_angle(*pair))
    for value in values.values():
        assert value.dtype == torch.float64 and value.shape == (3,)


def test_image_metrics_leaves_ssim_out_of_small_images(pair):
    x_hat, x = (t[..., :10] for t in pair)
    assert list(metrics.image_metrics(x_hat, x)) == ["mse", "psnr", "sa"]


def test_a_diverged_reconstruction_is_not_hidden(pair):
    x_hat = pair[0].clone()
    x_hat[1, 0, 0, 0] = math.nan
    for key, value in metrics.image_metrics(x_hat, pair[1]).items():
        assert value.isfinite().tolist() == [True, False, True], key


def test_metrics_keep_no_graph(pair):
    x_hat = pair[0].requires_grad_()
    assert not any(value.requires_grad for value in metrics.image_metrics(x_hat, pair[1]).values())


@pytest.mark.parametrize("metric", [metrics.mse, metrics.psnr, metrics.ssim, metrics.spectral_angle])
def test_shapes_that_do_not_fit_are_refused(metric):
    x = torch.zeros(2, 3, 12, 12)
    with pytest.raises(ValueError, match="must have the same shape"):
        metric(x[:, :1], x)
    with pytest.raises(ValueError, match="non-empty"):
        metric(x[0], x[0])
    with pytest.raises(ValueError, match="non-empty"):
        metric(x[:0], x[:0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("channels", [1, 5])
def test_cuda_gives_the_figures_of_the_cpu(pair, channels):
    x_hat, x = (t[:, :channels] for t in pair)
    expected = metrics.image_metrics(x_hat, x)
    for key, value in metrics.image_metrics(x_hat.cuda(), x.cuda()).items():
        assert value.is_cuda
        np.testing.assert_allclose(value.cpu(), expected[key], rtol=1e-6, err_msg=key)


# -- images with gaps -----------------------------------------------------------------------------


def test_without_gaps_an_image_has_its_usual_metrics(pair):
    x_hat, x = pair[0][0], pair[1][0]
    found = metrics.valid_metrics(x_hat, x, torch.ones_like(x, dtype=bool))
    expected = metrics.image_metrics(x_hat[None], x[None])
    assert found == {key: float(value) for key, value in expected.items()}
    assert metrics.valid_metrics(x_hat[:, :5], x[:, :5], torch.ones(5, 5, 14, dtype=bool))["ssim"] is None


def test_gaps_count_for_nothing(pair):
    """Columns that are gaps in all bands leave the metrics of the rest, whatever stands in them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, 20, 30, generator=generator)
    x_hat = x + 0.05 * torch.randn(x.shape, generator=generator)
    valid = torch.ones_like(x, dtype=bool)
    valid[:, :, :7] = False
    x_hat[~valid], x[~valid] = math.nan, -3.0
    expected = metrics.valid_metrics(x_hat[:, :, 7:], x[:, :, 7:], valid[:, :, 7:])
    found = metrics.valid_metrics(x_hat, x, valid)
    for key in ("mse", "psnr", "sa"):
        assert found[key] == pytest.approx(expected[key], rel=1e-12)
    assert found["ssim"] == pytest.approx(expected["ssim"], abs=1e-6)  # in float32 and in float64


def test_gaps_of_single_bands(pair):
    x_hat, x = pair[0][0], pair[1][0]
    valid = torch.ones_like(x, dtype=bool)
    valid[0] = False
    valid[1:, 3, 3] = False  # every window of 11 x 11 contains it
    found = metrics.valid_metrics(x_hat, x, valid)
    assert found["mse"] == pytest.approx(float((x_hat - x)[valid].double().square().mean()), rel=1e-6)
    mask = valid.any(dim=0)
    spectra = [image[1:, mask][None, :, None] for image in (x_hat, x)]
    assert found["sa"] == pytest.approx(float(metrics.spectral_angle(*spectra)), rel=1e-6)
    valid[:, :, ::4] = False
    assert metrics.valid_metrics(x_hat, x, valid)["ssim"] is None
    with pytest.raises(ValueError, match="not all False"):
        metrics.valid_metrics(x_hat, x, torch.zeros_like(valid))
