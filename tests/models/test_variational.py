"""Models with an entropy model: CompressAI's contract, real bytes, tables, exact arithmetic, start from images."""

import math

import pytest
import torch
from torch import nn

from models import models
from models.latent_codecs import Bottleneck, HyperpriorLatentCodec, exactly
from models.weights import LATENT_CODEC

OURS = [name for name in models if name.startswith("ours_")]
BANDS = 12


def image(count=2, height=24, width=32):
    """Return smooth images with a little noise."""
    torch.manual_seed(1)
    rows, columns = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 2, width)
    bands = torch.linspace(0.1, 1, BANDS)[:, None, None]
    x = 0.4 + 0.2 * torch.sin(rows * bands + columns) + 0.01 * torch.randn(count, BANDS, height, width)
    return x.clamp(0, 1)


def build(name, step=0.25):
    """Return a model in evaluation mode whose latents take `step` of their standard deviation, with tables."""
    torch.manual_seed(0)
    model = models[name](src_channels=BANDS)
    if not model.has_entropy_model:
        model.attach_entropy_model()
    model.start_from(image())
    with torch.no_grad():
        y = model.encode(image())
    model.start_latent_codec(y, step * float(y.std()))
    model.eval().update(update_quantiles=True)
    return model


def bits(strings):
    return 8 * sum(len(string) for of_part in strings for string in of_part)


@pytest.mark.parametrize("name", [*OURS, "cae1d", "sscnet_1bpppc", "cae3d_1bpppc", "hycot_1bpppc"])
def test_bytes_decode_to_what_forward_returns(name):
    model, x = build(name), image()
    with torch.no_grad():
        out = model(x)
    coded = model.compress(x)
    assert torch.equal(model.decompress(**coded)["x_hat"], out["x_hat"])
    alone = model.decompress([[strings[1]] for strings in coded["strings"]], coded["shape"])
    assert torch.equal(alone["x_hat"], out["x_hat"][1:])
    estimated = -sum(float(likelihoods.log2().sum()) for likelihoods in out["likelihoods"].values())
    assert estimated > 1000
    ends = 64 * len(x) * len(coded["strings"])  # the range coder's last state
    assert abs(bits(coded["strings"]) - estimated) < 0.01 * estimated + ends


def test_scales_beyond_float32_leave_the_gradient_finite():
    """As a hyperprior may ask for them in its first steps; the gradient brings them back."""
    model, x = build("ours_hyperprior_s0").train(), image()
    bias = model.latent_codec.h_s[-1].bias
    with torch.no_grad():
        bias[len(bias) // 2 :] = 200.0
    rate = sum(-likelihoods.log2().sum() for likelihoods in model(x)["likelihoods"].values())
    rate.backward()
    assert rate.isfinite() and bias.grad.isfinite().all() and (bias.grad[len(bias) // 2 :] > 0).all()


@pytest.mark.parametrize("name", OURS)
def test_training_reaches_all_weights_except_the_quantiles(name):
    model = build(name).train()
    out = model(image())
    loss = out["x_hat"].square().mean() + out.get("penalty", 0)
    (loss - sum(likelihoods.log().mean() for likelihoods in out["likelihoods"].values())).backward()
    without = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert without and all(key.endswith(".quantiles") for key in without)
    for parameter in model.parameters():
        parameter.grad = None
    model.aux_loss().backward()
    assert {key for key, parameter in model.named_parameters() if parameter.grad is not None} == without


@pytest.mark.parametrize("name", ["ours_factorized_s0", "ours_hyperprior_s1", "ours_klt"])
def test_saved_tables_are_loaded_whatever_their_size(name):
    model, x = build(name), image()
    coded = model.compress(x)
    copy = type(model).from_state_dict(model.state_dict()).eval()
    assert math.isnan(copy.bpppc) and copy.latent_shape == model.latent_shape
    assert torch.equal(copy.decompress(**coded)["x_hat"], model.decompress(**coded)["x_hat"])
    assert copy.compress(x) == coded
    other = build(name, step=0.1)  # with larger tables
    other.load_state_dict(model.state_dict())
    assert other.compress(x) == coded
    fresh = models[name](src_channels=BANDS)
    with pytest.raises(ValueError, match="update"):
        fresh.compress(x)


@pytest.mark.parametrize("name", ["ours_hyperprior_s1", "ours_klt"])
def test_other_arithmetic_decodes_the_same_latents(name):
    """Without oneDNN torch sums in another order, as another machine does."""
    model, x = build(name), image()
    coded = model.compress(x)
    y_hat = model.latent_codec.decompress(**coded)["y_hat"]
    with torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(model.latent_codec.decompress(**coded)["y_hat"], y_hat)


def test_half_precision_keeps_what_matters_in_float32():
    """The learned transform, and entropy models; networks compute in bfloat16."""
    model, x = build("ours_klt", step=1e-3), image()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = model(x)
        assert (out["x_hat"] - x).abs().max() < 1e-3
        assert build("ours_factorized_s0").encode(x).dtype == torch.bfloat16
        assert out["likelihoods"]["y"].dtype == torch.float32


@pytest.mark.parametrize("name", ["ours_factorized_s0", "ours_hyperprior_s0"])
def test_latents_that_would_stall_the_range_coder_are_refused(name):
    model = build(name)
    y = model.encode(image())
    for value in (1e12, math.nan):
        with pytest.raises(ValueError, match="not finite, or too large"):
            model.latent_codec.compress(torch.full_like(y, value))


def test_steps_decide_rate_and_distortion():
    x = image()
    points = []
    for step in (0.05, 0.2, 0.8):
        model = build("ours_klt", step)
        coded = model.compress(x)
        points.append((bits(coded["strings"]), float((model.decompress(**coded)["x_hat"] - x).square().mean())))
    (rate, error), *others = points
    for lower, larger in others:
        assert lower < rate and larger > error
        rate, error = lower, larger


def test_learned_transform_starts_as_the_klt():
    """Before training, and but for quantization, the model is a transform and its inverse."""
    model, x = build("ours_klt", step=1e-3), image()
    pixels = x.movedim(1, -1).reshape(-1, BANDS).double()
    centered = pixels - pixels.mean(0)
    decorrelated = centered @ model.transform.detach().double() / 10
    covariance = decorrelated.t() @ decorrelated / len(pixels)
    variances = covariance.diagonal()
    assert (covariance - variances.diag()).abs().max() < 1e-5 * variances[0]
    assert (variances[1:] <= variances[:-1] * (1 + 1e-6)).all()
    assert float(model(x)["penalty"].detach()) < 1e-8
    with torch.no_grad():
        assert (model.decode(model.encode(x)) - x).abs().max() < 1e-5


def test_a_published_model_keeps_its_keys_when_it_gets_an_entropy_model():
    plain, model = models["cae1d"](src_channels=BANDS), build("cae1d")
    assert model.is_extended and not plain.is_extended
    own = {key for key in model.state_dict() if not key.startswith(LATENT_CODEC)}
    assert own == set(plain.state_dict())
    plain.load_state_dict({key: model.state_dict()[key] for key in own}, strict=True)
    assert not plain.has_entropy_model
    plain.load_state_dict(model.state_dict(), strict=True)
    assert plain.has_entropy_model and plain.is_extended
    assert plain.eval().compress(image()) == model.compress(image())


def test_hyperprior_is_exact_arithmetic():
    """Another order of summation gives the same bits."""
    codec = HyperpriorLatentCodec(6, hyper_channels=4).eval()
    nn.init.normal_(codec.h_s[-1].weight)
    z = torch.randn(3, 4, 5, 7) * 3
    out = exactly(codec.h_s, z)
    with torch.no_grad():
        torch.testing.assert_close(out.float(), codec.h_s(z), rtol=0, atol=0.05)
    unit = 2.0**-10
    assert torch.equal(out, (out / unit).round() * unit)
    assert torch.equal(exactly(codec.h_s, z[1:2]), out[1:2])
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():  # a transposed convolution has its inputs first
        codec.h_s[0].weight.copy_(codec.h_s[0].weight[order])
    assert torch.equal(exactly(codec.h_s, z[:, order]), out)


def test_scales_get_the_nearest_table():
    codec = build("ours_hyperprior_s0").latent_codec
    log_scales = torch.linspace(-4, 8, 1000)[None]
    table = codec.gaussian_conditional.scale_table.log()
    nearest = (log_scales[0][:, None] - table).abs().min(1).values
    found = (log_scales[0] - table[codec._indexes(log_scales)[0]]).abs()
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-5)


def test_bottleneck_starts_around_its_values():
    torch.manual_seed(0)
    values = torch.randn(1, 2, 4000) * torch.tensor([3.0, 40.0])[:, None] + torch.tensor([100.0, -7.0])[:, None]
    fresh, started = Bottleneck(2).eval(), Bottleneck(2).eval()
    started.initialize(values[0].mean(1), values[0].std(1))
    rates = [-bottleneck(values)[1].detach().log2().mean(2)[0] for bottleneck in (fresh, started)]
    optimum = torch.log2(torch.tensor([3.0, 40.0])) + 2.05  # of normal distributions
    assert (rates[1] < optimum + 0.15).all() and (rates[0] > optimum + 1).all()


@pytest.mark.parametrize("name", ["ours_factorized_s0", "ours_hyperprior_s0"])
def test_training_decodes_quantized_latents(name):
    """Latents near their mean give it, without noise, and the gradient passes as if they were not quantized."""
    codec = build(name, step=20.0).latent_codec.train()
    y = torch.zeros(1, *codec.log_steps.shape, 8, 8, requires_grad=True)
    first, second = codec(y), codec(y)
    assert torch.equal(first["y_hat"], second["y_hat"]) == (name == "ours_factorized_s0")
    assert not torch.equal(first["likelihoods"]["y"], second["likelihoods"]["y"])
    (gradient,) = torch.autograd.grad(first["y_hat"].sum(), y)
    assert gradient.isfinite().all() and (gradient != 0).any()
