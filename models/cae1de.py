"""1D-CAE-Ext. Architecture NOT confirmed against published code.

J. Kuester et al., SPIE 2022, doi 10.1117/12.2636129.
"""

from __future__ import annotations

from compressai.registry import register_model
from torch import nn

from models.cae1da import TransposedCAE1D


class CAE1DE(TransposedCAE1D):
    """1D-CAE-Ext: the hidden activation is HardTanh on [-1, 1].

    Neither published code nor a description was found. Only the rate (202 bands to 51 values) is known. HardTanh
    is inferred from the list of acronyms of the benchmark paper (arXiv 2306.00385), in which no other model uses
    it. The rest is taken from 1D-CAE-Adv.

    Args:
        src_channels: number of bands.
    """

    @staticmethod
    def activation() -> nn.Module:
        return nn.Hardtanh()


@register_model("cae1de")
def cae1de(src_channels: int = 202) -> CAE1DE:
    """Build 1D-CAE-Ext at 8.08 bpppc. Architecture not confirmed against published code."""
    return CAE1DE(src_channels)
