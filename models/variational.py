"""Variational models of this project, which no paper describes: HyCASS's layers with an entropy model.

The entropy models are the factorized prior (Balle et al., ICLR 2018, arXiv 1802.01436) and the mean-scale hyperprior
(Minnen et al., NeurIPS 2018, arXiv 1809.02736), over the planes of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from compressai.registry import register_model
from torch import Tensor

from models.base import HSICompressionModel
from models.hycass import PATCH_SIZE, spectral_decoder, spectral_encoder
from models.latent_codecs import FactorizedLatentCodec, HyperpriorLatentCodec

LATENT_CHANNELS = (32, 64, 128)  # for 0, 1, 2 spatial stages


class VariationalHyCASS(HSICompressionModel):
    r"""Ours: encoder and decoder of HyCASS with S stages, without the encoder's sigmoid, and an entropy model.

    ::

        x ─► encoder ─► y (N, L, H / 2^S, W / 2^S) ─► / step, round, range coder ─► y_hat ─► decoder ─► x_hat

    The rate depends on the image and on the training's lambda, so `bpppc` and `compression_ratio` are NaN.

    Args:
        src_channels: number of bands.
        stages: S, from 0 to 2.
        has_hyperprior: whether means and scales of the latents are coded as well; else the prior is factorized.
    """

    def __init__(self, src_channels: int = 202, stages: int = 0, has_hyperprior: bool = False) -> None:
        channels = LATENT_CHANNELS[stages]
        super().__init__(src_channels, (channels,), spatial_stride=2**stages)
        self.bpppc = self.compression_ratio = math.nan
        self.pixelwise = stages == 0 and not has_hyperprior
        if self.pixelwise:
            self.chunk_sizes = {"cpu": 1024, "cuda": 4 * PATCH_SIZE**2}
        self.encoder = spectral_encoder(src_channels, channels, stages)
        self.decoder = spectral_decoder(src_channels, channels, stages)
        self.latent_codec = HyperpriorLatentCodec(channels) if has_hyperprior else FactorizedLatentCodec((channels,))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int | None = None) -> VariationalHyCASS:
        """Build a model as in the base class; the weights also determine the number of bands and stages.

        Raises:
            ValueError: `src_channels` differs from the number of bands of the weights.
        """
        in_weights = cls.bands_of(state_dict, "encoder.0.weight", src_channels, dim=1)
        channels = cls.width_of(state_dict, "encoder.3.weight")
        stages = LATENT_CHANNELS.index(channels) if channels in LATENT_CHANNELS else 0
        net = cls(in_weights, stages, "latent_codec.log_scales" in state_dict)
        net.load_state_dict(state_dict)
        return net


def build(stages: int, has_hyperprior: bool, src_channels: int = 202) -> VariationalHyCASS:
    """Build our variational model with `stages` spatial stages."""
    return VariationalHyCASS(src_channels, stages, has_hyperprior)


for _stages in range(len(LATENT_CHANNELS)):
    register_model(f"ours_factorized_s{_stages}")(partial(build, _stages, False))
    register_model(f"ours_hyperprior_s{_stages}")(partial(build, _stages, True))
