"""Prediction of components from the preceding components.

Principal components are uncorrelated, but not independent. The spectra of a scene lie on curved surfaces, so products
of the first components predict later ones. The pixels of different detectors are slightly displaced, so spatial
derivatives of the first components appear in later ones. The features of the first components are therefore

- their first and second derivatives, horizontal and vertical;
- products of two of them, and their cubes.

A plane is predicted as a sum of a few features, whose factors are in the stream. The encoder chooses the features that
save more bits than they cost: orthogonal matching pursuit (Pati, Rezaiifar and Krishnaprasad, doi
10.1109/ACSSC.1993.342465) on the estimated bits of Gaussian subbands.
"""

from __future__ import annotations

import math

import numpy as np

from coding.base import DamagedError
from coding.entropy.compiled import compiled, inlined
from coding.kltcm.wavelet import analyze, subbands

_WITH_DERIVATIVES = 8  # components
_WITH_PRODUCTS = 6
_WITH_CUBES = 3
_MAX_USED = 16  # features of a plane
_BITS_OF_A_FEATURE = 10.0
_BITS_PER_RELATIVE_ERROR = 0.5 / math.log(2)  # bits saved by a small relative decrease of the variance
_UNPREDICTABLE_VARIANCE = 0.1  # squared steps
_REGULARIZATION = 1e-6  # relative to the energy of a feature
_MIN_NORM = 2.0**-20  # root mean square; smaller ones may be rounding errors, which differ between decoders


def _new_features(index: int) -> int:
    """Return the number of features that component `index` adds."""
    derivatives = 4 if index < _WITH_DERIVATIVES else 0
    products = index + 1 if index < _WITH_PRODUCTS else 0
    return derivatives + products + (1 if index < _WITH_CUBES else 0)


def count_features(planes: int) -> int:
    """Return the number of features of the first `planes` components."""
    return sum(_new_features(j) for j in range(planes))


_MAX_FEATURES = count_features(max(_WITH_DERIVATIVES, _WITH_PRODUCTS, _WITH_CUBES))


class Predictor:
    """Predicts planes (H, W), each from the planes added before it.

    Args:
        height, width: of the planes.
    """

    def __init__(self, height: int, width: int) -> None:
        self._layout = subbands(height, width)
        self._pixels = height * width
        self._sources: list[np.ndarray] = []
        self._count = 0
        self._features = np.empty((_MAX_FEATURES, height, width))
        self._ends = np.append(0, self._layout.counts.cumsum())
        self._transformed = np.empty((_MAX_FEATURES, self._pixels), np.float32)
        self._products = np.zeros((len(self._layout.counts), _MAX_FEATURES + 1, _MAX_FEATURES + 1))
        self._correlations: list[np.ndarray] = []

    def predict(self, factors: np.ndarray) -> np.ndarray:
        """Return a plane (H, W) as the sum of features.

        Args:
            factors: integers (F,), in units of 1 / sqrt(H W); 0 for features that do not exist yet.

        Raises:
            DamagedError: a factor of a feature that does not exist yet is not 0.
        """
        used = factors.nonzero()[0]
        if used.size and used[-1] >= self._count:
            raise DamagedError(f"features must be below {self._count} for this plane, got {used[-1]}")
        plane = np.zeros(self._pixels)
        _add_weighted(plane, self._features.reshape(-1, self._pixels), used, factors[used] / math.sqrt(self._pixels))
        return plane.reshape(self._features.shape[1:])

    def add(self, plane: np.ndarray, fitting: bool) -> None:
        """Add the features of a decoded plane.

        Args:
            plane: (H, W).
            fitting: whether to prepare the features for `fit` as well.
        """
        index = len(self._sources)
        if not _new_features(index):
            return
        centered = plane - plane.mean()
        plane = centered / _divisor(math.sqrt(np.square(centered).mean()))
        self._sources.append(plane)
        framed = np.pad(plane, 1, mode="edge")
        right, left, below, above = framed[1:-1, 2:], framed[1:-1, :-2], framed[2:, 1:-1], framed[:-2, 1:-1]
        planes = []
        if index < _WITH_DERIVATIVES:
            planes += [right - left, below - above, right + left - 2 * plane, below + above - 2 * plane]
        if index < _WITH_PRODUCTS:
            planes += [plane * source for source in self._sources]
        if index < _WITH_CUBES:
            planes.append(plane * plane * plane)
        start, self._count = self._count, self._count + len(planes)
        features = self._features[start : self._count]
        for feature, plane in zip(features, planes, strict=True):
            np.subtract(plane, plane.mean(), out=feature)
            feature /= _divisor(math.sqrt(np.square(feature).mean()))
        if fitting:
            self._transformed[start : self._count] = self._transform(features)
            for products, band in zip(self._products, self._split(self._transformed[: self._count]), strict=True):
                products[start : self._count, : self._count] = band[start:] @ band.T
                products[:start, start : self._count] = products[start : self._count, :start].T

    def fit(self, planes: np.ndarray) -> np.ndarray:
        """Return the factors (F,) for `predict`, int64, of the next plane; most are 0.

        Args:
            planes: (P, H, W), in steps, the next plane and all that follow. As soon as there are all features, these
                are correlated with all planes at once, which is faster.
        """
        count = self._count
        factors = np.zeros(count, np.int64)
        if not count:
            return factors
        if not len(self._correlations):
            is_complete = not _new_features(len(self._sources))
            self._correlations = list(self._correlate(planes if is_complete else planes[:1]))
        products = np.ascontiguousarray(self._products[:, : count + 1, : count + 1])
        products[:, -1] = products[:, :, -1] = self._correlations.pop(0)
        chosen, solution = _pursue(products, self._layout.counts)
        factors[chosen] = np.rint(solution * math.sqrt(self._pixels))
        return factors

    def _correlate(self, planes: np.ndarray) -> np.ndarray:
        """Return the inner products (P, S, F + 1) of planes with the features and, last, themselves, by subband."""
        features = self._transformed[: self._count]
        pairs = zip(self._split(features), self._split(self._transform(planes)), strict=True)
        found = [
            np.column_stack([goals @ band.T, np.square(goals, dtype=np.float64).sum(axis=1)]) for band, goals in pairs
        ]
        return np.stack(found, axis=1)

    def _transform(self, planes: np.ndarray) -> np.ndarray:
        """Return the wavelet coefficients (P, H * W) of planes, subband by subband."""
        return analyze(planes).reshape(len(planes), -1)[:, self._layout.order].astype(np.float32)

    def _split(self, transformed: np.ndarray) -> list[np.ndarray]:
        """Return the coefficients (P, N) of each subband."""
        return [transformed[:, a:b] for a, b in zip(self._ends[:-1], self._ends[1:], strict=True)]


@compiled
def _add_weighted(plane, features, used, factors):
    """Add features (F, N), those in `used`, times their factors to a plane (N,)."""
    for i in range(len(used)):
        feature = features[used[i]]
        for p in range(len(plane)):
            plane[p] += factors[i] * feature[p]


@compiled
def _pursue(products, counts):
    """Return the features that save more bits than they cost, and their factors.

    Args:
        products: (S, F + 1, F + 1), inner products of the features and, last, the plane to predict, in each subband.
        counts: (S,), number of coefficients in each subband.
    """
    target = products.shape[1] - 1
    most = min(_MAX_USED, target)
    chosen, factors, left = np.zeros(most, np.int64), np.zeros(most), products[:, target, target].copy()
    rows = np.zeros((most, target + 1))
    for count in range(most):
        weights = 1 / (left / counts + _UNPREDICTABLE_VARIANCE)
        _orthogonalize(products, weights, chosen[:count], rows)
        if count:
            _solve(rows, chosen[:count], factors)
            _subtract(products, chosen[:count], factors, left)
        best, gain = _best(products, weights, chosen[:count], rows)
        if gain * _BITS_PER_RELATIVE_ERROR < _BITS_OF_A_FEATURE:
            return chosen[:count], factors[:count]
        chosen[count] = best
    return chosen[: most - 1], factors[: most - 1]


@inlined
def _orthogonalize(products, weights, chosen, rows):
    """Fill `rows` (N, F + 1) with the coordinates of all features and the target along the chosen ones."""
    for i in range(len(chosen)):
        row = rows[i]
        row[:] = 0
        for s in range(len(weights)):
            for f in range(len(row)):
                row[f] += weights[s] * products[s, chosen[i], f]
        row[chosen[i]] *= 1 + _REGULARIZATION
        for j in range(i):
            along = rows[j, chosen[i]]
            for f in range(len(row)):
                row[f] -= rows[j, f] * along
        norm = math.sqrt(max(row[chosen[i]], _REGULARIZATION))
        for f in range(len(row)):
            row[f] /= norm


@inlined
def _solve(rows, chosen, factors):
    """Fill in the factors of the chosen features."""
    for i in range(len(chosen) - 1, -1, -1):
        factors[i] = rows[i, rows.shape[1] - 1]
        for j in range(i + 1, len(chosen)):
            factors[i] -= rows[i, chosen[j]] * factors[j]
        factors[i] /= rows[i, chosen[i]]


@inlined
def _subtract(products, chosen, factors, left):
    """Fill in the energies (S,) that the prediction leaves in each subband."""
    target = products.shape[1] - 1
    for s in range(len(left)):
        left[s] = products[s, target, target]
        for i in range(len(chosen)):
            left[s] -= 2 * factors[i] * products[s, target, chosen[i]]
            for j in range(len(chosen)):
                left[s] += factors[i] * products[s, chosen[i], chosen[j]] * factors[j]
        left[s] = max(left[s], 0.0)


@inlined
def _best(products, weights, chosen, rows):
    """Return the feature that lowers the weighted energy most, and by how much."""
    target, best, most = rows.shape[1] - 1, 0, -1.0
    for f in range(target):
        norm, correlation = 0.0, 0.0
        for s in range(len(weights)):
            norm += weights[s] * products[s, f, f]
            correlation += weights[s] * products[s, target, f]
        free, is_chosen = norm, False
        for i in range(len(chosen)):
            free -= rows[i, f] ** 2
            correlation -= rows[i, f] * rows[i, target]
            is_chosen = is_chosen or chosen[i] == f
        gain = correlation**2 / max(free, 1e-2 * norm + 1e-9)
        if gain > most and not is_chosen:
            best, most = f, gain
    return best, most


def _divisor(norm: float) -> float:
    return 1.0 if norm < _MIN_NORM else norm
