"""Linear prediction of the samples of a band from the preceding bands and the preceding samples of the same band.

The encoder fits the coefficients of each band by least squares over the image, in floating point. The coefficients are
rounded to steps as coarse as the prediction errors allow, and stored, so that a decoder uses integers only. They are
rounded from the last to the first, and each compensates for the rounding of those after it (Babai's nearest plane, doi
10.1007/BF02579403), so that coarse steps cost little.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np

from coding.entropy.compiled import compiled
from coding.entropy.neighbors import PAD
from coding.entropy.vectors import aligned_zeros

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
_MAX_TRAINING_PIXELS = 16384  # about; they come from whole rows
_BLOCK_PIXELS = 256  # of a sum in float32, and so few that the vectors fit into caches
_SMALLEST_PIVOT = 1e-14  # in units of the diagonal element
_SMALLEST_FLOAT32_PIVOT = 2e-5  # a thousand times the rounding of the sums
_MIN_RELATIVE_ERROR = 0.2  # of a pixel, in units of the mean error
_WEIGHTING_BANDS = 24  # from which the errors of pixels are estimated
_CACHED_BANDS = 1024  # whose regressors need not be listed again for each tile


@lru_cache(maxsize=_CACHED_BANDS)
def regressors(band: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the regressors of a band: the places of the samples that predict a sample, and their kinds.

    The arrays are shared by all callers, which must not change them.

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
        self._row_step = math.ceil(self._pixels / _MAX_TRAINING_PIXELS)
        rows = slice(0, height, self._row_step)
        weights = _pixel_weights(cube)[rows]
        if is_coded is not None and is_coded[:, rows].any():
            weights *= is_coded[:, rows].mean(axis=0)
        self._scale = np.sqrt(weights / weights.mean())
        num_rows, num_pixels = _vector_row(0, 0, 0, 0) + 1, self._scale.size
        # Zeros make the number of rows a multiple of four, and fill the last block of pixels.
        shape = num_rows + -num_rows % 4, math.ceil(num_pixels / _BLOCK_PIXELS) * _BLOCK_PIXELS
        self._vectors = aligned_zeros(shape, np.float32)
        self._gram = np.zeros((len(self._vectors), len(self._vectors)))
        self._variance = 1.0

    def fit(self, planes: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers (R,) and exponents (`KINDS`,) of a band, for `dequantize_coefficients`.

        Args:
            planes: int32 or int64 (C, H + 2 PAD, W + 2 PAD), with a margin of `PAD` rows and columns; preceding bands
                as the decoder has them, and this band before quantization.
            band: number of the band. All bands must be fitted, in order.
        """
        all_rows, places = _filled_rows(band, len(self._vectors))
        rows = all_rows[: len(places)]
        _fill(self._vectors, rows, places, planes[max(band - 1, 0) : band + 1], (self._scale, self._row_step))
        _update(self._gram, self._vectors, all_rows, len(rows))
        used, kinds = _used_rows(band, self._pixels), regressors(band, self._pixels)[1]
        factor, smallest = self._factor(used, kinds)
        if smallest < _SMALLEST_FLOAT32_PIVOT and self._vectors.dtype == np.float32:
            vectors = self._vectors
            self._vectors = aligned_zeros(vectors.shape, np.float64)
            self._vectors[:] = vectors
            _update(self._gram, self._vectors, all_rows, len(all_rows))
            factor, _ = self._factor(used, kinds)
        self._variance = factor[-1, -1] ** 2 / self._scale.size + 1 / 12
        deviation = math.sqrt((self._variance + self._noise) * self._scale.size / self._pixels)
        exponents = _choose_exponents(np.log2(np.diag(factor)[:-1] / deviation) - 1, kinds)
        return _nearest(factor, 2.0 ** -exponents[kinds]), exponents

    def _factor(self, used: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, float]:
        """Return what `_factorize` returns for the rows `used`, whose last one is the band, after regularization."""
        # Regularization keeps coefficients small that the image does not determine. The band itself is not quantized
        # yet, so the noise of its quantization is added here.
        added = np.full(len(used), self._variance + 1e-12 * self._gram[used, used].max())
        added[:-1] += (kinds == KINDS - 1) * self._scale.size * self._noise
        added[-1] = 0
        return _factorize(self._gram, used, added)


def _vector_row(band: int, lag: int, dy: int, dx: int) -> int:
    """Return the row of the vectors that holds a regressor of a band, or the band itself.

    The rows are, in this order: the preceding bands; their neighbors to the left and above; the neighbors of the
    nearest bands to the right and below; the preceding samples of the band itself; the band. Bands use rows in turn.
    """
    others = _LAGS + 2 * _CORNER_LAGS
    own = others + 2 * _CROSS_LAGS
    if lag == 0:
        return own + (*_OWN_PLACES, (0, 0)).index((dy, dx))
    if dy == dx == 0:
        return (band - lag) % _LAGS
    side = _CROSS.index((dy, dx))
    first, lags = (_LAGS, _CORNER_LAGS) if side < 2 else (others, _CROSS_LAGS)
    return first + 2 * ((band - lag) % lags) + side % 2


@lru_cache(maxsize=_CACHED_BANDS)
def _filled_rows(band: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` rows of vectors, int64, first those to fill for a band, and the places (F, 3) of their samples."""
    places = [(0, *place) for place in (*_OWN_PLACES, (0, 0))]
    if band:
        sides = _CROSS if _CROSS_LAGS else _CROSS[:2] if _CORNER_LAGS else ()
        places += [(1, *place) for place in ((0, 0), *sides)]
    rows = [_vector_row(band, *place) for place in places]
    return np.array([*rows, *sorted({*range(count)} - {*rows})]), np.array(places)


@lru_cache(maxsize=_CACHED_BANDS)
def _used_rows(band: int, pixels: int) -> np.ndarray:
    """Return the rows of the vectors that hold the regressors of a band, and that of the band, int64 (R + 1,)."""
    places = regressors(band, pixels)[0].tolist()
    return np.array([_vector_row(band, *place) for place in [*places, (0, 0, 0)]])


@compiled
def _fill(vectors, rows, places, planes, training):
    """Fill rows of the vectors with the weighted training pixels of shifted planes.

    Args:
        vectors: float (V, N), of which the first pixels are filled.
        rows: int64 (F,), the rows to fill.
        places: int64 (F, 3), the shifts, as in `regressors`.
        planes: the last planes, the band itself being the last.
        training: square roots of the weights (rows, W), and the distance of training rows.
    """
    scale, row_step = training
    height, width = scale.shape
    for i in range(len(rows)):
        lag, dy, dx = places[i]
        plane = planes[len(planes) - 1 - lag]
        for y in range(height):
            source = plane[PAD + y * row_step + dy, PAD + dx :]
            row = vectors[rows[i], y * width :]
            for x in range(width):
                row[x] = source[x] * scale[y, x]


@partial(compiled, reorders_sums=True)
def _update(gram, vectors, rows, count):
    """Compute the products of all vectors with the new ones.

    Sums over a block of pixels have the type of the vectors; they are added up in float64.

    Args:
        gram: (V, V), symmetric; products of vectors that are not new stay.
        vectors: float (V, N), of which V is a multiple of four and N one of `_BLOCK_PIXELS`.
        rows: int64 (V,), all rows, the new ones first.
        count: number of new rows.
    """
    zero = vectors[0, 0] - vectors[0, 0]  # of the type of the vectors
    products = np.zeros((count + 3, len(rows)))
    for start in range(0, vectors.shape[1], _BLOCK_PIXELS):
        pixels = slice(start, start + _BLOCK_PIXELS)
        for j in range(0, count, 4):
            a, b, c, d = (
                vectors[rows[j], pixels],
                vectors[rows[j + 1], pixels],
                vectors[rows[j + 2], pixels],
                vectors[rows[j + 3], pixels],
            )
            for i in range(j, len(rows), 2):
                # Eight sums at a time, since these and the numbers multiplied fit into registers.
                p, q = vectors[rows[i], pixels], vectors[rows[i + 1], pixels]
                pa = pb = pc = pd = qa = qb = qc = qd = zero
                for x in range(_BLOCK_PIXELS):
                    pa += p[x] * a[x]
                    pb += p[x] * b[x]
                    pc += p[x] * c[x]
                    pd += p[x] * d[x]
                    qa += q[x] * a[x]
                    qb += q[x] * b[x]
                    qc += q[x] * c[x]
                    qd += q[x] * d[x]
                for k, (upper, lower) in enumerate(((pa, qa), (pb, qb), (pc, qc), (pd, qd))):
                    products[j + k, i] += upper
                    products[j + k, i + 1] += lower
    for j in range(count):
        for i in range(j - j % 4, len(rows)):
            gram[rows[j], rows[i]] = gram[rows[i], rows[j]] = products[j, i]


@compiled
def _factorize(gram, rows, added):
    """Return the upper triangular Cholesky factor of rows and columns of a Gram matrix.

    Args:
        gram: (V, V).
        rows: int64 (R,), rows and columns to take.
        added: (R,), numbers to add to their diagonal.

    Returns:
        The factor (R, R), and the smallest pivot, in units of its diagonal element: what rounding must not exceed.
    """
    factor = gram[rows][:, rows]
    smallest = 1.0
    for k in range(len(rows)):
        diagonal = gram[rows[k], rows[k]] + added[k]
        pivot = max(factor[k, k] + added[k], _SMALLEST_PIVOT * diagonal)
        if pivot > 0:
            smallest = min(smallest, pivot / diagonal)
            factor[k, k:] /= np.sqrt(pivot)
        factor[k, k] = np.sqrt(pivot)
        for i in range(k + 1, len(rows)):
            share = factor[k, i]
            for j in range(i, len(rows)):
                factor[i, j] -= share * factor[k, j]
    return factor, smallest


@compiled
def _choose_exponents(sharpness, kinds):
    """Return the exponent of the step of each kind: the median of the sharpness of its regressors, rounded."""
    exponents = np.zeros(KINDS, np.int64)
    for kind in range(KINDS):
        of_kind = sharpness[kinds == kind]
        if len(of_kind):
            exponents[kind] = min(max(np.rint(np.median(of_kind)), 0), POINT)
    return exponents


@compiled
def _nearest(factor, steps):
    """Return integers n (R,), rounded from the last up, with `factor` times n * steps near its last column.

    Args:
        factor: (R + 1, R + 1), upper triangular; the last row is not used.
        steps: (R,).
    """
    numbers = np.zeros(len(steps), np.int64)
    for i in range(len(steps) - 1, -1, -1):
        left = factor[i, len(steps)]
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
