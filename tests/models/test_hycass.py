"""HyCASS: sizes, rates, and windowed attention against a plain form, token by token."""

import itertools

import pytest
import torch

from benchmarks.speed.textbook import textbook
from models import HYCASS_NAMES, models
from models.hycass import HyCASS
from models.swin import Grid, WindowAttention, relative_positions

# L for 0 to 3 spatial stages, and 202 bands; 0: there is no such model.
LATENT_CHANNELS = {
    "cr004": (50, 204, 814, 3259),
    "cr008": (26, 104, 416, 1664),
    "cr016": (13, 52, 208, 832),
    "cr032": (7, 28, 112, 448),
    "cr050": (4, 16, 64, 256),
    "cr101": (2, 8, 32, 128),
    "cr202": (1, 4, 16, 64),
    "cr404": (0, 2, 8, 32),
}


def test_names_latents_and_rates_are_those_of_the_table():
    expected = {
        f"hycass_{ratio}_s{stages}": count
        for ratio, counts in LATENT_CHANNELS.items()
        for stages, count in enumerate(counts)
        if count
    }
    assert set(HYCASS_NAMES) == set(expected) <= set(models)
    for name, count in expected.items():
        with torch.device("meta"):
            model = models[name]()
        stages = int(name[-1])
        assert model.latent_shape == (count,) and model.size_multiple == 2**stages
        assert model.bpppc == pytest.approx(32 * count / (202 * 4**stages), rel=1e-12)
        assert model.pixelwise == (stages == 0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hycass_cr032_s0", 430_289),
        ("hycass_cr032_s1", 1_151_222),
        ("hycass_cr032_s2", 3_068_554),
        ("hycass_cr032_s3", 5_872_538),
    ],
)
def test_parameters_and_keys(name, parameters):
    """0.4, 1.2, 3.1 and 5.9 million parameters; keys of the stages as the authors' code has them."""
    with torch.device("meta"):
        model = models[name]()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    stages, keys = int(name[-1]), set(model.state_dict())
    for layer in ("encoder.0", "encoder.3", "decoder.0", "decoder.3"):
        assert {f"{layer}.weight", f"{layer}.bias"} <= keys
    depths = [2, 4, 6, 2][:stages]
    groups = [(f"encoder.2.{i}.0", f"encoder.2.{i}.1", i) for i in range(stages)]
    groups += [(f"decoder.2.{stages - 1 - i}.2", f"decoder.2.{stages - 1 - i}.0", i) for i in range(stages)]
    for attention, convolution, stage in groups:
        assert model.state_dict()[f"{convolution}.weight"].shape == (128, 128, 3, 3)
        blocks = f"{attention}.residual_group.blocks"
        for block in range(depths[stage]):
            prefix, heads = f"{blocks}.{block}", (4, 8, 16, 16)[stage]
            assert model.state_dict()[f"{prefix}.attn.relative_position_bias_table"].shape == (225, heads)
            assert model.state_dict()[f"{prefix}.attn.relative_position_index"].shape == (64, 64)
            assert {f"{prefix}.{layer}.weight" for layer in ("norm1", "attn.qkv", "mlp.fc1", "mlp.fc2")} <= keys
            assert (f"{prefix}.attn_mask" in keys) == bool(block % 2)
        assert f"{blocks}.{depths[stage]}.norm1.weight" not in keys


def neighbors(grid):
    """Return for each token the tokens that it attends to, found one by one."""
    rows, columns = grid.padded
    cells: dict[tuple, list] = {}
    for row, column in itertools.product(range(grid.height), range(grid.width)):
        rolled = (row - grid.shift) % rows, (column - grid.shift) % columns
        wrapped = rolled[0] != row - grid.shift, rolled[1] != column - grid.shift
        cells.setdefault((rolled[0] // grid.window, rolled[1] // grid.window, wrapped), []).append((row, column))
    return {token: cell for cell in cells.values() for token in cell}


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 17), (5, 12), (8, 24), (1, 1)])
@pytest.mark.parametrize("is_shifted", [False, True])
def test_attention_is_the_plain_one_within_each_window(size, is_shifted):
    """At most 8 x 8 tokens, none of the padding, and none from the other side of a rolled map."""
    torch.manual_seed(0)
    grid = Grid.of(*size, is_shifted)
    assert grid.window == min(8, *size) and grid.shift == (4 if is_shifted and min(size) > 8 else 0)
    attention = WindowAttention(8, heads=2).double()
    with torch.no_grad():
        attention.relative_position_bias_table.normal_()
        x = torch.randn(2, *size, 8).double()
        out = grid.join(attention(grid.cut(x), grid.mask()))
        q, k, v = attention.qkv(x).unflatten(-1, (3, 2, 4)).unbind(3)
        table = attention.relative_position_bias_table.reshape(15, 15, 2)
        for (row, column), cell in neighbors(grid).items():
            at = tuple(zip(*cell, strict=True))
            bias = torch.stack([table[row - r + 7, column - c + 7] for r, c in cell])
            scores = (q[:, row, column][:, None] * k[:, at[0], at[1]]).sum(-1) / 2 + bias
            seen = (scores.softmax(1)[..., None] * v[:, at[0], at[1]]).sum(1)
            torch.testing.assert_close(out[:, row, column], attention.proj(seen.flatten(1)), rtol=1e-9, atol=1e-9)


def build(name, **kwargs):
    """Return a model with strong weights: the default ones let each block add next to nothing."""
    torch.manual_seed(0)
    model = models[name](**kwargs)
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.1, 0.5)
        elif key.endswith("bias_table"):
            torch.nn.init.normal_(parameter)
        elif ".residual_group." in key:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("hycass_cr016_s0", (3, 5)),
        ("hycass_cr016_s1", (16, 24)),
        ("hycass_cr016_s2", (20, 44)),  # padded in both stages
        ("hycass_cr404_s3", (48, 16)),  # small windows in the last stages
    ],
)
def test_arithmetic_is_the_textbook_one(name, size):
    model = build(name).eval()
    reference = textbook(model, name)
    x = torch.rand(2, 202, *size)
    with torch.no_grad():
        y = model.encode(x)
        torch.testing.assert_close(y, reference.encode(x), rtol=1e-5, atol=1e-5)
        x_hat = model.decode(y)
        torch.testing.assert_close(x_hat, reference.decode(y), rtol=1e-5, atol=1e-5)
    assert y.std() > 0.01 and x_hat.std() > 0.01  # two constants would agree too


@pytest.mark.parametrize("stages", [0, 2])
def test_gradients_are_the_textbook_ones(stages):
    """In training, with the same blocks skipped, in float64."""
    name = f"hycass_cr016_s{stages}"
    model = build(name, src_channels=20).double().train()
    reference = textbook(model, name).double()
    x = torch.rand(2, 20, 20, 12).double()
    gradients = []
    for net in (model, reference):
        torch.manual_seed(1)
        out = net(x)
        ((out if net is reference else out["x_hat"]) - x).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-9 * gradients[1].norm()


def test_positions_of_small_windows_are_part_of_the_large_ones():
    large = relative_positions(8).reshape(8, 8, 8, 8)
    assert torch.equal(relative_positions(3).reshape(3, 3, 3, 3), large[:3, :3, :3, :3])


@pytest.mark.parametrize("stages", [0, 1, 2, 3])
def test_any_bands_and_sizes_are_coded(stages):
    """Sizes must be multiples of 2^S alone, and no image depends on the others of the batch."""
    model = models[f"hycass_cr004_s{stages}"](src_channels=9).eval()
    x = torch.rand(2, 9, 3 * 2**stages, 5 * 2**stages)
    coded = model.compress(x)
    assert coded["shape"] == (3, 5)
    x_hat = model.decompress(**coded)["x_hat"]
    assert x_hat.shape == x.shape
    with torch.no_grad():
        assert torch.equal(model(x)["x_hat"], x_hat) and torch.equal(model(x[1:])["x_hat"], x_hat[1:])
    if stages:
        with pytest.raises(ValueError, match=f"multiples of {2**stages}"):
            model(torch.rand(1, 9, 2**stages + 1, 2**stages))


def test_too_few_bands_are_refused():
    with pytest.raises(ValueError, match="hycass_cr101_s0 needs more than 100 bands"):
        models["hycass_cr101_s0"](src_channels=100)
    with pytest.raises(ValueError, match="stages must be from 0 to 3, got 4"):
        HyCASS(9, 4, stages=4)


def test_weights_of_another_number_of_bands_are_refused():
    state_dict = models["hycass_cr008_s0"](src_channels=20).state_dict()
    assert HyCASS.from_state_dict(state_dict).src_channels == 20
    with pytest.raises(ValueError, match="for 20 bands, not 202"):
        HyCASS.from_state_dict(state_dict, src_channels=202)


def test_blocks_are_skipped_at_random_in_training_only():
    torch.manual_seed(0)
    model = models["hycass_cr032_s2"](src_channels=30)
    x = torch.rand(1, 30, 8, 8)
    outputs = [model.train()(x)["x_hat"] for _ in range(4)]
    assert not all(torch.equal(outputs[0], other) for other in outputs[1:])
    with torch.no_grad():
        assert torch.equal(model.eval()(x)["x_hat"], model(x)["x_hat"])
