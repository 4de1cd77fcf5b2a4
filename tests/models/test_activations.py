"""Compare bias and PReLU in one kernel with torch's layers, on a GPU or in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speed.textbook import textbook
from models import activations, fused, models, support
from models.activations import bias_and_prelu, bias_prelu
from models.fused import fast_layers
from models.sscnet import SSCNet
from utils.devices import autocast

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def kernels_run(monkeypatch):
    """Let the kernels run on this device, in few and therefore large blocks."""
    pytest.importorskip("triton")
    monkeypatch.setattr(support, "is_available", lambda device: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if DEVICE.type == "cpu":
        monkeypatch.setattr(activations, "_BLOCK_VALUES", 8192)


@pytest.fixture
def calls(monkeypatch):
    """Return a list that gets the shape of the input of each call of the kernel."""
    shapes, apply = [], activations._BiasPReLU.apply

    def counted(z, *others):
        shapes.append(tuple(z.shape))
        return apply(z, *others)

    monkeypatch.setattr(activations._BiasPReLU, "apply", counted)
    return shapes


@pytest.fixture
def channels_last(monkeypatch):
    """Make models run channels-last, as on a GPU with tensor cores, also with gradients."""
    monkeypatch.setattr(SSCNet, "_layers", staticmethod(lambda layers, x: fast_layers(layers)))


def given(shape, dtype=torch.float32):
    """Return the convolution's output, bias, slope, and the gradient of the PReLU's output."""
    torch.manual_seed(0)
    z, dy = (torch.randn(shape, device=DEVICE).to(dtype, memory_format=torch.channels_last) for _ in range(2))
    bias, slope = torch.randn(shape[1], device=DEVICE), torch.randn(shape[1], device=DEVICE)
    return z.requires_grad_(), bias.requires_grad_(), slope.requires_grad_(), dy


def reference(z, bias, slope):
    return F.prelu(z.double() + bias.double()[:, None, None], slope.double())


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 130, 9, 5), (1, 202, 3, 1), (2, 256, 16, 12)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)],  # the interpreter truncates
)
def test_output_and_gradients_are_those_of_torch(monkeypatch, shape, dtype, tolerance):
    monkeypatch.setattr(activations, "_GRADIENT_PROGRAMS", 3)  # parts of several blocks
    monkeypatch.setattr(activations, "_BLOCK_VALUES", 1024)
    z, bias, slope, dy = given(shape, dtype)
    y, expected_y = bias_prelu(z, bias, slope), reference(z, bias, slope)
    found = torch.autograd.grad(y, [z, bias, slope], dy)
    expected = torch.autograd.grad(expected_y, [z, bias, slope], dy.double())
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert [gradient.dtype for gradient in found] == [dtype, torch.float32, torch.float32]
    limits = (tolerance, tolerance, 1e-6, 1e-6)  # sums are float32 in every precision
    for own, other, limit in zip((y, *found), (expected_y, *expected), limits, strict=True):
        assert own.shape == other.shape
        assert (own.double() - other).norm() <= limit * other.double().norm()
    assert found[1].is_contiguous() and found[2].is_contiguous()


def test_other_layouts_are_copied():
    z, bias, slope, _ = given((2, 6, 4, 3))
    expected = bias_prelu(z, bias, slope)
    assert torch.equal(bias_prelu(z.contiguous(), bias, slope), expected)
    # The gradient of a sum has strides of 0.
    for own, other in zip(
        torch.autograd.grad(expected.sum(), [z, bias, slope]),
        torch.autograd.grad(reference(z, bias, slope).sum(), [z, bias, slope]),
        strict=True,
    ):
        torch.testing.assert_close(own, other.to(own.dtype))


def test_an_empty_batch_has_gradients_of_zero():
    z, bias, slope, dy = given((0, 6, 4, 3))
    gradients = torch.autograd.grad(bias_prelu(z, bias, slope), [z, bias, slope], dy)
    assert gradients[0].shape == z.shape
    assert not gradients[1].any() and not gradients[2].any()


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 2)])
def test_only_needed_gradients_are_computed(needed):
    tensors = given((2, 6, 4, 3))
    dy = tensors[3]
    for index, tensor in enumerate(tensors[:3]):
        tensor.requires_grad_(index in needed)
    wanted = [tensors[index] for index in needed]
    found = torch.autograd.grad(bias_prelu(*tensors[:3]), wanted, dy)
    expected = torch.autograd.grad(reference(*tensors[:3]), wanted, dy.double())
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other.to(own.dtype))


def test_sums_do_not_change_from_call_to_call():
    z, bias, slope, dy = given((3, 40, 9, 5))
    runs = [torch.autograd.grad(bias_prelu(z, bias, slope), [bias, slope], dy) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize(
    ("layer", "activation"),
    [
        (nn.Conv2d(3, 4, 3), nn.PReLU()),
        (nn.Conv2d(3, 4, 3, bias=False), nn.PReLU(4)),
        (nn.Conv2d(3, 4, 3).double(), nn.PReLU(4).double()),
        (nn.Conv1d(3, 4, 3), nn.PReLU(4)),
        (nn.Conv2d(3, 4, 3), nn.LeakyReLU()),
        (nn.Conv2d(3, 4, 3), None),
        (nn.Linear(3, 4), nn.PReLU(4)),
    ],
)
def test_other_layers_are_left_to_torch(layer, activation):
    assert bias_and_prelu(layer, activation) is None


def test_other_devices_are_left_to_torch(monkeypatch):
    assert bias_and_prelu(nn.Conv2d(3, 4, 3), nn.PReLU(4)) is not None
    monkeypatch.undo()
    assert bias_and_prelu(nn.Conv2d(3, 4, 3), nn.PReLU(4)) is None


def test_convolutions_without_channels_last_are_left_to_torch(calls):
    layers, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4)).to(DEVICE), torch.rand(1, 3, 5, 5, device=DEVICE)
    expected = layers(x)
    torch.testing.assert_close(fast_layers(layers, channels_last=False)(x), expected)
    assert not calls
    torch.testing.assert_close(fast_layers(layers)(x), expected)
    assert len(calls) == 1


def strong_sscnet():
    torch.manual_seed(0)
    model = models["sscnet_1bpppc"](src_channels=13).to(DEVICE)
    for tensor in model.parameters():
        if tensor.dim() > 1:
            nn.init.kaiming_normal_(tensor, a=0.3)
        else:
            nn.init.uniform_(tensor, 0.1, 0.5)
    return model, torch.rand(2, 13, 16, 8, device=DEVICE)


def run(function, x, parameters, precision="fp32"):
    """Return the output of a model and the gradients of its mean square."""
    with autocast(precision, DEVICE):
        x_hat = function(x)
    return x_hat, *torch.autograd.grad(x_hat.float().square().mean(), list(parameters))


def errors(found, expected):
    return torch.stack([(own - other).norm() / other.norm() for own, other in zip(found, expected, strict=True)])


def test_a_model_agrees_with_the_textbook(channels_last, calls):
    model, x = strong_sscnet()
    net = textbook(model, "sscnet_1bpppc")
    expected = run(net, x, net.parameters())
    assert errors(run(lambda x: model(x)["x_hat"], x, model.parameters()), expected).max() < 1e-5
    assert len(calls) == 9
    with torch.no_grad():
        torch.testing.assert_close(model(x)["x_hat"], expected[0], rtol=0, atol=1e-5)


def test_a_model_in_bfloat16_is_as_exact_as_the_textbook(channels_last, calls):
    model, x = strong_sscnet()
    net = textbook(model, "sscnet_1bpppc")
    expected = run(net, x, net.parameters())
    found = run(lambda x: model(x)["x_hat"], x, model.parameters(), "bf16")
    assert len(calls) == 9 and found[0].dtype == torch.bfloat16
    plain = run(net, x, net.parameters(), "bf16")
    most = 2 if DEVICE.type == "cuda" else 3  # the interpreter truncates, a GPU rounds
    assert (errors(found, expected) <= most * errors(plain, expected)).all()


def test_compiled_models_are_one_graph_without_the_kernels(monkeypatch, channels_last, calls):
    monkeypatch.setattr(fused, "_is_monotonic", lambda module: False)  # as for slopes on a GPU
    model, x = strong_sscnet()
    expected = textbook(model, "sscnet_1bpppc")(x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)["x_hat"], expected, rtol=0, atol=1e-5)
    assert not calls
