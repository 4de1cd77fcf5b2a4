"""Linear prediction of the samples of a band from the preceding bands and the preceding samples of the same band.

The encoder fits the coefficients of each band by least squares over the image, in floating point. The coefficients are
rounded to steps as coarse as the prediction errors allow, and stored, so that a decoder uses integers only. They are
rounded from the last to the first, and each compensates for the rounding of those after it (Babai's nearest plane, doi
10.1007/BF02579403), so that coarse steps cost little.
"""

from __future__ import annotations

import math

import numpy as np

from coding.entropy.compiled import compiled
from coding.entropy.neighbors import PAD

_LAGS = 32  # preceding bands that predict
_CORNER_LAGS = 8  # of these, bands whose neighbors to the left and above predict, too; may be 0
_CROSS_LAGS = 2  # of these, bands whose neighbors on all four sides predict; may be 0
_CROSS = ((0, -1), (-1, 0), (0, 1), (1, 0))
_OWN_PLACES = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-1, 2), (-2, -1), (-2, 1))

KINDS = 5
"""Kinds of regressors, each with its own step: the sample in the preceding band, the samples in earlier bands, the
neighbors in the preceding band, the neighbors in earlier bands, and the samples of the band itself."""

POINT = 16
"""Binary places of a coefficient in a prediction."""

_MAX_COEFFICIENT = 1 << 22
_MAX_TRAINING_PIXELS = 8192  # about; they come from whole rows
_BLOCK_PIXELS = 512  # of a matrix product, so that they fit into caches
_MIN_RELATIVE_ERROR = 0.2  # of a pixel, in units of the mean error
_WEIGHTING_BANDS = 24  # from which the errors of pixels are estimated


def regressors(band: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the regressors of a band: the places of the samples that predict a sample, and their kinds.

    Args:
        band: number of the band, from 0; only preceding bands can predict.
        pixels: H * W of the image; small images use fewer regressors.

    Returns:
        Places, int64 (R, 3): how many bands before, rows below and columns right of the sample; and kinds, int64 (R,),
        from 0 to `KINDS` - 1.
    """
    lags = min(band, _LAGS, pixels // 64)
    crosses, corners = min(lags, _CROSS_LAGS, pixels // 256), min(lags, _CORNER_LAGS, pixels // 256)
    places = [((lag, 0, 0), min(lag - 1, 1)) for lag in range(1, lags + 1)]
    for lag in range(1, corners + 1):
        sides = _CROSS if lag <= crosses else _CROSS[:2]
        places += [((lag, *side), 2 + min(lag - 1, 1)) for side in sides]
    places += [((0, *place), 4) for place in _OWN_PLACES[: pixels // 32]]
    return (
        np.array([place for place, _ in places], np.int64).reshape(-1, 3),
        np.array([kind for _, kind in places], np.int64),
    )


def dequantize_coefficients(numbers: np.ndarray, exponents: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return coefficients (R,) in units of 2^-`POINT`, int64, clipped since a damaged stream may hold any numbers.

    Args:
        numbers: integers (R,), coefficients in steps.
        exponents: integers (`KINDS`,); the step of a kind is 2^-exponent.
        kinds: integers (R,), kinds of the regressors.
    """
    shifts = POINT - np.clip(exponents.astype(np.int64), 0, POINT)[kinds]
    return np.clip(numbers.astype(np.int64) << shifts, -_MAX_COEFFICIENT, _MAX_COEFFICIENT)


class Regression:
    """Fits the coefficients of the bands of a cube, one band after the other.

    Args:
        cube: (C, H, W), any real type; pixels where neighboring bands differ get small weights.
        error_step: quantizer step of the prediction errors; quantization adds noise to the regressors.
        is_coded: bool (C, H, W), False in gaps, which get no weight; None if there are none.
    """

    def __init__(self, cube: np.ndarray, error_step: int, is_coded: np.ndarray | None = None) -> None:
        self._pixels = cube[0].size
        self._noise = error_step**2 / 12
        height = cube.shape[1]
        self._rows = slice(0, height, math.ceil(self._pixels / _MAX_TRAINING_PIXELS))
        weights = _pixel_weights(cube)[self._rows]
        if is_coded is not None and is_coded[:, self._rows].any():
            weights *= is_coded[:, self._rows].mean(axis=0)
        self._scale = np.sqrt(weights / weights.mean())
        # Rows of the vectors, in this order: the preceding bands; their neighbors to the left and above; the neighbors
        # of the nearest bands to the right and below; the preceding samples of the band itself; the band.
        self._corners = _LAGS
        self._others = self._corners + 2 * _CORNER_LAGS
        self._own = self._others + 2 * _CROSS_LAGS
        self._target = self._own + len(_OWN_PLACES)
        self._vectors = np.zeros((self._target + 1, self._scale.size))
        self._gram = np.zeros((self._target + 1, self._target + 1))
        self._variance = 1.0

    def fit(self, planes: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers (R,) and exponents (`KINDS`,) of a band, for `dequantize_coefficients`.

        Args:
            planes: int32 (C, H + 4, W + 4), with a margin of `PAD` rows and columns; preceding bands as the decoder has
                them, and this band before quantization.
            band: number of the band. All bands must be fitted, in order.
        """
        changed = [*range(self._own, self._target + 1)]
        if band:
            sides = _CROSS if _CROSS_LAGS else _CROSS[:2] if _CORNER_LAGS else ()
            for place in ((0, 0), *sides):
                row = self._row(band, 1, place)
                self._put(row, planes[band - 1], place)
                changed.append(row)
        for i, place in enumerate(_OWN_PLACES):
            self._put(self._own + i, planes[band], place)
        self._put(self._target, planes[band], (0, 0))
        picked = self._vectors[changed]
        products = np.zeros((len(self._vectors), len(changed)))
        for k in range(0, picked.shape[1], _BLOCK_PIXELS):
            products += self._vectors[:, k : k + _BLOCK_PIXELS] @ picked[:, k : k + _BLOCK_PIXELS].T
        self._gram[changed] = products.T
        self._gram[:, changed] = products

        places, kinds = regressors(band, self._pixels)
        used = [self._row(band, lag, (dy, dx)) for lag, dy, dx in places.tolist()]
        return self._solve(used, kinds)

    def _row(self, band: int, lag: int, place: tuple[int, int]) -> int:
        """Return the row of the vectors that holds a regressor of a band; bands use the rows in turn."""
        if lag == 0:
            return self._own + _OWN_PLACES.index(place)
        if place == (0, 0):
            return (band - lag) % _LAGS
        first, lags = (self._corners, _CORNER_LAGS) if place in _CROSS[:2] else (self._others, _CROSS_LAGS)
        return first + 2 * ((band - lag) % lags) + _CROSS.index(place) % 2

    def _put(self, row: int, plane: np.ndarray, place: tuple[int, int]) -> None:
        """Fill a row of the vectors with the weighted training pixels of a shifted plane."""
        (dy, dx), height, width = place, plane.shape[0] - 2 * PAD, plane.shape[1] - 2 * PAD
        shifted = plane[PAD + dy : PAD + dy + height, PAD + dx : PAD + dx + width]
        np.multiply(shifted[self._rows], self._scale, out=self._vectors[row].reshape(self._scale.shape))

    def _solve(self, used: list[int], kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and exponents of the regressors in the rows `used`."""
        trained = self._scale.size
        matrix, right = self._gram[np.ix_(used, used)], self._gram[used, self._target]
        # Regularization keeps coefficients small that the image does not determine. The band itself is not quantized
        # yet, so the noise of its quantization is added here.
        diagonal = matrix.ravel()[:: len(used) + 1]
        diagonal += self._variance + np.where(kinds == KINDS - 1, trained * self._noise, 0)
        diagonal += 1e-12 * matrix.max(initial=0)  # rounding must not make it indefinite
        factor = np.linalg.cholesky(matrix)
        solution = _forward(factor, right)
        error = self._gram[self._target, self._target] - solution @ solution
        self._variance = max(error / trained, 0) + 1 / 12
        deviation = math.sqrt((self._variance + self._noise) * trained / self._pixels)
        sharpness = np.log2(np.diag(factor) / deviation) - 1
        exponents = np.zeros(KINDS, np.int64)
        for kind in np.unique(kinds):
            sharp = np.sort(sharpness[kinds == kind])
            exponents[kind] = np.clip(np.rint((sharp[len(sharp) // 2] + sharp[(len(sharp) - 1) // 2]) / 2), 0, POINT)
        return _nearest(factor.T.copy(), solution, 2.0 ** -exponents[kinds]), exponents


@compiled
def _forward(factor, right):
    """Solve factor x = right for a lower triangular factor."""
    solution = right.copy()
    for i in range(len(solution)):
        for j in range(i):
            solution[i] -= factor[i, j] * solution[j]
        solution[i] /= factor[i, i]
    return solution


@compiled
def _nearest(factor, solution, steps):
    """Return integers n, rounded from the last up, with `factor` (upper triangular) times n * steps near `solution`."""
    numbers = np.zeros(len(steps), np.int64)
    for i in range(len(steps) - 1, -1, -1):
        left = solution[i]
        for j in range(i + 1, len(steps)):
            left -= factor[i, j] * numbers[j] * steps[j]
        numbers[i] = np.int64(np.rint(left / (factor[i, i] * steps[i])))
    return numbers


def _pixel_weights(cube: np.ndarray) -> np.ndarray:
    """Return weights (H, W) of about 1 / error^2, with errors estimated from left neighbors and preceding bands."""
    errors = np.zeros(cube.shape[1:])
    for band in np.unique(np.linspace(min(1, len(cube) - 1), len(cube) - 1, _WEIGHTING_BANDS).astype(int)):
        here, before = (
            np.diff(cube[i].astype(np.float64), axis=1, prepend=cube[i, :, :1]) for i in (band, max(band - 1, 0))
        )
        gain = (here * before).sum() / ((before**2).sum() + 1) if band else 0
        error = np.abs(here - gain * before)
        errors += error / (error.mean() + 1e-9)
    padded = np.pad(errors, 1, mode="edge")
    height, width = errors.shape
    smooth = np.sum([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    return (smooth / (smooth.mean() + 1e-9) + _MIN_RELATIVE_ERROR) ** -2
