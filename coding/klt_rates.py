"""Estimates of the rate of a tile at any step, for codecs that transform it by `coding.klt`, without coding it.

A quarter of the tile, in small blocks, is transformed by two levels of the Haar wavelet. The eigenvalues of the
covariance of the bands in each subband are taken for the variances of Laplacian coefficients, which are quantized with
the step that reverse water-filling gives; their entropy is the estimate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coding.klt import gaussian_bits, water_fill

_SMALLEST_PEAK = 1e-30  # of samples minus their mean
_BLOCK = 4  # rows and columns: two levels of the wavelet
_SPACING = 4  # of the blocks in a row; those of the next row are shifted by one
_STEP_HALVINGS = 14  # of some 17 octaves: to about a thousandth of one
_SAVED_RATE = 0.05  # bits per sample of the entropy; at rates so low, contexts save half of it
_SMALLEST_VARIANCE = 1e-6  # in squared steps: of a coefficient that is never coded
_LARGEST_VARIANCE = 1e9


def klt_rates(cube: np.ndarray) -> Callable[[float], float]:
    """Return a function that takes a step and returns about the bits per sample of a tile (C, H, W), any real type."""
    bands, height, width = cube.shape
    pixels = height * width
    subbands = [(share, _eigenvalues(samples)) for share, samples in _subbands(cube)]
    variances = np.sum([share * eigenvalues for share, eigenvalues in subbands], axis=0)

    def rate(step: float) -> float:
        own_step, count = water_fill(variances, pixels, bands * step**2 / 12, _STEP_HALVINGS)
        bits = sum(share * _laplacian_bits(eigenvalues[:count] / own_step**2).sum() for share, eigenvalues in subbands)
        entries = np.arange(bands, bands - count, -1) / pixels  # of each vector of the basis, per pixel
        bits += (entries * gaussian_bits(variances[:count] / own_step**2 * pixels / bands)).sum()
        bits /= bands
        return float(bits**2 / (bits + _SAVED_RATE))

    return rate


def _subbands(cube: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Return the subbands of some blocks, each with its share of the coefficients: float (C, N)."""
    dtype = np.float64 if cube.dtype.itemsize > np.dtype(np.int16).itemsize else np.float32
    height, width = (size - size % _BLOCK for size in cube.shape[1:])
    if not height or not width:
        samples = cube.reshape(len(cube), -1).astype(dtype)
        return [(1.0, samples - samples.mean(axis=1, keepdims=True))]
    bands = len(cube)
    blocks = cube[:, :height, :width].reshape(bands, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    spacing = min(_SPACING, height // _BLOCK, width // _BLOCK)
    taken = [blocks[:, row, :, row % spacing :: spacing].reshape(bands, _BLOCK, -1) for row in range(blocks.shape[1])]
    samples = np.concatenate(taken, axis=2).astype(dtype)
    samples -= samples.mean(axis=(1, 2), keepdims=True)
    low, fine = _haar(samples)
    low, coarse = _haar(low)
    return [(12 / 16, fine), (3 / 16, coarse), (1 / 16, low.reshape(bands, -1))]


def _haar(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the low-pass planes (C, H / 2, W / 2) of planes (C, H, W), and all other coefficients (C, N)."""
    above, below = planes[:, ::2], planes[:, 1::2]
    sums, differences = above + below, above - below
    parts = (sums[..., ::2] - sums[..., 1::2], differences[..., ::2] + differences[..., 1::2])
    details = (*parts, differences[..., ::2] - differences[..., 1::2])
    fine = np.concatenate([part.reshape(len(planes), -1) for part in details], axis=1)
    return (sums[..., ::2] + sums[..., 1::2]) / 2, fine / 2


def _eigenvalues(samples: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of the covariance (C, C) of samples (C, N) of mean 0, in falling order, float64."""
    peak = max(float(np.abs(samples).max()), _SMALLEST_PEAK)
    scaled = (samples / peak).astype(np.float32)
    covariance = (scaled @ scaled.T).astype(np.float64) / samples.shape[1]
    return peak**2 * np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)


def _laplacian_bits(variances: np.ndarray) -> np.ndarray:
    """Return the entropies of Laplacian numbers that are rounded to integers, of these variances."""
    variances = np.clip(variances, _SMALLEST_VARIANCE, _LARGEST_VARIANCE)
    half_bin = np.minimum(1 / np.sqrt(2 * variances), 30)
    nonzero, ratio = np.exp(-half_bin), np.exp(-2 * half_bin)  # magnitudes from 1 on have a geometric distribution
    zero_bits, size_bits = _bits_of_choice(nonzero), _bits_of_choice(ratio)
    return zero_bits + nonzero * (1 + size_bits / (1 - ratio))


def _bits_of_choice(share: np.ndarray) -> np.ndarray:
    """Return the entropy of a choice between two, of which one has a probability above 0 and below 1."""
    return -share * np.log2(share) - (1 - share) * np.log2(1 - share)
