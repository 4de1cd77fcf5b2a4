"""1D-CAE-Adv. Architecture NOT confirmed against published code.

J. Kuester, W. Gross, S. Schreiner, M. Heizmann, W. Middelmann, "Transferability of Convolutional
Autoencoder Model for Lossy Compression to Unknown Hyperspectral PRISMA Data", WHISPERS 2022,
doi 10.1109/WHISPERS56178.2022.9955109.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from compressai.registry import register_model
from torch import Tensor, nn

from models.spectral import SpectralAutoencoder, conv1d


class TransposedCAE1D(SpectralAutoencoder):
    r"""1-D autoencoder with the encoder of 1D-CAE and transposed convolutions for up-sampling.

    ::

        spectrum ─► conv 11 (64) act max ─► conv 11 (32) act max ─► conv 9 (16) act ─► conv 7 (1) act ─► y
        y ─► conv 7 (16) act ─► conv 9 (32) act ─► tconv 11 x2 (64) act ─► tconv 11 x2 (1) ─► sigmoid ─► spectrum

    Args:
        src_channels: number of bands.
    """

    verified = False

    def __init__(self, src_channels: int = 202) -> None:
        super().__init__(src_channels, halvings=2)
        activation = self.activation
        self.encoder = nn.Sequential(
            conv1d(1, 64, 11),
            activation(),
            nn.MaxPool1d(2),
            conv1d(64, 32, 11),
            activation(),
            nn.MaxPool1d(2),
            conv1d(32, 16, 9),
            activation(),
            conv1d(16, 1, 7),
            activation(),
        )
        self.decoder = nn.Sequential(
            conv1d(1, 16, 7),
            activation(),
            conv1d(16, 32, 9),
            activation(),
            _upsampling_conv1d(32, 64),
            activation(),
            _upsampling_conv1d(64, 1),
            nn.Sigmoid(),
        )

    @staticmethod
    @abstractmethod
    def activation() -> nn.Module:
        """Return a new activation for a hidden layer."""

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int = 202) -> Self:
        net = cls(src_channels)
        net.load_state_dict(state_dict)
        return net


def _upsampling_conv1d(in_channels: int, out_channels: int) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(in_channels, out_channels, 11, stride=2, padding=5, output_padding=1)


class CAE1DA(TransposedCAE1D):
    """1D-CAE-Adv: the hidden activation is leaky ReLU.

    No published code was found. The rate (202 bands to 51 values) is known. A third party's description gives
    the encoder of 1D-CAE and a symmetric decoder with stride-2 transposed convolutions instead of convolution
    and up-sampling. Kernel sizes, paddings and activations are guesses.

    Args:
        src_channels: number of bands.
    """

    @staticmethod
    def activation() -> nn.Module:
        return nn.LeakyReLU(inplace=True)


@register_model("cae1da")
def cae1da(src_channels: int = 202) -> CAE1DA:
    """Build 1D-CAE-Adv at 8.08 bpppc. Architecture not confirmed against published code."""
    return CAE1DA(src_channels)
