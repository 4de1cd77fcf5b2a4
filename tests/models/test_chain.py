"""Compare chains of 1-D layers with torch's layers and the textbook form, on a GPU or in Triton's interpreter."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.speed.textbook import textbook
from models import chain, models, support
from models.cae1d import CAE1D
from models.chain import Arithmetic, plan, run_chain

EXACT = Arithmetic(torch.float32, "tf32x3")


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILES = (chain._forward_tiles, chain._backward_tiles, chain._gradient_tiles)


@pytest.fixture(scope="module", autouse=True)
def few_blocks():
    """Make blocks large: the interpreter takes long for each, but more than one must run."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE.type == "cpu":
            patch.setattr(chain, "_BLOCK_ROWS", 16)
            patch.setattr(chain, "_BLOCK_K_BYTES", 2048)
            patch.setattr(chain, "_EXPAND_BLOCK", (256, 1024))
            patch.setattr(chain, "_COLLECT_BLOCK", (4096, 8))
            patch.setattr(support, "is_available", lambda device: True)
            patch_bfloat16_products(patch)
        yield


def patch_bfloat16_products(patch):
    """Let the interpreter multiply bfloat16: it would take its bits for integers."""
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply = InterpreterBuilder.create_dot

    def float32(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self, a, b, *others):
        return multiply(self, float32(a), float32(b), *others)

    patch.setattr(InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def narrow(monkeypatch):
    """Make blocks narrow, so that layers of few channels have several."""
    monkeypatch.setattr(chain, "_BLOCK_COLUMNS", 16)
    for tiles in TILES:
        tiles.cache_clear()
    yield
    for tiles in TILES:
        tiles.cache_clear()


def encoder():
    return nn.Sequential(
        *(nn.Conv1d(1, 8, 11, padding=5), nn.LeakyReLU(), nn.MaxPool1d(2)),
        nn.Sequential(nn.Conv1d(8, 4, 5, padding=2), nn.LeakyReLU(0.2), nn.MaxPool1d(2)),
        *(nn.Conv1d(4, 2, 3, padding=1), nn.Conv1d(2, 1, 7, padding=3), nn.LeakyReLU()),
    )


def decoder():
    return nn.Sequential(
        *(nn.Conv1d(1, 4, 7, padding=3), nn.LeakyReLU(), nn.Upsample(scale_factor=2)),
        *(nn.Conv1d(4, 8, 11, padding=5), nn.LeakyReLU(), nn.Upsample(scale_factor=2)),
        *(nn.Conv1d(8, 1, 11, padding=5), nn.Sigmoid()),
    )


def transposed():
    return nn.Sequential(
        *(nn.Conv1d(1, 4, 7, padding=3), nn.Hardtanh()),
        *(nn.ConvTranspose1d(4, 8, 11, 2, 5, 1), nn.Hardtanh()),
        *(nn.ConvTranspose1d(8, 1, 11, 2, 5, 1), nn.Sigmoid()),
    )


def gradients(function, x, weight, parameters):
    """Return the output of `function`, and the gradients of `x` and `parameters` if it is weighted by `weight`."""
    x = x.detach().requires_grad_()
    out = function(x)
    return out, torch.autograd.grad(out, [x, *parameters], weight.to(out.dtype))


def compare(layers, length, rows, arithmetic, tolerance, skip_in=0, skip_out=0):
    """Compare a chain with its layers in float64: output and gradients, in the norm of each tensor."""
    torch.manual_seed(0)
    layers = layers.to(DEVICE)
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.rand(length - skip_in, rows, device=DEVICE)
    chained = plan(layers, length, skip_in, skip_out)
    parameters = list(layers.parameters())
    weight = torch.randn(chained[-1].length_out - skip_out, rows, device=DEVICE)

    def reference(x):
        padded = nn.functional.pad(x.t()[:, None], (skip_in, 0))
        return layers.double()(padded)[:, 0, skip_out:].t()

    out, found = gradients(lambda x: run_chain(x, chained, parameters, arithmetic), x, weight, parameters)
    expected_out, expected = gradients(reference, x.double(), weight, parameters)
    assert out.dtype == arithmetic.dtype and out.shape == weight.shape
    for own, other in zip((out, *found), (expected_out, *expected), strict=True):
        assert own.shape == other.shape
        assert (own.double() - other).norm() <= tolerance * (other.norm() + 0.1)
    for parameter, gradient in zip(parameters, found[1:], strict=True):
        assert gradient.stride() == parameter.stride()  # as DistributedDataParallel expects


@pytest.mark.parametrize("length", [12, 13, 15])
@pytest.mark.parametrize("rows", [1, 37])
def test_an_encoder_takes_odd_lengths_and_rows(narrow, length, rows):
    compare(encoder(), length, rows, EXACT, 4e-6)


@pytest.mark.parametrize("layers", [decoder, transposed])
@pytest.mark.parametrize("length", [1, 5])
def test_upsampling_decoders_agree_with_their_layers(narrow, layers, length):
    compare(layers(), length, 19, EXACT, 4e-6)


def test_skipped_positions_are_zero_inputs_and_missing_outputs(narrow):
    compare(encoder(), 16, 18, EXACT, 4e-6, skip_in=3)
    compare(decoder(), 4, 18, EXACT, 4e-6, skip_out=3)


@pytest.mark.parametrize(
    ("arithmetic", "tolerance"),
    [
        (Arithmetic(torch.float32, "tf32"), 5e-3),
        (Arithmetic(torch.float16, "tf32"), 2e-2),
        (Arithmetic(torch.bfloat16, "tf32"), 0.3),
    ],
)
def test_lower_precision_rounds_only_factors(narrow, arithmetic, tolerance):
    """In TF32 and half precision the sums stay float32."""
    compare(nn.Sequential(*encoder(), *decoder()), 16, 18, arithmetic, tolerance)


def test_equal_neighbors_give_the_gradient_to_the_first(narrow):
    """Pooling equal outputs does as torch does."""
    layers = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 1, 1)).to(
        DEVICE
    )
    x, weight = torch.zeros(8, 3, device=DEVICE), torch.randn(4, 3, device=DEVICE)
    chained, parameters = plan(layers, 8), list(layers.parameters())
    _, found = gradients(lambda x: run_chain(x, chained, parameters, EXACT), x, weight, parameters)
    _, expected = gradients(lambda x: layers(x.t()[:, None])[:, 0].t(), x, weight, parameters)
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_the_columns_of_a_batch_do_not_depend_on_each_other(narrow):
    """On a GPU to the bit, so that no result depends on the batch or on how it is split."""
    layers = decoder().to(DEVICE)
    chained, parameters, y = plan(layers, 4), list(layers.parameters()), torch.rand(4, 41, device=DEVICE)
    with torch.no_grad():
        whole = run_chain(y, chained, parameters, EXACT)
        parts = [run_chain(part, chained, parameters, EXACT) for part in y.split(23, dim=1)]
    tolerance = 0 if DEVICE.type == "cuda" else 1e-6
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bands"), [("cae1d", 14), ("cae1d_4bpppc", 15), ("cae1d_2bpppc", 17), ("cae1d_1bpppc", 31), ("cae1da", 13)]
)
def test_published_widths_agree_with_the_textbook(monkeypatch, name, bands):
    """Compare all four widths and the transposed decoder; in the interpreter, wide ones without gradients."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = models[name](src_channels=bands).to(DEVICE)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    reference, x = textbook(model, name).double(), torch.rand(2, bands, 1, 3, device=DEVICE)
    needs_gradients = DEVICE.type == "cuda" or name in ("cae1d", "cae1da")
    with torch.set_grad_enabled(needs_gradients):
        x_hat, expected = model(x)["x_hat"], reference(x.double())
    torch.testing.assert_close(x_hat.double(), expected, rtol=0, atol=4e-6)
    assert x_hat.is_contiguous()
    if needs_gradients:
        found = torch.autograd.grad(x_hat.square().sum(), list(model.parameters()))
        expected = torch.autograd.grad(expected.square().sum(), list(reference.parameters()))
        for own, other in zip(found, expected, strict=True):
            assert (own.double() - other).norm() <= 1e-5 * other.norm()


def test_autocast_sets_the_type(monkeypatch):
    assert chain.arithmetic_of(torch.zeros(1)).dtype == torch.float32
    assert chain.arithmetic_of(torch.zeros(1, dtype=torch.float16)).dtype == torch.float16
    assert chain.arithmetic_of(torch.zeros(1, dtype=torch.float64)) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert chain.arithmetic_of(torch.zeros(1)).dtype == torch.bfloat16
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert chain.arithmetic_of(torch.zeros(1)).precision == "tf32x3"


def test_chunks_of_a_gpu_are_larger_where_the_kernels_run(monkeypatch):
    model, gpu = CAE1D(halvings=2), torch.device("cuda")
    monkeypatch.setattr(support, "is_available", lambda device: False)
    without = model.pixels_per_chunk(gpu)
    monkeypatch.setattr(support, "is_available", lambda device: True)
    assert model.pixels_per_chunk(gpu) == 8 * without


def test_layers_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="must be 1-D convolutions"):
        plan(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(3, 3)), 3)
