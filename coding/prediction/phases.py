"""The pattern that resampling leaves in the noise of an image: phases of pixels.

A product on a map grid is interpolated from the samples of a sensor. A pixel between two samples is a mean of both: its
noise is weaker, and like that of its neighbors, while a pixel on top of a sample keeps the noise of the sample. How
errors are distributed, and how those of neighbors predict them, therefore depends on where a pixel lies in the grid of
the sensor. Both grids are regular, so that this phase advances by the same amount from column to column and from row to
row. It has two coordinates, each with a frequency in cycles per row and per column. Detectors of one instrument have
grids of their own, so that phases are displaced from band to band.

The encoder finds the frequencies where the spectrum of the energy of the noise has peaks, and stores them with the
displacements; both coders put the pixels into classes of equal phase. Images that were not resampled have no peaks, and
one class.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np

from coding.base import DamagedError
from coding.entropy.integers import decode_integers, encode_integers

_STEPS = 8  # classes of a coordinate of the phase
CLASSES = _STEPS**2

_CYCLE_BITS = 16
_CYCLE = 1 << _CYCLE_BITS
_GROUP = 8  # bands with the same displacement
_FREQUENCIES = struct.Struct("<4h")  # of both coordinates: 2^-16 cycles per row, and per column
_OFFSET_BITS = 8  # binary places of a displacement in cycles

_MIN_SIDE = 24  # of an image whose spectrum is searched
_LOCAL = 4  # pixels on each side in the mean energy around a pixel
_MOST_ENERGY = 6.0  # of a pixel, in units of the mean energy around it
_LOWEST_FREQUENCY = 0.04  # cycles per pixel; structures of the scene are below
_MIN_PEAK = 8.0  # in units of the mean of the spectrum around it
_AROUND, _PEAK_BINS = 5, 2  # bins on each side that count as around a peak, and as the peak
_CONFIDENCE = 9.0  # -ln of the chance that noise makes a peak
_NEAR = 2.5  # bins around a peak and its harmonics where the second peak is not searched
_FINE = 8  # steps of the search between two bins


class Phases(NamedTuple):
    """The phases of the pixels of an image.

    Attributes:
        frequencies: int64 (2, 2), of both coordinates of a phase: cycles per row and per column, in 2^-16.
        offsets: int64 (2, G), displacements of both coordinates, in 2^-8 cycles, of groups of eight bands.
    """

    frequencies: np.ndarray
    offsets: np.ndarray

    def pack(self) -> bytes:
        """Return the bytes for `unpack_phases`."""
        return _FREQUENCIES.pack(*self.frequencies.ravel().tolist()) + encode_integers(self.offsets)

    def classes(self, band: int, height: int, width: int) -> np.ndarray:
        """Return the class of each pixel (H W,) of a band, uint8, below `CLASSES`; equal within a group of bands."""
        rows, columns = np.arange(height)[:, None], np.arange(width)
        displacements = self.offsets[:, band // _GROUP] << (_CYCLE_BITS - _OFFSET_BITS)
        first, second = (
            (down * rows + right * columns + displacement) % _CYCLE * _STEPS >> _CYCLE_BITS
            for (down, right), displacement in zip(self.frequencies, displacements, strict=True)
        )
        return (_STEPS * first + second).ravel().astype(np.uint8)


def is_first_of_group(band: int) -> bool:
    """Return whether the classes of a band may differ from those of the band before."""
    return band % _GROUP == 0


def unpack_phases(data: bytes, bands: int) -> Phases | None:
    """Return the phases that `Phases.pack` packed; None for no bytes.

    Args:
        data: the bytes.
        bands: number of bands of the image.

    Raises:
        DamagedError: `data` is damaged.
    """
    if not data:
        return None
    if len(data) < _FREQUENCIES.size:
        raise DamagedError(f"phases must have at least {_FREQUENCIES.size} bytes, got {len(data)}")
    frequencies = np.array(_FREQUENCIES.unpack_from(data), np.int64).reshape(2, 2)
    offsets = decode_integers(data[_FREQUENCIES.size :], (2, -(-bands // _GROUP)))
    return Phases(frequencies, offsets.astype(np.int64))


# -- the search -----------------------------------------------------------------------------------


def find_phases(cube: np.ndarray, is_coded: np.ndarray | None = None) -> Phases | None:
    """Find the phases of an image; None if it shows no traces of resampling.

    Args:
        cube: (C, H, W), integers.
        is_coded: bool (C, H, W), False in gaps; None if there are none.
    """
    bands, height, width = cube.shape
    if bands < 3 or min(height, width) < _MIN_SIDE:
        return None
    energy = _noise_energy(cube, is_coded)
    peaks = _find_peaks(energy)
    if not peaks:
        return None
    frequencies, offsets = np.zeros((2, 2), np.int64), np.zeros((2, len(energy)), np.int64)
    for k, peak in enumerate(peaks):
        frequencies[k], waves = _refine(energy, peak)
        # Groups are noisy, and change slowly.
        padded = np.pad(waves, 1, mode="edge")
        cycles = np.unwrap(np.angle(padded[:-2] + 2 * waves + padded[2:])) / (2 * math.pi)
        offsets[k] = np.rint(cycles * (1 << _OFFSET_BITS))
    return Phases(frequencies, offsets)


def _noise_energy(cube: np.ndarray, is_coded: np.ndarray | None) -> np.ndarray:
    """Return the energy of the noise (G, H, W) in a band of each group, float32, minus its mean.

    Noise is what neither the two bands around a band nor the four pixels around a pixel tell, relative to the noise
    around.
    """
    last = len(cube) - 2
    middles = range(_GROUP // 2, len(cube) + _GROUP // 2, _GROUP)
    noise = np.array([_residual(cube, min(max(band, 1), last)) for band in middles])
    padded = np.pad(noise, ((0, 0), (1, 1), (1, 1)), mode="edge")
    energy = 4 * noise - padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:] - padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1]
    np.square(energy, out=energy)
    energy /= _local_mean(energy) + 1e-6 * energy.mean(axis=(1, 2), keepdims=True) + 1e-9
    np.minimum(energy, _MOST_ENERGY, out=energy)
    is_known = np.ones(energy.shape[1:], bool)
    if is_coded is not None:
        padded = np.pad(is_coded.all(axis=0), 1, mode="edge")
        is_known = padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, 1:-1]
    # Gaps become the mean, so that a regular pattern of gaps has no peaks.
    energy *= is_known
    energy -= is_known * (energy.sum(axis=(1, 2), keepdims=True) / max(int(is_known.sum()), 1))
    return energy


def _residual(cube: np.ndarray, band: int) -> np.ndarray:
    """Return a band (H, W), float32, minus its least-squares prediction from the bands before and after it."""
    before, here, after = (plane.astype(np.float32) - np.float32(plane.mean()) for plane in cube[band - 1 : band + 2])
    sides = np.stack([before.ravel(), after.ravel()]).astype(np.float64)
    gram = sides @ sides.T
    gram[[0, 1], [0, 1]] += 1e-6 * gram.trace() + 1e-9
    factors = np.linalg.solve(gram, sides @ here.ravel())
    return here - np.float32(factors[0]) * before - np.float32(factors[1]) * after


def _local_mean(planes: np.ndarray) -> np.ndarray:
    """Return the mean of planes (G, H, W) in the square around each pixel, float32; edges are repeated."""
    side = 2 * _LOCAL + 1
    padded = np.pad(planes, ((0, 0), (_LOCAL, _LOCAL), (_LOCAL, _LOCAL)), mode="edge")
    return (_sums(padded, side) / side**2).astype(np.float32)


def _find_peaks(energy: np.ndarray) -> list[tuple[float, float]]:
    """Return the frequencies of at most two peaks of the spectrum, in cycles per row and per column."""
    groups, height, width = energy.shape
    spectrum = np.square(np.abs(np.fft.rfft2(energy))).sum(axis=0)
    down, right = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    spectrum /= np.maximum(_background(spectrum), np.median(spectrum) / (1 - 1 / (3 * groups))) + 1e-30
    axes = down, right
    spectrum[(np.hypot(*axes) < _LOWEST_FREQUENCY) | (down == 0) | (right == 0)] = 0  # stripes of rows and columns
    peaks: list[tuple[float, float]] = []
    while len(peaks) < 2:
        row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
        peak = spectrum[row, column]
        # Chernoff's bound on the largest of sums of `groups` exponential variables.
        excess = groups * (peak - 1 - math.log(max(peak, 1e-9)))
        if peak < _MIN_PEAK or excess < math.log(spectrum.size) + _CONFIDENCE:
            break
        found = float(down[row, 0]), float(right[column])
        peaks.append(found)
        for harmonic in (-3, -2, -1, 1, 2, 3):
            rows, columns = ((axis - harmonic * f + 0.5) % 1 - 0.5 for axis, f in zip(axes, found, strict=True))
            spectrum[np.hypot(rows * height, columns * width) < _NEAR] = 0
    return peaks


def _background(spectrum: np.ndarray) -> np.ndarray:
    """Return the mean around each bin (H, W // 2 + 1) of a spectrum, without the bins that a peak there would fill."""
    mirrored = np.roll(spectrum[::-1], 1, axis=0)  # the other half of the frequencies
    columns = [mirrored[:, _AROUND:0:-1], spectrum, mirrored[:, -2 : -2 - _AROUND : -1]]
    wide = np.pad(np.concatenate(columns, axis=1), ((_AROUND, _AROUND), (0, 0)), mode="wrap")
    inside = wide[_AROUND - _PEAK_BINS : _PEAK_BINS - _AROUND, _AROUND - _PEAK_BINS : _PEAK_BINS - _AROUND]
    around, peak = (2 * _AROUND + 1) ** 2, (2 * _PEAK_BINS + 1) ** 2
    return (_sums(wide, 2 * _AROUND + 1) - _sums(inside, 2 * _PEAK_BINS + 1)) / (around - peak)


def _sums(planes: np.ndarray, side: int) -> np.ndarray:
    """Return the sums over all squares of `side` x `side` numbers in planes (..., H, W)."""
    ends = [(0, 0)] * (planes.ndim - 2) + [(1, 0)] * 2
    sums = np.pad(planes.astype(np.float64), ends).cumsum(axis=-2).cumsum(axis=-1)
    return sums[..., side:, side:] - sums[..., :-side, side:] - sums[..., side:, :-side] + sums[..., :-side, :-side]


def _refine(energy: np.ndarray, peak: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequency (2,) near a peak with the most energy, in 2^-16 cycles, and its waves (G,), complex."""
    _, height, width = energy.shape
    steps = np.arange(-_FINE, _FINE + 1) / _FINE
    down, right = (np.rint((f + steps / side) * _CYCLE) for f, side in zip(peak, (height, width), strict=True))
    rows, columns = (
        np.exp(-2j * math.pi / _CYCLE * np.outer(axis, np.arange(side))).astype(np.complex64)
        for axis, side in ((down, height), (right, width))
    )
    waves = rows @ energy @ columns.T
    row, column = np.unravel_index(np.square(np.abs(waves)).sum(axis=0).argmax(), waves.shape[1:])
    frequency = (np.array([down[row], right[column]], np.int64) + _CYCLE // 2) % _CYCLE - _CYCLE // 2
    return frequency, waves[:, row, column]
