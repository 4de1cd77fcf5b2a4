"""Test the losses: values, means over shards, and finite gradients where naive formulas give NaN."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from training.losses import losses
from utils import metrics
from utils.options import LOSSES


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, 4, 12, 13, generator=generator)
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).requires_grad_(), x


def gradient(name: str, x_hat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x_hat = x_hat.clone().requires_grad_()
    return torch.autograd.grad(losses[name]()(x_hat, x), x_hat)[0]


def test_the_names_are_known_without_torch():
    assert tuple(losses) == LOSSES
    script = "import sys, utils.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_values_follow_their_definitions(pair):
    x_hat, x = pair
    difference = (x_hat - x).detach().double()
    expected = {
        "mse": (difference**2).mean(),
        "mae": difference.abs().mean(),
        "sa": torch.deg2rad(metrics.spectral_angle(x_hat, x)).mean(),
        "ssim": 1 - metrics.ssim(x_hat, x).mean(),
    }
    for name, value in expected.items():
        assert losses[name]()(x_hat, x).item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_the_weighted_mean_of_its_shards(name, pair):
    criterion = losses[name]()
    shards = zip(*(t.split((3, 2)) for t in pair), strict=True)
    weighted = sum(len(x) / 5 * criterion(x_hat, x).item() for x_hat, x in shards)
    assert criterion(*pair).item() == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_against_the_gradient_lowers_the_loss(name, pair):
    x_hat, x = pair
    criterion = losses[name]()
    slope = gradient(name, x_hat.detach(), x)
    step = 1e-3 * slope / slope.norm()
    assert criterion(x_hat - step, x) < criterion(x_hat, x)


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_reconstruction_costs_nothing_and_has_a_finite_gradient(name, pair):
    x = pair[1]
    assert losses[name]()(x, x).item() == pytest.approx(0, abs=1e-6)
    assert gradient(name, x, x).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_and_half_precision_do_not_round_the_loss(name, pair):
    criterion = losses[name]()
    x_hat, x = pair[0].detach().bfloat16(), pair[1]
    expected = criterion(x_hat.float(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(x_hat, x)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_would_broadcast_are_refused(name, pair):
    x = pair[1]
    with pytest.raises(ValueError, match="must have the same shape"):
        losses[name]()(x[:, :1], x)


def test_the_spectral_angle_has_the_gradient_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 4, 2, 2, generator=generator, dtype=torch.float64)
    x_hat = torch.rand(x.shape, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: losses["sa"]()(a, x), x_hat)


@pytest.mark.parametrize(
    ("x_hat", "x", "angle"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 0), (0.3, 0.4), math.pi / 2),
        ((0.3, 0.4), (0, 0), math.pi / 2),
        ((0.3, 0.4), (-0.3, -0.4), math.pi),
        ((0.3, 0.4), (0.6, 0.8), 0),
        ((1e-24, 0), (0, 0), 0),
        ((1e-20, 1e-30), (1e-30, 0.5), math.pi / 2),
    ],
)
def test_the_spectral_angle_of_zero_and_parallel_spectra(x_hat, x, angle):
    x_hat, x = (torch.tensor(t).reshape(1, 2, 1, 1).float() for t in (x_hat, x))
    assert losses["sa"]()(x_hat, x).item() == pytest.approx(angle, abs=1e-6)
    # A pixel of an image of 128 x 128 takes a 16384th of this.
    assert gradient("sa", x_hat, x).abs().max() < 2.001 / losses["sa"].MIN_NORM


def test_ssim_trains_after_a_validation_in_inference_mode():
    metrics._ssim_window.cache_clear()
    x = torch.rand(1, 3, 11, 11)
    with torch.inference_mode():
        metrics.ssim(x, x)
    assert gradient("ssim", x / 2, x).abs().sum() > 0


def test_ssim_needs_a_full_window():
    small = torch.zeros(1, 2, 10, 11)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        losses["ssim"]()(small, small)
