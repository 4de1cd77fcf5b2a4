"""A variational model of this project, which no paper describes: a learned Karhunen-Loeve transform, one plane codec.

Near to it is SORTENY (S. Mijares i Verdu et al., "A Scalable Reduced-Complexity Compression of Hyperspectral Remote
Sensing Images Using Deep Learning", Remote Sensing 15 (18), 4422, 2023, doi 10.3390/rs15184422).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from compressai.registry import register_model
from scipy import fft
from torch import Tensor, nn

from models.base import HSICompressionModel
from models.latent_codecs import HyperpriorLatentCodec

MAX_COMPONENTS = 128
BLOCK = 8  # pixels between the coefficients of a plane; each depends on twice as many
FILTER_WIDTH = 16  # channels of the filter after decoding
HYPER_CHANNELS = 16
ORTHOGONALITY = 1.0  # weight of the penalty
# Unit of the weights of the transforms, which start well: Adam changes all weights by about the same amount, and with
# the unit of other layers it would undo them in its first steps.
UNIT = 0.1


class LearnedKLT(HSICompressionModel):
    r"""Ours: an orthogonal transform of the bands, and one codec of planes for all of its components.

    ::

        x - mean ─► W^T ─► components, planes of their own ─► * gain ─► lapped transform (64 coefficients, /8) ─► y
        y ─► inverse lapped transform ─► + conv 3 LReLU conv 3 ─► / gain ─► W ─► + mean ─► x_hat

    `start_from` sets W and mean to the Karhunen-Loeve transform of training images. The lapped transform starts as the
    cosine transform of 8 x 8 blocks, the filter behind it as zero: training starts from a transform codec. The loss has
    a penalty on the departure of W from orthogonal columns, by which its transpose stays its inverse.

    Latents are (N, components, 64, H / 8, W / 8); the planes share transforms and hyperprior. The rate depends on the
    image and on the training's lambda, so `bpppc` and `compression_ratio` are NaN.

    Args:
        src_channels: number of bands C; at most `MAX_COMPONENTS` components are coded.
    """

    def __init__(self, src_channels: int = 202) -> None:
        components = min(src_channels, MAX_COMPONENTS)
        super().__init__(src_channels, (components, BLOCK**2), spatial_stride=BLOCK)
        self.bpppc = self.compression_ratio = math.nan
        self.mean = nn.Parameter(torch.zeros(src_channels))
        self.transform = nn.Parameter(nn.init.orthogonal_(torch.empty(src_channels, components)) / UNIT)
        self.log_gains = nn.Parameter(torch.zeros(components))
        cosines = lapped_cosines() / UNIT
        self.analysis = nn.Conv2d(1, BLOCK**2, 2 * BLOCK, stride=BLOCK, padding=BLOCK // 2, bias=False)
        self.synthesis = nn.ConvTranspose2d(BLOCK**2, 1, 2 * BLOCK, stride=BLOCK, padding=BLOCK // 2, bias=False)
        self.filter = nn.Sequential(
            nn.Conv2d(1, FILTER_WIDTH, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(FILTER_WIDTH, 1, 3, padding=1)
        )
        with torch.no_grad():
            self.analysis.weight.copy_(cosines)
            self.synthesis.weight.copy_(cosines)
            for parameter in self.filter[-1].parameters():
                parameter.zero_()
        self.latent_codec = HyperpriorLatentCodec(BLOCK**2, planes=components, hyper_channels=HYPER_CHANNELS)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], src_channels: int | None = None) -> LearnedKLT:
        """Build a model as in the base class; the weights also determine the number of bands.

        Raises:
            ValueError: `src_channels` differs from the number of bands of the weights.
        """
        net = cls(cls.bands_of(state_dict, "transform", src_channels))
        net.load_state_dict(state_dict)
        return net

    @torch.no_grad()
    def start_from(self, images: Iterable[Tensor]) -> bool:
        """Set mean and transform to the Karhunen-Loeve transform of images (C, H, W)."""
        count, total = 0, np.zeros(self.src_channels)
        products = np.zeros((self.src_channels, self.src_channels))
        for image in images:
            pixels = image.double().flatten(1).cpu().numpy()
            count += pixels.shape[1]
            total += pixels.sum(axis=1)
            products += pixels @ pixels.T
        mean = total / count
        _, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
        self.mean.copy_(torch.from_numpy(mean))
        self.transform.copy_(torch.from_numpy(vectors[:, ::-1][:, : len(self.log_gains)] / UNIT))
        return True

    def encoder_parameters(self) -> list[nn.Parameter]:
        return [self.mean, self.transform, self.log_gains, *self.analysis.parameters()]

    def forward(self, x: Tensor) -> dict:
        """Reconstruct images as in the base class; `penalty` is a scalar that the loss adds."""
        gram = UNIT**2 * (self.transform.t() @ self.transform)
        penalty = (gram - torch.eye(len(gram), device=gram.device)).square().sum()
        return {**super().forward(x), "penalty": ORTHOGONALITY * penalty}

    def _encode(self, x: Tensor) -> Tensor:
        return self._map_images(self._encode_part, x)

    def _decode(self, y: Tensor) -> Tensor:
        return self._map_images(self._decode_part, y, self.size_multiple)

    # In float32 under autocast as well: half precision rounds reflectances by more than the errors of this model.

    def _encode_part(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weights = UNIT * self.transform * torch.exp(self.log_gains)
            components = torch.einsum("nchw,ck->nkhw", x - self.mean[:, None, None], weights)
            y = UNIT * self.analysis(components.flatten(0, 1).unsqueeze(1))
            return y.unflatten(0, components.shape[:2])

    def _decode_part(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            planes = UNIT * self.synthesis(y.flatten(0, 1))
            components = (planes + UNIT * self.filter(planes))[:, 0].unflatten(0, y.shape[:2])
            weights = UNIT * self.transform * torch.exp(-self.log_gains)
            return torch.einsum("nkhw,ck->nchw", components, weights) + self.mean[:, None, None]


def lapped_cosines() -> Tensor:
    """Return the cosine transform of blocks as a lapped one, whose outer half is zero: (64, 1, 16, 16)."""
    cosines = torch.from_numpy(fft.dct(np.eye(BLOCK), norm="ortho", axis=0))
    blocks = torch.einsum("ux,vy->uvxy", cosines, cosines).reshape(-1, 1, BLOCK, BLOCK)
    return F.pad(blocks, (BLOCK // 2,) * 4)


@register_model("ours_klt")
def ours_klt(src_channels: int = 202) -> LearnedKLT:
    """Build our model with a learned Karhunen-Loeve transform."""
    return LearnedKLT(src_channels)
