"""Prediction of components from the components before them, decoded: what a linear transform of spectra leaves over.

Principal components are uncorrelated, not independent. Spectra of a scene lie along curved surfaces, so that products
of the first components tell of later ones; and detectors do not look at exactly the same place, so that derivatives of
the first components across the plane appear in later ones. The features of the first components are therefore

- their first and second derivatives, horizontal and vertical;
- products of two of them, and their cubes.

A plane is predicted as a sum of a few features whose factors are in the stream. The encoder chooses those that save
more bits than they cost: orthogonal matching pursuit (Pati, Rezaiifar and Krishnaprasad, doi
10.1109/ACSSC.1993.342465) with the bits of Gaussian subbands as the measure.
"""

from __future__ import annotations

import math

import numpy as np

from coding.base import DamagedError
from coding.entropy.compiled import compiled
from coding.kltcm.wavelet import analyze, subbands

_SOURCES = 8  # components that have derivatives
_FACTORS = 6  # components that have products
_CUBES = 3  # components that have cubes
_COST = 10.0  # bits of a feature
_MOST = 16  # features of a plane
_NOISE = 0.1  # squared steps: variance that no prediction takes away
_BITS = 0.5 / math.log(2)  # per squared error over variance
_SMALLEST = 2.0**-20  # root mean square: what is smaller may be rounding errors alone, which no two decoders share


def count_features(planes: int) -> int:
    """How many features the first `planes` components have."""
    return sum(_new_features(j) for j in range(planes))


class Predictor:
    """Predicts planes (H, W), each from those that were added before it."""

    def __init__(self, height: int, width: int):
        self._layout = subbands(height, width)
        self._pixels = height * width
        self._sources = []
        self._features = np.zeros((0, height, width))
        self._ends = np.append(0, self._layout.count.cumsum())
        self._transformed = np.zeros((0, self._pixels), np.float32)
        self._products = np.zeros((len(self._layout.count), 0, 0))

    def predict(self, factors: np.ndarray) -> np.ndarray:
        """A plane (H, W) as the sum of features.

        Args:
            factors: whole numbers (F,), 0 for features that are not there yet.

        Raises:
            DamagedError: other factors.
        """
        used = factors.nonzero()[0]
        if used.size and used[-1] >= len(self._features):
            raise DamagedError(f"a plane is predicted from feature {used[-1]} of {len(self._features)}")
        return np.tensordot(factors[used] / math.sqrt(self._pixels), self._features[used], axes=1)

    def add(self, plane: np.ndarray, fitting: bool) -> None:
        """Make the features of a decoded plane (H, W).

        Args:
            fitting: prepare them for `fit` as well.
        """
        index = len(self._sources)
        if not _new_features(index):
            return
        centered = plane - plane.mean()
        plane = centered / _divisor(np.sqrt(np.square(centered).mean()))
        self._sources.append(plane)
        framed = np.pad(plane, 1, mode="edge")
        right, left, below, above = framed[1:-1, 2:], framed[1:-1, :-2], framed[2:, 1:-1], framed[:-2, 1:-1]
        features = [right - left, below - above, right + left - 2 * plane, below + above - 2 * plane]
        if index < _FACTORS:
            features += [plane * source for source in self._sources]
        if index < _CUBES:
            features.append(plane**3)
        features = np.array(features)
        features -= features.mean(axis=(1, 2), keepdims=True)
        norms = np.sqrt(np.square(features).mean(axis=(1, 2), keepdims=True))
        features /= _divisor(norms)
        self._features = np.concatenate([self._features, features])
        if fitting:
            self._transformed = np.concatenate([self._transformed, self._transform(features)])
            self._products = np.stack([band @ band.T for band in self._split(self._transformed)]).astype(np.float64)

    def fit(self, plane: np.ndarray) -> np.ndarray:
        """The factors (F,), int64, of a plane (H, W) in steps, mostly 0."""
        factors = np.zeros(len(self._features), np.int64)
        if not len(factors):
            return factors
        goals = self._split(self._transform(plane[None]))
        bands = zip(self._split(self._transformed), goals, strict=True)
        correlations = np.stack([band @ goal[0] for band, goal in bands]).astype(np.float64)
        energies = np.array([np.square(goal[0], dtype=np.float64).sum() for goal in goals])
        chosen, solution = _pursue(self._products, correlations, energies, self._layout.count)
        factors[chosen] = np.rint(solution * math.sqrt(self._pixels))
        return factors

    def _transform(self, planes: np.ndarray) -> np.ndarray:
        """Wavelet coefficients (P, H * W) of planes, subband by subband."""
        return analyze(planes).reshape(len(planes), -1)[:, self._layout.order].astype(np.float32)

    def _split(self, transformed: np.ndarray) -> list[np.ndarray]:
        return [transformed[:, a:b] for a, b in zip(self._ends[:-1], self._ends[1:], strict=True)]


@compiled
def _pursue(products, correlations, energies, counts):
    """The features that pay and their factors, by falling gain.

    Args:
        products: (S, F, F), of the features in each subband.
        correlations: (S, F), of the features with what is to be predicted.
        energies: (S,), of that.
        counts: (S,), coefficients.
    """
    most = min(_MOST, products.shape[1])
    chosen, solution = np.zeros(0, np.int64), np.zeros(0)
    left = energies
    while len(chosen) < most:
        weights = 1 / (left / counts + _NOISE)
        gram, correlation = np.zeros(products.shape[1:]), np.zeros(products.shape[1])
        for band in range(len(counts)):
            gram += weights[band] * products[band]
            correlation += weights[band] * correlations[band]
        norms = np.diag(gram).copy()
        rest, free = correlation, norms
        if len(chosen):
            columns = gram[:, chosen]
            inverse = np.linalg.inv(columns[chosen] + 1e-6 * np.diag(norms[chosen]))
            solution = inverse @ correlation[chosen]
            rest = correlation - columns @ solution
            free = norms - ((columns @ inverse) * columns).sum(axis=1)
            left = np.empty_like(energies)
            for band in range(len(counts)):
                error = energies[band] - 2 * (correlations[band][chosen] * solution).sum()
                for i in range(len(chosen)):
                    for j in range(len(chosen)):
                        error += solution[i] * products[band, chosen[i], chosen[j]] * solution[j]
                left[band] = max(error, 0.0)
        gains = rest**2 / np.maximum(free, 1e-2 * norms + 1e-9)
        gains[chosen] = 0
        best = gains.argmax()
        if _BITS * gains[best] < _COST:
            break
        chosen = np.append(chosen, best)
    return chosen[: len(solution)], solution


def _divisor(norm):
    return np.where(norm < _SMALLEST, 1.0, norm)


def _new_features(index: int) -> int:
    """How many features component `index` brings."""
    if index >= _SOURCES:
        return 0
    return 4 + (index + 1 if index < _FACTORS else 0) + (1 if index < _CUBES else 0)
