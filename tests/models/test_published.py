"""Compare all published models with the reference table and their textbook form."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed.textbook import textbook
from models import aliases, models, unverified
from models.published import read_published

TABLE = json.loads((Path(__file__).parent / "state_dicts.json").read_text())
ONE_OF_EACH = ("cae1d", "cae1d_2bpppc", "cae1da", "cae1de", "sscnet_1bpppc", "cae3d_1bpppc", "hycot_1bpppc")


def build(name, **kwargs):
    """Return a model with strong weights: default ones weaken signals and leave statistics neutral."""
    torch.manual_seed(0)
    model = models[name](**kwargs)
    for tensor in model.parameters():
        if tensor.dim() > 1:
            torch.nn.init.kaiming_normal_(tensor, a=0.01)
        else:
            torch.nn.init.uniform_(tensor, 0.1, 0.5)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0  # statistics of the next batch
    if norms:
        with torch.no_grad():
            model.train()(torch.rand(2, model.src_channels, 16, 16))
            for norm in norms:
                norm.running_mean += 0.1 * norm.running_var.sqrt()
    return model.eval()


def test_registry_has_the_published_names():
    assert set(TABLE) <= set(models)
    for alias, name in aliases.items():
        assert type(models[alias]()) is type(models[name]())
        assert models[alias]().bpppc == models[name]().bpppc
    assert "cae1d_8bpppc" in models and "vgg" not in models
    with pytest.raises(KeyError):
        models["vgg"]


def test_every_weight_file_name_is_a_model():
    for row in read_published():
        stem = row.file.removesuffix(".pth.tar")
        assert aliases.get(stem, stem) == row.model


@pytest.mark.parametrize("name", TABLE)
def test_state_dict_equals_the_table(name):
    model, expected = models[name](), TABLE[name]
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == expected["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["params"]
    assert model.bpppc == expected["bpppc"]
    assert model.compression_ratio == expected["compression_ratio"]
    assert model.verified is expected["verified"] is (name not in unverified)


@pytest.mark.parametrize("name", TABLE)
def test_rate_of_the_bytes_is_the_published_one(name):
    x = torch.rand(2, 202, 16, 8)
    model = models[name]().eval()
    coded = model.compress(x)
    rates = [8 * len(string) / x[0].numel() for string in coded["strings"][0]]
    row = next(row for row in read_published() if row.model == name)
    assert len(rates) == 2
    for rate in rates:
        assert rate == pytest.approx(model.bpppc, rel=1e-12)
        assert f"{rate:.2f}" == f"{row.bpppc:.2f}"


@pytest.mark.parametrize("name", TABLE)
def test_arithmetic_is_the_textbook_one(name):
    model = build(name)
    reference = textbook(model, name)
    if model.pixelwise:
        model.set_pixels_per_chunk("cpu", 60)  # more than one chunk in an image, and a last one that is not full
    x = torch.rand(2, 202, 8, 16)
    with torch.no_grad():
        y, y_reference = model.encode(x), reference.encode(x)
        x_hat, x_reference = model.decode(y_reference), reference.decode(y_reference)
    assert y.shape == y_reference.shape == (2, *model.latent_shape, *y.shape[-2:])
    assert list(y.shape[1:-2]) == TABLE[name]["latent_shape"][:-2]
    torch.testing.assert_close(y, y_reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x_hat, x_reference, rtol=1e-5, atol=1e-5)
    assert y.std() > 0.01 and x_hat.std() > 0.01  # two constants would agree too


def gradient(model, loss):
    """Return the gradient of all trained parameters as one vector."""
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_gradients_are_the_textbook_ones(name):
    """In float64 no rounding flips a maximum or a sign."""
    model = build(name).double().train()
    reference = textbook(model, name).double()
    x = torch.rand(2, 202, *((1, 2) if model.pixelwise else (8, 8))).double()
    own = gradient(model, (model(x)["x_hat"] - x).square().mean())
    expected = gradient(reference, (reference(x) - x).square().mean())
    assert (own - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.parametrize("name", ["cae1d", "cae1d_4bpppc", "cae1da", "cae1de", "sscnet_1bpppc", "hycot"])
def test_gradients_in_float32_are_near_the_textbook(name):
    """Default weights, as when training starts. Batch norm over so few values would amplify rounding."""
    torch.manual_seed(0)
    model = models[name]().train()
    reference = textbook(model, name)
    x = torch.rand(2, 202, 8, 8)
    own = gradient(model, (model(x)["x_hat"] - x).square().mean())
    expected = gradient(reference, (reference(x) - x).square().mean())
    assert (own - expected).norm() < 1e-5 * expected.norm()


def test_gradients_round_about_as_the_textbook_does():
    """On many pixels rounding decides ties of pooling and activations; both stay as near to float64."""
    torch.manual_seed(0)
    model = models["cae1d"]().train()
    reference = textbook(model, "cae1d")
    exact = textbook(model, "cae1d").double()
    x = torch.rand(2, 202, 12, 12)
    own = gradient(model, (model(x)["x_hat"] - x).square().mean())
    expected = gradient(reference, (reference(x) - x).square().mean())
    true = gradient(exact, (exact(x.double()) - x).square().mean())
    assert (own - true).norm() < 1.5 * (expected - true).norm() < 1e-4 * true.norm()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_bfloat16_stays_near_the_textbook(name):
    torch.manual_seed(0)
    model = models[name]().eval()
    reference = textbook(model, name)
    x = torch.rand(1, 202, *((1, 2) if model.pixelwise else (8, 8)))  # emulated arithmetic is slow
    with torch.no_grad():
        expected = reference(x)
        with torch.autocast("cpu", torch.bfloat16):
            x_hat = model(x)["x_hat"]
    torch.testing.assert_close(x_hat.float(), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("bands", [200, 7])
def test_other_numbers_of_bands_agree_with_the_textbook(name, bands):
    model = build(name, src_channels=bands)
    reference = textbook(model, name)
    x = torch.rand(1, bands, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x)["x_hat"], reference(x), rtol=1e-5, atol=1e-5)
    rate = 8 * len(model.compress(x)["strings"][0][0]) / x.numel()
    assert rate == pytest.approx(model.bpppc)


def test_spectra_are_padded_on_the_left():
    """Zeros come before the first band; only the convolution pads after the last."""
    model = build("cae1d_1bpppc")
    assert model.padding == 22
    x = torch.rand(1, 202, 1, 1)
    padded = torch.cat([torch.zeros(1, 1, 22), x[:, :, 0, 0].unsqueeze(1)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(x)[0, :, 0, 0], model.encoder(padded)[0, 0])


def test_output_of_3d_model_may_leave_the_unit_range():
    model = build("cae3d_1bpppc")
    with torch.no_grad():
        model.decoder[-2].bias.fill_(3.0)
        assert model(torch.rand(1, 202, 8, 8))["x_hat"].max() > 1
        model.decoder[-2].bias.fill_(-3.0)
        assert model(torch.rand(1, 202, 8, 8))["x_hat"].min() < 0


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_models_keep_the_contract_of_compressai(name):
    model = build(name)
    x = torch.rand(3, 202, 16, 8)
    with torch.no_grad():
        out = model(x)
    coded = model.compress(x)
    decoded = model.decompress(**coded)
    assert set(out) == {"x_hat", "likelihoods"} and out["likelihoods"] == {}
    assert len(coded["strings"]) == 1 and len(coded["strings"][0]) == 3
    assert all(isinstance(string, bytes) for string in coded["strings"][0])
    assert torch.equal(decoded["x_hat"], out["x_hat"])
    # One image decodes alone.
    alone = model.decompress([[coded["strings"][0][1]]], coded["shape"])
    assert torch.equal(alone["x_hat"], out["x_hat"][1:2])
    with pytest.raises(ValueError, match="bytes"):
        model.decompress([[coded["strings"][0][1][:-1]]], coded["shape"])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_results_do_not_depend_on_the_batch(name):
    model = build(name)
    if model.pixelwise:
        model.set_pixels_per_chunk("cpu", 60)
    x = torch.rand(3, 202, 8, 16)  # more than a chunk of pixels each
    with torch.no_grad():
        y = model.encode(x)
        together = model.decode(y)
        for index in range(3):
            assert torch.equal(model.encode(x[index : index + 1])[0], y[index])
            assert torch.equal(model.decode(y[index : index + 1])[0], together[index])


@pytest.mark.parametrize("name", ["cae1d", "cae1d_1bpppc", "sscnet_1bpppc", "cae3d_1bpppc", "hycot"])
def test_inputs_that_cannot_be_coded_are_refused(name):
    model = models[name]()
    with pytest.raises(ValueError, match=r"202 bands, the image has 200.*num-channels 200"):
        model(torch.rand(1, 200, 8, 8))
    with pytest.raises(ValueError, match=r"must be \(N, 202, H, W\)"):
        model(torch.rand(202, 8, 8))
    with pytest.raises(ValueError, match=r"latents of .* must be"):
        model.decode(torch.rand(1, 3, 8, 8))
    if model.pixelwise:
        assert model(torch.rand(1, 202, 3, 5))["x_hat"].shape == (1, 202, 3, 5)
    else:
        with pytest.raises(ValueError, match=r"12 x 8 pixels.*multiples of 8"):
            model(torch.rand(1, 202, 12, 8))


@pytest.mark.parametrize("name", ["cae1d", "cae1d_1bpppc", "sscnet_1bpppc", "cae3d_1bpppc", "hycot", "hycass_cr008_s1"])
def test_empty_share_of_a_batch_trains(name):
    """A process of a distributed training may get no image; its step must still run, without a gradient."""
    model = models[name]()
    model(torch.rand(1, 202, 8, 8)[:0])["x_hat"].sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)
