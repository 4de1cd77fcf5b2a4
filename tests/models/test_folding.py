"""Folded up-sampling against up-sampling followed by the convolution."""

import pytest
import torch
from torch import nn

from models import models
from models.folding import fold_layers
from models.textbook import textbook


@pytest.mark.parametrize("taps", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("length", [1, 2, 3, 26])
def test_every_length_and_kernel(taps, length):
    layers = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(3, 4, taps, padding=taps // 2)).double()
    x = torch.randn(2, 3, length, dtype=torch.float64)
    torch.testing.assert_close(fold_layers(layers)(x), layers(x), rtol=0, atol=1e-13)


def test_multiplications_are_saved():
    """What folding is for: 6 taps for each output instead of 11."""
    from torch.utils.flop_counter import FlopCounterMode

    layers = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(32, 64, 11, padding=5))
    x = torch.randn(1, 32, 128)
    counts = []
    for function in (layers, fold_layers(layers)):
        with FlopCounterMode(display=False) as counter:
            function(x)
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.56 * counts[0]


def test_other_layers_stay_as_they_are():
    layers = nn.Sequential(
        nn.Conv1d(1, 2, 3, padding=1), nn.Sequential(nn.LeakyReLU(), nn.Upsample(scale_factor=2)), nn.ReLU()
    )
    x = torch.randn(1, 1, 5)
    assert torch.equal(fold_layers(layers)(x), layers(x))


@pytest.mark.parametrize("name", ["cae1d", "cae1d_4bpppc", "cae1d_2bpppc", "cae1d_1bpppc"])
def test_decoders_agree_with_the_textbook(name):
    torch.manual_seed(0)
    model = models[name]().eval()
    y = torch.randn(2, model.latent_shape[0], 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(model.decode(y), textbook(model, name).decode(y), rtol=0, atol=2e-6)


def test_new_weights_are_used():
    """Nothing folded is kept: training, or loading other weights, changes what is decoded."""
    model = models["cae1d"]().eval()
    y = torch.randn(1, 51, 2, 2)
    with torch.no_grad():
        before = model.decode(y)
        model.decoder[5].weight.mul_(3)
        after = model.decode(y)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, textbook(model, "cae1d").decode(y), rtol=0, atol=2e-6)
