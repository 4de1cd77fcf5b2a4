"""Training losses, `criterion(x_hat, x)` -> scalar, for (N, C, H, W) tensors in [0, 1].

Every loss is a mean over images, so the loss of a batch is the mean of its shards weighted by their
sizes: training on several devices minimizes the same loss as training on one. Losses are computed in float32
or better, even if the model ran in half precision under autocast. Tensors of different shapes raise `ValueError`.

A loss with `pixelwise = True` is also a mean over pixels: its value is the mean over parts of the pixels,
weighted by their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.metrics import at_least_float32, batch_ssim


class MeanSquaredError(nn.Module):
    """Mean squared error over all images, bands and pixels."""

    pixelwise = True

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return F.mse_loss(*_comparable(x_hat, x))


class MeanAbsoluteError(nn.Module):
    """Mean absolute error over all images, bands and pixels."""

    pixelwise = True

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return F.l1_loss(*_comparable(x_hat, x))


class SpectralAngle(nn.Module):
    """Mean over all pixels of the angle between the two spectra, in radians, in [0, pi].

    The angle is 2 atan2(|u - v|, |u + v|), where u and v are the spectra scaled to length 1. Its gradient
    stays finite as the angle goes to 0; the gradient of the arc cosine does not.

    A spectrum shorter than `MIN_NORM` is divided by `MIN_NORM` instead of its length, because the gradient of
    its direction would be unbounded. A pixel counts 0 if both spectra are zero, pi / 2 if one of them is.

    Kruse et al., "The spectral image processing system (SIPS)", Remote Sensing of Environment 44(2-3),
    1993, doi 10.1016/0034-4257(93)90013-N.
    """

    pixelwise = True
    MIN_NORM = 1e-4  # one digital number of EnMAP: no spectrum of the data but zero is shorter

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        x_hat, x = _comparable(x_hat, x)
        u, v = F.normalize(x_hat, dim=1, eps=self.MIN_NORM), F.normalize(x, dim=1, eps=self.MIN_NORM)
        difference = torch.linalg.vector_norm(u - v, dim=1)
        total = torch.linalg.vector_norm(u + v, dim=1)
        # Both spectra are almost zero: the gradient of atan2 is NaN at (0, 0) and unbounded around it.
        total = total.masked_fill(difference + total < 1e-6, 1)
        return 2 * torch.atan2(difference, total).mean()


class StructuralDissimilarity(nn.Module):
    """1 - SSIM, mean over images and bands, in [0, 2]; see `utils.metrics.ssim` for its parameters.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004, doi 10.1109/TIP.2003.819861.

    Raises:
        ValueError: height or width is under `utils.metrics.SSIM_MIN_SIZE`.
    """

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        return 1 - batch_ssim(x_hat, x).mean()


class RateDistortion(nn.Module):
    """Estimated bits per value + lambda * distortion, as in CompressAI's `RateDistortionLoss`.

    A mean squared error counts 255^2 times, so that lambda means what it means for 8-bit images.

    Args:
        distortion: one of `losses`.
        lmbda: lambda, weight of the distortion.
    """

    def __init__(self, distortion: nn.Module, lmbda: float) -> None:
        super().__init__()
        self.distortion = distortion
        self.factor = lmbda * (255**2 if isinstance(distortion, MeanSquaredError) else 1)
        self.pixelwise = getattr(distortion, "pixelwise", False)

    def forward(self, x_hat: Tensor, x: Tensor, bpppc: Tensor) -> Tensor:
        return bpppc + self.factor * self.distortion(x_hat, x)


def estimated_bpppc(likelihoods: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the bits per value of images `x` by which likelihoods, as a model returns them, estimate the rate."""
    bits = [-likelihood.log2().sum() for likelihood in likelihoods.values()]
    return torch.stack(bits).sum() / x.numel() if bits else x.new_zeros(())


losses: dict[str, type[nn.Module]] = {
    "mse": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "sa": SpectralAngle,
    "ssim": StructuralDissimilarity,
}


def _comparable(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    if x_hat.shape != x.shape:  # torch would broadcast, and minimize another loss
        raise ValueError(f"x_hat and x must have the same shape, got {tuple(x_hat.shape)} and {tuple(x.shape)}")
    return at_least_float32(x_hat, x)
