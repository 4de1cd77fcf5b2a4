"""3D-CAE.

Y. Chong, L. Chen, S. Pan, "End-to-end joint spectral-spatial compression and reconstruction of
hyperspectral images using a 3D convolutional autoencoder", Journal of Electronic Imaging 30 (4),
041403, 2021, doi 10.1117/1.JEI.30.4.041403.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.nn.functional as F
from compressai.registry import register_model
from torch import Tensor, nn

from models.base import HSICompressionModel
from models.fused import fast_layers

Size = int | tuple[int, int, int]


class ResidualBlock3D(nn.Module):
    """Residual block: x + two 3 x 3 x 3 convolutions with batch norm, leaky ReLU after the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.BatchNorm3d(channels),
            nn.LeakyReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.BatchNorm3d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, bands, rows, columns) to the same shape."""
        return F.leaky_relu(fast_layers(self.block)(x) + x, inplace=True)


class CAE3D(HSICompressionModel):
    r"""3-D convolutional autoencoder: bands and space together, batch norm throughout.

    ::

        x (N, C, H, W) ─► zeros before band 1, to a multiple of 4 ─► (N, 1, bands, H, W)
          ─► conv (16) /(1,2,2) ─► conv 5 (32) /2 ─► 3 residual blocks ─► conv 5 (L) /2 ─► y (N, L, C/4, H/8, W/8)

        y ─► up (2,4,4) conv 5 (32) /2 ─► 3 residual blocks ─► up (4,2,2) conv (16) /(2,1,1)
          ─► up (4,2,2) conv (1) /(2,1,1) ─► padding cut ─► x_hat (N, C, H, W)

    Batch norm and leaky ReLU follow every convolution, including the last one, so reconstructions can leave
    [0, 1].

    Args:
        src_channels: number of bands C.
        latent_channels: L; the rate is 32 L ceil(C / 4) / (64 C) bpppc.
    """

    def __init__(self, src_channels: int = 202, latent_channels: int = 16) -> None:
        latent_bands = math.ceil(src_channels / 4)
        super().__init__(src_channels, (latent_channels, latent_bands), spatial_stride=8)
        self.padding = 4 * latent_bands - src_channels
        self.encoder = nn.Sequential(
            *_convolution(1, 16, kernel_size=(2, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2)),
            *_convolution(16, 32, kernel_size=5, stride=2, padding=2),
            *(ResidualBlock3D(32) for _ in range(3)),
            *_convolution(32, latent_channels, kernel_size=5, stride=2, padding=2),
        )
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=(2, 4, 4), mode="nearest"),
            *_convolution(latent_channels, 32, kernel_size=5, stride=2, padding=2),
            *(ResidualBlock3D(32) for _ in range(3)),
            nn.Upsample(scale_factor=(4, 2, 2), mode="nearest"),
            *_convolution(32, 16, kernel_size=(5, 3, 3), stride=(2, 1, 1), padding=(2, 1, 1)),
            nn.Upsample(scale_factor=(4, 2, 2), mode="nearest"),
            *_convolution(16, 1, kernel_size=(2, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1)),
        )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int = 202) -> CAE3D:
        net = cls(src_channels, cls.width_of(state_dict, "encoder.9.weight"))
        net.load_state_dict(state_dict)
        return net

    def _encode(self, x: Tensor) -> Tensor:
        encoder = fast_layers(self.encoder)
        return self._map_images(lambda part: encoder(F.pad(part, (0, 0, 0, 0, self.padding, 0)).unsqueeze(1)), x)

    def _decode(self, y: Tensor) -> Tensor:
        decoder = fast_layers(self.decoder)
        return self._map_images(lambda part: decoder(part).squeeze(1)[:, self.padding :], y, self.size_multiple)


def _convolution(
    in_channels: int, out_channels: int, kernel_size: Size, stride: Size, padding: Size
) -> tuple[nn.Module, ...]:
    return (
        nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding),
        nn.BatchNorm3d(out_channels),
        nn.LeakyReLU(inplace=True),
    )


@register_model("cae3d_1bpppc")
def cae3d_1bpppc(src_channels: int = 202) -> CAE3D:
    """Build 3D-CAE at 1.01 bpppc."""
    return CAE3D(src_channels, latent_channels=8)


@register_model("cae3d")
def cae3d(src_channels: int = 202) -> CAE3D:
    """Build 3D-CAE at 2.02 bpppc."""
    return CAE3D(src_channels, latent_channels=16)


@register_model("cae3d_4bpppc")
def cae3d_4bpppc(src_channels: int = 202) -> CAE3D:
    """Build 3D-CAE at 4.04 bpppc."""
    return CAE3D(src_channels, latent_channels=32)


@register_model("cae3d_8bpppc")
def cae3d_8bpppc(src_channels: int = 202) -> CAE3D:
    """Build 3D-CAE at 8.08 bpppc."""
    return CAE3D(src_channels, latent_channels=64)
