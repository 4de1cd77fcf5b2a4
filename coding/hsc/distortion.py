"""Distortion of decoded samples: sums over tiles, measured in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from coding.entropy.compiled import compiled

_LARGEST = ("largest_error", "largest_sample", "largest_clip")
"""Fields of `Distortion` that are maxima; the others are sums."""


@dataclass
class Distortion:
    """Sums and maxima over the valid samples of some tiles; `+` combines those of different tiles.

    Where the codec clips (see `Codec.clips_to_scale`), the squared error and the angles compare with the original
    clipped to 0 and the scale.

    Attributes:
        samples: number of samples.
        squared_error: sum of the squared errors, in units of reflectance squared.
        largest_error: largest error against the unclipped original, in the samples' units.
        largest_sample: largest magnitude of the unclipped original, in the samples' units.
        clipped: number of samples that the codec clips.
        largest_clip: largest distance of a clipped sample from 0 or the scale, in the samples' units.
        angles: sum of the spectral angles in degrees.
        spectra: number of pixels with a valid sample.
        energy: sum of the squared samples, in units of reflectance squared.
    """

    samples: int = 0
    squared_error: float = 0.0
    largest_error: float = 0.0
    largest_sample: float = 0.0
    clipped: int = 0
    largest_clip: float = 0.0
    angles: float = 0.0
    spectra: int = 0
    energy: float = 0.0

    def __add__(self, other: Distortion) -> Distortion:
        pairs = {item.name: (getattr(self, item.name), getattr(other, item.name)) for item in fields(self)}
        return Distortion(**{name: max(pair) if name in _LARGEST else sum(pair) for name, pair in pairs.items()})

    @property
    def psnr(self) -> float:
        """PSNR in dB, peak 1; infinite if there is no error."""
        error = self.squared_error / max(self.samples, 1)
        return -10 * math.log10(error) if error > 0 else math.inf

    @property
    def spectral_angle(self) -> float:
        """Mean spectral angle in degrees over the pixels with a valid sample; a spectrum is a pixel's valid samples."""
        return self.angles / max(self.spectra, 1)


def largest_allowed(max_error: float, distortion: Distortion, dtype: str) -> float:
    """Return the largest error that keeps a bound; floats may exceed it by their rounding.

    Args:
        max_error: the bound.
        distortion: of the decoded samples.
        dtype: type of the samples.
    """
    if not max_error or np.dtype(dtype).kind != "f":
        return max_error
    return max_error + 1e-6 * max_error + 2 * float(np.finfo(dtype).eps) * distortion.largest_sample


def measure(samples: np.ndarray, decoded: np.ndarray, valid: np.ndarray, scale: float, clips: bool) -> Distortion:
    """Measure one tile. Two zero spectra have an angle of 0 degrees, a zero and another spectrum one of 90.

    Args:
        samples: the original, (C, H, W).
        decoded: (C, H, W).
        valid: bool (C, H, W).
        scale: sample value of reflectance 1.0.
        clips: whether the codec clips samples to 0 and `scale`.
    """
    if samples.dtype == np.float16:  # which compiled loops do not have
        samples, decoded = samples.astype(np.float32), decoded.astype(np.float32)
    count, squared_error, largest, magnitude, clipped, clip, norms = _sums(samples, decoded, valid, scale, clips)
    original, restored, gap = norms[:, norms[3] > 0][:3]
    # Half the chord between two unit vectors is the sine of half their angle.
    lengths = np.sqrt(original), np.sqrt(restored)
    with np.errstate(over="ignore", invalid="ignore"):  # squares beyond the largest float64: no angle
        squared = (gap - np.square(lengths[0] - lengths[1])) / np.maximum(lengths[0] * lengths[1], 1e-30)
        squared = np.where(original * restored > 0, np.clip(squared, 0, 4), 2 * (original + restored > 0))
    angles = 2 * np.arcsin(np.sqrt(np.nan_to_num(squared)) / 2)
    return Distortion(
        samples=int(count),
        squared_error=float(squared_error),
        largest_error=float(largest),
        largest_sample=float(magnitude),
        clipped=int(clipped),
        largest_clip=float(clip),
        angles=float(np.degrees(angles).sum()),
        spectra=len(angles),
        energy=float(norms[0].sum()) / scale**2,
    )


def psnr_text(psnr: float) -> str:
    """Format a PSNR in dB."""
    return f"{psnr:.2f} dB" if math.isfinite(psnr) else "infinite"


@compiled
def _sums(samples, decoded, valid, scale, clips):
    """Return sums and maxima over the valid samples, and an array (4, pixels).

    Its rows are the squared lengths of the original spectrum, the decoded spectrum and their difference, and 1 where
    any band is valid.
    """
    bands, height, width = samples.shape
    count, squared_error, largest, magnitude, clipped, largest_clip = 0, 0.0, 0.0, 0.0, 0, 0.0
    norms = np.zeros((4, height * width))
    for band in range(bands):
        for y in range(height):
            for x in range(width):
                if not valid[band, y, x]:
                    continue
                count += 1
                original, value = np.float64(samples[band, y, x]), np.float64(decoded[band, y, x])
                largest = max(largest, abs(value - original))
                magnitude = max(magnitude, abs(original))
                if clips:
                    distance = max(-original, original - scale)
                    if distance > 0:
                        clipped += 1
                        largest_clip = max(largest_clip, distance)
                        original = 0.0 if original < 0 else scale
                gap = (value - original) ** 2
                squared_error += gap
                p = y * width + x
                norms[0, p] += original**2
                norms[1, p] += value**2
                norms[2, p] += gap
                norms[3, p] = 1.0
    return count, squared_error / scale**2, largest, magnitude, clipped, largest_clip, norms
