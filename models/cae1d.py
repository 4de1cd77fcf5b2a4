"""1D-CAE, and the same network at lower rates.

J. Kuester, W. Gross, W. Middelmann, "1D-Convolutional Autoencoder Based Hyperspectral Data
Compression", ISPRS Archives XLIII-B1-2021, pp. 15-21, doi 10.5194/isprs-archives-XLIII-B1-2021-15-2021.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain

from compressai.registry import register_model
from torch import Tensor, nn

from models.spectral import SpectralAutoencoder, conv1d, upsample


class CAE1D(SpectralAutoencoder):
    r"""1-D convolutional autoencoder: B blocks that halve the spectrum, two convolutions, mirrored decoder.

    ::

                 ┌──── B times ────┐
        spectrum │conv 11 LReLU max│ conv 9 LReLU conv 7 LReLU ─► y
        1 channel 2^(B+4) ... 64 32           16          1 channel

                                            ┌─ B - 1 times ─┐
        y ─► conv 7 LReLU conv 9 LReLU up x2│conv 11 LReLU up│ conv 11 sigmoid ─► spectrum
                 16           32             64 ... 2^(B+4)      1 channel

    `cae1d` (B = 2) was published with flat `Sequential`s, the lower rates with nested ones. Each loads
    weights with keys of either layout.

    Args:
        src_channels: number of bands.
        halvings: B, from 2 to 5; the rate is 32 * ceil(src_channels / 2^B) / src_channels bpppc.
    """

    def __init__(self, src_channels: int = 202, halvings: int = 2) -> None:
        super().__init__(src_channels, halvings)
        widths = [2 ** (halvings + 4 - i) for i in range(halvings)]  # ..., 64, 32

        down = [
            nn.Sequential(conv1d(before, after, 11), nn.LeakyReLU(inplace=True), nn.MaxPool1d(2))
            for before, after in zip([1, *widths], widths, strict=False)
        ]
        bottleneck = [
            conv1d(32, 16, 9),
            nn.LeakyReLU(inplace=True),
            conv1d(16, 1, 7),
            nn.LeakyReLU(inplace=True),
        ]
        expansion = [
            conv1d(1, 16, 7),
            nn.LeakyReLU(inplace=True),
            conv1d(16, 32, 9),
            nn.LeakyReLU(inplace=True),
            upsample(),
        ]
        up = [
            nn.Sequential(conv1d(width, 2 * width, 11), nn.LeakyReLU(inplace=True), upsample())
            for width in reversed(widths[1:])
        ]
        output = nn.Sequential(conv1d(widths[0], 1, 11), nn.Sigmoid())

        self.flat = halvings == 2
        if self.flat:
            self.encoder = nn.Sequential(*chain(*down), *bottleneck)
            self.decoder = nn.Sequential(*expansion, *chain(*up), *output)
        else:
            self.encoder = nn.Sequential(nn.Sequential(*down), *bottleneck)
            self.decoder = nn.Sequential(*expansion, nn.Sequential(*up, output))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int = 202) -> CAE1D:
        halvings = sum(re.fullmatch(r"encoder\.[\d.]+\.weight", key) is not None for key in state_dict) - 2
        if halvings not in cls.rows_per_chunk:
            raise RuntimeError(f"these weights do not belong to a {cls.__name__}: {halvings + 2} layers in the encoder")
        net = cls(src_channels, halvings)
        net.load_state_dict(state_dict)
        return net

    def translate_keys(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `state_dict` with flat or nested keys, whichever this model has."""
        is_flat = not any(key.startswith("encoder.0.0.") for key in state_dict)
        if is_flat == self.flat:
            return dict(state_dict)
        pairs = self._flat_and_nested()
        names = dict(pairs) if is_flat else {nested: flat for flat, nested in pairs}

        def translate(key: str) -> str:
            layer, _, parameter = key.rpartition(".")
            return f"{names.get(layer, layer)}.{parameter}"

        return {translate(key): tensor for key, tensor in state_dict.items()}

    def _flat_and_nested(self) -> list[tuple[str, str]]:
        """Return the flat and nested names of the convolutions whose names differ."""
        b = self.halvings
        return [
            *((f"encoder.{3 * i}", f"encoder.0.{i}.0") for i in range(b)),
            (f"encoder.{3 * b}", "encoder.1"),
            (f"encoder.{3 * b + 2}", "encoder.3"),
            *((f"decoder.{5 + 3 * i}", f"decoder.5.{i}.0") for i in range(b)),
        ]


@register_model("cae1d")
def cae1d(src_channels: int = 202) -> CAE1D:
    """Build 1D-CAE at 8.08 bpppc: two halvings, 202 bands to 51 values."""
    return CAE1D(src_channels, halvings=2)


@register_model("cae1d_4bpppc")
def cae1d_4bpppc(src_channels: int = 202) -> CAE1D:
    """Build 1D-CAE at 4.12 bpppc: three halvings, 202 bands to 26 values."""
    return CAE1D(src_channels, halvings=3)


@register_model("cae1d_2bpppc")
def cae1d_2bpppc(src_channels: int = 202) -> CAE1D:
    """Build 1D-CAE at 2.06 bpppc: four halvings, 202 bands to 13 values."""
    return CAE1D(src_channels, halvings=4)


@register_model("cae1d_1bpppc")
def cae1d_1bpppc(src_channels: int = 202) -> CAE1D:
    """Build 1D-CAE at 1.11 bpppc: five halvings, 202 bands to 7 values."""
    return CAE1D(src_channels, halvings=5)
