"""Convolutions of fewer multiplications against direct ones, and where they are taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import layers, models
from models.layers import fast_layers
from models.textbook import textbook
from models.toom_cook import POINTS, best_tile, toom_cook


@pytest.mark.parametrize("m", POINTS)
@pytest.mark.parametrize("taps", [1, 3, 5, 6, 9, 11])
@pytest.mark.parametrize("length", [1, 2, 7, 26])
def test_every_length_and_kernel(m, taps, length):
    x, weight, bias = (torch.randn(shape).double() for shape in [(2, 3, 1, length), (4, 3, 1, taps), (4,)])
    padding = [0, (taps + 1) // 2]
    expected = F.conv2d(x, weight, bias, 1, padding)
    torch.testing.assert_close(toom_cook(weight, bias, padding, 3, m)(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", POINTS)
def test_rows_of_an_image(m):
    x, weight = torch.randn(2, 3, 13, 9).double(), torch.randn(4, 3, 3, 5).double()
    expected = F.conv2d(x, weight, None, 1, [1, 2])
    torch.testing.assert_close(toom_cook(weight, None, [1, 2], 2, m)(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", POINTS)
def test_rounding_in_float32(m):
    torch.manual_seed(0)
    x, weight = torch.rand(4, 512, 1, 112), torch.randn(256, 512, 1, 11) / (512 * 11) ** 0.5
    exact = F.conv2d(x.double(), weight.double(), None, 1, [0, 5])
    assert (toom_cook(weight, None, [0, 5], 3, m)(x) - exact).norm() < 4e-6 * exact.norm()


def test_the_tile_with_the_fewest_multiplications():
    assert best_tile(11, 112) == 4  # 28 tiles of 7 x 3 multiplications; 38 tiles of 5 x 4
    assert best_tile(6, 51) == 3  # 17 of 5 x 2; 13 of 7 x 2
    assert best_tile(3, 128) == 3


@pytest.fixture
def everywhere(monkeypatch):
    """Take it for small layers, too; gives the list of the kernels it was taken for."""
    taken = []

    def recorded(weight, *args):
        taken.append(tuple(weight.shape))
        return toom_cook(weight, *args)

    monkeypatch.setattr(layers, "_MANY_CHANNELS", 1)
    monkeypatch.setattr(layers, "_MANY_OUTPUTS", 1)
    monkeypatch.setattr(layers, "toom_cook", recorded)
    return taken


@pytest.mark.parametrize("name", ["cae1d", "cae1d_2bpppc", "cae1da", "sscnet_1bpppc"])
def test_models_agree_with_the_textbook(name, everywhere):
    torch.manual_seed(0)
    model = models[name]().eval()
    x = torch.rand(2, 202, 8, 24)
    reference = textbook(model, name)
    with torch.no_grad():
        y = reference.encode(x)
        torch.testing.assert_close(model.encode(x), y, rtol=0, atol=2e-6)
        torch.testing.assert_close(model.decode(y), reference.decode(y), rtol=0, atol=2e-6)
    assert len(everywhere) >= 4


def test_large_layers_take_it_and_small_ones_do_not(monkeypatch):
    """As the table of channels and outputs has it, whatever the machine."""
    taken = []
    monkeypatch.setattr(
        layers, "toom_cook", lambda weight, *args: taken.append(weight.shape) or toom_cook(weight, *args)
    )
    large = nn.Sequential(nn.Conv1d(256, 128, 11, padding=5))
    small = nn.Sequential(nn.Conv1d(64, 32, 11, padding=5))
    with torch.no_grad():
        fast_layers(small)(torch.rand(64, 64, 1, 64))
        fast_layers(large)(torch.rand(1, 256, 1, 64))
        assert not taken
        fast_layers(large)(torch.rand(64, 256, 1, 64))
    assert len(taken) == 1
    fast_layers(large)(torch.rand(64, 256, 1, 64))  # gradients are those of direct sums
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fast_layers(large)(torch.rand(1, 256, 1, 8))
    assert len(taken) == 1
