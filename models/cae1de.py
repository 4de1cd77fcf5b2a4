"""1D-CAE-Ext. Architecture NOT confirmed against published code.

J. Kuester et al., SPIE 2022, doi 10.1117/12.2636129.
"""

from __future__ import annotations

from compressai.registry import register_model
from torch import nn

from models.cae1da import TransposedCAE1D


class CAE1DE(TransposedCAE1D):
    """1D-CAE-Ext: hidden activation HardTanh on [-1, 1].

    Neither published code nor a description of it was found. Established is the rate (202 bands to
    51 values); that HardTanh occurs in it is inferred from the benchmark paper's list of acronyms
    (arXiv 2306.00385), where no other model uses it. All else is taken over from 1D-CAE-Adv.
    """

    def __init__(self, src_channels: int = 202):
        super().__init__(src_channels, nn.Hardtanh)


@register_model("cae1de")
@register_model("cae1de_8bpppc")
def cae1de(src_channels: int = 202) -> CAE1DE:
    """1D-CAE-Ext at 8.08 bpppc. Architecture not confirmed against published code."""
    return CAE1DE(src_channels)
