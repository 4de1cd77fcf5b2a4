"""HyCASS.

M. H. P. Fuchs, B. Rasti, B. Demir, "Adjustable Spatio-Spectral Hyperspectral Image Compression Network", IEEE Journal
of Selected Topics in Applied Earth Observations and Remote Sensing 2025, doi 10.1109/JSTARS.2025.3624884, arXiv
2507.23447.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import partial
from typing import Self

from compressai.registry import register_model
from torch import Tensor, nn

from models import HYCASS_NAMES
from models.base import HSICompressionModel
from models.swin import ResidualSwin

PATCH_SIZE = 128  # pixels in height and width of the patches of the published training
SPECTRAL_WIDTH, SPATIAL_WIDTH = 1024, 128  # channels between the layers, without and with spatial stages
DEPTHS = (2, 4, 6, 2)  # blocks of each spatial stage
HEADS = (4, 8, 16, 16)
MAX_DROP = 0.2
NUM_DROPS = 16  # the published rates of stochastic depth count two blocks more than the stages have

RATIOS: Mapping[str, tuple[float, ...]] = {
    "cr004": (4, 3.96, 3.968, 3.966),
    "cr008": (7.7692,) * 4,
    "cr016": (15.538,) * 4,
    "cr032": (28.857,) * 4,
    "cr050": (50.5,) * 4,
    "cr101": (101,) * 4,
    "cr202": (202,) * 4,
    "cr404": (404,) * 4,
}
"""Compression ratios that the names aim at, by number of spatial stages."""


def spectral_encoder(src_channels: int, latent_channels: int, stages: int) -> nn.Sequential:
    """Make the encoder without its last activation: 1 x 1 layers around stages that halve height and width."""
    width = SPATIAL_WIDTH if stages else SPECTRAL_WIDTH
    return nn.Sequential(
        nn.Conv2d(src_channels, width, 1),
        nn.LeakyReLU(),
        nn.Sequential(*map(_halving, range(stages))),
        nn.Conv2d(width, latent_channels, 1),
    )


def spectral_decoder(src_channels: int, latent_channels: int, stages: int) -> nn.Sequential:
    """Make the decoder: 1 x 1 layers around stages that double height and width; the output is in (0, 1)."""
    width = SPATIAL_WIDTH if stages else SPECTRAL_WIDTH
    return nn.Sequential(
        nn.Conv2d(latent_channels, width, 1),
        nn.LeakyReLU(),
        nn.Sequential(*map(_doubling, reversed(range(stages)))),
        nn.Conv2d(width, src_channels, 1),
        nn.Sigmoid(),
    )


def _halving(stage: int) -> nn.Sequential:
    convolution = nn.Conv2d(SPATIAL_WIDTH, SPATIAL_WIDTH, 3, stride=2, padding=1)
    return nn.Sequential(_attention(stage), convolution, nn.LeakyReLU())


def _doubling(stage: int) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(SPATIAL_WIDTH, SPATIAL_WIDTH, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(convolution, nn.LeakyReLU(), _attention(stage))


def _attention(stage: int) -> ResidualSwin:
    first = sum(DEPTHS[:stage])
    drops = [MAX_DROP * block / (NUM_DROPS - 1) for block in range(first, first + DEPTHS[stage])]
    return ResidualSwin(SPATIAL_WIDTH, HEADS[stage], drops, PATCH_SIZE >> stage)


class SpectralSpatialModel(HSICompressionModel):
    """Spectral 1 x 1 layers around S spatial stages of windowed attention and strided convolution.

    The layers have 128 channels, or 1024 for S = 0, which is a perceptron of each pixel. Maps that are no multiples
    of the attention's window (8 x 8) are padded there, and cut again.

    Args:
        src_channels: number of bands C.
        latent_channels: L.
        stages: S, from 0 to 3.
    """

    def __init__(self, src_channels: int, latent_channels: int, stages: int) -> None:
        if not 0 <= stages <= len(DEPTHS) - 1:
            raise ValueError(f"stages must be from 0 to {len(DEPTHS) - 1}, got {stages}")
        super().__init__(src_channels, (latent_channels,), spatial_stride=2**stages)
        self.pixelwise = stages == 0
        if self.pixelwise:
            self.chunk_sizes = {"cpu": 1024, "cuda": 4 * PATCH_SIZE**2}
        self.encoder = spectral_encoder(src_channels, latent_channels, stages)
        self.decoder = spectral_decoder(src_channels, latent_channels, stages)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int | None = None) -> Self:
        """Build a model as in the base class; the weights also determine the number of bands and stages.

        Raises:
            ValueError: `src_channels` differs from the number of bands of the weights.
        """
        in_weights = cls.bands_of(state_dict, "encoder.0.weight", src_channels, dim=1)
        latent_channels = cls.width_of(state_dict, "encoder.3.weight")
        stages = sum(f"encoder.2.{stage}.1.weight" in state_dict for stage in range(len(DEPTHS)))
        net = cls.of_sizes(in_weights, latent_channels, stages, state_dict.keys())
        net.load_state_dict(state_dict)
        return net

    @classmethod
    def of_sizes(cls, src_channels: int, latent_channels: int, stages: int, keys: Set[str]) -> Self:
        """Build a model with fresh weights; `keys` are those of the weights that it will load."""
        raise NotImplementedError


class HyCASS(SpectralSpatialModel):
    r"""The published autoencoder.

    ::

                           ┌──── S times ────┐
        x ─► conv 1 LReLU ─│ Swin conv 3 LReLU /2 │─► conv 1 sigmoid ─► y (N, L, H / 2^S, W / 2^S)
        y ─► conv 1 LReLU ─│ x2 tconv 3 LReLU Swin │─► conv 1 sigmoid ─► x_hat
                           └──── S times ────┘

    Args:
        src_channels: number of bands C.
        latent_channels: L; the rate is 32 L / (4^S C) bpppc.
        stages: S, from 0 to 3.
    """

    def __init__(self, src_channels: int = 202, latent_channels: int = 50, stages: int = 0) -> None:
        super().__init__(src_channels, latent_channels, stages)
        self.encoder.append(nn.Sigmoid())

    @classmethod
    def of_sizes(cls, src_channels: int, latent_channels: int, stages: int, keys: Set[str]) -> Self:
        return cls(src_channels, latent_channels, stages)


def latent_channels(ratio: str, stages: int, src_channels: int) -> int:
    """Return L = floor(C / CR * 4^S) for the compression ratio CR that a name aims at.

    Args:
        ratio: a key of `RATIOS`.
        stages: S.
        src_channels: number of bands C.

    Raises:
        ValueError: there are too few bands for this ratio.
    """
    count = int(src_channels / RATIOS[ratio][stages] * 4**stages)
    if not count:
        raise ValueError(f"hycass_{ratio}_s{stages} needs more than {src_channels} bands: take a lower ratio")
    return count


def build(ratio: str, stages: int, src_channels: int = 202) -> HyCASS:
    """Build HyCASS for a compression ratio, one of `RATIOS`, with `stages` spatial stages."""
    return HyCASS(src_channels, latent_channels(ratio, stages, src_channels), stages)


for _name in HYCASS_NAMES:
    _, _ratio, _stages = _name.split("_")
    register_model(_name)(partial(build, _ratio, int(_stages[1:])))
