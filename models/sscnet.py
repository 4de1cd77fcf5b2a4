"""SSCNet.

R. La Grassa, C. Re, G. Cremonese, I. Gallo, "Hyperspectral Data Compression Using Fully Convolutional
Autoencoder", Remote Sensing 14 (10), 2472, 2022, doi 10.3390/rs14102472.
"""

from __future__ import annotations

from collections.abc import Mapping

from compressai.registry import register_model
from torch import Tensor, nn

from models.base import HSICompressionModel


class SSCNet(HSICompressionModel):
    r"""Spectral signals compressor network: 2-D convolutions over all bands, space halved three times.

    ::

        x ─► conv 3 (256) ─► conv 3 (256) max ─► conv 3 (256) max ─► conv 3 (512) max ─► conv 3 (L) ─► y
        y ─► tconv 3 (512) ─► tconv 2 x2 (256) ─► tconv 2 x2 (256) ─► tconv 2 x2 (256) ─► tconv 3 (C) ─► sigmoid

    A PReLU with one slope per channel follows every convolution but the last.

    Args:
        src_channels: number of bands C.
        latent_channels: L; the rate is 32 L / (64 C) bpppc.
    """

    pixels_at_once: Mapping[str, int] = {"cpu": 1, "cuda": 16 * 128**2}

    def __init__(self, src_channels: int = 202, latent_channels: int = 1024) -> None:
        super().__init__(src_channels, (latent_channels,), spatial_stride=8)
        self.encoder = nn.Sequential(
            nn.Conv2d(src_channels, 256, 3, padding=1),
            nn.PReLU(256),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.PReLU(256),
            nn.MaxPool2d(2),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.PReLU(256),
            nn.MaxPool2d(2),
            nn.Conv2d(256, 512, 3, padding=1),
            nn.PReLU(512),
            nn.MaxPool2d(2),
            nn.Conv2d(512, latent_channels, 3, padding=1),
            nn.PReLU(latent_channels),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(latent_channels, 512, 3, padding=1),
            nn.PReLU(512),
            nn.ConvTranspose2d(512, 256, 2, stride=2),
            nn.PReLU(256),
            nn.ConvTranspose2d(256, 256, 2, stride=2),
            nn.PReLU(256),
            nn.ConvTranspose2d(256, 256, 2, stride=2),
            nn.PReLU(256),
            nn.ConvTranspose2d(256, src_channels, 3, padding=1),
            nn.Sigmoid(),
        )

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int | None = None) -> SSCNet:
        """Build a model as in the base class; the weights also determine the number of bands.

        Raises:
            ValueError: `src_channels` differs from the number of bands of the weights.
        """
        latent_channels = cls.width_of(state_dict, "encoder.11.weight")
        in_weights = cls.bands_of(state_dict, "encoder.0.weight", src_channels, dim=1)
        net = cls(in_weights, latent_channels)
        net.load_state_dict(state_dict)
        return net


# The widths are those of the published factories. They do not follow from the rate: 815 to 818 all give
# 2.02 bpppc.


@register_model("sscnet_1bpppc")
def sscnet_1bpppc(src_channels: int = 202) -> SSCNet:
    """Build SSCNet at 1.00 bpppc for 202 bands."""
    return SSCNet(src_channels, latent_channels=404)


@register_model("sscnet_2bpppc")
def sscnet_2bpppc(src_channels: int = 202) -> SSCNet:
    """Build SSCNet at 2.02 bpppc for 202 bands."""
    return SSCNet(src_channels, latent_channels=816)


@register_model("sscnet")
def sscnet(src_channels: int = 202) -> SSCNet:
    """Build SSCNet at 2.53 bpppc for 202 bands."""
    return SSCNet(src_channels, latent_channels=1024)


@register_model("sscnet_4bpppc")
def sscnet_4bpppc(src_channels: int = 202) -> SSCNet:
    """Build SSCNet at 4.00 bpppc for 202 bands."""
    return SSCNet(src_channels, latent_channels=1616)


@register_model("sscnet_6bpppc")
def sscnet_6bpppc(src_channels: int = 202) -> SSCNet:
    """Build SSCNet at 6.00 bpppc for 202 bands."""
    return SSCNet(src_channels, latent_channels=2424)


@register_model("sscnet_8bpppc")
def sscnet_8bpppc(src_channels: int = 202) -> SSCNet:
    """Build SSCNet at 8.08 bpppc for 202 bands."""
    return SSCNet(src_channels, latent_channels=3264)
