"""HyCoT.

M. H. P. Fuchs, B. Rasti, B. Demir, "HyCoT: A Transformer-Based Autoencoder for Hyperspectral Image Compression",
WHISPERS 2024, arXiv 2408.08700.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from compressai.registry import register_model
from torch import Tensor, nn

from models.base import HSICompressionModel
from models.chunks import map_spectra

GROUP_BANDS = 4  # neighboring bands that become one token
WIDTH = 64  # values of a token
HEADS = 4
MLP_WIDTH = 8
BLOCKS = 5
HIDDEN = 1024  # between token and latent, and between latent and spectrum


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of a spectrum."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor, count: int) -> Tensor:
        """Map tokens (rows, tokens, width) to what their first `count` attend to, (rows, count, width)."""
        weight = self.to_qkv.weight
        q = F.linear(x[:, :count], weight[:WIDTH])
        k, v = F.linear(x, weight[WIDTH:]).chunk(2, dim=-1)
        q, k, v = (tokens.unflatten(-1, (HEADS, -1)).transpose(1, 2) for tokens in (q, k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Perceptron of each token."""

    def __init__(self) -> None:
        super().__init__()
        # The published one has dropout after layers 1 and 3, with probability 0.
        self.net = nn.Sequential(nn.Linear(WIDTH, MLP_WIDTH), nn.GELU(), nn.Identity(), nn.Linear(MLP_WIDTH, WIDTH))

    def forward(self, x: Tensor, _count: int) -> Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    """Layer norm before a function of tokens."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fn = fn

    def forward(self, x: Tensor, count: int) -> Tensor:
        return self.fn(self.norm(x), count)


class Residual(nn.Module):
    """Add a function of tokens to their first `count`."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, count: int) -> Tensor:
        return x[:, :count] + self.fn(x, count)


class Transformer(nn.Module):
    """Pre-norm transformer, of which only the first token is wanted.

    Args:
        tokens: number of tokens, which the unused layers depend on.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(PreNorm(Attention())), Residual(PreNorm(FeedForward()))]) for _ in range(BLOCKS)
        )
        # Published weights hold them, although nothing uses them. Without gradients, several processes do not wait
        # for theirs.
        self.skipcat = nn.ModuleList(nn.Conv2d(tokens, tokens, (1, 2)) for _ in range(BLOCKS - 2))
        self.skipcat.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (rows, tokens, width) to the first token (rows, width)."""
        for number, block in enumerate(self.layers, start=1):
            count = 1 if number == BLOCKS else x.shape[1]  # after the last attention tokens no longer meet
            for part in block.children():
                x = part(x, count)
        return x[:, 0]


class HyCoT(HSICompressionModel):
    r"""Transformer over groups of four bands, whose learned compression token becomes the latent of a pixel.

    ::

        x (N, C, H, W) ─► rows (N*H*W, C) ─► zeros on the left, to a multiple of 4 ─► (rows, groups, 4)
          ─► linear (64) ─► compression token in front, plus positions ─► 5 blocks of attention and perceptron
          ─► first token (64) ─► linear (1024) LReLU linear (L) sigmoid ─► y (N, L, H, W)

        y ─► linear (1024) LReLU linear (C) sigmoid ─► x_hat

    Rows are independent and go through the network in chunks, as in `models.spectral`.

    Args:
        src_channels: number of bands C.
        latent_channels: L; the rate is 32 L / C bpppc.
    """

    pixelwise = True

    def __init__(self, src_channels: int = 202, latent_channels: int = 51) -> None:
        super().__init__(src_channels, (latent_channels,))
        self.chunk_sizes: Mapping[str, int] = {"cpu": 64, "cuda": 4096}
        groups = math.ceil(src_channels / GROUP_BANDS)
        self.padding = groups * GROUP_BANDS - src_channels
        self.comp_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embedding = nn.Parameter(torch.randn(1, groups + 1, WIDTH))
        self.patch_to_embedding = nn.Linear(GROUP_BANDS, WIDTH)
        self.transformer = Transformer(groups + 1)
        self.to_latent = nn.Sequential(
            nn.Linear(WIDTH, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, latent_channels), nn.Sigmoid()
        )
        self.patch_deembed = nn.Sequential(
            nn.Linear(latent_channels, HIDDEN), nn.LeakyReLU(), nn.Linear(HIDDEN, src_channels), nn.Sigmoid()
        )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int | None = None) -> HyCoT:
        """Build a model as in the base class; the weights also determine the number of bands.

        Raises:
            ValueError: `src_channels` differs from the number of bands of the weights.
        """
        in_weights = cls.bands_of(state_dict, "patch_deembed.2.weight", src_channels)
        net = cls(in_weights, cls.width_of(state_dict, "to_latent.2.weight"))
        net.load_state_dict(state_dict)
        return net

    def encoder_parameters(self) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("patch_deembed.")]

    def _encode(self, x: Tensor) -> Tensor:
        return map_spectra(self._encode_rows, x, self.pixels_per_chunk(x.device))

    def _decode(self, y: Tensor) -> Tensor:
        return map_spectra(self.patch_deembed, y, self.pixels_per_chunk(y.device))

    def _encode_rows(self, rows: Tensor) -> Tensor:
        """Map spectra (rows, C) to latents (rows, L)."""
        groups = F.pad(rows, (self.padding, 0)).unflatten(1, (-1, GROUP_BANDS))
        tokens = torch.cat([self.comp_token.expand(len(rows), -1, -1), self.patch_to_embedding(groups)], dim=1)
        return self.to_latent(self.transformer(tokens + self.pos_embedding))


@register_model("hycot")
def hycot(src_channels: int = 202) -> HyCoT:
    """Build HyCoT at 8.08 bpppc for 202 bands: 51 values for a pixel."""
    return HyCoT(src_channels, latent_channels=51)


@register_model("hycot_4bpppc")
def hycot_4bpppc(src_channels: int = 202) -> HyCoT:
    """Build HyCoT at 4.12 bpppc for 202 bands: 26 values for a pixel."""
    return HyCoT(src_channels, latent_channels=26)


@register_model("hycot_2bpppc")
def hycot_2bpppc(src_channels: int = 202) -> HyCoT:
    """Build HyCoT at 2.06 bpppc for 202 bands: 13 values for a pixel."""
    return HyCoT(src_channels, latent_channels=13)


@register_model("hycot_1bpppc")
def hycot_1bpppc(src_channels: int = 202) -> HyCoT:
    """Build HyCoT at 1.11 bpppc for 202 bands: 7 values for a pixel."""
    return HyCoT(src_channels, latent_channels=7)
