"""Variational models of this project, which no paper describes: HyCASS's layers with an entropy model.

The entropy models are the factorized prior (Balle et al., ICLR 2018, arXiv 1802.01436) and the mean-scale hyperprior
(Minnen et al., NeurIPS 2018, arXiv 1809.02736), over the planes of the latent.
"""

from __future__ import annotations

import math
from collections.abc import Set
from functools import partial
from typing import Self

from compressai.registry import register_model

from models.hycass import SpectralSpatialModel
from models.latent_codecs import FactorizedLatentCodec, HyperpriorLatentCodec

LATENT_CHANNELS = (32, 64, 128)  # for 0, 1, 2 spatial stages


class VariationalHyCASS(SpectralSpatialModel):
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
        super().__init__(src_channels, channels, stages)
        self.bpppc = self.compression_ratio = math.nan
        self.latent_codec = HyperpriorLatentCodec(channels) if has_hyperprior else FactorizedLatentCodec((channels,))
        if has_hyperprior:  # which sees neighboring pixels
            self.pixelwise, self.chunk_sizes = False, None

    @classmethod
    def of_sizes(cls, src_channels: int, latent_channels: int, stages: int, keys: Set[str]) -> Self:
        return cls(src_channels, min(stages, len(LATENT_CHANNELS) - 1), "latent_codec.log_scales" in keys)


def build(stages: int, has_hyperprior: bool, src_channels: int = 202) -> VariationalHyCASS:
    """Build our variational model with `stages` spatial stages."""
    return VariationalHyCASS(src_channels, stages, has_hyperprior)


for _stages in range(len(LATENT_CHANNELS)):
    register_model(f"ours_factorized_s{_stages}")(partial(build, _stages, False))
    register_model(f"ours_hyperprior_s{_stages}")(partial(build, _stages, True))
