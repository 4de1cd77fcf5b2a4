"""Karhunen-Loeve transform (KLT) of the bands of one image, and the coding of its mean and basis.

Principal components decorrelate the bands, and an image needs few of them: most other components are smaller than the
allowed error. The basis belongs to this image alone, so its bytes count, and stored as floats it would take a large
share of the rate. Here the basis is

- quantized no finer than the components need. The singular value decomposition treats pixels and bands alike: where
  the coefficients of a component are quantized with a step D, the entries of its unit basis vector need a step of
  D / s, with s the singular value (standard deviation times the square root of the number of pixels). Entries of
  strong components take more bits than those of weak ones. The decoder normalizes the vectors, so no step is stored;
- orthonormal after quantization. The Householder reflections of the preceding vectors leave fewer coordinates free, and
  each vector is coded in these (Golub and Van Loan, "Matrix Computations", 5.2): each vector has one number less than
  the one before, and the squared error of the coefficients is the squared error of the image;
- coded by the adaptive coder of `coding.entropy.integers`.

The step D follows from the allowed squared error by reverse water-filling (Cover and Thomas, "Elements of Information
Theory", 10.3.3): it is the same for all components that reduce the error enough to pay for their bits. The others are
left out.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, DamagedError, check_finite
from coding.entropy.integers import decode_integers, encode_integers

_HEADER = struct.Struct("<fI")  # step of the coefficients, number of components
_SQUARED_STEPS_PER_BIT = 2 * math.log(2) / 12  # how much one bit more lowers the squared error of a coefficient
_LARGEST = 1e100
_MAX_NUMBER_BITS = 30  # in the basis and the mean
_STEP_HALVINGS = 60  # of some 17 octaves: as exact as float64
_COARSEST_ENTRY_STEP = 0.5  # of a unit vector, relative to the entries of one whose entries are all equal


@dataclass(frozen=True)
class Klt:
    """An orthonormal transform along the bands: components = basis^T (spectra - mean).

    Attributes:
        mean: (C,), float64, in the samples' units.
        basis: (C, K), float64, its columns orthonormal.
        step: quantizer step of the components, in the samples' units.
    """

    mean: np.ndarray
    basis: np.ndarray
    step: float

    def forward(self, cube: np.ndarray) -> np.ndarray:
        """Return the components (K, H, W) of samples (C, H, W): float64, in units of `step`."""
        spectra = cube.reshape(len(cube), -1) - self.mean[:, None]
        components = self.basis.T @ spectra
        components /= self.step
        return components.reshape(self.basis.shape[1], *cube.shape[1:])

    def inverse(self, components: np.ndarray) -> np.ndarray:
        """Return the samples (C, H, W), float64, of components (K, H, W) in units of `step`."""
        samples = np.tensordot(self.basis, components, axes=1)
        samples *= self.step
        samples += self.mean[:, None, None]
        return samples


def principal_components(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the principal components of the spectra of a cube.

    Args:
        cube: (C, H, W), any real type.

    Returns:
        Float64 arrays: the mean (C,), the variances (C,) in falling order, and the unit vectors as columns (C, C), each
        with its largest entry positive.

    Raises:
        CodingError: a sample is NaN or infinite, or its square would be.
    """
    check_finite(cube)
    if cube.dtype == np.float64 and np.abs(cube).max(initial=0) > _LARGEST:
        raise CodingError(f"samples must be at most {_LARGEST:g} for a transform along the bands: code without loss")
    spectra = cube.reshape(len(cube), -1).astype(np.float64)
    mean = spectra.mean(axis=1)
    spectra -= mean[:, None]
    variances, vectors = np.linalg.eigh(spectra @ spectra.T / spectra.shape[1])
    variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return mean, variances, vectors * np.sign(vectors[largest, np.arange(len(vectors))])


def fit_klt(cube: np.ndarray, squared_error: float) -> tuple[Klt, bytes]:
    """Fit the transform to a cube whose components will be quantized uniformly.

    Args:
        cube: (C, H, W), any real type.
        squared_error: target for the mean squared error of the decoded samples, in squared units of the samples.

    Returns:
        The transform as its decoder will have it, and its bytes for `unpack_klt`.

    Raises:
        CodingError: a sample is NaN or infinite, or the target is too small for the samples.
    """
    pixels = cube[0].size
    mean, variances, vectors = principal_components(cube)
    step, count = water_fill(variances, pixels, len(cube) * squared_error)
    # Rounded as the decoder will read it.
    step = float(np.float32(step))
    fine = step / math.sqrt(pixels)
    deviations = np.sqrt(variances[:count])
    if not 0 < step < math.inf or max(np.abs(mean).max(), deviations.max(initial=0)) > fine * 2**_MAX_NUMBER_BITS:
        raise CodingError(f"samples of up to {np.abs(cube).max():g} need a larger step")
    means = np.rint(mean / fine).astype(np.int64)
    numbers = np.vstack([means, _quantize_basis(vectors[:, :count], fine / deviations)])
    return _klt_of(numbers, step, pixels), _HEADER.pack(step, count) + encode_integers(numbers)


def unpack_klt(data: bytes, bands: int, pixels: int) -> Klt:
    """Return the transform that `fit_klt` packed.

    Args:
        data: the bytes.
        bands: C of the cube.
        pixels: H * W of the cube.

    Raises:
        DamagedError: `data` is damaged.
    """
    if len(data) < _HEADER.size:
        raise DamagedError(f"a transform must have at least {_HEADER.size} bytes, got {len(data)}")
    step, count = _HEADER.unpack_from(data)
    if not 0 < step < math.inf or count > bands:
        raise DamagedError(f"a transform of {bands} bands claims {count} components with a step of {step}")
    return _klt_of(decode_integers(data[_HEADER.size :], (1 + count, bands)), step, pixels)


def _klt_of(numbers: np.ndarray, step: float, pixels: int) -> Klt:
    """Return the transform of integers (1 + K, C): a row for the mean, then one for each vector."""
    return Klt(numbers[0] * (step / math.sqrt(pixels)), _orthonormal_basis(numbers[1:]), step)


# -- the step -------------------------------------------------------------------------------------


def water_fill(variances: np.ndarray, pixels: int, error: float, halvings: int = _STEP_HALVINGS) -> tuple[float, int]:
    """Return a step and a number of components for a pixel's squared error, summed over the bands, of about `error`.

    Args:
        variances: (C,), of the components, in falling order, in squared units of the samples.
        pixels: number of pixels.
        error: the squared error, in the same units.
        halvings: how often the interval of possible steps is halved, on a logarithmic scale.
    """
    bands = len(variances)
    counts = np.arange(bands + 1)
    # A coefficient's squared error is step^2 / 12. Quantizing the mean and each vector adds bands / pixels of that.
    coded = (counts + (1 + counts) * bands / pixels) / 12
    left = np.append(variances[::-1].cumsum()[::-1], 0)
    high = math.sqrt(error / coded[0])
    low = math.sqrt(error / coded[-1]) / 1000
    for _ in range(halvings):
        step = math.sqrt(low * high)
        count = _paying(variances / step**2, pixels)
        low, high = (low, step) if coded[count] * step**2 + left[count] > error else (step, high)
    # Components of equal variance, as in noise, all stop paying at the same step: take as many as the error needs.
    return low, int((coded * low**2 + left <= error).argmax())


def _paying(variances: np.ndarray, pixels: int) -> int:
    """Return how many components, of variances (C,) in squared steps, lower the error by more than their bits cost.

    Bits are estimated for Gaussian numbers and a fine step; adding 1 keeps the estimate above 0.
    """
    bands = len(variances)
    vectors = np.arange(bands, 0, -1) / pixels  # numbers in each vector, per pixel
    gains = variances - (1 + bands / pixels) / 12
    costs = _SQUARED_STEPS_PER_BIT * (gaussian_bits(variances) + vectors * gaussian_bits(variances * pixels / bands))
    return int(np.append(gains > costs, False).argmin())


def gaussian_bits(variances: np.ndarray) -> np.ndarray:
    """Return about the entropies of Gaussian numbers that are rounded to integers, of these variances."""
    return 0.5 * np.log2(1 + 2 * math.pi * math.e * variances)


# -- the basis ------------------------------------------------------------------------------------


def _quantize_basis(vectors: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return integers (K, C) for orthonormal columns (C, K); the first k of row k are 0."""
    rest = vectors.copy()
    numbers = np.zeros(vectors.T.shape, np.int64)
    for k, step in enumerate(steps):
        column = _unit(rest[k:, k])
        numbers[k, k:] = np.rint(column / min(step, _COARSEST_ENTRY_STEP / math.sqrt(len(column))))
        _reflect(rest[k:, k + 1 :], _unit(numbers[k, k:]))
    return numbers


def _orthonormal_basis(numbers: np.ndarray) -> np.ndarray:
    """Return the orthonormal columns (C, K) of the integers (K, C) of `_quantize_basis`."""
    basis = np.zeros(numbers.T.shape)
    for k in reversed(range(len(numbers))):
        basis[k:, k] = _unit(numbers[k, k:])
        _reflect(basis[k:, k + 1 :], basis[k:, k])
    return basis


def _unit(vector: np.ndarray) -> np.ndarray:
    """Return `vector` (L,) scaled to length 1; the first axis if it is zero."""
    norm = np.linalg.norm(vector)
    return vector / norm if norm else np.eye(1, len(vector))[0]


def _reflect(columns: np.ndarray, unit: np.ndarray) -> None:
    """Reflect `columns` (L, M) in place; the reflection maps `unit` (L,) to the first axis or its opposite."""
    normal = unit.copy()
    normal[0] += math.copysign(1, unit[0])
    columns -= np.outer(normal, normal @ columns / (1 + abs(unit[0])))
