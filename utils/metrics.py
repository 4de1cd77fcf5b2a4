"""Image quality, one value per image: MSE, PSNR, SSIM and the spectral angle.

A metric takes the reconstruction `x_hat` and the original `x`, both (N, C, H, W) in [0, 1], and returns
a float64 tensor (N,) on their device. The caller averages over a data set: unlike a PSNR of pooled errors, a mean of
per-image values does not depend on the batch size or the number of devices.

Half precision is converted to float32 first, so that no metric adds rounding of its own. The arithmetic is float64
(SSIM on a CPU: float32 unless an input is float64). Images are computed one by one, because a
float64 copy of a whole batch may not fit into memory. NaN and infinity in an input give NaN or infinity.

All metrics raise `ValueError` for tensors that differ in shape, are empty, or have the wrong number of dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytorch_msssim
import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_MIN_SIZE = 11
"""Side of the Gaussian window of SSIM in pixels. Images are not padded, so smaller ones have no SSIM."""


def mse(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the mean squared error of each image over its bands and pixels."""
    return _per_image(_image_mse, x_hat, x)


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, peak 1.0; infinite for identical images."""
    return psnr_from_mse(mse(x_hat, x))


def psnr_from_mse(mse: Tensor) -> Tensor:
    """Return the PSNR in dB for peak 1.0, -10 log10(MSE), elementwise; infinite for an error of 0."""
    return -10 * torch.log10(mse)


def psnr_per_band(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the PSNR in dB of each band of one image (C, H, W): float64 (C,), infinite for an exact band."""
    _check_pair(x_hat, x, dimensions=3)
    return psnr_from_mse(torch.stack([_image_mse(a, b) for a, b in zip(x_hat, x, strict=True)]))


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the structural similarity of each image, at most 1: the mean of the SSIM of its bands.

    Gaussian window of 11 x 11 pixels with sigma 1.5, K = (0.01, 0.03), data range 1, no padding.
    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
    Transactions on Image Processing 13(4), 2004, doi 10.1109/TIP.2003.819861.

    Raises:
        ValueError: height or width is under `SSIM_MIN_SIZE`.
    """
    return _per_image(_image_ssim, x_hat, x)


def spectral_angle(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the angle between original and reconstructed spectrum in degrees, the mean over pixels of each image.

    For unit vectors u and v the angle is 2 atan2(|u - v|, |u + v|), which is exact at every angle. The usual arc
    cosine loses half of the digits near 0 and is undefined if rounding lifts the cosine over 1. A pixel that is
    zero in both images counts 0 degrees, one that is zero in one of them 90.

    Kruse et al., "The spectral image processing system (SIPS)", Remote Sensing of Environment 44(2-3),
    1993, doi 10.1016/0034-4257(93)90013-N; the formula: W. Kahan, "How futile are mindless assessments
    of roundoff in floating-point computation?", 2006, section 12.
    """
    return _per_image(_image_spectral_angle, x_hat, x)


def image_metrics(x_hat: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Return all metrics: `mse`, `psnr` (dB), `sa` (degrees) and, if both sides reach `SSIM_MIN_SIZE`, `ssim`."""
    error = mse(x_hat, x)
    metrics = {"mse": error, "psnr": psnr_from_mse(error)}
    if min(x.shape[-2:]) >= SSIM_MIN_SIZE:
        metrics["ssim"] = ssim(x_hat, x)
    metrics["sa"] = spectral_angle(x_hat, x)
    return metrics


def valid_metrics(x_hat: Tensor, x: Tensor, valid: Tensor) -> dict[str, float | None]:
    """Return `mse`, `psnr` (dB), `ssim` and `sa` (degrees) of the valid samples of one image.

    Without gaps they equal those of `image_metrics`. SSIM is averaged over windows without gaps and is None if there
    are none. The spectral angle compares the valid bands of each pixel that has any.

    Args:
        x_hat: reconstruction (C, H, W).
        x: original (C, H, W).
        valid: bool (C, H, W), False for samples without data.

    Raises:
        ValueError: the shapes differ, or no sample is valid.
    """
    _check_pair(x_hat, x, dimensions=3)
    if valid.shape != x.shape or not valid.any():
        raise ValueError(f"valid must be {tuple(x.shape)} and not all False, got {tuple(valid.shape)}")
    if valid.all():
        metrics = {key: float(value) for key, value in image_metrics(x_hat[None], x[None]).items()}
        return {"ssim": None, **metrics}
    x_hat, x = (torch.where(valid, image, 0) for image in at_least_float32(x_hat, x))
    error = (x_hat.double() - x.double()).square().sum() / valid.sum()
    used = valid.any(dim=0)
    angle = _image_spectral_angle(x_hat[:, None, used], x[:, None, used])
    similarity = _valid_ssim(x_hat, x, valid)
    return {"mse": float(error), "psnr": float(psnr_from_mse(error)), "ssim": similarity, "sa": float(angle)}


def _valid_ssim(x_hat: Tensor, x: Tensor, valid: Tensor) -> float | None:
    """Return the mean of `ssim` over windows without a gap, over bands that have such windows."""
    if min(x.shape[1:]) < SSIM_MIN_SIZE:
        return None
    (taps,) = _ssim_window(1, x.device)[0, 0].double()
    values = []
    for a, b, mask in zip(x_hat.double(), x.double(), valid, strict=True):
        is_whole = F.max_pool2d((~mask).double()[None, None], SSIM_MIN_SIZE, 1)[0, 0] == 0
        if is_whole.any():
            values.append(_ssim_map(a, b, taps)[is_whole].mean())
    return float(torch.stack(values).mean()) if values else None


def _ssim_map(a: Tensor, b: Tensor, taps: Tensor) -> Tensor:
    """Return the SSIM of every window of two bands (H, W) by Wang's formula, see `ssim`."""
    planes = torch.stack([a, b, a * a, b * b, a * b])[:, None]
    for kernel in (taps[:, None], taps[None, :]):
        planes = F.conv2d(planes, kernel[None, None])
    mean_a, mean_b, square_a, square_b, product = planes[:, 0]
    first, second = 0.01**2, 0.03**2
    variances = square_a + square_b - mean_a**2 - mean_b**2
    luminance = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
    return luminance * (2 * (product - mean_a * mean_b) + second) / (variances + second)


def batch_ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return `ssim` of a whole batch at once, with gradients, for the loss: (N,) in float32 or float64.

    Raises:
        ValueError: height or width is under `SSIM_MIN_SIZE`.
    """
    _check_pair(x_hat, x, dimensions=4)
    height, width = x.shape[-2:]
    if min(height, width) < SSIM_MIN_SIZE:
        raise ValueError(f"for SSIM, height and width must be at least {SSIM_MIN_SIZE} pixels, got {height} x {width}")
    x_hat, x = at_least_float32(x_hat, x)
    window = _ssim_window(x.shape[1], x.device)
    with torch.autocast(x.device.type, enabled=False):  # it would run the convolutions in half precision
        return pytorch_msssim.ssim(x_hat, x, data_range=1.0, size_average=False, win=window)


def at_least_float32(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both tensors to their common type, at least float32, without a copy if they have it."""
    dtype = torch.promote_types(torch.promote_types(x_hat.dtype, x.dtype), torch.float32)
    return x_hat.to(dtype), x.to(dtype)


def _per_image(metric: Callable[[Tensor, Tensor], Tensor], x_hat: Tensor, x: Tensor) -> Tensor:
    _check_pair(x_hat, x, dimensions=4)
    with torch.no_grad():
        return torch.stack([metric(a, b).double() for a, b in zip(x_hat, x, strict=True)])


def _check_pair(x_hat: Tensor, x: Tensor, dimensions: int) -> None:
    # PyTorch would broadcast (N, 1, H, W) against (N, C, H, W) and return a number.
    if x_hat.shape != x.shape:
        raise ValueError(f"x_hat and x must have the same shape, got {tuple(x_hat.shape)} and {tuple(x.shape)}")
    if x.dim() != dimensions or x.numel() == 0:
        expected = "(N, C, H, W)" if dimensions == 4 else "(C, H, W)"
        raise ValueError(f"x_hat and x must be non-empty tensors {expected}, got {tuple(x.shape)}")


def _image_mse(x_hat: Tensor, x: Tensor) -> Tensor:
    return (x_hat.double() - x.double()).square().mean()


def _image_ssim(x_hat: Tensor, x: Tensor) -> Tensor:
    # cuDNN may round the inputs of a float32 convolution to the 10 bits of TF32, but not those of a float64
    # one. A CPU does not round, and takes five times as long in float64.
    if x.is_cuda:
        x_hat, x = x_hat.double(), x.double()
    return batch_ssim(x_hat[None], x[None])[0]


def _image_spectral_angle(x_hat: Tensor, x: Tensor) -> Tensor:
    u, v = _unit(x_hat.double()), _unit(x.double())
    difference = torch.linalg.vector_norm(u - v, dim=0)
    total = torch.linalg.vector_norm(u + v, dim=0)
    return torch.rad2deg(2 * torch.atan2(difference, total)).mean()


def _unit(spectra: Tensor) -> Tensor:
    """Scale spectra (C, H, W) to length 1; zero ones stay zero."""
    # Divide by the largest value first: its square could overflow or underflow.
    peak = spectra.abs().amax(dim=0)
    spectra = spectra / peak.masked_fill(peak == 0, 1.0)
    norm = torch.linalg.vector_norm(spectra, dim=0)
    return spectra / norm.masked_fill(norm == 0, 1.0)


@functools.lru_cache(maxsize=16)
def _ssim_window(channels: int, device: torch.device) -> Tensor:
    # A window cached in inference mode could not be used by the training loss.
    with torch.inference_mode(False):
        return pytorch_msssim.SSIM(data_range=1.0, channel=channels).win.to(device)
