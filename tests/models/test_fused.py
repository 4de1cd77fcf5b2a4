"""Compare layers as they run (models.fused) with layers as they are stored."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.speed.textbook import textbook
from models import fused, models
from models.fused import fast_layers


def on_a_row(layers, x):
    """Run 1-D layers on (N, C, length) through `fast_layers`."""
    return fast_layers(layers)(x.unsqueeze(2)).squeeze(2)


@pytest.mark.parametrize("taps", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("length", [1, 2, 3, 26])
def test_folded_upsampling_takes_every_length_and_kernel(taps, length):
    layers = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(3, 4, taps, padding=taps // 2)).double()
    x = torch.randn(2, 3, length, dtype=torch.float64)
    torch.testing.assert_close(on_a_row(layers, x), layers(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("scale", "kernel", "stride", "padding"),
    [
        ((2, 4, 4), 5, 2, 2),
        ((4, 2, 2), (5, 3, 3), (2, 1, 1), (2, 1, 1)),
        ((4, 2, 2), (2, 3, 3), (2, 1, 1), (0, 1, 1)),
        ((3, 1, 6), (3, 3, 5), (1, 1, 2), (1, 1, 2)),
    ],
)
def test_folded_upsampling_takes_strides(scale, kernel, stride, padding):
    layers = nn.Sequential(nn.Upsample(scale_factor=scale), nn.Conv3d(3, 4, kernel, stride, padding)).double()
    x = torch.randn(2, 3, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(fast_layers(layers)(x), layers(x), rtol=0, atol=1e-13)


def test_a_stride_that_does_not_divide_the_scale_is_refused():
    with pytest.raises(ValueError, match="stride must divide"):
        fast_layers(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(1, 1, 3, stride=3, padding=1)))


@pytest.mark.parametrize(
    ("layers", "shape", "most"),
    [
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(32, 64, 11, padding=5)), (1, 32, 1, 128), 0.56),
        (
            nn.Sequential(nn.Upsample(scale_factor=(4, 2, 2)), nn.Conv3d(4, 4, 3, (2, 1, 1), 1)),
            (1, 4, 32, 32, 32),
            0.34,
        ),
    ],
)
def test_folding_saves_multiplications(layers, shape, most):
    """Folding leaves 6 taps for each output instead of 11, and 2 x 2 x 2 instead of 27."""
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.randn(shape)
    counts = []
    for function, given in ((layers, x.squeeze(2)), (fast_layers(layers), x)):
        with FlopCounterMode(display=False) as counter:
            function(given if x.dim() == 4 else x)
        counts.append(counter.get_total_flops())
    assert counts[1] < most * counts[0]


def test_batch_norm_is_folded_only_in_evaluation():
    layers = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.BatchNorm3d(3), nn.LeakyReLU()).double()
    x = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    norm = layers[1]
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias)
    twin = copy.deepcopy(layers)
    torch.testing.assert_close(fast_layers(layers)(x), twin(x), rtol=0, atol=1e-12)  # statistics of the batch
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_var, twin[1].running_var)
    layers.eval(), twin.eval()
    torch.testing.assert_close(fast_layers(layers)(x), twin(x), rtol=0, atol=1e-12)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("activation", [nn.LeakyReLU(), nn.Hardtanh()])
@pytest.mark.parametrize("length", [8, 9])
def test_pooling_before_the_activation_changes_nothing(activation, length):
    layers = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), activation, nn.MaxPool1d(2)).double()
    x = torch.randn(3, 1, length, dtype=torch.float64)
    x[0] = 0  # equal neighbors: in both the gradient goes to the first
    gradients = []
    for run in (lambda: layers(x), lambda: on_a_row(layers, x)):
        layers.zero_grad()
        out = run()
        out.square().sum().backward()
        gradients.append((out.detach(), *(p.grad.clone() for p in layers.parameters())))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(on_a_row(layers, x), layers(x), rtol=0, atol=1e-13)


def test_other_layers_stay_as_they_are():
    layers = nn.Sequential(nn.Sequential(nn.LeakyReLU(), nn.Upsample(scale_factor=2)), nn.ReLU())
    x = torch.randn(1, 1, 5, 4)
    assert torch.equal(fast_layers(layers)(x), layers(x))


@pytest.mark.parametrize("name", ["cae1d", "cae1d_4bpppc", "cae1d_2bpppc", "cae1d_1bpppc"])
def test_decoders_agree_with_the_textbook(name):
    torch.manual_seed(0)
    model = models[name]().eval()
    y = torch.randn(2, model.latent_shape[0], 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(model.decode(y), textbook(model, name).decode(y), rtol=0, atol=2e-6)


def test_new_weights_are_used():
    """No folded weight is cached: training, or loading other weights, changes the output."""
    model = models["cae1d"]().eval()
    y = torch.randn(1, 51, 2, 2)
    with torch.no_grad():
        before = model.decode(y)
        model.decoder[5].weight.mul_(3)
        after = model.decode(y)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, textbook(model, "cae1d").decode(y), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["cae1d", "cae1da", "sscnet_1bpppc", "cae3d_1bpppc"])
def test_gradients_lie_as_their_parameters_do(name):
    """DistributedDataParallel copies and warns where strides differ, even along axes of length 1."""
    model = models[name]().train()
    model(torch.rand(1, 202, 16, 8))["x_hat"].sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.stride() == parameter.stride(), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_norm_of_one_channel_agrees_with_torch(dtype):
    """Output, gradients and running statistics of what a GPU uses for a single channel are torch's."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm3d(1).to(dtype) for _ in range(2)]
    x = torch.randn(2, 1, 3, 4, 5, dtype=dtype)
    found = []
    for norm, run in zip(norms, (norms[0], fused._normalization_of_one_channel(norms[1])), strict=True):
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.5)
        given = x.clone().requires_grad_()
        out = run(given)
        gradients = torch.autograd.grad(out.pow(3).sum(), [given, norm.weight, norm.bias])
        found.append((out, *gradients, norm.running_mean, norm.running_var, norm.num_batches_tracked))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-5)
