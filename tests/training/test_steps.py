"""Chunked training steps give the gradients of the whole batch, in the memory of a chunk."""

import pytest
import torch
from torch.amp import GradScaler

from models import models
from training.losses import losses
from training.steps import loss_and_gradients

UNSCALED = GradScaler("cpu", enabled=False)


@pytest.fixture
def model(monkeypatch):
    """Return a small cae1d in float64, in chunks of 50 pixels."""
    torch.manual_seed(0)
    model = models["cae1d"](src_channels=12).double().train()
    monkeypatch.setattr(type(model), "pixels_per_chunk", lambda self, device: 50)
    return model


@pytest.mark.parametrize("loss", losses)
@pytest.mark.parametrize("shape", [(2, 12, 13, 11), (1, 12, 25, 12)])
def test_gradients_are_those_of_the_whole_batch(model, loss, shape):
    """286 pixels end with a short chunk, 300 with a full one."""
    x, criterion = torch.rand(shape, dtype=torch.float64), losses[loss]()
    expected_hat = model(x)["x_hat"]
    expected = criterion(expected_hat, x)
    gradients = torch.autograd.grad(0.7 * expected, list(model.parameters()))

    sizes = []
    model.register_forward_hook(lambda module, args, out: sizes.append((args[0].requires_grad, args[0].shape)))
    found, x_hat, *_ = loss_and_gradients(model, model, criterion, x, 0.7, UNSCALED)
    assert not found.requires_grad and not x_hat.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(x_hat, expected_hat.detach(), rtol=1e-12, atol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-9 * gradient.norm()
    chunks = [shape for _, shape in sizes if shape[2] == 1]
    assert all(shape[-1] == 50 for shape in chunks[:-1]) and sum(shape[-1] for shape in chunks) == x[:, 0].numel()
    assert len(sizes) == len(chunks) + (loss == "ssim")


def test_gradients_add_up_and_are_scaled(model):
    x, criterion = torch.rand(1, 12, 9, 9, dtype=torch.float64), losses["mse"]()
    loss_and_gradients(model, model, criterion, x, 1.0, UNSCALED)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    loss_and_gradients(model, model, criterion, x, 1.0, GradScaler("cpu", init_scale=8.0))
    for parameter, gradient in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 9 * gradient, rtol=1e-9, atol=0)


def test_a_rank_without_a_sample_takes_part_with_no_gradient(model):
    loss, x_hat, *_ = loss_and_gradients(model, model, losses["mse"](), torch.rand(0, 12, 9, 9).double(), 0.0, UNSCALED)
    assert loss == 0 and x_hat.shape == (0, 12, 9, 9)
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["sscnet_1bpppc", "cae3d_1bpppc"])
def test_models_that_see_neighbors_take_the_whole_batch(name):
    torch.manual_seed(0)
    model = models[name](src_channels=24).train()
    x, sizes = torch.rand(2, 24, 16, 16), []
    model.register_forward_hook(lambda module, args, out: sizes.append(args[0].shape))
    loss, *_ = loss_and_gradients(model, model, losses["mse"](), x, 1.0, UNSCALED)
    assert sizes == [x.shape] and loss.isfinite()


def test_a_custom_loss_is_taken_over_the_whole_batch(model):
    """Only `pixelwise` marks a loss as a mean over pixels."""
    shapes = []

    class Own(torch.nn.Module):
        def forward(self, x_hat, x):
            shapes.append(x.shape)
            return (x_hat - x).abs().amax()

    x = torch.rand(1, 12, 9, 9, dtype=torch.float64)
    (expected, *_) = torch.autograd.grad(Own()(model(x)["x_hat"], x), list(model.parameters()))
    loss_and_gradients(model, model, Own(), x, 1.0, UNSCALED)
    assert set(shapes) == {x.shape}
    torch.testing.assert_close(next(model.parameters()).grad, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("loss", ["mse", "ssim"])
def test_half_precision_covers_only_the_network(model, loss, monkeypatch):
    model.float()
    for parameter in model.parameters():  # x_hat of fresh weights, and so its SSIM, is almost constant
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    x, gradients = torch.rand(1, 12, 12, 12), []
    for chunk in (1000, 50):
        monkeypatch.setattr(type(model), "pixels_per_chunk", lambda self, device, chunk=chunk: chunk)
        model.zero_grad()
        value, x_hat, *_ = loss_and_gradients(model, model, losses[loss](), x, 1.0, UNSCALED, "bf16")
        assert value.dtype == torch.float32 and x_hat.dtype == torch.bfloat16
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    whole, chunked = gradients
    assert chunked.dtype == torch.float32
    assert torch.cosine_similarity(whole, chunked, dim=0) > 0.99
