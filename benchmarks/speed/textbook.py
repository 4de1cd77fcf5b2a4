"""The published models in textbook form: the reference for results and for time.

Encoder and decoder are one `nn.Sequential` of layers each, in float32, for the whole batch at once, without chunks or
in-place operations. Weights are copied from the model under test in the order of its state dict, as their keys
differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.textbook_hycass import decoder_layers, encoder_layers

if TYPE_CHECKING:
    from models.base import HSICompressionModel
    from models.spectral import SpectralAutoencoder

Size = int | tuple[int, int, int]


def textbook(model: HSICompressionModel, name: str) -> Textbook:
    """Build the textbook form of a model with a copy of its weights, in its mode and on its device.

    Args:
        model: the model under test.
        name: its name in the registry.

    Raises:
        ValueError: the layers of the model differ from those of its textbook form.
    """
    prefix = next(prefix for prefix in _BUILDERS if name.startswith(prefix))
    reference = _BUILDERS[prefix](model)
    own, given = reference.state_dict(), list(model.state_dict().values())
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in given]:
        raise ValueError(f"layers of {name} must be those of its textbook form, got other shapes")
    reference.load_state_dict(dict(zip(own, given, strict=True)))
    return reference.to(given[0].device).train(model.training)


def has_textbook(name: str) -> bool:
    """Return whether there is a textbook form of the model `name`."""
    return name.startswith(tuple(_BUILDERS))


class Textbook(nn.Module):
    """Pack images into the input of the layers, encode, decode, and unpack.

    Args:
        encoder: its layers.
        decoder: its layers.
        bands: of the images.
        multiple: bands are padded with zeros, before the first band, to a multiple of this.
        rows: whether each pixel is a sequence (1-D models).
        volume: whether bands are an axis of their own (3-D models).
    """

    def __init__(
        self,
        encoder: list[nn.Module],
        decoder: list[nn.Module],
        bands: int,
        multiple: int = 1,
        rows: bool = False,
        volume: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.pad = -bands % multiple
        self.rows, self.volume = rows, volume

    def encode(self, x: Tensor) -> Tensor:
        """Encode images (N, C, H, W) to a latent of the published layout."""
        if self.rows:
            n, c, h, w = x.shape
            sequences = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
            padded = torch.cat([x.new_zeros(n * h * w, self.pad), sequences], dim=1)
            return self.encoder(padded.unsqueeze(1)).reshape(n, h, w, -1).permute(0, 3, 1, 2)
        if self.volume:
            padded = torch.cat([torch.zeros_like(x[:, : self.pad]), x], dim=1)
            return self.encoder(padded.unsqueeze(1))
        return self.encoder(x)

    def decode(self, y: Tensor) -> Tensor:
        """Decode a latent to images (N, C, H, W)."""
        if self.rows:
            n, length, h, w = y.shape
            sequences = y.permute(0, 2, 3, 1).reshape(n * h * w, 1, length)
            return self.decoder(sequences)[:, 0, self.pad :].reshape(n, h, w, -1).permute(0, 3, 1, 2)
        if self.volume:
            return self.decoder(y)[:, 0, self.pad :]
        return self.decoder(y)

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode images (N, C, H, W)."""
        return self.decode(self.encode(x))


def _conv1d(before: int, after: int, taps: int) -> nn.Conv1d:
    return nn.Conv1d(before, after, taps, stride=1, padding=(taps - 1) // 2)


def _cae1d(model: SpectralAutoencoder) -> Textbook:
    b = model.halvings
    encoder, width = [], 1
    for step in range(b):
        next_width = 32 * 2 ** (b - 1 - step)
        encoder += [_conv1d(width, next_width, 11), nn.LeakyReLU(0.01), nn.MaxPool1d(2, 2)]
        width = next_width
    encoder += [_conv1d(32, 16, 9), nn.LeakyReLU(0.01), _conv1d(16, 1, 7), nn.LeakyReLU(0.01)]
    decoder = [
        _conv1d(1, 16, 7),
        nn.LeakyReLU(0.01),
        _conv1d(16, 32, 9),
        nn.LeakyReLU(0.01),
        nn.Upsample(scale_factor=2),
    ]
    for step in range(b - 1):
        decoder += [_conv1d(32 * 2**step, 64 * 2**step, 11), nn.LeakyReLU(0.01), nn.Upsample(scale_factor=2)]
    decoder += [_conv1d(16 * 2**b, 1, 11), nn.Sigmoid()]
    return Textbook(encoder, decoder, model.src_channels, multiple=2**b, rows=True)


def _transposed(model: HSICompressionModel, activation: Callable[[], nn.Module]) -> Textbook:
    encoder = [_conv1d(1, 64, 11), activation(), nn.MaxPool1d(2, 2), _conv1d(64, 32, 11), activation()]
    encoder += [nn.MaxPool1d(2, 2), _conv1d(32, 16, 9), activation(), _conv1d(16, 1, 7), activation()]
    decoder = [_conv1d(1, 16, 7), activation(), _conv1d(16, 32, 9), activation()]
    decoder += [nn.ConvTranspose1d(32, 64, 11, 2, 5, 1), activation(), nn.ConvTranspose1d(64, 1, 11, 2, 5, 1)]
    return Textbook(encoder, [*decoder, nn.Sigmoid()], model.src_channels, multiple=4, rows=True)


def _sscnet(model: HSICompressionModel) -> Textbook:
    bands, latent = model.src_channels, model.latent_shape[0]
    encoder = []
    for before, after, pooled in [(bands, 256, 0), (256, 256, 1), (256, 256, 1), (256, 512, 1), (512, latent, 0)]:
        encoder += [nn.Conv2d(before, after, 3, 1, 1), nn.PReLU(after)] + [nn.MaxPool2d(2, 2)] * pooled
    decoder = [nn.ConvTranspose2d(latent, 512, 3, 1, 1), nn.PReLU(512)]
    for before in (512, 256, 256):
        decoder += [nn.ConvTranspose2d(before, 256, 2, 2), nn.PReLU(256)]
    decoder += [nn.ConvTranspose2d(256, bands, 3, 1, 1), nn.Sigmoid()]
    return Textbook(encoder, decoder, bands)


class _Residual(nn.Module):
    """Two convolutions with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *[nn.Conv3d(32, 32, 3, 1, 1), nn.BatchNorm3d(32), nn.LeakyReLU(0.01)],
            *[nn.Conv3d(32, 32, 3, 1, 1), nn.BatchNorm3d(32)],
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.layers(x) + x, 0.01)


def _cae3d(model: HSICompressionModel) -> Textbook:
    latent = model.latent_shape[0]

    def conv(before: int, after: int, taps: Size, stride: Size, padding: Size) -> list[nn.Module]:
        return [nn.Conv3d(before, after, taps, stride, padding), nn.BatchNorm3d(after), nn.LeakyReLU(0.01)]

    encoder = conv(1, 16, (2, 5, 5), (1, 2, 2), (0, 2, 2)) + conv(16, 32, 5, 2, 2)
    encoder += [_Residual(), _Residual(), _Residual(), *conv(32, latent, 5, 2, 2)]
    decoder = [nn.Upsample(scale_factor=(2, 4, 4)), *conv(latent, 32, 5, 2, 2), _Residual(), _Residual(), _Residual()]
    decoder += [nn.Upsample(scale_factor=(4, 2, 2)), *conv(32, 16, (5, 3, 3), (2, 1, 1), (2, 1, 1))]
    decoder += [nn.Upsample(scale_factor=(4, 2, 2)), *conv(16, 1, (2, 3, 3), (2, 1, 1), (0, 1, 1))]
    return Textbook(encoder, decoder, model.src_channels, multiple=4, volume=True)


class _Tokens(nn.Module):
    """Embed groups of four bands (rows, 1, C), behind the compression token, at learned positions."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.pad = -bands % 4
        self.token = nn.Parameter(torch.empty(1, 1, 64))
        self.positions = nn.Parameter(torch.empty(1, (bands + self.pad) // 4 + 1, 64))
        self.embed = nn.Linear(4, 64)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        groups = torch.cat([x.new_zeros(rows, 1, self.pad), x], dim=2).reshape(rows, -1, 4)
        return torch.cat([self.token.repeat(rows, 1, 1), self.embed(groups)], dim=1) + self.positions


class _TransformerBlock(nn.Module):
    """Attention of four heads and a perceptron, each behind a layer norm and with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(64), nn.Linear(64, 192, bias=False), nn.Linear(64, 64)
        self.norm2, self.widen, self.narrow = nn.LayerNorm(64), nn.Linear(64, 8), nn.Linear(8, 64)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(rows, tokens, 3, 4, 16).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(2, 3) * 16**-0.5, dim=3)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(rows, tokens, 64))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class _FirstToken(nn.Module):
    """Keep the first token, (rows, 1, 64); hold the layers that published weights have and nothing uses."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.unused = nn.ModuleList([nn.Conv2d(tokens, tokens, (1, 2)) for _ in range(3)]).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


def _hycot(model: HSICompressionModel) -> Textbook:
    bands, latent = model.src_channels, model.latent_shape[0]
    encoder = [_Tokens(bands), *[_TransformerBlock() for _ in range(5)], _FirstToken(-(-bands // 4) + 1)]
    encoder += [nn.Linear(64, 1024), nn.LeakyReLU(0.01), nn.Linear(1024, latent), nn.Sigmoid()]
    decoder = [nn.Linear(latent, 1024), nn.LeakyReLU(0.01), nn.Linear(1024, bands), nn.Sigmoid()]
    return Textbook(encoder, decoder, bands, rows=True)


def _hycass(model: HSICompressionModel) -> Textbook:
    sizes = model.src_channels, model.latent_shape[0], model.size_multiple.bit_length() - 1
    return Textbook(encoder_layers(*sizes), decoder_layers(*sizes), model.src_channels)


# In this order: the first prefix that fits a model's name decides.
_BUILDERS: Mapping[str, Callable[..., Textbook]] = {
    "cae1da": lambda model: _transposed(model, lambda: nn.LeakyReLU(0.01)),
    "cae1de": lambda model: _transposed(model, lambda: nn.Hardtanh(-1.0, 1.0)),
    "cae1d": _cae1d,
    "sscnet": _sscnet,
    "cae3d": _cae3d,
    "hycot": _hycot,
    "hycass": _hycass,
}
