"""Karhunen-Loeve transform (KLT) of the bands of one image, and the coding of its mean and basis.

Principal components decorrelate the bands, and an image needs few of them: the other components are mostly smaller than
the allowed error. The basis belongs to this image alone and has to be in its bytes, of which it takes a large share if
it is stored as floating point. Here the basis is

- quantized no finer than the components need. The singular value decomposition treats pixels and bands alike: where
  the coefficients of a component are quantized with a step D, the entries of its unit basis vector are worth a step
  of D / s, s the singular value (standard deviation times the square root of the pixels). Strong components get long
  numbers, weak ones short numbers, and no step has to be stored, for the vectors are normalized again;
- orthonormal after quantization. A vector is coded in the coordinates that the Householder reflections of the
  vectors before it leave free (Golub and Van Loan, "Matrix Computations", 5.2): it has one number less each time,
  and the error of the coefficients is the error of the image;
- coded by the adaptive coder of `coding.entropy.integers`.

How finely follows from the squared error that the image may have, by reverse water-filling (Cover and Thomas,
"Elements of Information Theory", 10.3.3): one step D for all components that pay, nothing for the others.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np

from coding.base import CodingError, DamagedError, check_finite
from coding.entropy.integers import decode_integers, encode_integers

_HEADER = struct.Struct("<fI")  # step of the coefficients, number of components
_PRICE = 2 * math.log(2) / 12  # of a bit, in squared steps: one bit more takes as much off a coefficient's error
_MOST_BITS = 30  # of a number of the basis or the mean
_COARSEST = 0.5  # step of the entries of a unit vector, as a share of entries that are all alike


@dataclass(frozen=True)
class Klt:
    """An orthonormal transform along the bands: components = basis^T (spectra - mean).

    Attributes:
        mean: (C,), float64, in the samples' units.
        basis: (C, K), float64, its columns orthonormal.
        step: of the quantizer of the components, in the samples' units.
    """

    mean: np.ndarray
    basis: np.ndarray
    step: float

    def forward(self, cube: np.ndarray) -> np.ndarray:
        """Return the components (K, H, W) of samples (C, H, W), float64, in steps."""
        spectra = cube.reshape(len(cube), -1) - self.mean[:, None]
        components = self.basis.T @ spectra
        components /= self.step
        return components.reshape(self.basis.shape[1], *cube.shape[1:])

    def inverse(self, components: np.ndarray) -> np.ndarray:
        """Return the samples (C, H, W) of components (K, H, W) in steps, float64."""
        samples = np.tensordot(self.basis, components, axes=1)
        samples *= self.step
        samples += self.mean[:, None, None]
        return samples


def principal_components(cube: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the principal components of the spectra of a cube.

    Args:
        cube: (C, H, W), any real type.

    Returns:
        Mean (C,), variances (C,) in falling order, unit vectors (C, C) as columns, each with its largest entry
        positive; float64.

    Raises:
        CodingError: NaN or infinity among the samples.
    """
    check_finite(cube)
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
        squared_error: wanted of the decoded samples, in squared units of the samples.

    Returns:
        The transform as its decoder will have it, and its bytes for `unpack_klt`.

    Raises:
        CodingError: NaN or infinity among the samples, or an error that is too small for them.
    """
    pixels = cube[0].size
    mean, variances, vectors = principal_components(cube)
    step, count = _fill(variances, pixels, len(cube) * squared_error)
    # As the decoder will read it.
    step = float(np.float32(step))
    fine = step / math.sqrt(pixels)
    deviations = np.sqrt(variances[:count])
    if not 0 < step < math.inf or max(np.abs(mean).max(), deviations.max(initial=0)) > fine * 2**_MOST_BITS:
        raise CodingError(f"samples of up to {np.abs(cube).max():g} cannot be coded that finely: ask for a larger step")
    means = np.rint(mean / fine).astype(np.int64)
    numbers = np.vstack([means, _quantize_basis(vectors[:, :count], fine / deviations)])
    return _klt_of(numbers, step, pixels), _HEADER.pack(step, count) + encode_integers(numbers)


def unpack_klt(data: bytes, bands: int, pixels: int) -> Klt:
    """Return the transform of the bytes of `fit_klt`.

    Args:
        data: the bytes.
        bands: C of the cube.
        pixels: H * W of the cube.

    Raises:
        DamagedError: other bytes.
    """
    if len(data) < _HEADER.size:
        raise DamagedError("a transform without a header")
    step, count = _HEADER.unpack_from(data)
    if not 0 < step < math.inf or count > bands:
        raise DamagedError(f"a transform of {bands} bands claims {count} components with a step of {step}")
    return _klt_of(decode_integers(data[_HEADER.size :], (1 + count, bands)), step, pixels)


def _klt_of(numbers: np.ndarray, step: float, pixels: int) -> Klt:
    """Return the transform of whole numbers (1 + K, C): those of the mean, then those of each vector."""
    return Klt(numbers[0] * (step / math.sqrt(pixels)), _orthonormal_basis(numbers[1:]), step)


# -- how finely -----------------------------------------------------------------------------------


def _fill(variances: np.ndarray, pixels: int, error: float) -> tuple[float, int]:
    """Return step and number of components so that a pixel's squared error, summed over the bands, is about `error`."""
    bands = len(variances)
    counts = np.arange(bands + 1)
    # A squared step over 12 is the error of a coefficient. Each vector and the mean, quantized as finely as this module
    # does, add bands / pixels of that.
    coded = (counts + (1 + counts) * bands / pixels) / 12
    left = np.append(variances[::-1].cumsum()[::-1], 0)
    high = math.sqrt(error / coded[0])
    low = math.sqrt(error / coded[-1]) / 1000
    for _ in range(60):
        step = math.sqrt(low * high)
        count = _paying(variances / step**2, pixels)
        low, high = (low, step) if coded[count] * step**2 + left[count] > error else (step, high)
    # Where components are alike, as in noise, all of them stop to pay at one step: then as many as the error needs.
    return low, int((coded * low**2 + left <= error).argmax())


def _paying(variances: np.ndarray, pixels: int) -> int:
    """Return how many components, of variances (C,) in squared steps, take off more error than their bits cost.

    The bits are those of Gaussian numbers at a fine step, with 1 added to the variance so that none has fewer than 0.
    """
    bands = len(variances)
    vectors = np.arange(bands, 0, -1) / pixels  # numbers of each vector, for a pixel
    gains = variances - (1 + bands / pixels) / 12
    costs = _PRICE * (_gaussian_bits(variances) + vectors * _gaussian_bits(variances * pixels / bands))
    return int(np.append(gains > costs, False).argmin())


def _gaussian_bits(variances: np.ndarray) -> np.ndarray:
    return 0.5 * np.log2(1 + 2 * math.pi * math.e * variances)


# -- the basis ------------------------------------------------------------------------------------


def _quantize_basis(vectors: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return whole numbers (K, C) for orthonormal columns (C, K); the first k of row k are 0."""
    rest = vectors.copy()
    numbers = np.zeros(vectors.T.shape, np.int64)
    for k, step in enumerate(steps):
        column = _unit(rest[k:, k])
        numbers[k, k:] = np.rint(column / min(step, _COARSEST / math.sqrt(len(column))))
        _reflect(rest[k:, k + 1 :], _unit(numbers[k, k:]))
    return numbers


def _orthonormal_basis(numbers: np.ndarray) -> np.ndarray:
    """Return the orthonormal columns (C, K) of the whole numbers (K, C) of `_quantize_basis`."""
    basis = np.zeros(numbers.T.shape)
    for k in reversed(range(len(numbers))):
        basis[k:, k] = _unit(numbers[k, k:])
        _reflect(basis[k:, k + 1 :], basis[k:, k])
    return basis


def _unit(vector: np.ndarray) -> np.ndarray:
    """Return `vector` (L,) with a length of 1; the first axis if it is zero."""
    norm = np.linalg.norm(vector)
    return vector / norm if norm else np.eye(1, len(vector))[0]


def _reflect(columns: np.ndarray, unit: np.ndarray) -> None:
    """Apply to `columns` (L, M), in place, the reflection between `unit` (L,) and the first axis or its opposite."""
    normal = unit.copy()
    normal[0] += math.copysign(1, unit[0])
    columns -= np.outer(normal, normal @ columns / (1 + abs(unit[0])))
